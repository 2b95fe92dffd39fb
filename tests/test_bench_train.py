"""drtf bench train and drtf bench augment."""

import pytest
import tensorflow as tf

from drtf.bench import augment, train
from drtf.bench.augment import bench_augment
from drtf.bench.train import bench_train
from drtf.config import load_config
from drtf.errors import DrtfError
from naming import assert_names, raises_naming


def sections(*overrides: str) -> dict[str, object]:
    """Return the sections of a config that a training step depends on."""
    config = load_config("", overrides)
    names = ("sampling", "augment", "model", "train")
    return {name: getattr(config, name) for name in names}


EYENET = sections("model.name=eyenet", "model.weights=none", "train.batch_size=8")


def test_steps_are_measured_resident_and_streamed_with_and_without_xla(shards):
    results = bench_train(
        shards, **EYENET, precisions=["float32"], seconds=0.1, num_repeats=2
    )
    assert [(x.precision, x.jit_compile) for x in results] == [
        ("float32", False),
        ("float32", True),
    ]
    for result in results:
        assert not result.failure
        assert len(result.resident) == len(result.streamed) == 2
        assert min(result.resident + result.streamed + result.forward) > 0
        assert min(result.augment_fraction) > 0
        assert all(0 <= x < 1 for x in result.input_wait_fraction)
        assert result.first_step_seconds > 0


def test_a_dataset_smaller_than_a_batch_is_refused(shards):
    large = sections("train.batch_size=1000")
    with raises_naming(DrtfError, shards, 32, 1000):
        bench_train(shards, **large, precisions=["float32"], seconds=0.1, num_repeats=1)


def test_a_precision_that_cannot_run_reports_its_failure(shards, monkeypatch):
    def refuse(*args, **kwargs):
        raise tf.errors.UnimplementedError(None, None, "no such kernel\nmore")

    monkeypatch.setattr(train, "build_network", refuse)
    results = bench_train(
        shards, **EYENET, precisions=["float32"], seconds=0.1, num_repeats=1
    )
    assert [result.failure for result in results] == ["no such kernel"] * 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_augmentation_is_compared_with_keras(dtype):
    results = bench_augment(image_size=16, batch_size=4, dtype=dtype, num_repeats=2)
    assert [result.name.split()[0] for result in results] == ["drtf", "drtf", "Keras's"]
    assert all(len(result.ms) == 2 and min(result.ms) > 0 for result in results)


def test_the_other_methods_are_measured_when_xla_fails(monkeypatch):
    monkeypatch.setattr(augment, "can_compile", lambda: False)
    compiled, *others = bench_augment(
        image_size=16, batch_size=4, dtype="float32", num_repeats=1
    )
    assert_names(compiled.failure, "XLA")
    assert all(len(result.ms) == 1 for result in others)

import csv
import math

import keras
import numpy as np
import pytest

from drtf.config import AugmentConfig, TrainConfig, load_config
from drtf.data.build import build_shards
from drtf.data.labels import POSITIVE_FROM
from drtf.data.pipeline import State, train_dataset
from drtf.data.sources import Source
from drtf.errors import DrtfError, RecordError
from drtf.models.callbacks import StopAtNonFinite, plan_learning_rate
from drtf.models.device import choose_precision, dtype_policy
from drtf.models.losses import build_loss
from drtf.models.network import build_network, count_parameters
from drtf.models.run import load_run
from drtf.models.train_plan import plan_training
from drtf.models.training import (
    Trainer,
    build_optimizer,
    train,
)
from drtf.records.manifest import hash_manifest


def test_a_run_folder_holds_all_that_scoring_needs(run_folder, shards, config):
    names = {path.name for path in run_folder.iterdir()}
    assert names == {
        "config.toml",
        "history.csv",
        "history.png",
        "logs",
        "model.keras",
        "run.json",
    }
    run = load_run(run_folder)
    assert (run.config.train, run.config.model) == (config.train, config.model)
    assert run.info.set_sha256 == hash_manifest(shards)
    assert (run.info.encoding, run.info.image_size) == ("raw", 32)
    assert run.threshold is None


def test_the_history_has_a_row_an_epoch(run_folder, config):
    with (run_folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == config.train.epochs
    assert {"loss", "val_loss", "val_roc_auc", "learning_rate"} <= set(rows[0])
    assert all(math.isfinite(float(row["val_loss"])) for row in rows)


def test_the_saved_model_is_the_network_alone_in_float32(run_folder):
    network = load_run(run_folder).network
    assert network.input_shape == (None, 32, 32, 3)
    assert network.output_shape == (None, 2)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_training_learns_what_can_be_learned(shard_set):
    network = build_network(
        load_config("", ["model.name=eyenet", "model.weights=none"]).model,
        image_size=32,
        load_weights=False,
    )
    keras.utils.set_random_seed(1)
    nothing = AugmentConfig(max_degrees=0, zoom=0, contrast=0)
    trainer = Trainer(network, build_loss(TrainConfig()), nothing)
    trainer.compile(optimizer=keras.optimizers.Adam(2e-3), jit_compile=False)
    dataset = train_dataset(
        shard_set,
        split="train",
        task="binary",
        sampling=load_config().sampling,
        batch_size=16,
        epochs=25,
        state=State(0),
    )
    history = trainer.fit(dataset, epochs=1, shuffle=False, verbose=0).history
    assert history["roc_auc"][-1] > 0.8


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_ends_in_float32(shard_set, policy):
    settings = load_config("", ["model.name=eyenet", "model.weights=none"])
    with dtype_policy(policy):
        network = build_network(settings.model, image_size=32, load_weights=False)
        trainer = Trainer(network, build_loss(settings.train), settings.augment)
        trainer.compile(
            optimizer=build_optimizer(settings.train, precision=policy),
            jit_compile=False,
        )
    before = network.get_weights()
    dataset = train_dataset(
        shard_set,
        split="train",
        task="binary",
        sampling=settings.sampling,
        batch_size=8,
        epochs=1,
        state=State(0),
    )
    history = trainer.fit(dataset, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert network.get_layer("conv_1").compute_dtype == policy.removeprefix("mixed_")
    assert network.output.dtype == "float32"
    assert all(weight.dtype == np.float32 for weight in network.get_weights())
    assert any(
        (a != b).any() for a, b in zip(before, network.get_weights(), strict=True)
    )


def test_float16_scales_its_loss_and_the_schedule_reaches_the_inner_optimizer():
    config = TrainConfig(learning_rate=0.1)
    scaled = build_optimizer(config, precision="mixed_float16")
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    scaled.learning_rate = 0.025
    assert float(scaled.inner_optimizer.learning_rate) == pytest.approx(0.025)
    for precision in ("float32", "mixed_bfloat16"):
        plain = build_optimizer(config, precision=precision)
        assert not isinstance(plain, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_config_names_the_optimizer(name):
    config = TrainConfig(optimizer=name, momentum=0.5, weight_decay=0.25)
    optimizer = build_optimizer(config, precision="float32")
    assert type(optimizer).__name__.lower() == name
    expected = {"sgd": ("momentum", 0.5), "adamw": ("weight_decay", 0.25)}
    if name in expected:
        attribute, value = expected[name]
        assert getattr(optimizer, attribute) == value


def test_the_run_says_of_split_and_images_what_made_the_shards(
    photographs, config, tmp_path
):
    split = config.split.model_copy(update={"by": "image", "val_size": 0.2})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "set",
        config=config.model_copy(update={"split": split}),
    )
    images = config.images.model_copy(update={"size": 64})
    given = config.model_copy(update={"images": images})
    train(tmp_path / "set", out=tmp_path / "run", config=given)
    run = load_run(tmp_path / "run")
    assert run.config.split == split
    assert run.config.images == config.images


def test_the_plan_tells_what_training_then_does(run_folder, shards, shard_set, config):
    plan = plan_training(shards, config=config)
    positive = shard_set.grades > 0
    for split, counts in plan.num_photographs.items():
        found = positive[shard_set.find_rows(split)]
        assert counts == [(~found).sum(), found.sum()]
    assert plan.num_drawn == [max(plan.num_photographs["train"])] * 2
    network = load_run(run_folder).network
    assert (plan.num_trained, plan.num_frozen) == count_parameters(network)
    # The input, rescaled; three convolutions and their pools; flat, dense, the rest.
    outputs = 32 * (30**2 + 15**2 + 13**2 + 6**2 + 4**2 + 2**2) + 128 + 128 + 2 + 2
    size = config.train.batch_size
    assert plan.activations_mb == pytest.approx(4e-6 * size * (2 * 3 * 32**2 + outputs))
    assert plan.batches_mb == pytest.approx(4e-6 * size * 3 * 32**2)
    assert plan.variables_mb == pytest.approx(4e-6 * 4 * network.count_params())


def test_a_plan_counts_frozen_parameters_and_half_precision(shards, config):
    model = load_config("mobilenetv2-96").model
    settings = config.train.model_copy(update={"precision": "mixed_bfloat16"})
    update = {"model": model, "train": settings}
    half = plan_training(shards, config=config.model_copy(update=update))
    full = plan_training(shards, config=config.model_copy(update={"model": model}))
    assert half.precision == "mixed_bfloat16"
    assert 0.5 < half.activations_mb / full.activations_mb < 0.55
    assert half.num_trained > half.num_frozen > 400_000


def test_what_a_failed_training_left_may_be_trained_into(
    shards, config, tmp_path, monkeypatch
):
    def fail(self, epoch, logs=None):
        raise DrtfError("not finite")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(StopAtNonFinite, "on_epoch_end", fail)
        with pytest.raises(DrtfError, match="not finite"):
            train(shards, out=out, config=config)
    train(shards, out=out, config=config)
    assert load_run(out).info.best_epoch >= 1


def test_padding_does_not_count_in_validation():
    network = build_network(
        load_config("", ["model.name=eyenet", "model.weights=none"]).model,
        image_size=32,
        load_weights=False,
    )
    trainer = Trainer(network, build_loss(TrainConfig()), AugmentConfig())
    trainer.compile(optimizer="sgd", jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    labels = np.array([0, 1, 1, 0, 1, 0], np.float32)
    whole = trainer.test_step(
        {"image": images[:4], "label": labels[:4], "mask": np.ones(4, bool)}
    )
    whole = {name: float(value) for name, value in whole.items()}
    trainer.reset_metrics()
    padded = trainer.test_step(
        {"image": images, "label": labels, "mask": np.arange(6) < 4}
    )
    assert {name: float(value) for name, value in padded.items()} == pytest.approx(
        whole, abs=1e-5
    )
    damaged = {"image": images, "label": labels, "mask": np.zeros(6, bool)}
    after = {name: float(value) for name, value in trainer.test_step(damaged).items()}
    assert after == pytest.approx(whole, abs=1e-5)


def test_the_learning_rate_warms_up_and_comes_down():
    config = TrainConfig(learning_rate=0.1, warmup_share=0.1)
    rates = [plan_learning_rate(s, num_steps=100, config=config) for s in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[99] < 1e-4
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_without_warm_up_the_first_step_has_the_full_rate():
    config = TrainConfig(learning_rate=0.1, warmup_share=0)
    assert plan_learning_rate(0, num_steps=10, config=config) == pytest.approx(0.1)


def test_a_loss_that_is_not_finite_fails_the_run():
    with pytest.raises(DrtfError, match="loss became nan in epoch 3"):
        StopAtNonFinite().on_epoch_end(2, {"loss": math.nan})


def test_an_existing_run_is_not_written_over(run_folder, shards, config):
    before = (run_folder / "model.keras").read_bytes()
    with pytest.raises(DrtfError, match="exists already"):
        train(shards, out=run_folder, config=config)
    assert (run_folder / "model.keras").read_bytes() == before


def test_a_split_of_one_class_cannot_be_trained_on(
    shards, tmp_path, config, monkeypatch
):
    monkeypatch.setitem(POSITIVE_FROM, "binary", 5)
    with pytest.raises(DrtfError, match="photographs of one class only"):
        train(shards, out=tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_set_is_refused(tmp_path, config):
    with pytest.raises(RecordError, match="not a set of shards"):
        train(tmp_path, out=tmp_path / "run", config=config)


def test_auto_precision_is_float32_without_a_gpu(monkeypatch):
    monkeypatch.setattr("drtf.models.device.find_gpus", list)
    assert choose_precision("auto") == "float32"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 0), "float32"),
        ((7, 5), "mixed_float16"),
        ((8, 0), "mixed_bfloat16"),
        ((9, 0), "mixed_bfloat16"),
    ],
)
def test_auto_precision_follows_the_gpu(monkeypatch, capability, expected):
    gpus = [("any", capability)]
    monkeypatch.setattr("drtf.models.device.find_gpus", lambda: gpus)
    assert choose_precision("auto") == expected
    assert choose_precision("float32") == "float32"

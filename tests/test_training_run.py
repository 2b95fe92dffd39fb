import csv
import dataclasses
import errno
import math
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from drtf.building.build import build_shards
from drtf.config import AugmentConfig, SamplingConfig, TrainConfig, load_config
from drtf.errors import ConfigError, DrtfError, RecordError, RunError
from drtf.labels.soft_labels import SoftLabels
from drtf.labels.sources import Source
from drtf.models.device import choose_precision, device_name
from drtf.models.network import count_parameters
from drtf.models.run import load_run
from drtf.records.manifest import MANIFEST_FILE, hash_manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training import run as training_run
from drtf.training import train_plan
from drtf.training.run import train
from drtf.training.train_plan import plan_training, positive_prior
from naming import assert_names, raises_naming

pytestmark = pytest.mark.usefixtures("no_tensorboard_images")


def change(config, **update):
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def test_a_run_folder_has_everything_that_scoring_needs(run_folder, shards, config):
    names = {path.name for path in run_folder.iterdir()}
    assert names == {
        "checkpoints",
        "config.toml",
        "history.csv",
        "history.png",
        "identity.json",
        "logs",
        "model.keras",
        "photographs.bin",
        "run.json",
    }
    run = load_run(run_folder)
    assert (run.config.train, run.config.model) == (config.train, config.model)
    assert run.info.dataset_sha256 == hash_manifest(shards)
    assert run.info.num_epochs == config.train.epochs
    assert 1 <= run.info.best_epoch <= config.train.epochs
    assert (run.info.num_damaged, run.info.num_skipped_steps) == (0, 0)
    assert (run.info.encoding, run.info.image_size) == ("raw", 32)
    assert run.threshold is None


def test_the_history_has_one_row_per_epoch(run_folder, config):
    with (run_folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == config.train.epochs
    assert {"loss", "val_loss", "val_roc_auc", "learning_rate"} <= set(rows[0])
    assert all(math.isfinite(float(row["val_loss"])) for row in rows)


def test_the_saved_model_is_only_the_network_in_float32(run_folder):
    network = load_run(run_folder).network
    assert network.input_shape == (None, 32, 32, 3)
    assert network.output_shape == (None, 1)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_the_model_is_saved_in_float32_after_training_in_half_precision(
    shards, config, tmp_path
):
    update = {"precision": "mixed_bfloat16", "epochs": 1}
    train(shards, out=tmp_path / "run", config=change(config, **update))
    network = load_run(tmp_path / "run").network
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_training_may_start_again_when_it_failed_before_its_first_checkpoint(
    shards, config, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise DrtfError("failed")

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "run_epochs", fail)
        with raises_naming(DrtfError, "failed"):
            train(shards, out=tmp_path / "run", config=config)
    train(shards, out=tmp_path / "run", config=change(config, epochs=1))
    assert load_run(tmp_path / "run").info.num_epochs == 1


@pytest.mark.parametrize("names", [(), (".identity.json.partial",)])
def test_train_accepts_an_empty_folder(shards, config, tmp_path, names):
    for name in names:  # left by a process killed while it wrote its first file
        (tmp_path / name).touch()
    train(shards, out=tmp_path, config=change(config, epochs=1), resume=True)
    assert load_run(tmp_path).info.num_epochs == 1


def test_a_partial_model_is_removed_when_the_disk_is_full(
    shards, config, tmp_path, monkeypatch
):
    def fill(network, path):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keras.Model, "save", fill)
    with raises_naming(OSError, os.strerror(errno.ENOSPC)):
        train(shards, out=tmp_path / "run", config=change(config, epochs=1))
    assert not list(tmp_path.rglob("*.keras"))


def test_train_is_refused_when_the_folder_has_other_files(shards, config, tmp_path):
    (tmp_path / "config.toml").write_text("# mine\n")
    with raises_naming(DrtfError, tmp_path):
        train(shards, out=tmp_path, config=config)
    assert (tmp_path / "config.toml").read_text() == "# mine\n"


def test_a_full_disk_is_not_reported_as_too_little_memory(
    shards, config, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    batch_size = config.train.batch_size
    advice = (f"train.batch_size={batch_size}", f"train.batch_size={batch_size // 2}")
    for text, facts, absent in (
        ("x; No space left on device", (out, "--resume"), "train.batch_size"),
        ("OOM when allocating", advice, str(out)),
    ):

        def exhaust(*args, text=text, **kwargs):
            raise tf.errors.ResourceExhaustedError(None, None, text)

        monkeypatch.setattr(training_run, "run_epochs", exhaust)
        with raises_naming(DrtfError, *facts) as error:
            train(shards, out=out, config=config)
        assert absent not in str(error.value)


@pytest.mark.parametrize("fixtures", [(), ("batches_ahead",)])
def test_the_error_names_the_shard_when_the_first_batch_is_damaged(
    config, shards, tmp_path, request, fixtures
):
    for name in fixtures:
        request.getfixturevalue(name)
    damaged = shutil.copytree(shards, tmp_path / "dataset")
    with ShardDataset(damaged) as shard_dataset:
        row = shard_dataset.split_rows("train")[0]
        record = shard_dataset.load_index().iloc[row]
        shard = shard_dataset.manifest.shards[record["shard"]].file
    data = bytearray((damaged / shard).read_bytes())
    for offset in range(200, len(data), 400):
        data[offset] ^= 1
    (damaged / shard).write_bytes(data)
    with raises_naming(RecordError, damaged / shard):
        train(damaged, out=tmp_path / "run", config=config)


def test_the_run_has_the_settings_that_the_dataset_was_built_with(
    photographs, config, tmp_path, caplog
):
    split = config.split.model_copy(update={"by": "image", "val_size": 0.2})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "dataset",
        config=config.model_copy(update={"split": split}),
    )
    images = config.images.model_copy(update={"size": 64})
    given = config.model_copy(update={"images": images})
    train(tmp_path / "dataset", out=tmp_path / "run", config=given)
    run = load_run(tmp_path / "run")
    assert run.config.split == split
    assert run.config.images == config.images
    (warning,) = [text for text in caplog.messages if "images.size" in text]
    assert_names(warning, tmp_path / "dataset", 32, 64)


def test_the_plan_agrees_with_the_training(run_folder, shards, shard_dataset, config):
    plan = plan_training(shards, config=config)
    assert plan.image_size == 32
    positive = shard_dataset.grades > 0
    for split, counts in plan.num_photographs.items():
        is_positive = positive[shard_dataset.split_rows(split)]
        assert counts == [(~is_positive).sum(), is_positive.sum()]
    assert plan.num_drawn == [max(plan.num_photographs["train"])] * 2
    network = load_run(run_folder).network
    assert (plan.num_trained, plan.num_frozen) == count_parameters(network)
    # Input, rescaled input, three convolutions and their pools, flat, dense, the rest.
    outputs = 32 * (30**2 + 15**2 + 13**2 + 6**2 + 4**2 + 2**2) + 128 + 128 + 2 + 2
    size = config.train.batch_size
    assert plan.activations_mb == pytest.approx(4e-6 * size * (2 * 3 * 32**2 + outputs))
    assert plan.batches_mb == pytest.approx(4e-6 * size * 3 * 32**2)
    assert plan.variables_mb == pytest.approx(4e-6 * 4 * network.count_params())


def test_the_plan_counts_frozen_parameters_and_half_precision(shards, config):
    model = load_config("notebook-96").model
    settings = config.train.model_copy(update={"precision": "mixed_bfloat16"})
    update = {"model": model, "train": settings}
    half = plan_training(shards, config=config.model_copy(update=update))
    full = plan_training(shards, config=config.model_copy(update={"model": model}))
    assert half.precision == "mixed_bfloat16"
    assert 0.5 < half.activations_mb / full.activations_mb < 0.55
    assert half.num_trained > half.num_frozen > 400_000


def test_the_plan_is_refused_when_the_file_of_weights_is_missing(shards, config):
    model = load_config("notebook-96", ["model.weights=absent.weights.h5"]).model
    with raises_naming(DrtfError, "model.weights", "absent.weights.h5"):
        plan_training(shards, config=config.model_copy(update={"model": model}))


def test_the_plan_is_refused_when_devices_are_missing(shards, config):
    with raises_naming(DrtfError, "train.num_devices", 64):
        plan_training(shards, config=change(config, num_devices=64))


def test_the_plan_is_refused_when_a_batch_has_fewer_images_than_devices(
    shards, config, monkeypatch
):
    monkeypatch.setattr(
        "tensorflow.config.list_logical_devices", lambda kind: [mock.Mock()] * 3
    )
    facts = ("train.batch_size", 2, 3, "train.num_devices")
    with raises_naming(DrtfError, *facts):
        plan_training(shards, config=change(config, batch_size=2))


def test_jit_compile_is_refused_with_several_devices_before_anything_is_written(
    shards, config, tmp_path, monkeypatch
):
    config = change(config, jit_compile=True)
    for module in (training_run, train_plan):
        monkeypatch.setattr(module, "choose_devices", lambda *args, **kwargs: ["", ""])
    with raises_naming(DrtfError, "train.jit_compile"):
        plan_training(shards, config=config)
    with raises_naming(DrtfError, "train.jit_compile"):
        train(shards, out=tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def test_train_is_refused_when_the_run_exists(run_folder, shards, config):
    before = (run_folder / "model.keras").read_bytes()
    with raises_naming(DrtfError, run_folder):
        train(shards, out=run_folder, config=config)
    assert (run_folder / "model.keras").read_bytes() == before


def test_train_is_refused_when_a_split_has_one_class_only(
    shards, tmp_path, config, monkeypatch
):
    task = dataclasses.replace(TASKS["binary"], positive_from=5)
    monkeypatch.setitem(TASKS, "binary", task)
    facts = (shards, "train", "binary", 5)
    with raises_naming(DrtfError, *facts):
        train(shards, out=tmp_path / "run", config=config)
    with raises_naming(DrtfError, *facts):
        plan_training(shards, config=config)
    assert not (tmp_path / "run").exists()


def test_sampling_weights_are_refused_when_they_draw_one_class_only(
    shards, tmp_path, config
):
    sampling = SamplingConfig(mode="weights", weights=(1.0, 0.0))
    config = config.model_copy(update={"sampling": sampling})
    with raises_naming(ConfigError, "sampling.weights"):
        train(shards, out=tmp_path / "run", config=config)
    with raises_naming(ConfigError, "sampling.weights"):
        plan_training(shards, config=config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mode", "update"),
    [
        ("natural", {}),
        ("balanced", {"task": "grades"}),
        ("natural", {"class_weights": (1.0, 4.0)}),
        ("natural", {"loss": "focal", "focal_alpha": 0.8}),
    ],
)
def test_train_prior_is_the_fraction_of_positives_as_drawn_and_weighted(
    shards, shard_dataset, tmp_path, config, mode, update
):
    sampling = config.sampling.model_copy(update={"mode": mode})
    config = change(config, epochs=1, **update)
    config = config.model_copy(update={"sampling": sampling})
    info = train(shards, out=tmp_path / "run", config=config)
    grades = shard_dataset.grades[shard_dataset.split_rows("train")]
    if mode == "balanced":  # each grade of the dataset equally often
        grades = np.unique(grades)
    expected = TASKS[config.train.task].labels(grades).mean()
    if len(update) == 2 or "class_weights" in update:
        expected = 4 * expected / (4 * expected + 1 - expected)
    assert info.train_prior == pytest.approx(expected)


def test_train_prior_counts_the_photographs_that_are_mixed_in(shard_dataset):
    prior = positive_prior(
        shard_dataset,
        sampling=SamplingConfig(mode="natural"),
        augment=AugmentConfig(balanced_mixup=0.25),
        train=TrainConfig(),
    )
    natural = (shard_dataset.grades[shard_dataset.split_rows("train")] > 0).mean()
    assert prior == pytest.approx(0.8 * natural + 0.2 * 0.5)


def test_train_prior_counts_soft_labels(shard_dataset):
    labels = shard_dataset.grades[shard_dataset.split_rows("train")] > 0
    prior = positive_prior(
        shard_dataset,
        sampling=SamplingConfig(mode="balanced"),
        augment=AugmentConfig(),
        train=TrainConfig(class_weights=(1, 2)),
        soft_labels=SoftLabels(np.where(labels, 0.8, 0.1), len(labels)),
    )
    assert prior == pytest.approx(2 * 0.45 / (2 * 0.45 + 0.55))


def test_a_run_with_soft_labels_records_them(shards, shard_dataset, config, tmp_path):
    rows = shard_dataset.split_rows("train")
    ids = shard_dataset.load_index(["id"], rows)["id"]
    table = tmp_path / "teacher.csv"
    table.write_text("".join(["id,score\n", *(f"{name},0.6\n" for name in ids[1:])]))
    soft = change(config, epochs=1, soft_labels="score", soft_weight=0.25)
    plan = plan_training(shards, config=soft, table=table)
    assert_names(plan.soft_labels, "score", 0.25, len(rows) - 1, len(rows))
    out = tmp_path / "run"
    info = train(shards, out=out, config=soft, table=table)
    assert info.distillation.column == "score"
    assert info.distillation.num_photographs == len(rows) - 1
    assert "score" in load_run(out).lineage_facts()["Soft labels"]
    assert train(shards, out=out, config=soft, table=table, resume=True) == info
    table.write_text(table.read_text().replace("0.6", "0.7", 1))
    with raises_naming(RunError, out, "targets_sha256"):
        train(shards, out=out, config=soft, table=table, resume=True)
    with raises_naming(DrtfError, shards, "score"):
        train(shards, out=tmp_path / "other", config=soft)
    assert not (tmp_path / "other").exists()


def test_resume_works_in_the_current_folder(
    run_folder, shards, config, tmp_path, monkeypatch
):
    copy = shutil.copytree(run_folder, tmp_path / "run")
    (copy / "run.json").unlink()
    monkeypatch.chdir(copy)
    info = train(shards, out=Path(), config=config, resume=True)
    assert info.model_sha256 == load_run(run_folder).info.model_sha256


def test_train_is_refused_when_the_folder_is_not_a_dataset(tmp_path, config):
    with raises_naming(RecordError, tmp_path, MANIFEST_FILE, "drtf build-shards"):
        train(tmp_path, out=tmp_path / "run", config=config)


@pytest.mark.parametrize(("num_cores", "words"), [(64, "64 cores"), (1, "1 core")])
def test_the_device_name_has_the_number_of_cores(monkeypatch, num_cores, words):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(num_cores)))
    assert re.fullmatch(rf".+, {words}", device_name())


def test_auto_precision_is_float32_without_a_gpu(monkeypatch):
    monkeypatch.setattr("drtf.models.device.list_gpus", list)
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
    monkeypatch.setattr("drtf.models.device.list_gpus", lambda: gpus)
    assert choose_precision("auto") == expected
    assert choose_precision("float32") == "float32"

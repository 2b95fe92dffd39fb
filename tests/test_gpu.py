"""What runs on a GPU gives the results of a CPU.

`make test-gpu` runs these tests. Without a GPU they are skipped; with
DRTF_GPU_TESTS_ON_CPU=1 they run on the CPU, to see that the tests themselves work. The
most important tests come first, in case a GPU is available for only a few minutes.
"""

import json
import os
import subprocess
import sys

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from test_augment import ALL, CLASSES, NONE, SEEDS
from test_loop import TRAIN_UNTIL_KILLED, change, result_hash
from test_trainer import build_trainer, flat_weights, stream
from test_trainer import run as run_steps

from drtf.config import dump_config, load_config
from drtf.data.augment import OPERATIONS, augment
from drtf.data.mixing import mix
from drtf.data.pipeline import train_dataset
from drtf.errors import DrtfError
from drtf.models.backbones import BACKBONES, COMMON_OPTIONS, Backbone
from drtf.models.device import device_batches, translate_exhaustion
from drtf.models.device_checks import check_device, memory_bytes
from drtf.models.history import load_history
from drtf.training.run import train
from naming import raises_naming

pytestmark = pytest.mark.gpu

ON_CPU = os.environ.get("DRTF_GPU_TESTS_ON_CPU") == "1"
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
# The largest difference between a GPU and a CPU, for numbers in [0, 1].
TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 4e-2}
# Differences of scores in float32, in which GPUs may compute convolutions as TF32.
SCORE_TOLERANCE = 5e-3

# Does with a run everything that predicts, in a process that sees no GPU.
PREDICT = """
import sys
from pathlib import Path
from drtf.config import load_config
from drtf.evaluation.evaluation import evaluate
from drtf.heatmaps.gradcam import gradcam
from drtf.scoring.scoring import score

run, shards, images, out, config = map(Path, sys.argv[1:])
config = load_config(str(config))
common = {"config": config.gradcam, "score": config.score}
evaluate(
    run, shards, split="test", config=config.evaluate, gradcam=config.gradcam,
    out=out / "evaluation",
)
score(run, images, out=out / "scores.csv", config=config.score)
gradcam(run, shards=shards, out=out / "gradcam", **common)
"""

USED_MEMORY = """
import subprocess
import tensorflow as tf
from drtf.models import device

with tf.device("GPU:0"):
    tf.reduce_sum(tf.ones([256, 256])).numpy()
query = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader"]
done = subprocess.run([*query, "--id=0"], capture_output=True, text=True, check=True)
used, total = (float(cell.split()[0]) for cell in done.stdout.split(","))
assert used < total / 2, (used, total)
"""


@pytest.fixture(scope="module")
def gpu() -> str:
    """The name of the first GPU."""
    if ON_CPU:
        return "CPU:0"
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow finds no GPU")
    return "GPU:0"


@pytest.fixture
def small(monkeypatch):
    """Add a backbone with each kind of layer that MobileNetV2 has."""

    def build(x, config, weights):
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv")(x)
        x = keras.layers.BatchNormalization(name="norm")(x)
        x = keras.layers.ReLU(6, name="relu")(x)
        x = keras.layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
        x = keras.layers.BatchNormalization(name="second_norm")(x)
        return keras.layers.ReLU(6, name="second_relu")(x)

    backbone = Backbone("small", build, COMMON_OPTIONS, "unit", ("ReLU",))
    monkeypatch.setitem(BACKBONES, "small", backbone)


def assert_nearly_equal(found, expected, tolerance):
    """Compare all pixels but one in a thousand, which may lie on an edge."""
    difference = np.abs(
        np.asarray(found, np.float32) - np.asarray(expected, np.float32)
    )
    assert np.isfinite(difference).all()
    assert np.quantile(difference, 0.999) < tolerance


def test_doctors_computations_work_on_the_gpu(gpu):
    assert not any(check_device(gpu).values())
    assert memory_bytes(gpu) > 0


def test_batches_are_on_the_gpu_before_they_are_used(gpu, shard_dataset):
    batches = device_batches(lambda: train_dataset(shard_dataset, timed=True))
    batch = next(iter(batches))
    assert {x.device.rpartition("device:")[2] for x in batch.values()} == {gpu}


def test_too_little_memory_of_the_gpu_is_reported_in_one_line(gpu):
    with (
        raises_naming(DrtfError, "train.batch_size=64", "train.batch_size=32"),
        translate_exhaustion("train.batch_size", 64),
        tf.device(gpu),
    ):
        tf.zeros([1 << 48]).numpy()


def test_memory_of_the_gpu_is_left_to_other_programs(gpu):
    if ON_CPU:
        pytest.skip("a CPU's memory is not reserved")
    subprocess.run([sys.executable, "-c", USED_MEMORY], check=True)


def test_auto_precision_works_on_the_gpu(gpu, shards, config, tmp_path):
    info = train(shards, out=tmp_path / "run", config=change(config, epochs=1))
    assert ON_CPU or info.precision != "float32"
    assert load_config(str(tmp_path / "run" / "config.toml")).train.precision == "auto"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_learns_in_each_precision(gpu, shards, config, tmp_path, precision):
    settings = change(
        config,
        precision=precision,
        epochs=8,
        batch_size=16,
        learning_rate=2e-3,
    )
    info = train(shards, out=tmp_path / "run", config=settings)
    assert info.precision == precision
    assert max(row["roc_auc"] for row in load_history(tmp_path / "run")) > 0.8


def test_a_killed_deterministic_training_resumes_bit_for_bit(
    gpu, shards, config, tmp_path
):
    mixed = config.augment.model_copy(update={"mixup": 0.4, "cutmix": 1.0})
    settings = change(
        config.model_copy(update={"augment": mixed}),
        deterministic=True,
        checkpoint_minutes=0,
        epochs=2,
        batch_size=8,
        ema_momentum=0.9,
        steps_per_execution=1,
    )
    path = tmp_path / "config.toml"
    path.write_text(dump_config(settings))
    function = "drtf.training.loop.save_training"
    kills = [(function, num_calls, "after") for num_calls in (999, 999, 4)]
    words = (shards, tmp_path, path, json.dumps(kills))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_UNTIL_KILLED, *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["0", "0", "-9"], done.stderr
    words = ("train", "--shards", shards, "--out", tmp_path / "2", "--config", path)
    code = "from drtf.tools.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words), "--resume"]
    subprocess.run(command, check=True)
    first, second, killed = (result_hash(tmp_path / str(place)) for place in range(3))
    assert second == first
    assert killed == first


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("jit_compile", ["false", "true"])
def test_the_whole_step_is_the_same_on_the_gpu(
    gpu, small, shard_dataset, precision, jit_compile
):
    settings = (
        "model.name=small",
        "model.dropout=0",
        "train.optimizer=sgd",
        "train.learning_rate=0.05",
        "augment.mixup=0.4",
    )
    results = []
    for device, compiled in ((gpu, jit_compile), ("CPU:0", "false")):
        with tf.device(device):
            trainer = build_trainer(
                *settings, f"train.jit_compile={compiled}", policy=precision
            )
            before = flat_weights(trainer)
            if precision == "mixed_float16":
                trainer.optimizer.dynamic_scale.assign(128.0)
            result = run_steps(trainer, stream(shard_dataset), 3)
        assert int(result.num_done) == 3
        loss = float(trainer.get_metrics_result()["loss"])
        results.append((loss, flat_weights(trainer) - before))
    (loss, change), (expected_loss, expected_change) = results
    relative = 2e-2 if precision == "float32" else 1e-1
    assert loss == pytest.approx(expected_loss, rel=relative)
    error = np.linalg.norm(change - expected_change)
    assert error < 2 * relative * np.linalg.norm(expected_change)


def test_predictions_and_heat_maps_are_those_of_a_cpu(
    gpu, run_folder, shards, photographs, config, tmp_path
):
    path = tmp_path / "config.toml"
    path.write_text(dump_config(config))
    for name, hidden in (("gpu", {}), ("cpu", {"CUDA_VISIBLE_DEVICES": "-1"})):
        out = tmp_path / name
        words = (run_folder, shards, photographs / "images", out, path)
        subprocess.run(
            [sys.executable, "-c", PREDICT, *map(str, words)],
            env=os.environ | hidden,
            check=True,
        )
    for name in ("evaluation/predictions.csv", "scores.csv"):
        found, expected = (
            pd.read_csv(tmp_path / device / name, index_col="id")["score"].sort_index()
            for device in ("gpu", "cpu")
        )
        assert len(expected) > 5
        assert np.abs(found - expected).max() < SCORE_TOLERANCE
    maps = sorted((tmp_path / "cpu" / "gradcam").glob("*.png"))
    assert maps
    for path in maps:
        found, expected = (
            cv2.imread(str(tmp_path / device / "gradcam" / path.name)).astype(float)
            for device in ("gpu", "cpu")
        )
        assert np.abs(found - expected).mean() < 3


def test_an_exported_network_gives_the_scores_of_a_cpu(
    gpu, run, run_folder, shards, shard_dataset, tmp_path
):
    from drtf.data.loader import read_batch
    from drtf.models.run import load_run

    out = tmp_path / "model"
    words = ("--shards", shards, "--out", out, "--format", "savedmodel")
    code, _, err = run("export", run_folder, *words)
    assert code == 0, err
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    with tf.device(gpu):
        serve = tf.saved_model.load(str(out)).signatures["serving_default"]
        found = serve(image=tf.constant(images))["score"].numpy()
    with tf.device("CPU:0"):
        network = load_run(run_folder).network
        expected = network(images.astype(np.float32) / 255).numpy()
    assert np.abs(found.ravel() - expected.ravel()).max() < SCORE_TOLERANCE


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_each_augmentation_is_the_same_on_the_gpu(gpu, dtype, is_compiled):
    rng = np.random.default_rng(3)
    pixels = cv2.GaussianBlur(rng.random((64, 64, 18), np.float32), (0, 0), 2)
    images = pixels.reshape(64, 64, 6, 3).transpose(2, 0, 1, 3)

    def compute(operation, device):
        function = tf.function(
            lambda x: augment(x, SEEDS, CLASSES, ALL, operations=[operation]),
            jit_compile=is_compiled and device == gpu,
        )
        with tf.device(device):
            return tf.cast(function(tf.cast(images, dtype)), tf.float32).numpy()

    for operation in OPERATIONS:
        found, expected = compute(operation, gpu), compute(operation, "CPU:0")
        assert np.abs(expected - images).max() > 0.01, operation.name
        assert_nearly_equal(found, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_is_the_same_on_the_gpu(gpu, dtype, name):
    images = np.random.default_rng(3).random((2, 6, 32, 32, 3), np.float32)
    config = NONE.model_copy(update={name: 0.7})
    results = []
    for device in (gpu, "CPU:0"):
        with tf.device(device):
            own, partners = (tf.cast(x, dtype) for x in images)
            mixed, fractions = mix(own, partners, tf.constant(SEEDS), config)
        results.append((tf.cast(mixed, tf.float32), fractions))
    for found, expected in zip(*results, strict=True):
        assert_nearly_equal(found, expected, TOLERANCES[dtype])

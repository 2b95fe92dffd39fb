"""Shared fixtures: synthetic photographs, a dataset of shards, a trained run."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drawing import write_photographs
from drtf import retries
from drtf.building.build import build_shards
from drtf.config import Config, load_config
from drtf.labels.sources import Source
from drtf.models.backbones import BACKBONES, COMMON_OPTIONS, Backbone
from drtf.models.calibration import Calibration
from drtf.models.decision_rule import DecisionRule, Threshold, save_decision_rule
from drtf.models.fellow_eye import FellowEye
from drtf.models.run import load_info
from drtf.models.score_histograms import ScoreHistograms
from drtf.records.reader import ShardDataset
from drtf.tools.main import main

SETTINGS = (
    "images.size=32",
    "model.name=eyenet",
    "model.weights=none",
    "train.epochs=4",
    "train.batch_size=8",
    "evaluate.num_resamples=200",
    "build.num_workers=1",
    "score.num_workers=1",
    "score.on_ungradable=predict",  # the drawn photographs look like no fundus
)


# The files that take longest, the longest first.
LONGEST_FILES = (
    "test_loop.py",
    "test_tools.py",
    "test_hosts.py",
    "test_trainer.py",
    "test_evaluation.py",
    "test_scoring.py",
    "test_training_run.py",
    "test_backbones.py",
    "test_sweep.py",
    "test_bench_read.py",
    "test_ensemble.py",
    "test_heatmaps.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that no core waits for one of them at the end.

    Those with many tests would otherwise come first, however short their tests are.
    """
    places = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """Keep what was imported out of each later garbage collection."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once what fails."""
    monkeypatch.setattr(retries, "RETRY_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="session")
def _key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("key")
    (folder / "patient.key").write_text("a key of the tests")
    return folder


@pytest.fixture(autouse=True)
def _patient_key(_key_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the key of pseudonyms out of the home folder."""
    monkeypatch.setenv("DRTF_PATIENT_KEY", str(_key_folder / "patient.key"))


@pytest.fixture(scope="session")
def config() -> Config:
    return load_config("", SETTINGS)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ and labels.csv, which tests must not change."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder)
    return folder


@pytest.fixture(scope="session")
def shards(
    photographs: Path, config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A built dataset, which tests must not change."""
    out = tmp_path_factory.mktemp("tfrecords") / "drawn"
    labels = photographs / "labels.csv"
    build_shards([Source(photographs / "images", labels)], out=out, config=config)
    return out


@pytest.fixture
def shard_dataset(shards: Path):
    with ShardDataset(shards) as opened:
        yield opened


@pytest.fixture(scope="session")
def save_rule() -> Callable[..., DecisionRule]:
    """Store a threshold and a calibration in a run, as an evaluation does."""

    def save(
        run_folder: Path,
        value: float,
        *,
        tta: str = "none",
        cut_points: tuple[float, ...] = (),
        fellow_eye: FellowEye | None = None,
    ) -> DecisionRule:
        common = {"source": "split val", "tta": tta}
        histograms = ScoreHistograms(edges=(0.5,), negative=(2, 1), positive=(1, 2))
        rule = DecisionRule(
            fellow_eye=fellow_eye,
            threshold=Threshold(
                value=value, rule="youden", num_photographs=6, **common
            ),
            calibration=Calibration(
                method="logistic", prior_shift=0.0, histograms=histograms, **common
            ),
            cut_points=cut_points,
            model_sha256=load_info(run_folder).model_sha256,
        )
        save_decision_rule(run_folder, rule)
        return rule

    return save


@pytest.fixture(scope="session")
def run_folder(
    shards: Path, config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A trained run without a threshold, which tests must not change."""
    from drtf.training.run import train

    out = tmp_path_factory.mktemp("runs") / "drawn"
    train(shards, out=out, config=config)
    return out


@pytest.fixture(scope="session")
def grades_run_folder(
    shards: Path, config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A trained run of ordered grades, not evaluated, which tests must not change."""
    from drtf.training.run import train

    out = tmp_path_factory.mktemp("runs") / "grades"
    settings = {"task": "grades", "loss": "coral", "epochs": 1}
    update = {"train": config.train.model_copy(update=settings)}
    train(shards, out=out, config=config.model_copy(update=update))
    return out


@pytest.fixture
def foreground():
    """Let Ctrl-C and SIGHUP arrive, which programs in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGHUP, before_hangup)


@pytest.fixture
def tiny(monkeypatch):
    """Add a backbone of one convolution and one batch normalization."""
    import keras

    def build(x, config, weights):
        x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv")(x)
        x = keras.layers.BatchNormalization(name="norm")(x)
        return keras.layers.ReLU()(x)

    backbone = Backbone("tiny", build, COMMON_OPTIONS, "unit", ("ReLU",))
    monkeypatch.setitem(BACKBONES, "tiny", backbone)


@pytest.fixture
def no_tensorboard_images(monkeypatch):
    """Train without images for TensorBoard, which test_callbacks.py looks at."""
    from drtf.training import callbacks

    for owner in (callbacks.AugmentedImages, callbacks.BestFigures):
        for name in ("on_epoch_begin", "on_epoch_end"):
            monkeypatch.setattr(owner, name, lambda self, epoch, logs=None: None)


@pytest.fixture
def batches_ahead(monkeypatch):
    """Send batches ahead to the device, as to a GPU."""
    import tensorflow as tf

    cpus = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: cpus)


@pytest.fixture
def same_process(monkeypatch):
    """Let sweeps train and evaluate in this process, which has loaded TensorFlow."""

    def call(function, *args, **kwargs):
        return function(*args, **kwargs)

    monkeypatch.setattr("drtf.bench.sweep.run_in_process", call)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; return exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["drtf", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
            sys.exit(0)
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run

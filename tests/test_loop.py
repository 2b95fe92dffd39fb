"""Trainings that are killed, stopped or damaged resume to the same result."""

import errno
import hashlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from drtf.config import dump_config
from drtf.data.pipeline import StreamPosition, train_dataset
from drtf.data.sampling import partner_sampling
from drtf.errors import DrtfError, RunError, StoppedError
from drtf.locks import lock_or_fail
from drtf.models.history import load_history
from drtf.models.run import load_run
from drtf.models.run_files import IDENTITY_FILE
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.training import checkpoint, loop
from drtf.training import run as training_run
from drtf.training.checkpoint import (
    list_checkpoints,
    load_newest_checkpoint,
)
from drtf.training.identity import save_identity
from drtf.training.run import train
from drtf.workers import run_in_process
from naming import assert_names, raises_naming

pytestmark = pytest.mark.usefixtures("no_tensorboard_images")

# At which call of a function a training is killed, before or after the call's work.
KILLS = [
    ("drtf.training.loop.save_training", 2, "after"),  # within an epoch
    ("drtf.training.loop.save_training", 5, "before"),
    ("drtf.training.checkpoint.write_atomic", 3, "before"),  # during a save
    ("drtf.training.checkpoint.sync_folder", 4, "before"),
    ("drtf.training.loop.save_history", 1, "after"),  # between epochs
    ("drtf.training.context.save_model", 1, "before"),
]

# Trains in child processes that kill themselves. They share the slow import of
# TensorFlow, which only they use, since a process that has used it cannot be forked.
TRAIN_UNTIL_KILLED = """
import importlib, json, os, sys
from pathlib import Path
from drtf.config import load_config
from drtf.training import run

shards, folder, config, kills = sys.argv[1:]

def kill_at_call(function, number, when):
    module, _, name = function.rpartition(".")
    module = importlib.import_module(module)
    work, num_calls = getattr(module, name), 0

    def work_or_die(*args, **kwargs):
        nonlocal num_calls
        num_calls += 1
        if num_calls == number and when == "before":
            os.kill(os.getpid(), 9)
        result = work(*args, **kwargs)
        if num_calls == number:
            os.kill(os.getpid(), 9)
        return result

    setattr(module, name, work_or_die)

for place, kill in enumerate(json.loads(kills)):
    child = os.fork()
    if not child:
        kill_at_call(*kill)
        out = Path(folder) / str(place)
        run.train(Path(shards), out=out, config=load_config(config))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def settings(config):
    mixed = config.augment.model_copy(update={"mixup": 0.4, "cutmix": 1.0})
    return change(
        config.model_copy(update={"augment": mixed}),
        checkpoint_minutes=0,
        epochs=3,
        batch_size=8,
        num_checkpoints=3,
        steps_per_execution=1,
        ema_momentum=0.9,
        schedule="plateau",
        plateau_patience=1,
        early_stopping_patience=9,
    )


def change(config, **update):
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def result_hash(run):
    """Hash the newest checkpoint, the model, and the history without its times."""
    checkpoint = load_newest_checkpoint(run)
    digest = hashlib.sha256()
    for array in checkpoint.arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    for array in load_run(run).network.get_weights():
        digest.update(array.tobytes())
    for row in load_history(run):
        kept = row.keys() - {"seconds", "val_seconds", "input_wait_fraction"}
        digest.update(repr([row[name] for name in sorted(kept)]).encode())
    return checkpoint.num_steps, digest.hexdigest()


@pytest.fixture(scope="module")
def finished(shards, settings, tmp_path_factory):
    """A run folder of an uninterrupted training, which tests must not change."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(shards, out=out, config=settings)
    return out


@pytest.fixture(scope="module")
def uninterrupted(finished):
    return result_hash(finished)


@pytest.fixture(scope="module")
def interrupted(shards, settings, tmp_path_factory):
    """A run folder whose training was interrupted after its first epoch."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_history", fail)
        with pytest.raises(KeyboardInterrupt):
            train(shards, out=out, config=settings)
    return out


@pytest.fixture
def unfinished(interrupted, tmp_path):
    """A copy of the interrupted run folder, which tests may change."""
    return shutil.copytree(interrupted, tmp_path / "run")


@pytest.fixture(scope="module")
def killed(shards, settings, tmp_path_factory):
    """The run folder of each killed training, by the call that killed it."""
    folder = tmp_path_factory.mktemp("killed")
    config = folder / "config.toml"
    config.write_text(dump_config(settings))
    words = (shards, folder, config, json.dumps(KILLS))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_UNTIL_KILLED, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(KILLS)
    return {kill: folder / str(place) for place, kill in enumerate(KILLS)}


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: "-".join(map(str, kill)))
def test_resume_gives_the_uninterrupted_result_when_killed(
    shards, settings, uninterrupted, killed, kill
):
    out = killed[kill]
    assert not (out / "run.json").exists()
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted
    assert (out / "run.json").exists()


def test_resume_uses_the_checkpoint_before_when_the_newest_is_damaged(
    shards, settings, uninterrupted, unfinished, caplog
):
    out = unfinished
    newest, before, *_ = list_checkpoints(out)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert load_newest_checkpoint(out).num_steps == int(
        before.stem.removeprefix("step-")
    )
    assert_names(caplog.messages[0], newest)
    assert_names(caplog.messages[1], before)
    assert newest not in list_checkpoints(out)
    assert newest.with_suffix(".damaged").exists()
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted


def test_damaged_checkpoints_do_not_count_as_kept_ones(
    shards, settings, uninterrupted, unfinished
):
    out = unfinished
    for number, path in enumerate(list_checkpoints(out)[:2]):
        path.write_bytes(b"damaged")
        path.rename(path.with_name(f"step-{9000 + number:010d}.checkpoint"))
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted


def test_resume_is_refused_when_all_checkpoints_are_damaged(
    shards, settings, unfinished
):
    out = unfinished
    for path in list_checkpoints(out):
        path.write_bytes(b"")
    with raises_naming(RunError, 3, out / checkpoint.FOLDER):
        train(shards, out=out, config=settings, resume=True)
    assert len(list_checkpoints(out)) == 3


def test_a_checkpoint_of_another_training_is_not_resumed(unfinished, tmp_path, caplog):
    other = tmp_path / "other"
    shutil.copytree(unfinished, other)
    identity = json.loads((other / IDENTITY_FILE).read_text())
    save_identity(other, identity | {"train.seed": 77})
    with raises_naming(RunError, other / checkpoint.FOLDER):
        load_newest_checkpoint(other)
    assert_names(caplog.messages[0], "another training")


def test_resume_restores_the_files_of_the_checkpoint(
    shards, settings, uninterrupted, tmp_path, monkeypatch
):
    out, count = tmp_path / "run", 0
    save_training = loop.save_training

    def stop(*args):
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return save_training(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_training", stop)
        with pytest.raises(KeyboardInterrupt):
            train(shards, out=out, config=settings)
    (out / "model.keras").unlink()
    (out / "history.csv").write_text("epoch")
    (out / "checkpoints" / ".step-0000000099.checkpoint.partial").write_bytes(b"cut")
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted
    assert not list(out.rglob("*.partial"))


def test_train_is_refused_when_another_process_trains_into_the_folder(
    shards, settings, tmp_path
):
    out = tmp_path / "run"
    with (
        lock_or_fail(tmp_path / ".run.lock"),
        raises_naming(DrtfError, tmp_path / ".run.lock"),
    ):
        train(shards, out=out, config=settings)
    assert not out.exists()


@pytest.mark.parametrize("what", ["predictions", "weights"])
def test_nothing_is_saved_when_predictions_or_weights_become_non_finite(
    shards, settings, tmp_path, monkeypatch, what
):
    """Weights may become non-finite in a step whose own loss was still finite."""
    run_epochs = training_run.run_epochs

    def run_spoiled(context, **kwargs):
        trainer = context.trainer
        execute_steps, network = trainer.execute_steps, trainer.network

        def spoil(*args):
            result = execute_steps(*args)
            if what == "weights":
                kernel = network.get_layer("conv_1").kernel
                kernel.assign(tf.fill(kernel.shape, np.inf))
            else:
                # Finite, but their difference is not.
                network.get_layer("class_logits").bias.assign([3e38, -3e38])
            return result

        spoil.get_concrete_function = execute_steps.get_concrete_function
        trainer.execute_steps = spoil
        return run_epochs(context, **kwargs)

    minutes = 0 if what == "weights" else 99
    monkeypatch.setattr(training_run, "run_epochs", run_spoiled)
    several = change(
        settings,
        steps_per_execution=4,
        checkpoint_minutes=minutes,
        ema_momentum=0.0,
    )
    listed = tmp_path / "run" / "failed_batch.csv"
    facts = (what, "step 4", "epoch 1", listed, "train.learning_rate")
    with raises_naming(DrtfError, *facts):
        train(shards, out=tmp_path / "run", config=several)
    assert not list_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "model.keras").exists()


def fail(*args):
    raise KeyboardInterrupt


AFTER_TWO_STEPS = ("epoch 1", "step 2 of 4", "--resume")


@pytest.mark.parametrize(
    ("number", "function", "facts"),
    [
        (signal.SIGINT, "drtf.training.loop.save_training", AFTER_TWO_STEPS),
        (signal.SIGTERM, "drtf.training.loop.save_training", AFTER_TWO_STEPS),
        (
            signal.SIGHUP,
            "drtf.training.validation.Validation.measure",
            ("epoch 2", "step 4 of 4", "--resume"),
        ),
    ],
)
def test_a_signal_saves_a_checkpoint_and_stops(
    shards,
    settings,
    uninterrupted,
    tmp_path,
    monkeypatch,
    foreground,
    number,
    function,
    facts,
):
    out = tmp_path / "run"
    work, count = pkgutil.resolve_name(function), 0

    def signal_once(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), number)
        return work(*args, **kwargs)

    before = signal.getsignal(number)
    monkeypatch.setattr(function, signal_once)
    with raises_naming(StoppedError, number.name, *facts) as stopped:
        train(shards, out=out, config=settings)
    assert stopped.value.signal == number
    assert signal.getsignal(number) == before
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted


def signal_before(function, monkeypatch):
    """Send SIGTERM just before each call of a function."""
    work = pkgutil.resolve_name(function)

    def called(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*args, **kwargs)

    monkeypatch.setattr(function, called)


def test_a_signal_before_the_first_step_saves_a_checkpoint_and_stops(
    shards, settings, uninterrupted, tmp_path
):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        signal_before("drtf.training.run.build_initial_network", patch)
        with raises_naming(StoppedError, "SIGTERM", "epoch 1", "step 0 of 4"):
            train(shards, out=out, config=settings)
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted


def test_a_signal_after_the_last_step_is_ignored(
    shards, settings, uninterrupted, tmp_path, monkeypatch
):
    """The same training gives equal bits when it is repeated."""
    out = tmp_path / "run"
    signal_before("drtf.training.run.plot_history", monkeypatch)
    train(shards, out=out, config=settings)
    assert result_hash(out) == uninterrupted


def test_resume_remembers_the_damaged_records(shards, settings, tmp_path, monkeypatch):
    damaged = shutil.copytree(shards, tmp_path / "dataset")
    with ShardDataset(damaged) as shard_dataset:
        record = shard_dataset.load_index().iloc[shard_dataset.split_rows("train")[0]]
        shard = damaged / shard_dataset.manifest.shards[record["shard"]].file
    data = bytearray(shard.read_bytes())
    data[record["image_offset"]] ^= 1
    shard.write_bytes(data)
    sampling = settings.sampling.model_copy(update={"on_damaged": "skip"})
    config = change(settings, epochs=1).model_copy(update={"sampling": sampling})
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "plot_history", fail)
        with pytest.raises(KeyboardInterrupt):
            train(damaged, out=out, config=config)
    assert train(damaged, out=out, config=config, resume=True).num_damaged == 1


def test_an_unfinished_training_is_neither_overwritten_nor_changed(
    shards, settings, unfinished
):
    out = unfinished
    with raises_naming(DrtfError, out, "--resume"):
        train(shards, out=out, config=settings)
    other = change(settings, learning_rate=0.5)
    config = (out / "config.toml").read_text()
    with raises_naming(RunError, out, "train.learning_rate", 0.001, 0.5):
        train(shards, out=out, config=other, resume=True)
    assert (out / "config.toml").read_text() == config


def test_resume_is_refused_when_the_dataset_is_another_one(
    shards, settings, unfinished, monkeypatch
):
    out = unfinished
    monkeypatch.setattr(training_run, "hash_manifest", lambda folder: "0123abc")
    facts = (out, "dataset_sha256", hash_manifest(shards), "0123abc")
    with raises_naming(RunError, *facts):
        train(shards, out=out, config=settings, resume=True)


def train_twice(shards, folder, config):
    for name in ("one", "two"):
        train(shards, out=folder / name, config=config)


def test_deterministic_trainings_give_equal_bits(shards, settings, tmp_path):
    config = change(settings, deterministic=True, epochs=1)
    # In a process of their own, because determinism is set for a whole process.
    run_in_process(train_twice, shards, tmp_path, config)
    assert result_hash(tmp_path / "one") == result_hash(tmp_path / "two")


def test_resume_changes_nothing_when_the_training_is_finished(
    shards, settings, finished, tmp_path
):
    shutil.copytree(finished, tmp_path / "run")
    info = load_run(finished).info
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(shards, out=tmp_path / "run", config=settings, resume=True) == info
    other = change(settings, learning_rate=0.5)
    with raises_naming(RunError, "train.learning_rate", 0.001, 0.5):
        train(shards, out=tmp_path / "run", config=other, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_earlier_checkpoints_survive_when_the_disk_is_full(
    shards, settings, uninterrupted, tmp_path, monkeypatch
):
    out, count = tmp_path / "run", 0
    write = checkpoint.write_atomic

    def fill(*args):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", fill)
        with raises_naming(DrtfError, out, os.strerror(errno.ENOSPC), "--resume"):
            train(shards, out=out, config=settings)
    assert len(list_checkpoints(out)) == 2
    train(shards, out=out, config=settings, resume=True)
    assert result_hash(out) == uninterrupted


def test_the_error_names_step_and_photographs_when_the_loss_is_non_finite(
    shards, settings, tmp_path, monkeypatch
):
    save_training, count = loop.save_training, 0

    def poison(context, status):
        nonlocal count
        count += 1
        path = save_training(context, status)
        if count == 2:
            weight = context.trainer.network.get_layer("class_logits").bias
            weight.assign(np.full(weight.shape, np.nan))
        return path

    monkeypatch.setattr(loop, "save_training", poison)
    out = tmp_path / "run"
    saved = out / "checkpoints" / "step-0000000002.checkpoint"
    listed = out / "failed_batch.csv"
    facts = ("step 3", "epoch 1", listed, saved, "train.learning_rate")
    with raises_naming(DrtfError, *facts):
        train(shards, out=out, config=settings)
    assert len(list_checkpoints(out)) == 2
    ids = (out / "failed_batch.csv").read_text().splitlines()
    with ShardDataset(shards) as shard_dataset:
        batches = train_dataset(
            shard_dataset,
            batch_size=8,
            start=StreamPosition(42, 0, 2),
            partners=partner_sampling(settings.sampling, settings.augment),
        )
        batch = next(iter(batches))
        rows = np.concatenate([batch["row"], batch["partner_row"]])
        assert ids == ["id", *shard_dataset.load_index()["id"].to_numpy()[rows]]


@pytest.mark.parametrize("steps_per_execution", ["auto", 3])
def test_resume_gives_the_same_result_with_other_steps_per_execution(
    shards, settings, uninterrupted, unfinished, steps_per_execution
):
    out = unfinished
    several = change(settings, steps_per_execution=steps_per_execution)
    train(shards, out=out, config=several, resume=True)
    assert result_hash(out) == uninterrupted


def test_resume_gives_the_same_result_with_batches_on_the_device(
    shards, settings, uninterrupted, unfinished, batches_ahead
):
    train(shards, out=unfinished, config=settings, resume=True)
    assert result_hash(unfinished) == uninterrupted


@pytest.mark.slow
def test_resume_gives_the_uninterrupted_result_when_killed_at_random(
    shards, settings, uninterrupted, tmp_path
):
    config = tmp_path / "config.toml"
    config.write_text(dump_config(settings))
    out = tmp_path / "run"
    words = ("train", "--shards", shards, "--out", out, "--config", config, "--resume")
    code = "from drtf.tools.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    rng = np.random.default_rng()
    num_killed = 0
    # Kill each process after its first checkpoint, so that each makes progress.
    while not (out / "run.json").exists():
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = list_checkpoints(out)
        while process.poll() is None and list_checkpoints(out) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        num_killed += process.wait() == -signal.SIGKILL
    assert num_killed
    assert result_hash(out) == uninterrupted

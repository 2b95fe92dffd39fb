"""Trainings that are killed, stopped and damaged, and go on as if they had not been."""

import errno
import hashlib
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
from drtf.data.pipeline import State, train_dataset
from drtf.errors import DrtfError, RunError, StoppedError
from drtf.files import lock_or_fail
from drtf.models.run import load_history, load_run
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.training import checkpoint, loop
from drtf.training import run as training_run
from drtf.training.checkpoint import list_checkpoints, load_newest
from drtf.training.run import train
from drtf.workers import run_in_process
from naming import raises_naming

# Kills its process when the function of a module is called for the n-th time, before or
# after its work.
KILLED = """
import importlib, os, sys
from pathlib import Path
from drtf.config import load_config
from drtf.training import run

shards, out, config, place, number, when = sys.argv[1:]
module, _, name = place.rpartition(".")
module = importlib.import_module(module)
work, count = getattr(module, name), 0

def work_and_die(*args, **kwargs):
    global count
    count += 1
    if count == int(number) and when == "before":
        os.kill(os.getpid(), 9)
    result = work(*args, **kwargs)
    if count == int(number):
        os.kill(os.getpid(), 9)
    return result

setattr(module, name, work_and_die)
run.train(Path(shards), out=Path(out), config=load_config(config), resume=True)
"""


@pytest.fixture(scope="module")
def settings(config):
    return change(
        config,
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


def find_hash(run):
    """Hash the newest checkpoint, the model, and the history but its times."""
    checkpoint = load_newest(run)
    whole = hashlib.sha256()
    for array in checkpoint.arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    for array in load_run(run).network.get_weights():
        whole.update(array.tobytes())
    for row in load_history(run):
        kept = row.keys() - {"seconds", "val_seconds", "input_wait_share"}
        whole.update(repr([row[name] for name in sorted(kept)]).encode())
    return checkpoint.num_steps, whole.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(shards, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(shards, out=out, config=settings)
    return find_hash(out)


@pytest.fixture
def unfinished(shards, settings, tmp_path):
    """A run folder whose training ended with its first epoch."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_history", fail)
        with pytest.raises(KeyboardInterrupt):
            train(shards, out=out, config=settings)
    return out


@pytest.mark.parametrize(
    ("place", "number", "when"),
    [
        ("drtf.training.loop.capture", 2, "after"),  # in mid-epoch
        ("drtf.training.loop.capture", 5, "before"),
        ("drtf.training.checkpoint.write_atomic", 3, "before"),  # during a save
        ("drtf.training.checkpoint.sync_folder", 4, "before"),
        ("drtf.training.loop.save_history", 1, "after"),  # between epochs
        ("drtf.training.run.save_model", 1, "before"),
    ],
)
def test_a_killed_training_ends_as_an_undisturbed_one(
    shards, settings, undisturbed, tmp_path, place, number, when
):
    config = tmp_path / "config.toml"
    config.write_text(dump_config(settings))
    out = tmp_path / "run"
    words = (shards, out, config, place, number, when)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)], capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed
    assert (out / "run.json").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    shards, settings, undisturbed, unfinished, caplog
):
    out = unfinished
    newest, before, *_ = list_checkpoints(out)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert load_newest(out).num_steps == int(before.stem.removeprefix("step-"))
    warned = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert any(str(newest) in message for message in warned)
    assert newest not in list_checkpoints(out)
    assert newest.with_suffix(".damaged").exists()
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed


def test_damaged_checkpoints_are_not_kept_in_place_of_whole_ones(
    shards, settings, undisturbed, unfinished
):
    out = unfinished
    for number, path in enumerate(list_checkpoints(out)[:2]):
        path.write_bytes(b"damaged")
        path.rename(path.with_name(f"step-{9000 + number:010d}.checkpoint"))
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew(
    shards, settings, unfinished
):
    out = unfinished
    for path in list_checkpoints(out):
        path.write_bytes(b"")
    with raises_naming(RunError, 3, out / checkpoint.FOLDER):
        train(shards, out=out, config=settings, resume=True)
    assert len(list_checkpoints(out)) == 3


def test_what_a_kill_left_is_put_right_from_the_checkpoint(
    shards, settings, undisturbed, tmp_path, monkeypatch
):
    out, count = tmp_path / "run", 0
    capture = loop.capture

    def stop(*args):
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return capture(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "capture", stop)
        with pytest.raises(KeyboardInterrupt):
            train(shards, out=out, config=settings)
    (out / "model.keras").unlink()
    (out / "history.csv").write_text("epoch")
    (out / "checkpoints" / ".step-0000000099.checkpoint.partial").write_bytes(b"cut")
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed
    assert not list(out.rglob("*.partial"))


def test_one_training_at_a_time_writes_to_a_folder(shards, settings, tmp_path):
    out = tmp_path / "run"
    with (
        lock_or_fail(tmp_path / ".run.lock"),
        raises_naming(DrtfError, tmp_path / ".run.lock"),
    ):
        train(shards, out=out, config=settings)
    assert not out.exists()


@pytest.mark.parametrize("place", ["predict", "weights"])
def test_what_is_not_finite_is_never_saved(
    shards, settings, tmp_path, monkeypatch, place
):
    """Weights may be lost in a step whose own loss was still finite."""
    run_epochs = training_run.run_epochs

    def run_spoiled(parts, **kwargs):
        run_steps, network = parts.trainer.run_steps, parts.trainer.network

        def spoil(*args):
            result = run_steps(*args)
            if place == "weights":
                kernel = network.get_layer("conv_1").kernel
                kernel.assign(tf.fill(kernel.shape, np.inf))
            else:
                # Finite themselves, but not their difference.
                network.get_layer("class_logits").bias.assign([3e38, -3e38])
            return result

        spoil.get_concrete_function = run_steps.get_concrete_function
        parts.trainer.run_steps = spoil
        return run_epochs(parts, **kwargs)

    minutes = 0 if place == "weights" else 99
    monkeypatch.setattr(training_run, "run_epochs", run_spoiled)
    several = change(
        settings,
        steps_per_execution=4,
        checkpoint_minutes=minutes,
        ema_momentum=0.0,
    )
    listed = tmp_path / "run" / "failed_batch.csv"
    facts = ("step 4", "epoch 1", listed, "train.learning_rate")
    with raises_naming(DrtfError, *facts) as error:
        train(shards, out=tmp_path / "run", config=several)
    assert ("weights" in str(error.value)) == (place == "weights")
    assert not list_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / "model.keras").exists()


def fail(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("number", "place", "facts"),
    [
        (signal.SIGINT, "drtf.training.loop.capture", ("epoch 1", "step 2")),
        (signal.SIGTERM, "drtf.training.loop.capture", ("epoch 1", "step 2")),
        (
            signal.SIGTERM,
            "drtf.training.validation.Validation.measure",
            ("epoch 2", "step 4"),
        ),
    ],
)
def test_a_signal_saves_and_stops(
    shards, settings, undisturbed, tmp_path, monkeypatch, number, place, facts
):
    out = tmp_path / "run"
    work, count = pkgutil.resolve_name(place), 0

    def signal_once(*args, **kwargs):
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), number)
        return work(*args, **kwargs)

    before = signal.getsignal(number)
    monkeypatch.setattr(place, signal_once)
    with raises_naming(StoppedError, number.name, *facts, "--resume") as stopped:
        train(shards, out=out, config=settings)
    assert stopped.value.signal == number
    assert signal.getsignal(number) == before
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed


def signal_before(place, monkeypatch):
    """Have a function called with SIGTERM just before it."""
    work = pkgutil.resolve_name(place)

    def called(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*args, **kwargs)

    monkeypatch.setattr(place, called)


def test_a_signal_before_the_first_step_saves_and_stops(
    shards, settings, undisturbed, tmp_path
):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        signal_before("drtf.training.run.build_network", patch)
        with raises_naming(StoppedError, "SIGTERM", "epoch 1", "step 0", "--resume"):
            train(shards, out=out, config=settings)
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed


def test_a_signal_after_the_last_step_stops_nothing(
    shards, settings, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    signal_before("drtf.training.run.plot_history", monkeypatch)
    train(shards, out=out, config=settings)
    assert find_hash(out) == undisturbed


def test_a_training_gone_on_with_remembers_what_was_damaged(
    shards, settings, tmp_path, monkeypatch
):
    damaged = shutil.copytree(shards, tmp_path / "set")
    with ShardDataset(damaged) as shard_set:
        record = shard_set.index.iloc[shard_set.split_rows("train")[0]]
        shard = damaged / shard_set.manifest.shards[record["shard"]].file
    data = bytearray(shard.read_bytes())
    data[record["image_offset"]] ^= 1
    shard.write_bytes(data)
    sampling = settings.sampling.model_copy(update={"on_corrupt": "skip"})
    config = change(settings, epochs=1).model_copy(update={"sampling": sampling})
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "plot_history", fail)
        with pytest.raises(KeyboardInterrupt):
            train(damaged, out=out, config=config)
    assert train(damaged, out=out, config=config, resume=True).num_damaged == 1


def test_an_unfinished_training_is_neither_written_over_nor_mixed(
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


def test_a_training_of_another_set_is_not_gone_on_with(
    shards, settings, unfinished, monkeypatch
):
    out = unfinished
    monkeypatch.setattr(training_run, "hash_manifest", lambda folder: "0123abc")
    with raises_naming(
        RunError, out, "dataset_sha256", hash_manifest(shards), "0123abc"
    ):
        train(shards, out=out, config=settings, resume=True)


def test_two_trainings_alike_are_equal_bit_for_bit(
    shards, settings, undisturbed, tmp_path
):
    train(shards, out=tmp_path / "run", config=settings)
    assert find_hash(tmp_path / "run") == undisturbed


def test_trainings_that_ask_for_determinism_are_equal_bit_for_bit(
    shards, settings, tmp_path
):
    config = change(settings, deterministic=True, epochs=1)
    # Apart: it is asked for a whole process.
    for name in ("one", "two"):
        run_in_process(train, shards, out=tmp_path / name, config=config)
    assert find_hash(tmp_path / "one") == find_hash(tmp_path / "two")


def test_a_finished_training_is_left_as_it_is(shards, settings, tmp_path):
    info = train(shards, out=tmp_path / "run", config=settings)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(shards, out=tmp_path / "run", config=settings, resume=True) == info
    other = change(settings, learning_rate=0.5)
    with raises_naming(RunError, "train.learning_rate", 0.001, 0.5):
        train(shards, out=tmp_path / "run", config=other, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_a_full_disk_loses_nothing_that_was_saved(
    shards, settings, undisturbed, tmp_path, monkeypatch
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
        reason = os.strerror(errno.ENOSPC)
        with raises_naming(DrtfError, out, reason, "--resume"):
            train(shards, out=out, config=settings)
    assert len(list_checkpoints(out)) == 2
    train(shards, out=out, config=settings, resume=True)
    assert find_hash(out) == undisturbed


def test_a_loss_that_is_not_finite_names_step_and_photographs(
    shards, settings, tmp_path, monkeypatch
):
    capture, count = loop.capture, 0

    def poison(training, course):
        nonlocal count
        count += 1
        path = capture(training, course)
        if count == 2:
            weight = training.trainer.network.get_layer("class_logits").bias
            weight.assign(np.full(weight.shape, np.nan))
        return path

    monkeypatch.setattr(loop, "capture", poison)
    out = tmp_path / "run"
    facts = ("step 3", "epoch 1", out / "failed_batch.csv", "train.learning_rate")
    saved = out / "checkpoints" / "step-0000000002.checkpoint"
    with raises_naming(DrtfError, *facts, saved):
        train(shards, out=out, config=settings)
    assert len(list_checkpoints(out)) == 2
    ids = (out / "failed_batch.csv").read_text().splitlines()
    with ShardDataset(shards) as shard_set:
        batches = train_dataset(shard_set, batch_size=8, state=State(42, 0, 2))
        rows = next(iter(batches))["row"].numpy()
        assert ids == ["id", *shard_set.index["id"].to_numpy()[rows]]


@pytest.mark.parametrize("steps_per_execution", ["auto", 3])
def test_steps_of_an_execution_may_change_on_the_way(
    shards, settings, undisturbed, unfinished, steps_per_execution
):
    out = unfinished
    several = change(settings, steps_per_execution=steps_per_execution)
    train(shards, out=out, config=several, resume=True)
    assert find_hash(out) == undisturbed


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_as_an_undisturbed_one(
    shards, settings, undisturbed, tmp_path
):
    config = tmp_path / "config.toml"
    config.write_text(dump_config(settings))
    out = tmp_path / "run"
    words = (shards, out, config, "drtf.training.loop.capture", 10**6, "before")
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    rng = np.random.default_rng()
    num_killed = 0
    # Each is killed after its first checkpoint, so that all get further.
    while not (out / "run.json").exists():
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = list_checkpoints(out)
        while process.poll() is None and list_checkpoints(out) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        num_killed += process.wait() == -signal.SIGKILL
    assert num_killed
    assert find_hash(out) == undisturbed

"""Two processes that train one model, by TF_CONFIG, as two hosts would."""

import json
import os
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow as tf
from test_cluster import free_addresses

from drtf.cluster import Cluster
from drtf.config import dump_config
from drtf.errors import DrtfError
from drtf.models.history import load_history
from drtf.models.run import load_info, load_run
from drtf.training.checkpoint import load_newest_checkpoint
from drtf.training.hosts import translate_lost_hosts
from drtf.training.run import train
from interruption import interrupted_command
from naming import assert_names

TIMES = {"seconds", "val_seconds", "input_wait_fraction"}
# Ends a test that hangs; much longer than a training takes on a busy machine.
MAX_SECONDS = 300
STEPS_PER_EPOCH = 5
TRAIN = "from drtf.tools.main import main; main()"


@pytest.fixture(scope="module")
def settings(config):
    """Settings with a smaller last batch that stop early, after more than 50 steps.

    At ten times this learning rate, CPUs without AVX-512 amplify the last digits of
    float32 to 1e-3 on the way.
    """
    update = {
        "epochs": 99,
        "batch_size": 7,
        "optimizer": "sgd",
        "learning_rate": 0.001,
        "ema_momentum": 0.9,
        "schedule": "plateau",
        "plateau_patience": 1,
        "early_stopping_patience": 10,
    }
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


@pytest.fixture(scope="module")
def start(shards, settings, tmp_path_factory):
    """Start two hosts that train into the first one's folder.

    `signals` has, for a host, after how many checkpoints it sends itself which signal.
    """
    config = tmp_path_factory.mktemp("config") / "config.toml"
    config.write_text(dump_config(settings))

    def start(out, *words, signals=None):
        addresses = free_addresses(2)
        processes = []
        for index in range(2):
            text = json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            )
            folder = out if index == 0 else out.with_name(f"{out.name}-unused")
            command = ("train", "--shards", shards, "--out", folder, *words)
            command += ("--config", config)
            if signals and index in signals:
                num_calls, number = signals[index]
                function = "drtf.training.loop.save_training"
                command = interrupted_command(
                    *command, function=function, num_calls=num_calls, number=number
                )
            else:
                command = [sys.executable, "-c", TRAIN, *map(str, command)]
            processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | {"TF_CONFIG": text, "TF_CPP_MIN_LOG_LEVEL": "3"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return processes

    return start


def finish(processes):
    """Wait until both hosts have ended; return their exit codes and outputs."""
    try:
        outputs = [process.communicate(timeout=MAX_SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any("Traceback" in output for output in outputs), outputs
    return [process.returncode for process in processes], outputs


def error_line(output):
    """Return the command's own line; TensorFlow may log something after it."""
    starts = ("Error: ", "Stopped: ")
    (line,) = (line for line in output.splitlines() if line.startswith(starts))
    return line


def result(run):
    """Return the state and the saved weights, and the history without its times."""
    history = [
        {name: row[name] for name in row.keys() - TIMES} for row in load_history(run)
    ]
    weights = load_run(run).network.get_weights()
    return [*load_newest_checkpoint(run).arrays, *weights], history


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    codes, outputs = finish(start(out))
    assert codes == [0, 0], outputs
    assert not out.with_name("run-unused").exists()
    assert "Epoch" not in outputs[1]
    return out


EVERY_STEP = (
    *("--set", "train.checkpoint_minutes=0"),
    *("--set", "train.steps_per_execution=1"),
)


def test_two_hosts_give_the_result_of_one(uninterrupted, shards, settings, tmp_path):
    train(shards, out=tmp_path / "run", config=settings)
    arrays, history = result(tmp_path / "run")
    two_arrays, two_history = result(uninterrupted)
    info = load_info(uninterrupted)
    assert (info.num_hosts, info.num_devices) == (2, 2)
    assert info.num_epochs == len(history) < settings.train.epochs
    assert STEPS_PER_EPOCH * len(history) > 50
    table = {
        "weights and state": max(
            np.abs(x - y).max() for x, y in zip(arrays, two_arrays, strict=True)
        )
    }
    for name in history[0]:
        table[name] = max(
            abs(x[name] - y[name]) for x, y in zip(history, two_history, strict=True)
        )
    for name, difference in table.items():
        print(f"{name:25} {difference:.1e}")
    assert max(table.values()) < 1e-5


def test_stopped_hosts_resume_bit_for_bit(uninterrupted, start, tmp_path):
    out = tmp_path / "run"
    signals = {1: (3, signal.SIGTERM)}
    codes, outputs = finish(start(out, *EVERY_STEP, signals=signals))
    assert codes == [128 + signal.SIGTERM] * 2, outputs
    for output in outputs:
        assert_names(error_line(output), "SIGTERM", "--resume")

    signals = {1: (8, signal.SIGKILL)}
    codes, outputs = finish(start(out, "--resume", *EVERY_STEP, signals=signals))
    assert codes == [1, -signal.SIGKILL], outputs
    assert_names(error_line(outputs[0]), "host 1", "--resume")

    codes, outputs = finish(start(out, "--resume"))
    assert codes == [0, 0], outputs
    arrays, history = result(out)
    expected_arrays, expected_history = result(uninterrupted)
    assert history == expected_history
    for array, expected in zip(arrays, expected_arrays, strict=True):
        assert array.tobytes() == expected.tobytes()


def test_the_error_of_a_lost_host_keeps_no_objects_of_tensorflow():
    """Thread pools that live until Python exits print a traceback."""

    class Pool:
        pass

    pools = []

    def reduce():
        pool = Pool()
        pools.append(weakref.ref(pool))
        # As in a result of a pool: the error and the frame refer to each other.
        error = tf.errors.UnavailableError(None, None, "/task:1 has gone")
        raise error

    try:  # pytest.raises would keep the error
        with translate_lost_hosts(Cluster(("a:1", "b:2"), 0)):
            reduce()
    except DrtfError as error:
        assert_names(error, "host 1", "b:2", "--resume")
    assert pools[0]() is None


@pytest.mark.slow
def test_the_other_host_ends_when_the_first_is_killed(start, tmp_path):
    signals = {0: (3, signal.SIGKILL)}
    codes, outputs = finish(start(tmp_path / "run", *EVERY_STEP, signals=signals))
    assert codes == [-signal.SIGKILL, 1], outputs
    assert_names(error_line(outputs[1]), "host 0", "--resume")
    codes, outputs = finish(start(tmp_path / "run", "--resume"))
    assert codes == [0, 0], outputs
    codes, outputs = finish(start(tmp_path / "run", "--resume"))
    assert codes == [0, 0], outputs

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drtf.errors import DrtfError
from drtf.workers import (
    MAX_PENDING_PER_WORKER,
    count_workers,
    map_in_order,
    run_in_process,
)
from naming import raises_naming


def nothing() -> None:
    pass


def square(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_are_in_order(num_workers):
    results = map_in_order(
        square, range(40), num_workers=num_workers, initializer=nothing
    )
    assert list(results) == [number * number for number in range(40)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_the_function_is_raised_unchanged(num_workers):
    results = map_in_order(
        fail_at_three, range(9), num_workers=num_workers, initializer=nothing
    )
    with raises_naming(ValueError, "three"):
        list(results)


def test_a_worker_that_dies_is_an_error():
    results = map_in_order(die_at_three, range(9), num_workers=2, initializer=nothing)
    with raises_naming(DrtfError, "num_workers"):
        list(results)


def test_an_item_that_crashes_its_process_is_isolated():
    results = map_in_order(
        die_at_three,
        range(40),
        num_workers=2,
        initializer=nothing,
        on_crash=lambda number: -number,
    )
    assert list(results) == [0, 1, 2, -3, *range(4, 40)]


ORPHANS = """
import os, sys, time
from drtf.workers import map_in_order

def report(number):
    print(os.getpid(), flush=True)
    time.sleep(60)

def nothing():
    pass

if __name__ == "__main__":
    list(map_in_order(report, range(8), num_workers=2, initializer=nothing))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(tmp_path, how):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "orphans.py"], stdout=subprocess.PIPE, text=True
    )
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    os.kill(parent.pid, how)
    # The pipe ends when no process holds it any more.
    parent.communicate(timeout=30)
    assert len(workers) == 2


def test_items_are_read_a_bounded_number_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_in_order(square, items(), num_workers=2, initializer=nothing)
    next(results)
    assert len(taken) <= 2 * MAX_PENDING_PER_WORKER
    results.close()


def test_zero_workers_means_one_per_core():
    assert count_workers(0) == len(os.sched_getaffinity(0))
    assert count_workers(3) == 3


def test_run_in_process_returns_and_raises_like_a_direct_call():
    assert run_in_process(divmod, 7, 2) == (3, 1)
    with raises_naming(DrtfError, "too few"):
        run_in_process(raise_error, "too few")
    with raises_naming(DrtfError, 37):
        run_in_process(os._exit, 37)
    with raises_naming(FileNotFoundError, "/no-such-file"):
        run_in_process(os.stat, "/no-such-file")


PARENT = """
import sys
from pathlib import Path
from test_workers import wait_for_a_signal
from drtf.workers import run_in_process
if __name__ == "__main__":
    try:
        print("got", run_in_process(wait_for_a_signal, Path(sys.argv[1])))
    except KeyboardInterrupt:
        print("interrupted")
    except Exception as error:
        print("raised", error)
"""


def wait_for_a_signal(folder):
    """Save on a signal, as a training does, and raise."""
    caught = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: caught.append(1))
    (folder / "begun").touch()
    while not caught:
        time.sleep(0.01)
    time.sleep(0.2)
    (folder / "saved").touch()
    raise DrtfError("stopped, all saved")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_in_process_has_time_to_save_when_its_parent_is_stopped(tmp_path, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join(
        (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    )
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        # Tests that run in the background ignore it, and what they start as well.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path / "begun")
    parent.send_signal(number)
    said, _ = parent.communicate(timeout=60)
    wait_for(tmp_path / "saved")
    assert said == ("raised stopped, all saved\n" if number == signal.SIGINT else "")


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raise_error(message):
    raise DrtfError(message)

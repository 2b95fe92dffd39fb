import errno
import functools
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from drtf.errors import DrtfError
from drtf.workers import (
    MAX_PENDING_PER_WORKER,
    TIMEOUT_SIGNAL,
    WORKER_BYTES,
    WORKER_CODE,
    count_workers,
    map_in_order,
    open_workers,
    run_in_process,
)
from naming import raises_naming

MAX_SECONDS = 300  # ends a test that hangs


def nothing() -> None:
    pass


def square(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def die_at_three(number: int, *, cause: signal.Signals) -> int:
    if number == 3:
        os.kill(os.getpid(), cause)
    return number


def die_once(number: int, *, folder: Path) -> int:
    if number == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exhaust_memory(number: int, *, folder: Path, times: int) -> int:
    if number == 3 and len(list(folder.iterdir())) < times:
        (folder / str(time.monotonic_ns())).touch()
        raise MemoryError
    return number


def compute_for_ever_at_three(number: int) -> int:
    while number == 3:
        pass
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


@pytest.mark.parametrize("cause", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_worker_that_dies_is_an_error(cause):
    function = functools.partial(die_at_three, cause=cause)
    results = map_in_order(function, range(9), num_workers=2, initializer=nothing)
    with raises_naming(DrtfError, 3, cause.name, "num_workers"):
        list(results)


@pytest.mark.parametrize("cause", [signal.SIGSEGV, signal.SIGABRT])
def test_an_item_that_crashes_its_process_is_isolated(cause):
    results = map_in_order(
        functools.partial(die_at_three, cause=cause),
        range(40),
        num_workers=2,
        initializer=nothing,
        on_crash=lambda number, signal: (number, signal),
    )
    assert list(results) == [0, 1, 2, (3, cause), *range(4, 40)]


def test_workers_that_crash_leave_no_process_and_no_open_file():
    function = functools.partial(die_at_three, cause=signal.SIGSEGV)
    with open_workers(
        function,
        num_workers=2,
        initializer=nothing,
        on_crash=lambda item, cause: -item,
    ) as start:
        num_open = []
        for _ in range(4):
            assert [start(item).result() for item in (1, 3)] == [1, -3]
            num_open.append(len(list(Path("/proc/self/fd").iterdir())))
        assert num_open[-1] <= num_open[0] + 1
        files = Path("/proc/self/task").glob("*/children")
        assert sum(len(path.read_text().split()) for path in files) <= 2


def test_an_item_is_not_to_blame_when_its_process_is_killed():
    results = map_in_order(
        functools.partial(die_at_three, cause=signal.SIGKILL),
        range(9),
        num_workers=2,
        initializer=nothing,
        on_crash=lambda number, signal: pytest.fail("rejected"),
    )
    with raises_naming(DrtfError, 3, "SIGKILL"):
        list(results)


def test_results_are_complete_when_a_process_is_killed_once(tmp_path):
    function = functools.partial(die_once, folder=tmp_path)
    results = map_in_order(function, range(40), num_workers=2, initializer=nothing)
    assert list(results) == list(range(40))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_lack_of_memory_is_an_error_only_when_it_lasts(tmp_path, num_workers):
    def results(times):
        function = functools.partial(exhaust_memory, folder=tmp_path, times=times)
        return list(
            map_in_order(
                function, range(9), num_workers=num_workers, initializer=nothing
            )
        )

    assert results(times=2) == list(range(9))
    with raises_naming(DrtfError, 3, "memory", "num_workers"):
        results(times=100)


def test_an_item_that_takes_too_much_cpu_time_is_isolated():
    results = map_in_order(
        compute_for_ever_at_three,
        range(9),
        num_workers=2,
        initializer=nothing,
        max_cpu_seconds=0.2,
        on_crash=lambda number, signal: (number, signal),
    )
    assert list(results) == [0, 1, 2, (3, TIMEOUT_SIGNAL), *range(4, 9)]


def test_a_worker_that_cannot_start_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def function(number): return number\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        from only_here import function
    results = map_in_order(function, range(9), num_workers=2, initializer=nothing)
    with raises_naming(DrtfError, "ModuleNotFoundError", "only_here", "num_workers"):
        list(results)
    results = map_in_order(square, range(9), num_workers=2, initializer=os.abort)
    with raises_naming(DrtfError, "SIGABRT", "num_workers"):
        list(results)


def test_workers_need_no_semaphores(monkeypatch):
    """Without a writable /dev/shm, there are none."""

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("_multiprocessing.SemLock", fail)
    results = map_in_order(square, range(9), num_workers=2, initializer=nothing)
    assert len(list(results)) == 9


UNGUARDED = """
from drtf.workers import map_in_order

print(*map_in_order(abs, range(9), num_workers=2, initializer=dict), flush=True)
"""


def test_a_script_needs_no_guard(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 1 2 3 4 5 6 7 8\n", "")


ORPHANS = """
from test_workers import nothing, report
from drtf.workers import map_in_order

list(map_in_order(report, range(8), num_workers=2, initializer=nothing))
"""


def report(number: int) -> None:
    # In one call, so that two processes do not mix their lines.
    os.write(sys.stdout.fileno(), f"{os.getpid()}\n".encode())
    time.sleep(60)


def start_orphans(folder: Path, **options) -> subprocess.Popen:
    (folder / "orphans.py").write_text(ORPHANS)
    path = os.pathsep.join(
        (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    )
    return subprocess.Popen(
        [sys.executable, folder / "orphans.py"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(tmp_path, how):
    parent = start_orphans(tmp_path)
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    os.kill(parent.pid, how)
    # The pipe ends when no process holds it any more.
    parent.communicate(timeout=MAX_SECONDS)
    assert len(workers) == 2


def test_workers_end_quietly_when_their_parent_has_not_read_their_results():
    job = SimpleNamespace(function=square, initializer=nothing, max_cpu_seconds=0)
    workers, connections = [], []
    for _ in range(4):  # how they end is a race
        ours, theirs = Pipe()
        with theirs:
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER_CODE, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        ours.send(job)
        workers.append(worker)
        connections.append(ours)
    for ours in connections:
        assert ours.poll(MAX_SECONDS)  # its worker waits for the first item
        ours.close()
    assert [worker.communicate(timeout=MAX_SECONDS)[1] for worker in workers] == [
        ""
    ] * 4


def test_workers_end_quietly_when_their_group_is_interrupted(tmp_path, foreground):
    parent = start_orphans(
        tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for _ in range(2):
        parent.stdout.readline()
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=MAX_SECONDS)
    assert errors.count("Traceback") == 1


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


@pytest.mark.parametrize(
    ("num_cores", "memory", "num_workers"),
    [
        (8, None, 8),
        (8, 100 * WORKER_BYTES, 8),
        (64, 8 * WORKER_BYTES + 1, 8),
        (8, WORKER_BYTES // 2, 1),
    ],
)
def test_zero_workers_means_one_per_core_that_fit_into_memory(
    monkeypatch, num_cores, memory, num_workers
):
    monkeypatch.setattr("drtf.workers.count_cores", lambda: num_cores)
    monkeypatch.setattr("drtf.workers.available_memory_bytes", lambda: memory)
    assert count_workers(0) == num_workers
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
    print("begun", flush=True)
    while not caught:
        time.sleep(0.01)
    time.sleep(0.2)
    (folder / "saved").touch()
    raise DrtfError("stopped, all saved")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_in_process_has_time_to_save_when_its_parent_is_stopped(
    tmp_path, foreground, number
):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join(
        (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    )
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "begun\n"
    parent.send_signal(number)
    # The pipe ends when neither the parent nor its process holds it any more.
    said, errors = parent.communicate(timeout=MAX_SECONDS)
    assert (tmp_path / "saved").exists()
    assert "Traceback" not in errors
    assert said == ("raised stopped, all saved\n" if number == signal.SIGINT else "")


def raise_error(message):
    raise DrtfError(message)

"""Worker processes: a pool with ordered results, and single calls in a process.

The workers of a pool are plain Python processes at the other end of a pipe. Unlike
those of `multiprocessing`, they do not import the user's script again, which would need
a guard `if __name__ == "__main__"`, and need no semaphores, which would need /dev/shm.
"""

import contextlib
import functools
import itertools
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from drtf.errors import DrtfError
from drtf.resources import available_memory_bytes, count_cores
from drtf.retries import retry

Item = TypeVar("Item")
Result = TypeVar("Result")
_Returned = TypeVar("_Returned")

# Enough to keep a worker busy while an earlier result is still awaited.
MAX_PENDING_PER_WORKER = 16
# Items per message to a worker: each message wakes a thread of the parent.
CHUNK_SIZE = 4
GRACE_SECONDS = 60
EXIT_SECONDS = 10
STDERR = 2
MAX_NAME_LENGTH = 200
# What a worker takes for a photograph of 20 megapixels.
WORKER_BYTES = 500_000_000
CRASH_SIGNALS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
}
# Ends a worker whose item takes too much CPU time.
TIMEOUT_SIGNAL = signal.SIGPROF
WORKER_CODE = """
import sys
sys.path[:] = sys.argv[2:]
from drtf.workers import serve
serve(int(sys.argv[1]))
"""


def count_workers(num_workers: int) -> int:
    """Return the requested number of workers.

    0 requests one per core, but no more than fit into the available memory.
    """
    if num_workers:
        return num_workers
    memory = available_memory_bytes()
    most = count_cores() if memory is None else memory // WORKER_BYTES
    return max(1, min(count_cores(), most))


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int,
    initializer: Callable[[], None],
    max_cpu_seconds: float = 0,
    on_crash: Callable[[Item, signal.Signals], Result] | None = None,
) -> Generator[Result, None, None]:
    """Apply a function to each item in worker processes; yield the results in order.

    An item whose process dies is tried again on its own. So is one for which memory
    runs out, several times.

    Args:
        function: Called with one item. It must be importable, not part of a script.
        items: Read a bounded number of items ahead.
        num_workers: Number of processes; 0 means one per core, as far as memory allows.
            With 1, the items are processed here, without a process of their own.
        initializer: Called once in each process.
        max_cpu_seconds: CPU time after which an item's process is killed by
            TIMEOUT_SIGNAL; 0 means no limit.
        on_crash: Returns the result for an item that makes its process die: by
            one of CRASH_SIGNALS or by TIMEOUT_SIGNAL. Without it, this is an error.

    Raises:
        DrtfError: If a process cannot start or is killed, or memory runs out.
    """
    if num_workers == 1:
        initializer()
        for item in items:
            yield _retry_item(item, functools.partial(function, item), on_crash)
        return
    job = _Job(function, initializer, max_cpu_seconds)
    num_workers = count_workers(num_workers)
    remaining = iter(items)
    pending: deque[tuple[list[Item], Future[list[_Outcome]]]] = deque()
    with _Pool(job, num_workers) as pool:
        while True:
            while len(pending) * CHUNK_SIZE < num_workers * MAX_PENDING_PER_WORKER:
                chunk = list(itertools.islice(remaining, CHUNK_SIZE))
                if not chunk:
                    break
                pending.append((chunk, pool.submit(chunk)))
            if not pending:
                return
            chunk, future = pending.popleft()
            outcomes = future.result()
            for item, outcome in itertools.zip_longest(chunk, outcomes):
                if outcome is None or isinstance(outcome.error, MemoryError):
                    # The other workers have to finish first: memory is then free.
                    for _, other in pending:
                        other.exception()
                    call = functools.partial(pool.call_alone, item)
                    yield _retry_item(item, call, on_crash)
                elif outcome.error is not None:
                    raise outcome.error
                else:
                    yield outcome.result


@contextlib.contextmanager
def open_workers(
    function: Callable[[Item], Result],
    *,
    num_workers: int,
    initializer: Callable[[], None],
    max_cpu_seconds: float = 0,
    on_crash: Callable[[Item, signal.Signals], Result] | None = None,
) -> Generator[Callable[[Item], Future[Result]], None, None]:
    """Keep worker processes for items that arrive one by one.

    Args:
        function: As for `map_in_order`, and so are the others.
        num_workers: Number of processes; 0 means one per core, as far as memory allows.
        initializer: Called once in each process.
        max_cpu_seconds: CPU time after which an item's process is killed.
        on_crash: Returns the result for an item that makes its process die.

    Yields:
        A function that passes an item to the next free process. Its future raises what
        `map_in_order` raises.
    """
    job = _Job(function, initializer, max_cpu_seconds)
    with _Pool(job, count_workers(num_workers)) as pool:
        yield lambda item: pool.submit_item(item, on_crash)


def run_in_process(
    function: Callable[..., Result], *args: Any, **kwargs: Any
) -> Result:
    """Call a function in a new process, which ends when this process ends.

    Ctrl-C is passed on as SIGTERM, and the function's result is still awaited.

    Raises:
        DrtfError: If the function raises one, or if the process dies.
        OSError: If the function raises one.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_result, args=(sender, function, args, kwargs)
    )
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise DrtfError(
            f"a process died with exit code {process.exitcode}, usually because memory "
            "ran out; close other programs, or lower batch size and num_workers"
        ) from None
    except KeyboardInterrupt:
        process.terminate()
        with contextlib.suppress(EOFError):
            _, error = receiver.recv()
            if error is not None:
                raise error from None
        raise
    finally:
        process.join()
    if error is not None:
        raise error
    return result


def _send_result(
    sender: Connection,
    function: Callable[..., Result],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    _end_with_parent()
    outcome: tuple[Result | None, Exception | None]
    try:
        outcome = function(*args, **kwargs), None
    except (DrtfError, OSError) as error:
        outcome = None, error
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    with contextlib.suppress(ConnectionError):  # the parent has ended
        sender.send(outcome)


def _end_with_parent() -> None:
    """End this process when its parent is killed.

    It receives SIGTERM first, so that a training run has time to save a checkpoint.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_terminate_after, args=(parent,), daemon=True).start()


def _terminate_after(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def serve(descriptor: int) -> None:
    """Apply the pool's function to each item that arrives, in a worker process.

    Args:
        descriptor: The file descriptor of this end of the pipe.
    """
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has ended
        _serve(Connection(descriptor))


def _serve(connection: Connection) -> None:
    try:
        threading.Thread(
            target=_exit_with_parent, args=(connection.fileno(),), daemon=True
        ).start()
        job = connection.recv()  # imports the function's module
        job.initializer()
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send("")
    _discard_stderr()
    while True:
        for item in connection.recv():
            connection.send(_call(job, item))


def _discard_stderr() -> None:
    """Silence libraries, whose warnings may quote the tags of a patient's file.

    Results and errors reach the parent by the pipe.
    """
    with Path(os.devnull).open("wb") as discarded:
        os.dup2(discarded.fileno(), STDERR)


def _exit_with_parent(descriptor: int) -> None:
    parent = select.poll()
    parent.register(descriptor, select.POLLHUP)
    parent.poll()
    os._exit(1)


def _call(job: "_Job[Item, Result]", item: Item) -> "_Outcome":
    signal.setitimer(signal.ITIMER_PROF, job.max_cpu_seconds)
    try:
        return _Outcome(job.function(item), None)
    except Exception as error:
        return _Outcome(None, _portable(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent to the parent, with its traceback as a note."""
    error.add_note(f"In a worker process:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exc())
    return error


def _retry_item(
    item: Item,
    call: Callable[[], Result],
    on_crash: Callable[[Item, signal.Signals], Result] | None,
) -> Result:
    """Process one item on its own, again while the machine is to blame for a failure.

    Raises:
        DrtfError: If it still is.
    """

    def is_temporary(error: Exception) -> bool:
        is_crash = isinstance(error, _WorkerDiedError) and error.is_crash
        return isinstance(error, MemoryError | _WorkerDiedError) and not is_crash

    try:
        return retry(call, is_temporary=is_temporary)
    except (MemoryError, _WorkerDiedError) as error:
        if isinstance(error, MemoryError):
            problem = "memory ran out"
        elif error.is_crash and on_crash is not None:
            return on_crash(item, signal.Signals(-error.exit_code))
        else:
            problem = str(error)
        name = " ".join(str(item).split())[:MAX_NAME_LENGTH]
        raise DrtfError(
            f"{name}: {problem}. Close other programs or set fewer workers "
            "(num_workers), and run the same command again"
        ) from error


@dataclass(frozen=True)
class _Job(Generic[Item, Result]):
    """The job of each worker of a pool; see `map_in_order`."""

    function: Callable[[Item], Result]
    initializer: Callable[[], None]
    max_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of one item: a result, or an error."""

    result: Any
    error: Exception | None


class _WorkerDiedError(Exception):
    """A worker process died.

    Attributes:
        exit_code: Its exit code; a signal's number is negative.
        is_crash: Whether what it was working on is to blame, not the machine.
    """

    def __init__(self, exit_code: int) -> None:
        if exit_code < 0:
            cause = signal.Signals(-exit_code).name
            hint = ", usually because memory ran out" if cause == "SIGKILL" else ""
        else:
            cause, hint = f"exit code {exit_code}", ""
        super().__init__(f"a worker process died ({cause}){hint}")
        self.exit_code = exit_code
        self.is_crash = -exit_code in CRASH_SIGNALS | {TIMEOUT_SIGNAL}


class _StartError(DrtfError):
    """A worker process cannot start."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"cannot start a worker process: {problem}. Set fewer workers "
            "(num_workers), or 1 to work without any"
        )


class _Worker:
    """A worker process, seen from its parent."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", WORKER_CODE, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, job: _Job[Any, Any]) -> None:
        """Prepare the process for its items.

        Raises:
            _StartError: If it cannot import the function, or it dies.
        """
        try:
            self._connection.send(job)
            problem = self._connection.recv()
        except (EOFError, ConnectionError):
            problem = str(_WorkerDiedError(self.exit_code()))
        if problem:
            raise _StartError(problem)

    def call(self, items: Sequence[Any]) -> list[_Outcome]:
        """Process items; there are fewer outcomes than items if the process died."""
        outcomes: list[_Outcome] = []
        with contextlib.suppress(EOFError, ConnectionError):
            self._connection.send(items)
            while len(outcomes) < len(items):
                outcomes.append(self._connection.recv())
        return outcomes

    def exit_code(self) -> int:
        """Wait for the process, which closed its end of the pipe, to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_SECONDS)
        return self.kill()

    def kill(self) -> int:
        """End the process, if it still runs, and return its exit code."""
        self._process.kill()
        return self._process.wait()


class _Pool(Generic[Item, Result]):
    """Worker processes, each of which has a thread of this process talk to it."""

    def __init__(self, job: _Job[Item, Result], num_workers: int) -> None:
        self._job = job
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._is_closed = False
        # The workers inherit the mask: Ctrl-C is for the parent, which then ends them.
        self._threads = ThreadPoolExecutor(
            num_workers,
            initializer=signal.pthread_sigmask,
            initargs=(signal.SIG_BLOCK, {signal.SIGINT}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._is_closed = True
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown()

    def submit(self, chunk: list[Item]) -> Future[list[_Outcome]]:
        """Process items in the next free worker; see `_Worker.call`."""
        return self._submit(self._call, chunk)

    def submit_item(
        self, item: Item, on_crash: Callable[[Item, signal.Signals], Result] | None
    ) -> Future[Result]:
        """Process one item in the next free worker, again if the machine is to blame.

        The future raises what `_retry_item` and the function raise.
        """
        return self._submit(self._call_item, item, on_crash)

    def call_alone(self, item: Item) -> Result:
        """Process one item in a new worker.

        Raises:
            _WorkerDiedError: If the worker dies.
            Exception: What the function raises.
        """
        return self._submit(self._call_alone, item).result()

    def _submit(
        self, call: Callable[..., _Returned], *arguments: Any
    ) -> Future[_Returned]:
        try:
            return self._threads.submit(call, *arguments)
        except RuntimeError as error:  # a limit of threads is reached
            raise _StartError(str(error)) from error

    def _call(self, chunk: list[Item]) -> list[_Outcome]:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = self._start()
        outcomes = worker.call(chunk)
        if len(outcomes) == len(chunk):
            self._idle.append(worker)
        else:
            self._discard(worker)
        return outcomes

    def _call_item(
        self, item: Item, on_crash: Callable[[Item, signal.Signals], Result] | None
    ) -> Result:
        outcomes = self._call([item])
        if not outcomes or isinstance(outcomes[0].error, MemoryError):
            call = functools.partial(self._call_alone, item)
            return _retry_item(item, call, on_crash)
        if outcomes[0].error is not None:
            raise outcomes[0].error
        return outcomes[0].result

    def _call_alone(self, item: Item) -> Result:
        worker = self._start()
        try:
            outcomes = worker.call([item])
            if not outcomes:
                raise _WorkerDiedError(worker.exit_code())
        finally:
            self._discard(worker)
        if outcomes[0].error is not None:
            raise outcomes[0].error
        return outcomes[0].result

    def _start(self) -> _Worker:
        """Start a worker, after some tries if need be.

        Raises:
            _StartError: If none of them worked.
        """
        return retry(
            self._start_once, is_temporary=lambda error: isinstance(error, _StartError)
        )

    def _start_once(self) -> _Worker:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the pool is closed")
            try:
                worker = _Worker()
            except OSError as error:  # a limit of processes, memory or open files
                raise _StartError(str(error)) from error
            self._workers.append(worker)
        try:
            worker.start(self._job)
        except _StartError:
            self._discard(worker)
            raise
        return worker

    def _discard(self, worker: _Worker) -> None:
        """End a worker and forget it, since a pool may outlive many of them."""
        worker.kill()
        with self._lock, contextlib.suppress(ValueError):
            self._workers.remove(worker)

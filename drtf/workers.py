"""Worker processes: a pool with ordered results, and single calls in a process."""

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from drtf.errors import DrtfError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough to keep a worker busy while an earlier result is still awaited.
MAX_PENDING_PER_WORKER = 16
# Items per message to a worker: each message costs the parent about 0.5 ms.
CHUNK_SIZE = 4
GRACE_SECONDS = 60


def count_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def count_workers(num_workers: int) -> int:
    """Return the requested number of workers; 0 requests one per core."""
    return num_workers or count_cores()


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int,
    initializer: Callable[[], None],
    on_crash: Callable[[Item], Result] | None = None,
) -> Generator[Result, None, None]:
    """Apply a function to each item in worker processes; yield the results in order.

    A single worker runs in this process. Workers are spawned, because forking a process
    that has loaded TensorFlow can hang.

    Args:
        function: Called with one item.
        items: Read a bounded number of items ahead.
        num_workers: Number of processes.
        initializer: Called once in each process.
        on_crash: Returns the result for an item that crashes its process when it is
            tried again on its own. Without it, such a crash is an error.

    Raises:
        DrtfError: If a process dies, usually because memory ran out.
    """
    if num_workers == 1:
        initializer()
        yield from map(function, items)
        return
    pending: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    executor = _start_pool(num_workers, initializer)
    remaining = iter(items)
    try:
        while True:
            while len(pending) * CHUNK_SIZE < num_workers * MAX_PENDING_PER_WORKER:
                chunk = list(itertools.islice(remaining, CHUNK_SIZE))
                if not chunk:
                    break
                pending.append((chunk, _submit(executor, function, chunk)))
            if not pending:
                return
            chunk, future = pending.popleft()
            try:
                results = future.result()
            except BrokenProcessPool:
                executor.shutdown(cancel_futures=True)
                results = [
                    _retry_separately(function, x, initializer, on_crash) for x in chunk
                ]
                executor = _start_pool(num_workers, initializer)
                pending = deque(
                    (chunk, _submit(executor, function, chunk)) for chunk, _ in pending
                )
            yield from results
    finally:
        executor.shutdown(cancel_futures=True)


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
    try:
        sender.send((function(*args, **kwargs), None))
    except (DrtfError, OSError) as error:
        sender.send((None, error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _start_pool(
    num_workers: int, initializer: Callable[[], None]
) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        num_workers, get_context("spawn"), _start_worker, (initializer,)
    )


def _submit(
    executor: ProcessPoolExecutor,
    function: Callable[[Item], Result],
    chunk: list[Item],
) -> Future[list[Result]]:
    try:
        with _interrupts_blocked():
            return executor.submit(_map_chunk, function, chunk)
    except BrokenProcessPool as error:
        broken: Future[list[Result]] = Future()
        broken.set_exception(error)
        return broken


def _retry_separately(
    function: Callable[[Item], Result],
    item: Item,
    initializer: Callable[[], None],
    on_crash: Callable[[Item], Result] | None,
) -> Result:
    """Retry one item of a chunk that crashed its process, in a separate process."""
    with _start_pool(1, initializer) as pool:
        try:
            (result,) = _submit(pool, function, [item]).result()
        except BrokenProcessPool as error:
            if on_crash is None:
                raise DrtfError(
                    "a worker process died, usually because memory ran out; try fewer "
                    "workers (num_workers)"
                ) from error
            return on_crash(item)
        return result


def _start_worker(initializer: Callable[[], None]) -> None:
    initializer()
    _end_with_parent()


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


def _map_chunk(
    function: Callable[[Item], Result], chunk: Sequence[Item]
) -> list[Result]:
    return [function(item) for item in chunk]


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Defer Ctrl-C while a pool starts its processes, and block it in these for good.

    Otherwise it could hit a pool that is half started, or a worker that holds a queue's
    lock, and the parent would wait forever.
    """
    received: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # is inherited
    # The mask holds for this thread only; a thread of OpenCV may get the signal, and
    # Python would then raise KeyboardInterrupt here.
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        handler = signal.signal(signal.SIGINT, lambda *_: received.append(1))
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if received:
        signal.raise_signal(signal.SIGINT)

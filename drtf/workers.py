"""A pool of spawned processes whose results come in order, a bounded number ahead."""

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

# Enough to keep a worker busy while the others' results are awaited in order.
AHEAD_PER_WORKER = 16
# Handed over together, since each hand-over costs this process about 0.5 ms.
CHUNK = 4
GRACE_SECONDS = 60


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def count_workers(num_workers: int) -> int:
    """Return the number asked for, or one for each core if 0."""
    return num_workers or count_cores()


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int,
    initializer: Callable[[], None],
    on_death: Callable[[Item], Result] | None = None,
) -> Generator[Result, None, None]:
    """Apply a function to each item in other processes; yield the results in order.

    One worker is this process itself. Processes are spawned, since a fork of one that
    has loaded TensorFlow may hang.

    Args:
        function: of one item.
        items: taken a bounded number ahead.
        num_workers: processes.
        initializer: called once in each of them.
        on_death: the result for an item that ends the process which tries it alone;
            without it, that is an error.

    Raises:
        DrtfError: if a process dies, most often for want of memory.
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
            while len(pending) * CHUNK < num_workers * AHEAD_PER_WORKER:
                chunk = list(itertools.islice(remaining, CHUNK))
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
                    _try_alone(function, x, initializer, on_death) for x in chunk
                ]
                executor = _start_pool(num_workers, initializer)
                pending = deque(
                    (chunk, _submit(executor, function, chunk)) for chunk, _ in pending
                )
            yield from results
    finally:
        executor.shutdown(cancel_futures=True)


def run_apart(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Call a function in a process of its own, which ends when this one does.

    Ctrl-C is passed on as SIGTERM, and what the function makes of it is waited for.

    Raises:
        DrtfError: whatever the function raises of that kind, or if the process died.
        OSError: likewise.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, args, kwargs))
    process.start()
    theirs.close()
    try:
        result, error = ours.recv()
    except EOFError:
        process.join()
        raise DrtfError(
            f"a process died (exit code {process.exitcode}), most often for want of "
            "memory"
        ) from None
    except KeyboardInterrupt:
        process.terminate()
        with contextlib.suppress(EOFError):
            _, error = ours.recv()
            if error is not None:
                raise error from None
        raise
    finally:
        process.join()
    if error is not None:
        raise error
    return result


def _answer(
    answers: Connection,
    function: Callable[..., Result],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    _end_with_parent()
    try:
        answers.send((function(*args, **kwargs), None))
    except (DrtfError, OSError) as error:
        answers.send((None, error))
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
        with _interrupts_held():
            return executor.submit(_map_chunk, function, chunk)
    except BrokenProcessPool as error:
        broken: Future[list[Result]] = Future()
        broken.set_exception(error)
        return broken


def _try_alone(
    function: Callable[[Item], Result],
    item: Item,
    initializer: Callable[[], None],
    on_death: Callable[[Item], Result] | None,
) -> Result:
    """Try one item of those among which a process died, in a process of its own."""
    with _start_pool(1, initializer) as pool:
        try:
            (result,) = _submit(pool, function, [item]).result()
        except BrokenProcessPool as error:
            if on_death is None:
                raise DrtfError(
                    "a worker process died, most often for want of memory; try fewer "
                    "workers (num_workers)"
                ) from error
            return on_death(item)
        return result


def _start_worker(initializer: Callable[[], None]) -> None:
    initializer()
    _end_with_parent()


def _end_with_parent() -> None:
    """Have this process end with its parent, should that be killed.

    It gets SIGTERM, on which a training saves all, and some time for that.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _map_chunk(
    function: Callable[[Item], Result], chunk: Sequence[Item]
) -> list[Result]:
    return [function(item) for item in chunk]


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until a pool's processes are started, and from these for good.

    It would strike a pool half started, or a worker in the middle of a queue, and its
    parent would wait for ever. A process started here inherits the mask.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Progress on stderr: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance(Protocol):
    """Count units as done; the note is shown beside the count."""

    def __call__(self, note: str = "", num_done: int = 1) -> None:
        """Count `num_done` units."""


SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(description: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show how far a long step is.

    Args:
        description: of the step.
        total: its units.
        done: how many of them an earlier call did.

    Yields:
        A function to call for each of the `total` units done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        with _plain(description, total, done) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=done, rate="", note="")
        num_new = 0

        def advance(note: str = "", num_done: int = 1) -> None:
            nonlocal num_new
            num_new += num_done
            rate = num_new / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=num_done, rate=f"{rate:.3g}/s", note=note)

        yield advance


@contextmanager
def _plain(description: str, total: int, before: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = before
    shown = ""

    def show() -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        rate = (done - before) / seconds
        line = f"{description}: {done}/{total}, {rate:.3g}/s"
        if rate and done < total:
            line += f", {timedelta(seconds=round((total - done) / rate))} left"
        print(f"{line}, {shown}" if shown else line, file=sys.stderr, flush=True)

    def advance(note: str = "", num_done: int = 1) -> None:
        nonlocal done, last, shown
        done += num_done
        shown = note
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            show()

    yield advance
    show()

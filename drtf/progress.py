"""Progress on stderr: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show how far a long step is.

    Yields:
        A function to call once for each of the `total` units done; its text
        argument is shown beside the count.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        with _plain(description, total) as advance:
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
        task = bar.add_task(description, total=total, rate="", note="")
        done = 0

        def advance(note: str = "") -> None:
            nonlocal done
            done += 1
            rate = done / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=1, rate=f"{rate:.3g}/s", note=note)

        yield advance


@contextmanager
def _plain(description: str, total: int) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0
    note = ""

    def show() -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        line = f"{description}: {done}/{total}, {done / seconds:.3g}/s"
        print(f"{line}, {note}" if note else line, file=sys.stderr, flush=True)

    def advance(text: str = "") -> None:
        nonlocal done, last, note
        done += 1
        note = text
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            show()

    yield advance
    show()

"""Progress of long steps: a bar in a terminal or a notebook, plain lines elsewhere."""

import html
import math
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from drtf.terminal import printable, unfiltered

SECONDS_BETWEEN_LINES = 10.0
# Before, the time left is not shown, because too little is known.
SECONDS_BEFORE_ESTIMATE = 10.0
SECONDS_BETWEEN_NOTEBOOK_UPDATES = 0.2
# Before, the rate is not shown: a batch of units that ends at once has none.
SECONDS_BEFORE_RATE = 0.5


class Advance(Protocol):
    """Count units as done and show a note next to the count."""

    def __call__(self, note: str = "", num_done: int = 1) -> None:
        """Count `num_done` more units as done."""


@contextmanager
def progress(description: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show the progress of a long step.

    A terminal gets a bar on stderr, a notebook a bar in the cell's output, and
    everything else (a log file, a pipe) a line on stderr every ten seconds. A step
    without units is not shown.

    Args:
        description: Name of the step.
        total: Number of units in the step.
        done: Number of units that an earlier call completed.

    Yields:
        A function to call after each unit.
    """
    console = Console(file=unfiltered(sys.stderr))
    if not total:
        show: AbstractContextManager[Advance] = nullcontext(_ignore)
    elif console.is_jupyter:
        show = _show_in_notebook(description, total, done)
    elif console.is_terminal:
        show = _show_in_terminal(description, total, done, console)
    else:
        show = _print_lines(description, total, done)
    with show as advance:
        yield advance


def announce(step: str) -> None:
    """Print a heading for the following progress to stderr."""
    print(step, file=sys.stderr, flush=True)


def _ignore(note: str = "", num_done: int = 1) -> None:
    pass


@dataclass
class _Counter:
    """Units done, and the line that reports them."""

    description: str
    total: int
    num_before: int
    note: str = ""
    num_new: int = 0
    start: float = field(default_factory=time.monotonic)
    # The first units take longer than the others, as they include what is done once.
    num_first: int = 0
    first_end: float = math.inf

    def add(self, note: str, num_done: int) -> None:
        self.note = note
        self.num_new += num_done
        if num_done and not self.num_first:
            self.num_first, self.first_end = num_done, time.monotonic()

    @property
    def num_done(self) -> int:
        return self.num_before + self.num_new

    @property
    def rate(self) -> float:
        """Units per second after the first ones; 0 until it is known."""
        seconds = time.monotonic() - self.first_end
        if seconds < SECONDS_BEFORE_RATE:
            return 0.0
        return (self.num_new - self.num_first) / seconds

    @property
    def speed(self) -> str:
        """The rate, for the user; empty until it is known."""
        if not self.rate:
            return ""
        return f"{self.rate:,.0f}/s" if self.rate >= 100 else f"{self.rate:.3g}/s"

    @property
    def time_left(self) -> str:
        """The time that the rest will take, for the user; empty until it is known."""
        is_early = time.monotonic() - self.start < SECONDS_BEFORE_ESTIMATE
        if is_early or not self.rate or self.num_done >= self.total:
            return ""
        seconds = (self.total - self.num_done) / self.rate
        return f"{timedelta(seconds=round(seconds))} left"

    def __str__(self) -> str:
        parts = f"{self.num_done}/{self.total}", self.speed, self.time_left, self.note
        text = ", ".join(part for part in parts if part)
        return printable(f"{self.description}: {text}")


@contextmanager
def _show_in_terminal(
    description: str, total: int, num_before: int, console: Console
) -> Iterator[Advance]:
    counter = _Counter(description, total, num_before)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[time_left]}"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(
            printable(description),
            total=total,
            completed=num_before,
            speed="",
            time_left="",
            note="",
        )

        def advance(note: str = "", num_done: int = 1) -> None:
            counter.add(note, num_done)
            bar.update(
                task,
                advance=num_done,
                speed=counter.speed,
                time_left=counter.time_left,
                note=printable(note),
            )

        yield advance


@contextmanager
def _show_in_notebook(
    description: str, total: int, num_before: int
) -> Iterator[Advance]:
    # Not tqdm or rich: both need ipywidgets, which many notebook servers do not have.
    from IPython.display import HTML, display

    counter = _Counter(description, total, num_before)

    def bar() -> HTML:
        return HTML(
            f'<progress max="{total}" value="{counter.num_done}"></progress> '
            f"{html.escape(str(counter))}"
        )

    handle = display(bar(), display_id=True)
    last_update = time.monotonic()

    def advance(note: str = "", num_done: int = 1) -> None:
        nonlocal last_update
        counter.add(note, num_done)
        if time.monotonic() - last_update >= SECONDS_BETWEEN_NOTEBOOK_UPDATES:
            last_update = time.monotonic()
            handle.update(bar())

    try:
        yield advance
    finally:
        handle.update(bar())


@contextmanager
def _print_lines(description: str, total: int, num_before: int) -> Iterator[Advance]:
    counter = _Counter(description, total, num_before)
    last_line = counter.start

    def show() -> None:
        print(counter, file=sys.stderr, flush=True)

    def advance(note: str = "", num_done: int = 1) -> None:
        nonlocal last_line
        counter.add(note, num_done)
        if (
            time.monotonic() - last_line >= SECONDS_BETWEEN_LINES
            and counter.num_done < total
        ):
            last_line = time.monotonic()
            show()

    yield advance
    show()

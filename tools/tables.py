"""Tables on stdout."""

from collections.abc import Iterable, Sequence
from statistics import median

from rich.console import Console, JustifyMethod
from rich.table import Table

from drtf.records.manifest import Manifest
from drtf.terminal import printable, show_line


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Print a title and a table; only the first column is aligned left."""
    console = Console(color_system=None)
    if not console.is_terminal:  # nothing is cut off in pipes and logs
        console.width = 200
    console.print(printable(title), markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for number, column in enumerate(columns):
        justify: JustifyMethod = "left" if number == 0 else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
        table.add_row(*map(printable, cells))
    console.print(table, markup=False)


def format_spread(values: Sequence[float], *, digits: int = 1) -> str:
    """Format the median of some values, with the lowest and the highest in brackets."""
    middle, low, high = (
        f"{x:,.{digits}f}" for x in (median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def show_notes(manifest: Manifest) -> None:
    """Print the most important notes about a dataset."""
    for note in manifest.notes:
        show_line(f"Note: {note}")


def show_counts(title: str, manifest: Manifest) -> None:
    """Print how many photographs of each grade each split of a dataset has."""
    show_table(
        title,
        ("split", *(f"grade {grade}" for grade in range(5)), "all", "patients"),
        [
            (
                split,
                *counts.values(),
                sum(counts.values()),
                "unknown"
                if manifest.patients_from == "none"
                else manifest.num_patients[split],
            )
            for split, counts in manifest.num_records.items()
        ],
    )

"""What the bench commands share: their repetitions, and their figures as JSON."""

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Any

import click

from .options import path_option

json_option = path_option(
    "--json",
    "Write every single figure to this file too: a list, one object a row.",
    required=False,
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Images in a batch.",
)


def repeats_option(default: int) -> Any:
    """Add --repeats."""
    return click.option(
        "--repeats",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Repetitions, each of all ways in turn.",
    )


def seconds_option(default: float) -> Any:
    """Add --seconds."""
    return click.option(
        "--seconds",
        type=click.FloatRange(min=0.1),
        default=default,
        show_default=True,
        help="To measure for, each way in each repetition.",
    )


def check_json(path: Path | None) -> None:
    """Find out now, and not after the measuring, that a file can't be written."""
    from drtf.files import check_absent

    if path:
        check_absent(path)
        path.parent.mkdir(parents=True, exist_ok=True)


def write_json(path: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows, if they are asked for."""
    from drtf.files import write_atomic

    if path:
        write_atomic(path, dumps(list(rows), indent=2) + "\n")
        click.echo(f"Every figure: {path}")

"""Options and JSON output that several bench commands share."""

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Any

import click

from drtf.terminal import show_line

from .options import path_option

json_option = path_option(
    "--json",
    "Also write every measurement to this file: a list with one object per row.",
    required=False,
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Number of images in a batch.",
)


def repeats_option(default: int) -> Any:
    """Add --repeats."""
    return click.option(
        "--repeats",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Number of repetitions; each one measures all methods in turn.",
    )


def seconds_option(default: float) -> Any:
    """Add --seconds."""
    return click.option(
        "--seconds",
        type=click.FloatRange(min=0.1),
        default=default,
        show_default=True,
        help="Duration of each measurement; each method has one per repetition.",
    )


def check_json(path: Path | None) -> None:
    """Check that the JSON file can be written, before anything is measured.

    Raises:
        DrtfError: If the file already exists.
    """
    from drtf.files import check_absent

    if path:
        check_absent(path)
        path.parent.mkdir(parents=True, exist_ok=True)


def write_json(path: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows as JSON, if the user gave a file."""
    from drtf.files import write_atomic

    if path:
        write_atomic(path, dumps(list(rows), indent=2) + "\n")
        show_line(f"All measurements: {path}")

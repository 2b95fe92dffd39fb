"""The list of photographs set aside, which stands beside the shards."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from drtf.errors import RecordError
from drtf.files import write_atomic


class Rejection(NamedTuple):
    """A photograph set aside, with a reason from the fixed vocabulary."""

    path: str
    reason: str
    detail: str
    source: str


def save_rejected(path: Path, rejected: Iterable[Rejection]) -> None:
    """Write the list; an odd name's lines and quotes stay one cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Rejection._fields)
    writer.writerows(rejected)
    write_atomic(path, text.getvalue().encode("utf-8", errors="backslashreplace"))


def load_rejected(path: Path) -> list[Rejection]:
    """Load the list.

    Raises:
        RecordError: if it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Rejection(**row) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise RecordError(f"can't read {path}: {error}") from error

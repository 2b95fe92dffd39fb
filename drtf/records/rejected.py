"""The list of rejected photographs, a CSV file in the dataset's folder."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from drtf.files import escape_formula, write_atomic

# The reason of a photograph whose label means that it has no grade.
UNGRADED = "ungraded"


class RejectedRow(NamedTuple):
    """A row of rejected.csv: a photograph that could not be used.

    Attributes:
        path: The photograph's path relative to its image folder.
        reason: A word from a fixed vocabulary, such as `undecodable`.
        detail: What exactly was wrong.
        source: Name of the photograph's source; empty if there is only one.
    """

    path: str
    reason: str
    detail: str
    source: str


def save_rejected(path: Path, rows: Iterable[RejectedRow]) -> None:
    """Save the list; quotes and line breaks in a name stay within its cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RejectedRow._fields)
    writer.writerows(map(escape_formula, row) for row in rows)
    write_atomic(path, text.getvalue().encode("utf-8", errors="backslashreplace"))

"""The list of labels without a photograph, and of photographs without a label."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from drtf.files import escape_formula, write_atomic


class UnmatchedRow(NamedTuple):
    """A row of unmatched.csv.

    Attributes:
        kind: `label` if the photograph is missing, `photograph` if the label is.
        name: The photograph's name in the label file, or its path relative to its image
            folder.
        source: Name of the source; empty if there is only one.
    """

    kind: Literal["label", "photograph"]
    name: str
    source: str


def save_unmatched(path: Path, rows: Iterable[UnmatchedRow]) -> None:
    """Save the list; quotes and line breaks in a name stay within its cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(UnmatchedRow._fields)
    writer.writerows(map(escape_formula, row) for row in rows)
    write_atomic(path, text.getvalue().encode("utf-8", errors="backslashreplace"))

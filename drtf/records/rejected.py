"""The list of photographs set aside, which stands beside the shards."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from drtf.files import escape_formula, write_atomic


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
    writer.writerows(map(escape_formula, rejection) for rejection in rejected)
    write_atomic(path, text.getvalue().encode("utf-8", errors="backslashreplace"))

"""The list of rejected photographs, a CSV file in the dataset's folder."""

from typing import NamedTuple

# The reason of a photograph whose label means that it has no grade.
UNGRADED = "ungraded"
# The reason of identical photographs with different grades.
CONFLICTING = "conflicting_grade"


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

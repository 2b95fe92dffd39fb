"""The list of labels without a photograph, and of photographs without a label."""

from typing import Literal, NamedTuple


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

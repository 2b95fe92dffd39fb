"""Contents: which photographs are the same file, and what if their grades differ."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from drtf.config import Conflicts
from drtf.data.photographs import NUM_FETCHED_AHEAD, PhotographRef
from drtf.errors import LabelError
from drtf.progress import progress


@dataclass(frozen=True)
class Conflict:
    """Byte-identical photographs whose grades differ.

    Attributes:
        ids: of the photographs.
        grades: of each, in their order.
    """

    ids: tuple[str, ...]
    grades: tuple[int, ...]

    def __str__(self) -> str:
        """Name each photograph with its grade."""
        pairs = zip(self.ids, self.grades, strict=True)
        return " = ".join(f"{name} (grade {grade})" for name, grade in pairs)


def group_identical_files(table: pd.DataFrame) -> pd.Series:
    """Number contents so that byte-identical photographs, and only they, share one.

    Only photographs of equal size can be identical, so only these are read here.

    Args:
        table: columns `photograph` (a PhotographRef) and `size_bytes`.
    """
    alike = table["size_bytes"].duplicated(keep=False)
    photographs = table["photograph"].tolist()
    names: list[object] = list(photographs)
    numbers = np.flatnonzero(alike).tolist()
    if numbers:
        with (
            ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool,
            progress("Comparing photographs of equal size", len(numbers)) as advance,
        ):
            hashes = pool.map(PhotographRef.sha256, [photographs[x] for x in numbers])
            for number, sha256 in zip(numbers, hashes, strict=True):
                names[number] = sha256 or photographs[number]
                advance("")
    first: dict[object, int] = {}
    contents = [first.setdefault(name, len(first)) for name in names]
    return pd.Series(contents, index=table.index, dtype="int64")


def find_conflicts(table: pd.DataFrame) -> list[Conflict]:
    """List identical photographs with different grades.

    Args:
        table: columns `id`, `grade` and `content`.
    """
    num_grades = table.groupby("content")["grade"].transform("nunique")
    return [
        Conflict(tuple(group["id"]), tuple(int(grade) for grade in group["grade"]))
        for _, group in table[num_grades > 1].groupby("content", sort=False)
    ]


def drop_conflicts(
    table: pd.DataFrame, conflicts: list[Conflict], policy: Conflicts
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Do with conflicting photographs as `labels.conflicts` says.

    Returns:
        The rows that stay, and those that are dropped.

    Raises:
        LabelError: if the policy is `error` and there are any.
    """
    if conflicts and policy == "error":
        raise LabelError(
            f"{len(conflicts)} groups of identical photographs have different grades; "
            f"the first: {conflicts[0]}. Mend the label file, or set "
            "labels.conflicts=keep or drop"
        )
    names = {name for conflict in conflicts for name in conflict.ids}
    dropped = table["id"].isin(names if policy == "drop" else set())
    return table[~dropped].reset_index(drop=True), table[dropped]

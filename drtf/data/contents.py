"""Byte-identical photographs, and what to do if their grades differ."""

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
        ids: The photographs' ids.
        grades: Their grades, in the same order.
    """

    ids: tuple[str, ...]
    grades: tuple[int, ...]

    def __str__(self) -> str:
        """Return each photograph with its grade."""
        pairs = zip(self.ids, self.grades, strict=True)
        return " = ".join(f"{name} (grade {grade})" for name, grade in pairs)


def group_identical_files(table: pd.DataFrame) -> pd.Series:
    """Number the photographs so that only byte-identical ones share a number.

    Only photographs of equal size can be identical, so only these are read.

    Args:
        table: Columns `photograph` (a PhotographRef) and `size_bytes`.

    Returns:
        int64, with the index of `table`.

    Raises:
        StorageError: If an object store fails.
    """
    has_equal_size = table["size_bytes"].duplicated(keep=False)
    photographs = table["photograph"].tolist()
    # A photograph is named by its hash if it was read, otherwise by its reference.
    names: list[object] = list(photographs)
    rows = np.flatnonzero(has_equal_size).tolist()
    if rows:
        with (
            ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool,
            progress("Comparing photographs of equal size", len(rows)) as advance,
        ):
            hashes = pool.map(PhotographRef.sha256, [photographs[row] for row in rows])
            for row, sha256 in zip(rows, hashes, strict=True):
                names[row] = sha256 or photographs[row]
                advance("")
    first: dict[object, int] = {}
    contents = [first.setdefault(name, len(first)) for name in names]
    return pd.Series(contents, index=table.index, dtype="int64")


def find_conflicts(table: pd.DataFrame) -> list[Conflict]:
    """Find the groups of byte-identical photographs with different grades.

    Args:
        table: Columns `id`, `grade`, and `content`, which is equal for byte-identical
            photographs.
    """
    num_grades = table.groupby("content")["grade"].transform("nunique")
    return [
        Conflict(tuple(group["id"]), tuple(int(grade) for grade in group["grade"]))
        for _, group in table[num_grades > 1].groupby("content", sort=False)
    ]


def resolve_conflicts(
    table: pd.DataFrame, conflicts: list[Conflict], policy: Conflicts
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep or drop the conflicting photographs, or raise an error.

    Args:
        table: Column `id`, and any others.
        conflicts: The conflicts in it.
        policy: The setting `labels.conflicts`.

    Returns:
        The rows that are kept, and those that are dropped.

    Raises:
        LabelError: If the policy is `error` and there are conflicts.
    """
    if conflicts and policy == "error":
        raise LabelError(
            f"{len(conflicts)} groups of identical photographs have different grades; "
            f"the first one: {conflicts[0]}. Fix the labels, or set "
            "labels.conflicts=keep or drop"
        )
    names = {name for conflict in conflicts for name in conflict.ids}
    dropped = table["id"].isin(names if policy == "drop" else set())
    return table[~dropped].reset_index(drop=True), table[dropped]

"""Byte-identical photographs, and what to do if their grades differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.config import Conflicts
from drtf.errors import LabelError
from drtf.photographs.references import (
    PhotographRef,
    map_in_threads,
    photographs_of,
)
from drtf.progress import progress
from drtf.texts import are_repeated, first_rows, first_texts, text_column


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


def group_identical_files(
    table: pd.DataFrame, folders: Mapping[str, Path | str]
) -> np.ndarray:
    """Number the photographs so that only byte-identical ones share a number.

    Only photographs of equal size can be identical. Of these, small parts are read
    first, and the whole file only if the parts of two photographs are equal.

    Args:
        table: Columns `source`, `path` and `size_bytes`.
        folders: The image folder of each source.

    Returns:
        int64 [n], the row of the first photograph with the same bytes.

    Raises:
        StorageError: If an object store fails.
    """
    sizes = table["size_bytes"].to_numpy()
    is_alike = are_repeated(first_rows(sizes))
    is_alike &= sizes >= 0  # others are missing
    rows = np.flatnonzero(is_alike)
    photographs = photographs_of(table, folders, rows)
    with progress("Comparing photographs of equal size", len(rows)) as advance:
        parts = sizes[rows]
        found = map_in_threads(PhotographRef.hash_parts, photographs)
        for number, part in enumerate(found):
            parts[number] ^= part
            advance("")
    rows = rows[are_repeated(first_rows(parts))]
    del parts
    photographs = photographs_of(table, folders, rows)
    hashes = text_column(map_in_threads(PhotographRef.sha256, photographs))
    is_read = hashes.notna().to_numpy(bool)
    contents = np.arange(len(table))
    contents[rows[is_read]] = rows[first_texts(hashes)[is_read]]
    return contents


def find_conflicts(table: pd.DataFrame) -> list[Conflict]:
    """Find the groups of byte-identical photographs with different grades.

    Args:
        table: Columns `id`, `grade`, and `content`, which is equal for byte-identical
            photographs.
    """
    shared = table[are_repeated(first_rows(table["content"].to_numpy()))]
    grades = shared.groupby("content", sort=False)["grade"]
    is_conflicting = grades.transform("min") != grades.transform("max")
    return [
        Conflict(tuple(group["id"]), tuple(group["grade"].tolist()))
        for _, group in shared[is_conflicting].groupby("content", sort=False)
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
    if not conflicts or policy == "keep":
        return table, table[:0]
    dropped = table["id"].isin(
        {name for conflict in conflicts for name in conflict.ids}
    )
    return table[~dropped].reset_index(drop=True), table[dropped]

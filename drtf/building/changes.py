"""Changes of photographs since a dataset was built from them.

A dataset's bytes depend on nothing but its contents, so it cannot hold the times of its
photographs' files. An attribute of its manifest, which is not part of the bytes, holds
a digest of them. Without it, the photographs are compared by their contents.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import pandas as pd

from drtf.building.plan import BuildPlan, hash_rows
from drtf.building.write import convert_photographs
from drtf.photographs.prepare import Rejected
from drtf.photographs.references import PhotographRef, map_in_threads, photographs_of
from drtf.progress import progress
from drtf.records.manifest import MANIFEST_FILE
from drtf.texts import TEXT

ATTRIBUTE = "user.drtf.photographs"


def remember_photographs(folder: Path, plan: BuildPlan) -> None:
    """Store when a dataset's photographs were last changed, if the disk can."""
    with contextlib.suppress(OSError):
        os.setxattr(folder / MANIFEST_FILE, ATTRIBUTE, _digest(plan))


def find_changed_photograph(
    folder: Path, plan: BuildPlan, index: pd.DataFrame
) -> str | None:
    """Find a photograph whose contents are not those in a dataset.

    If no photograph was touched since the dataset was built, none is read.

    Args:
        folder: Folder of the dataset.
        plan: The plan that would build the dataset now.
        index: The index of the dataset.

    Returns:
        The photograph's path, or None if none has changed.
    """
    with contextlib.suppress(OSError):
        if os.getxattr(folder / MANIFEST_FILE, ATTRIBUTE) == _digest(plan):
            return None
    columns = ["source", "path"]
    table = plan.table[columns].astype({"source": TEXT})
    table = table.merge(index[[*columns, "sha256"]].astype(TEXT), "left", on=columns)
    is_written = table["sha256"].notna()
    folders = plan.catalog.folders
    changed = _find_other_contents(table[is_written], folders) or _find_usable(
        photographs_of(table[~is_written], folders), plan
    )
    if changed is None:
        remember_photographs(folder, plan)
    return changed


def _find_other_contents(
    table: pd.DataFrame, folders: Mapping[str, Path | str]
) -> str | None:
    """Find a photograph whose file does not have the hash in the table."""
    photographs = photographs_of(table, folders)
    hashes = map_in_threads(PhotographRef.sha256, photographs)
    with (
        closing(hashes),
        progress("Comparing photographs", len(table)) as advance,
    ):
        for path, sha256, stored in zip(
            table["path"], hashes, table["sha256"], strict=True
        ):
            if sha256 != stored:
                return str(path)
            advance(path)
    return None


def _find_usable(photographs: Iterable[PhotographRef], plan: BuildPlan) -> str | None:
    """Find a photograph that would not be rejected now."""
    results = convert_photographs(plan, photographs)
    with closing(results):
        usable = (item.path for item in results if not isinstance(item, Rejected))
        return next(usable, None)


def _digest(plan: BuildPlan) -> bytes:
    columns = ["source", "path", "size_bytes", "changed_ns"]
    return hash_rows(plan.table[columns]).encode()

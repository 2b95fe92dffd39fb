"""Changes of photographs since a dataset was built from them.

A dataset's bytes depend on nothing but its contents, so it cannot hold the times of its
photographs' files. An attribute of its manifest, which is not part of the bytes, holds
a digest of them. Without it, the photographs are compared by their contents.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from drtf.building.plan import BuildPlan, hash_rows
from drtf.building.write import convert_photographs
from drtf.photographs.prepare import Rejected
from drtf.photographs.references import PhotographRef, map_in_threads
from drtf.progress import progress
from drtf.records.index import iterate_index
from drtf.records.manifest import INDEX_FILE, MANIFEST_FILE
from drtf.records.reader import ShardDataset
from drtf.texts import iterate_texts

ATTRIBUTE = "user.drtf.photographs"


def remember_photographs(folder: Path, plan: BuildPlan) -> None:
    """Store when a dataset's photographs were last changed, if the disk can."""
    with contextlib.suppress(OSError):
        os.setxattr(folder / MANIFEST_FILE, ATTRIBUTE, _digest(plan))


def find_changed_photograph(shards: ShardDataset, plan: BuildPlan) -> str | None:
    """Find a photograph whose contents are not those in a dataset.

    If no photograph was touched since the dataset was built, none is read.

    Args:
        shards: The dataset, open.
        plan: The plan that would build the dataset now.

    Returns:
        The photograph's path, or None if none has changed.

    Raises:
        RecordError: If the index cannot be read.
    """
    folder = shards.folder
    with contextlib.suppress(OSError):
        if os.getxattr(folder / MANIFEST_FILE, ATTRIBUTE) == _digest(plan):
            return None
    changed = _find_other_contents(shards, plan) or _find_usable(shards, plan)
    if changed is None:
        remember_photographs(folder, plan)
    return changed


def _photographs_with_hashes(
    shards: ShardDataset, plan: BuildPlan
) -> Iterator[tuple[PhotographRef, str]]:
    """Yield each photograph of a plan with its hash in the dataset that it gave.

    The hash of a rejected photograph is empty. The others are in the order of the plan.
    """
    columns = ["source", "path", "sha256"]
    records = (
        record
        for batch in iterate_index(shards.folder / INDEX_FILE, columns)
        for record in batch.itertuples(index=False, name=None)
    )
    source, path, sha256 = next(records, ("", "", ""))
    sources = iterate_texts(plan.table["source"])
    for name, photograph in zip(sources, plan.photographs(), strict=True):
        if (name, photograph.path) == (source, path):
            yield photograph, sha256
            source, path, sha256 = next(records, ("", "", ""))
        else:
            yield photograph, ""


def _find_other_contents(shards: ShardDataset, plan: BuildPlan) -> str | None:
    """Find a photograph whose file does not have the hash that the dataset has."""

    def is_changed(item: tuple[PhotographRef, str]) -> bool:
        photograph, sha256 = item
        return bool(sha256) and photograph.sha256() != sha256

    changes = map_in_threads(is_changed, _photographs_with_hashes(shards, plan))
    with (
        closing(changes),
        progress("Comparing photographs", len(plan.table)) as advance,
    ):
        for photograph, has_changed in zip(plan.photographs(), changes, strict=True):
            if has_changed:
                return photograph.path
            advance(photograph.path)
    return None


def _find_usable(shards: ShardDataset, plan: BuildPlan) -> str | None:
    """Find a photograph that was rejected and would not be now."""
    photographs = _photographs_with_hashes(shards, plan)
    rejected = (photograph for photograph, sha256 in photographs if not sha256)
    results = convert_photographs(plan, rejected)
    with closing(results):
        usable = (item.path for item in results if not isinstance(item, Rejected))
        return next(usable, None)


def _digest(plan: BuildPlan) -> bytes:
    columns = ["source", "path", "size_bytes", "changed_ns"]
    return hash_rows(plan.table[columns]).encode()

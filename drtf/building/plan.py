"""The plan of a build: where each record will be, before any photograph is decoded."""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from drtf import __version__
from drtf.config import BuildConfig, Config, ImagesConfig, LabelsConfig, SplitConfig
from drtf.errors import DrtfError
from drtf.labels.sources import Catalog, Source, load_sources
from drtf.labels.splits import plan_splits
from drtf.photographs.contents import (
    Conflict,
    find_conflicts,
    group_identical_files,
    resolve_conflicts,
)
from drtf.photographs.references import PhotographRef, photographs_of
from drtf.records.plan import SPLITS, ShardPlan, plan_shards
from drtf.records.rejected import CONFLICTING, RejectedRow
from drtf.texts import ROWS_PER_BATCH, TEXT, TextRows, take_texts

ROWS_PER_HASH = 1 << 16  # another number gives other hashes; see ROWS_PER_BATCH
# Parts of a source's provenance that follow from the table. A dataset of an earlier
# version, which has none of them, is still the same.
UNHASHED = {"num_without_patient", "unread_split_folders"}
# Typical bytes per pixel of fundus photographs; only the shard sizes depend on them.
BYTES_PER_PIXEL = {"raw": 3.0, "png": 1.7, "jpeg": 0.5}


class ShardRange(NamedTuple):
    """A shard, and the rows of the plan's table that it holds.

    Attributes:
        number: Position in the manifest's list of shards.
        split: `train`, `val` or `test`.
        file: Name of the shard's file.
        start: First row.
        stop: Row after the last one.
    """

    number: int
    split: str
    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class BuildPlan:
    """Everything that a build will do.

    Attributes:
        name: Name of the dataset.
        labels: The `labels` section.
        split: The `split` section.
        images: The `images` section.
        build: The `build` section.
        catalog: The photographs and labels of the sources; its table is `table`.
        table: The photographs to convert, in the order of their records: the catalog's
            columns and `split`.
        shards: How the records of each split are divided into shards.
        conflicts: Identical photographs with different grades.
        rejected: The photographs that the catalog rejects, or that were dropped
            because of such a conflict.
    """

    name: str
    labels: LabelsConfig
    split: SplitConfig
    images: ImagesConfig
    build: BuildConfig
    catalog: Catalog
    table: pd.DataFrame
    shards: list[ShardPlan]
    conflicts: list[Conflict]
    rejected: TextRows[RejectedRow]

    @property
    def num_photographs(self) -> int:
        """Number of labeled photographs, rejected ones included."""
        return len(self.table) + len(self.rejected)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings that determine the dataset, except for `images`."""
        return {
            "labels": self.labels.model_dump(mode="json"),
            "split": self.split.model_dump(mode="json"),
            "build": self.build.model_dump(mode="json", exclude={"num_workers"}),
        }

    @property
    def versions(self) -> dict[str, str]:
        """The software versions that determine the dataset."""
        return current_versions()

    @property
    def flat_settings(self) -> dict[str, Any]:
        """The name, all settings and the versions, each by its dotted name."""
        return flatten_settings(
            self.name,
            {"images": self.images.model_dump(mode="json"), **self.settings},
            self.versions,
        )

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the photographs, labels, settings and versions."""
        return hash_rows(self.table[["size_bytes"]], self.resume_sha256)

    @functools.cached_property
    def resume_sha256(self) -> str:
        """Like `sha256`, without the sizes of the photographs' files.

        A build that failed because of damaged files can resume after they are fixed.
        """
        others = ["published", "size_bytes", "changed_ns", "version"]
        contents = {
            "name": self.name,
            "images": self.images.model_dump(mode="json"),
            "settings": self.settings,
            "versions": self.versions,
            "sources": [
                {key: x for key, x in source.items() if key not in UNHASHED}
                for source in self.catalog.provenance
            ],
        }
        start = json.dumps(contents, sort_keys=True)
        start = hash_rows(self.rejected.to_frame(), start)
        return hash_rows(self.table.drop(columns=others), start)

    def photographs(self, rows: slice = slice(None)) -> Iterator[PhotographRef]:
        """Yield a reference to each photograph of `table`, or only of some rows."""
        return photographs_of(self.table[rows], self.catalog.folders)

    def shard_ranges(self) -> Iterator[ShardRange]:
        """Yield each shard with the rows of `table` that it holds."""
        start = 0
        for number, shard in enumerate(self.shards):
            stop = start + shard.stop - shard.start
            file = shard.file_name(self.name)
            yield ShardRange(number, shard.split, file, start, stop)
            start = stop


def hash_rows(table: pd.DataFrame, start: str = "") -> str:
    """Return the SHA-256 of a text and the rows of a table, in hexadecimal.

    The rows are hashed as JSON arrays of ROWS_PER_HASH rows.
    """
    digest = hashlib.sha256(start.encode())
    for first in range(0, len(table), ROWS_PER_BATCH):
        batch = table[first : first + ROWS_PER_BATCH]
        rows = json.dumps(batch.to_dict("split", index=False)["data"])
        stop = first + len(batch)
        digest.update(b", " if first % ROWS_PER_HASH else b"[")
        digest.update(rows[1:-1].encode())
        if not stop % ROWS_PER_HASH or stop == len(table):
            digest.update(b"]")
    return digest.hexdigest()


def current_versions() -> dict[str, str]:
    """Return the versions, on this host, of the software that determines a dataset."""
    return {"drtf": __version__, "opencv": cv2.__version__}


def dataset_name(out: Path | str) -> str:
    """Return the name of a dataset that will be built.

    Raises:
        DrtfError: If it is empty or not printable.
    """
    name = PurePath(out).name
    if not name or not name.isprintable():
        raise DrtfError(f"--out must end in a printable name; got {name!r}")
    return name


def plan_dataset(
    sources: Sequence[Source], out: Path | str, *, config: Config
) -> BuildPlan:
    """Plan the dataset that will be built at `out`, as `plan_build` does.

    Args:
        sources: Folders of photographs and their labels.
        out: The folder of the dataset, local or in a store; it gives the name.
        config: Its sections `labels`, `split`, `images` and `build` are used.
    """
    return plan_build(
        sources,
        name=dataset_name(out),
        labels=config.labels,
        split=config.split,
        images=config.images,
        build=config.build,
    )


def plan_build(
    sources: Sequence[Source],
    *,
    name: str,
    labels: LabelsConfig,
    split: SplitConfig,
    images: ImagesConfig,
    build: BuildConfig,
) -> BuildPlan:
    """Assign each photograph to a split, a shard and a place in the order of records.

    Args:
        sources: Folders of photographs and their labels.
        name: Name of the dataset.
        labels: How to label the photographs and treat conflicting labels.
        split: How to split the photographs.
        images: How to preprocess the photographs.
        build: How to encode, order and divide the records.

    Raises:
        LabelError: If a source's labels and photographs do not match.
        StorageError: If an object store fails.
        DrtfError: If there are too few photographs, or all were dropped.
    """
    catalog = load_sources(sources, labels)
    table = catalog.table
    table["content"] = group_identical_files(table, catalog.folders)
    conflicts = find_conflicts(table)
    table, dropped = resolve_conflicts(table, conflicts, labels.conflicts)
    if not len(table):
        raise DrtfError(
            "every photograph was dropped because of conflicting grades: fix the "
            "labels, or set labels.conflicts=keep"
        )
    rejected = TextRows(RejectedRow, catalog.rejected)
    rejected.extend(
        RejectedRow(path, CONFLICTING, f"grade {grade}", source)
        for path, grade, source in zip(
            dropped["path"], dropped["grade"], dropped["source"], strict=True
        )
    )
    del dropped  # even without rows, it holds the table's memory
    table["split"] = plan_splits(table, split)
    del table["content"]
    catalog = replace(catalog, table=table)
    order = _record_order(table["split"], build.seed)
    for key in table:  # each replaces the old one, because all are large
        column = table[key]
        is_text = column.dtype == TEXT
        table[key] = take_texts(column, order) if is_text else column.array.take(order)
        pa.default_memory_pool().release_unused()
    pixel_bytes = images.size**2 * BYTES_PER_PIXEL[build.encoding]
    shards = plan_shards(
        {
            name: int(count)
            for name in SPLITS
            if (count := (table["split"] == name).sum())
        },
        record_bytes=math.ceil(pixel_bytes),
        shard_bytes=int(build.shard_size_mb * 1e6),
    )
    return BuildPlan(
        name=name,
        labels=labels,
        split=split,
        images=images,
        build=build,
        catalog=catalog,
        table=table,
        shards=shards,
        conflicts=conflicts,
        rejected=rejected,
    )


def flatten_settings(
    name: str,
    sections: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return a dataset's name, settings and versions by dotted names.

    Args:
        name: The dataset's name.
        sections: The settings by section.
        versions: The versions by software.
    """
    flat = {"name": name}
    for section, settings in {**sections, "version": versions}.items():
        flat |= {f"{section}.{key}": value for key, value in settings.items()}
    return flat


def describe_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe how a dataset that was found differs from the one that is wanted.

    Args:
        found: From `flatten_settings`.
        wanted: From `flatten_settings`.
    """
    differing = [
        f"{key} is {found.get(key)} there and {wanted.get(key)} here"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    return "; ".join(differing) or "it has other photographs or labels"


def _record_order(splits: pd.Series, seed: int) -> np.ndarray:
    """Return the rows by split, each split shuffled with its own seed, int64 [n].

    Args:
        splits: A column with the categories SPLITS.
        seed: The setting `build.seed`.
    """
    codes = splits.cat.codes.to_numpy()
    order = np.argsort(codes, kind="stable")
    stops = np.cumsum(np.bincount(codes, minlength=len(SPLITS)))
    for number, rows in enumerate(np.split(order, stops[:-1])):
        np.random.default_rng([seed, number]).shuffle(rows)  # in place
    return order

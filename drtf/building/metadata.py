"""The files of a dataset that describe its shards: index, rejected.csv, manifest."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.building.journal import Entry, Written
from drtf.building.plan import BuildPlan
from drtf.errors import DrtfError
from drtf.files import hash_file, save_rows
from drtf.images.quality import QUALITY_MEASURES, Quality
from drtf.labels.label_files import KEPT
from drtf.photographs.listing import SKIPPED_FILE, SkippedFile
from drtf.photographs.prepare import Rejected
from drtf.records.index import (
    COLUMNS,
    count_records,
    iterate_index,
    load_index,
    save_index,
)
from drtf.records.interop import save_interop
from drtf.records.manifest import (
    INDEX_FILE,
    REJECTED_FILE,
    UNMATCHED_FILE,
    Manifest,
    Quantiles,
    ShardEntry,
    save_manifest,
)
from drtf.records.plan import SPLITS
from drtf.records.rejected import RejectedRow
from drtf.records.unmatched import UnmatchedRow
from drtf.texts import TextRows, number_texts


@dataclass(frozen=True)
class FinishedShard:
    """A shard that was written.

    Attributes:
        size_bytes: Its size.
        sha256: The hash of its bytes.
        entries: One entry per photograph that the plan puts in it.
    """

    size_bytes: int
    sha256: str
    entries: Sequence[Entry]


def save_metadata(
    folder: Path, plan: BuildPlan, shards: Iterable[FinishedShard]
) -> Manifest:
    """Save all files of a dataset but its shards, the manifest last.

    Args:
        folder: Where to save them.
        plan: The plan of the build.
        shards: The shards, in the order of the plan.

    Returns:
        The manifest.

    Raises:
        DrtfError: If every photograph was rejected.
    """
    shard_entries: list[ShardEntry] = []
    rejected = TextRows(RejectedRow, plan.rejected)
    is_written = np.zeros(len(plan.table), bool)

    def index_parts() -> Iterator[pd.DataFrame]:
        for shard, finished in zip(plan.shard_ranges(), shards, strict=True):
            photographs = plan.table[shard.start : shard.stop]
            records = _index_table(
                photographs, finished.entries, plan.labels.keep_columns
            )
            rejected.extend(_rejected_rows(photographs, finished.entries))
            is_written[shard.start : shard.stop] = [
                isinstance(entry.result, Written) for entry in finished.entries
            ]
            shard_entries.append(
                ShardEntry(
                    file=shard.file,
                    split=shard.split,
                    num_records=len(records),
                    size_bytes=finished.size_bytes,
                    sha256=finished.sha256,
                )
            )
            if len(records):
                yield records

    parts = index_parts()
    first = next(parts, None)
    if first is None:
        row = next(itertools.islice(rejected, len(plan.rejected), None))
        raise DrtfError(
            f"none of the {len(plan.table)} photographs could be used; the first one: "
            f"{row.path}: {row.reason}: {row.detail}"
        )
    save_index(folder / INDEX_FILE, itertools.chain([first], parts))
    catalog = plan.catalog
    save_rows(folder / REJECTED_FILE, RejectedRow._fields, rejected)
    save_rows(folder / UNMATCHED_FILE, UnmatchedRow._fields, catalog.unmatched)
    save_rows(folder / SKIPPED_FILE, SkippedFile._fields, catalog.skipped)
    manifest = _assemble_manifest(
        plan, shard_entries, folder / INDEX_FILE, is_written, rejected
    )
    tables = [INDEX_FILE, REJECTED_FILE, UNMATCHED_FILE, SKIPPED_FILE]
    files = [*tables, *save_interop(folder, manifest)]
    hashes = {file: hash_file(folder / file) for file in files}
    manifest = manifest.model_copy(update={"files": hashes})
    save_manifest(folder, manifest)
    return manifest


def _index_table(
    photographs: pd.DataFrame, entries: Sequence[Entry], kept_columns: Sequence[str]
) -> pd.DataFrame:
    """Return the index rows of a shard's photographs; empty if all were rejected."""
    results = [entry.result for entry in entries]
    written = [result for result in results if isinstance(result, Written)]
    if not written:
        return pd.DataFrame()
    is_written = [isinstance(result, Written) for result in results]
    records = pd.DataFrame(
        {
            "shard": result.shard,
            **result.location._asdict(),
            "sha256": result.sha256,
            "has_field": result.has_field,
            **result.quality._asdict(),
        }
        for result in written
    )
    photographs = photographs[is_written].reset_index(drop=True)
    table = pd.concat([photographs, records], axis=1)
    kept = {KEPT + name: name for name in kept_columns}
    table = table[[*COLUMNS.names, *Quality._fields, *kept]]
    return table.rename(columns=kept).astype({"split": str, "source": str})


def _rejected_rows(
    photographs: pd.DataFrame, entries: Sequence[Entry]
) -> Iterator[RejectedRow]:
    for entry, source in zip(entries, photographs["source"], strict=True):
        result = entry.result
        if isinstance(result, Rejected):
            yield RejectedRow(result.path, result.reason, result.detail, source)


def _quantiles(values: pd.Series) -> Quantiles:
    """Return the quantiles of a measure of quality, as the manifest has them."""
    lowest, low, median, high, highest = (
        round(float(x), 4)
        for x in values.astype("float64").quantile([0, 0.05, 0.5, 0.95, 1])
    )
    return lowest, low, median, high, highest


def _assemble_manifest(
    plan: BuildPlan,
    shards: list[ShardEntry],
    index: Path,
    is_written: np.ndarray,
    rejected: TextRows[RejectedRow],
) -> Manifest:
    """Assemble the manifest; the hashes in `files` are filled in by the caller.

    Args:
        plan: The plan of the build.
        shards: The shards.
        index: The file of the index, of which one column at a time is read.
        is_written: bool [n], whether each photograph of the plan has a record.
        rejected: The rejected photographs.
    """

    def column(name: str) -> pd.Series:
        return load_index(index, [name])[name]

    patients = number_texts(plan.table["patient"])
    num_patients = {
        split: len(pd.unique(patients[is_written & (plan.table["split"] == split)]))
        for split in SPLITS
    }
    return Manifest(
        name=plan.name,
        encoding=plan.build.encoding,
        image_size=plan.images.size,
        preprocessing=plan.images.model_dump(mode="json"),
        settings=plan.settings,
        num_records=count_records(iterate_index(index, ["split", "grade"])),
        num_patients={split: count for split, count in num_patients.items() if count},
        patients_from=plan.catalog.patients_from,
        shards=tuple(shards),
        files={},
        rejected=dict(sorted(Counter(row.reason for row in rejected).items())),
        quality={name: _quantiles(column(name)) for name in QUALITY_MEASURES},
        provenance={
            "sources": plan.catalog.provenance,
            "num_conflicting": sum(len(conflict.ids) for conflict in plan.conflicts),
            "num_without_field": int((~column("has_field")).sum()),
            "num_black": int(column("is_black").sum()),
            "versions": plan.versions,
        },
        plan_sha256=plan.sha256,
    )

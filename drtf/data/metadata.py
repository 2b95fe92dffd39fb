"""The files of a dataset that describe its shards: index, rejected.csv, manifest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.data.build_plan import BuildPlan
from drtf.data.journal import Entry, Written
from drtf.data.listing import SKIPPED_FILE, SkippedFile
from drtf.data.prepare import Rejected
from drtf.files import hash_file, save_rows
from drtf.images.quality import QUALITY_MEASURES, Quality
from drtf.records.index import COLUMNS, count_records, save_index
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


def save_metadata(folder: Path, plan: BuildPlan, entries: Sequence[Entry]) -> Manifest:
    """Save all files of a dataset but its shards, the manifest last.

    Args:
        folder: Folder with the finished shards.
        plan: The plan of the build.
        entries: The journal's entries, one per row of the plan's table.

    Returns:
        The manifest.
    """
    index = _index_table(plan, entries)
    rejected = _rejected_rows(plan, entries)
    save_index(folder / INDEX_FILE, index)
    catalog = plan.catalog
    save_rows(folder / REJECTED_FILE, RejectedRow._fields, rejected)
    save_rows(folder / UNMATCHED_FILE, UnmatchedRow._fields, catalog.unmatched)
    save_rows(folder / SKIPPED_FILE, SkippedFile._fields, catalog.skipped)
    manifest = _assemble_manifest(folder, plan, index, rejected)
    tables = [INDEX_FILE, REJECTED_FILE, UNMATCHED_FILE, SKIPPED_FILE]
    files = [*tables, *save_interop(folder, manifest, index)]
    hashes = {file: hash_file(folder / file) for file in files}
    manifest = manifest.model_copy(update={"files": hashes})
    save_manifest(folder, manifest)
    return manifest


def _index_table(plan: BuildPlan, entries: Sequence[Entry]) -> pd.DataFrame:
    results = [entry.result for entry in entries]
    is_written = [isinstance(result, Written) for result in results]
    photographs = plan.table[is_written].reset_index(drop=True)
    records = pd.DataFrame(
        {
            "shard": result.shard,
            **result.location._asdict(),
            "sha256": result.sha256,
            "has_field": result.has_field,
            **result.quality._asdict(),
        }
        for result in results
        if isinstance(result, Written)
    )
    table = pd.concat([photographs, records], axis=1)
    return table[[*COLUMNS.names, *Quality._fields]]


def _rejected_rows(plan: BuildPlan, entries: Sequence[Entry]) -> list[RejectedRow]:
    return plan.rejected + [
        RejectedRow(entry.result.path, entry.result.reason, entry.result.detail, source)
        for entry, source in zip(entries, plan.table["source"], strict=True)
        if isinstance(entry.result, Rejected)
    ]


def _quantiles(values: pd.Series) -> Quantiles:
    """Return the quantiles of a measure of quality, as the manifest has them."""
    lowest, low, median, high, highest = (
        round(float(x), 4) for x in values.quantile([0, 0.05, 0.5, 0.95, 1])
    )
    return lowest, low, median, high, highest


def _assemble_manifest(
    folder: Path, plan: BuildPlan, index: pd.DataFrame, rejected: list[RejectedRow]
) -> Manifest:
    """Assemble the manifest; the hashes in `files` are filled in by the caller."""
    num_patients = index.groupby("split")["patient"].nunique()
    shards = list(plan.shard_ranges())
    in_shard = np.bincount(index["shard"], minlength=len(shards))
    return Manifest(
        name=plan.name,
        encoding=plan.build.encoding,
        image_size=plan.images.size,
        preprocessing=plan.images.model_dump(mode="json"),
        settings=plan.settings,
        num_records=count_records([index]),
        num_patients={x: int(num_patients[x]) for x in SPLITS if x in num_patients},
        patients_from=plan.catalog.patients_from,
        shards=tuple(
            ShardEntry(
                file=shard.file,
                split=shard.split,
                num_records=int(in_shard[shard.number]),
                size_bytes=(folder / shard.file).stat().st_size,
                sha256=hash_file(folder / shard.file),
            )
            for shard in shards
        ),
        files={},
        rejected=dict(sorted(Counter(row.reason for row in rejected).items())),
        quality={name: _quantiles(index[name]) for name in QUALITY_MEASURES},
        provenance={
            "sources": plan.catalog.provenance,
            "num_conflicting": sum(len(conflict.ids) for conflict in plan.conflicts),
            "num_without_field": int((~index["has_field"]).sum()),
            "num_black": int(index["is_black"].sum()),
            "versions": plan.versions,
        },
        plan_sha256=plan.sha256,
    )

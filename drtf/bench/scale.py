"""Measure what opening and ordering a dataset takes, by its number of records."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drtf.bench.linked import link_copies
from drtf.bench.read import READERS, ReaderError, run_reader
from drtf.errors import DrtfError
from drtf.progress import progress
from drtf.records.manifest import load_manifest


@dataclass(frozen=True)
class ScaleResult:
    """The time and memory of one size of a dataset, in a process without TensorFlow.

    Attributes:
        num_records: Number of records.
        num_shards: Number of shards.
        open_seconds: Time to open the dataset.
        open_mb: Memory that the open dataset takes.
        open_peak_mb: Peak memory of the process until then.
        plan_seconds: Time to plan the order of a balanced epoch.
        plan_peak_mb: Peak memory of the process until then.
        read_seconds: Time to read the first 1,000 records of that order.
        names_seconds: Time to load the names of these records from the index.
        final_peak_mb: Peak memory of the process.
    """

    num_records: int
    num_shards: int
    open_seconds: float
    open_mb: float
    open_peak_mb: float
    plan_seconds: float
    plan_peak_mb: float
    read_seconds: float
    names_seconds: float
    final_peak_mb: float


def bench_scale(
    shards: Path, *, work: Path, num_records: Sequence[int]
) -> list[ScaleResult]:
    """Open datasets of several sizes, each in a new process.

    Args:
        shards: A dataset; the larger ones consist of links to its shards.
        work: Folder for the larger datasets.
        num_records: Their sizes; each is rounded up to a multiple of the dataset's.

    Raises:
        DrtfError: If a dataset cannot be read.
    """
    results = []
    in_shards = sum(shard.num_records for shard in load_manifest(shards).shards)
    with progress("Measuring", len(num_records)) as advance:
        for size in num_records:
            folder = work / str(size)
            link_copies(shards, folder, num_copies=-(-size // in_shards))
            script = READERS / "open_dataset.py"
            try:
                found = run_reader(sys.executable, script, {"shards": str(folder)})
            except ReaderError as error:
                raise DrtfError(f"cannot read {folder}: {error}") from error
            results.append(ScaleResult(**found))
            advance(f"{results[-1].num_records:,} records")
    return results

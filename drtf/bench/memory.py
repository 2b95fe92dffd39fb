"""Measure the memory that streaming takes, over epochs and by size of the dataset."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from drtf.bench.read import READERS, ReaderError, run_reader
from drtf.errors import DrtfError
from drtf.files import hash_file
from drtf.progress import progress
from drtf.records.index import count_records, load_index, save_index
from drtf.records.manifest import INDEX_FILE, load_manifest, save_manifest


@dataclass(frozen=True)
class MemoryResult:
    """The memory and the speed of streaming one dataset.

    Attributes:
        num_records: Number of records in the train split.
        rss_anon_mb: Anonymous memory of the process after TensorFlow has started, and
            after each epoch.
        images_per_second: Mean rate over all epochs.
    """

    num_records: int
    rss_anon_mb: list[float]
    images_per_second: float


def bench_memory(
    shards: Path, *, work: Path, num_copies: int, batch_size: int, epochs: int
) -> list[MemoryResult]:
    """Stream a dataset, and one several times as large, each in a new process.

    Args:
        shards: A dataset; its train split is streamed.
        work: Folder for the larger dataset, whose shards are links to the first one's.
        num_copies: How many times as large it is.
        batch_size: Number of images in a batch.
        epochs: Number of epochs to stream.

    Returns:
        The result of the dataset, and the result of the larger one.

    Raises:
        DrtfError: If streaming fails.
    """
    larger = work / "larger"
    link_copies(shards, larger, num_copies=num_copies)
    results = []
    with progress("Streaming", 2) as advance:
        for folder in (shards, larger):
            arguments = {
                "shards": str(folder),
                "batch_size": batch_size,
                "epochs": epochs,
            }
            script = READERS / "stream_epochs.py"
            try:
                measurements = run_reader(sys.executable, script, arguments)
            except ReaderError as error:
                raise DrtfError(f"streaming {folder} failed: {error}") from error
            results.append(MemoryResult(**measurements))
            advance(folder.name)
    return results


def link_copies(shards: Path, out: Path, *, num_copies: int) -> None:
    """Build a dataset that contains each record of another one several times.

    Its shards are links to the shards of the other one.
    """
    manifest, index = load_manifest(shards), load_index(shards / INDEX_FILE)
    out.mkdir(parents=True)
    entries, parts = [], []
    for copy in range(num_copies):
        for entry in manifest.shards:
            name = f"{copy}-{entry.file}"
            (out / name).symlink_to((shards / entry.file).resolve())
            entries.append(entry.model_copy(update={"file": name}))
        parts.append(
            index.assign(
                shard=index["shard"] + copy * len(manifest.shards),
                id=f"{copy}-" + index["id"],
            )
        )
    copies = pd.concat(parts, ignore_index=True)
    save_index(out / INDEX_FILE, copies)
    update = {
        "shards": tuple(entries),
        "num_records": count_records([copies]),
        "files": {INDEX_FILE: hash_file(out / INDEX_FILE)},
    }
    save_manifest(out, manifest.model_copy(update=update))

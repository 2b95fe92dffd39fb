"""What memory streaming holds on to: over epochs, and by the set's size."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from drtf.bench.read import run_reader
from drtf.errors import DrtfError
from drtf.files import hash_file
from drtf.progress import progress
from drtf.records.index import count_records, load_index, save_index
from drtf.records.manifest import INDEX_FILE, load_manifest, save_manifest


@dataclass(frozen=True)
class MemoryResult:
    """What streaming a set for some epochs took.

    Attributes:
        num_records: of the set.
        rss_anon_mb: anonymous memory of the process when it has imported TensorFlow,
            and after each epoch.
        images_per_second: over all epochs.
    """

    num_records: int
    rss_anon_mb: list[float]
    images_per_second: float


def bench_memory(
    shards: Path, *, work: Path, num_copies: int, batch_size: int, epochs: int
) -> list[MemoryResult]:
    """Stream a set, and one that is several times as large, each in a new process.

    Args:
        shards: a set; its train split is streamed.
        work: a folder for the larger set, whose shards are links to the set's own.
        num_copies: how many times as large.
        batch_size: images in a batch.
        epochs: to stream.

    Raises:
        DrtfError: if streaming fails.
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
            found = run_reader(sys.executable, "epochs", arguments)
            if "missing" in found:
                raise DrtfError(f"streaming {folder} failed: {found['missing']}")
            results.append(MemoryResult(**found))
            advance(folder.name)
    return results


def link_copies(shards: Path, out: Path, *, num_copies: int) -> None:
    """Make a set in which each record of another one stands several times."""
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
        "num_records": count_records(copies),
        "files": {INDEX_FILE: hash_file(out / INDEX_FILE)},
    }
    save_manifest(out, manifest.model_copy(update=update))

"""Measure the memory that streaming takes, over epochs and by size of the dataset."""

import sys
from dataclasses import dataclass
from pathlib import Path

from drtf.bench.linked import link_copies
from drtf.bench.read import READERS, ReaderError, run_reader
from drtf.errors import DrtfError
from drtf.progress import progress


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

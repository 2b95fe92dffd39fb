"""Measure how fast a reader yields batches, in a separate process.

It also runs in environments that have neither drtf nor TensorFlow, so it uses only the
standard library.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
WINDOW_SECONDS = 0.5
NUM_WARMUP_BATCHES = 20
CHUNK_BYTES = 1 << 24


def measure(
    read: Callable[[SimpleNamespace], Iterator[tuple[Any, Any]]],
    *,
    prepare: Callable[[SimpleNamespace], None] | None = None,
    version: str = "",
) -> None:
    """Read batches for some seconds, and print the measurements as JSON.

    The arguments come from the command line, as JSON: `images` and `labels`, files with
    uint8 [n, H, W, 3] and int64 [n]; `shards`, a drtf dataset with the same records;
    `work`, a folder for this reader's own files; `shape`, `batch_size`, `seconds` and
    `seed`.

    Args:
        read: Yields batches without end: images, uint8 or floating [B, H, W, 3], and
            labels [B].
        prepare: Writes the reader's own format below `work`. It is called only once and
            not measured.
        version: Version of the library.
    """
    arguments = SimpleNamespace(**json.loads(sys.argv[1]))
    work = Path(arguments.work)
    prepared = work / "prepared"
    if not prepared.exists():
        work.mkdir(parents=True, exist_ok=True)
        if prepare:
            prepare(arguments)
        prepared.touch()
    fill_page_cache(work, Path(arguments.shards))
    start = time.perf_counter()
    batches = read(arguments)
    images, _ = next(batches)
    first_batch_seconds = time.perf_counter() - start
    shape = tuple(images.shape)
    expected = (arguments.batch_size, *arguments.shape)
    if shape != expected:
        raise ValueError(f"a batch has shape {shape}, expected {expected}")
    # Thread pools start, autotuners adapt, and memory is allocated for the first time.
    num_positive = sum(float(next(batches)[1].sum()) for _ in range(NUM_WARMUP_BATCHES))
    anonymous = anonymous_memory_mb()
    rates, cpu_start, num_images = [], _cpu_seconds(), 0
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end:
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < WINDOW_SECONDS:
            images, _ = next(batches)
            count += len(images)
        rates.append(count / passed)
        num_images += count
    measurements = {
        "rates": rates,
        "cpu_us_per_image": 1e6 * (_cpu_seconds() - cpu_start) / num_images,
        "rss_anon_mb": anonymous,
        "rss_anon_growth_mb": anonymous_memory_mb() - anonymous,
        "first_batch_seconds": first_batch_seconds,
        "positive_fraction": num_positive / (NUM_WARMUP_BATCHES * arguments.batch_size),
        "version": version,
    }
    print(json.dumps(measurements), flush=True)
    os._exit(0)  # a normal exit waits for the workers of data loaders


def fill_page_cache(*folders: Path) -> None:
    """Read all files once, so that no reader waits for the disk."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(CHUNK_BYTES):
                        pass


def anonymous_memory_mb() -> float:
    """Return the anonymous memory of this process and all its descendants."""
    kilobytes = (
        int(line.split()[1])
        for status in _read_proc_files("status")
        for line in status.splitlines()
        if line.startswith("RssAnon")
    )
    return sum(kilobytes) / 1024


def _cpu_seconds() -> float:
    """Return the CPU time of this process and all its descendants."""
    ticks = 0
    for stat in _read_proc_files("stat"):
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS


def _read_proc_files(name: str) -> list[str]:
    """Read one file of /proc for this process and each living descendant."""
    texts = []
    for process in _list_processes():
        with suppress(OSError):
            texts.append(Path(f"/proc/{process}/{name}").read_text())
    return texts


def _list_processes() -> list[int]:
    """List the ids of this process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    processes = [os.getpid()]
    for process in processes:
        processes += [child for child, parent in parents.items() if parent == process]
    return processes

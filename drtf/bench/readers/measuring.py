"""What each way to read is measured by, in a process of its own.

It runs in environments that have neither drtf nor TensorFlow: standard library only.
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

TICKS = os.sysconf("SC_CLK_TCK")
WINDOW_SECONDS = 0.5
NUM_CHECKED = 20


def measure(
    prepare: Callable[[SimpleNamespace], None],
    read: Callable[[SimpleNamespace], Iterator[tuple[Any, Any]]],
    **facts: object,
) -> None:
    """Print as JSON what it costs to read batches for some seconds.

    The arguments are those of the process: `images` and `labels`, files of uint8
    [n, H, W, 3] and int64 [n]; `shards`, the same as a set of drtf; `work`, a folder of
    this way's own; `shape`, `batch_size`, `seconds`, `seed`.

    Args:
        prepare: writes the way's own format below `work`, once; not measured.
        read: yields without end images, uint8 or floating [B, H, W, 3], and labels [B].
        **facts: what else to tell, such as a version.
    """
    arguments = SimpleNamespace(**json.loads(sys.argv[1]))
    work = Path(arguments.work)
    done = work / "done"
    if not done.exists():
        work.mkdir(parents=True, exist_ok=True)
        prepare(arguments)
        done.touch()
    warm(work, Path(arguments.shards))
    start = time.perf_counter()
    batches = read(arguments)
    images, _ = next(batches)
    first = time.perf_counter() - start
    shape = tuple(images.shape)
    if shape != (arguments.batch_size, *arguments.shape):
        raise ValueError(f"a batch is {shape}")
    # Its own warm-up: thread pools start, tuners tune, memory is taken once.
    positive = sum(float(next(batches)[1].sum()) for _ in range(NUM_CHECKED))
    anonymous = find_anonymous_mb()
    rates, cpu, num_images = [], _find_cpu_seconds(), 0
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end:
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < WINDOW_SECONDS:
            images, _ = next(batches)
            count += len(images)
        rates.append(count / passed)
        num_images += count
    print(
        json.dumps(
            {
                "rates": rates,
                "cpu_seconds": 1000 * (_find_cpu_seconds() - cpu) / num_images,
                "rss_anon_mb": anonymous,
                "rss_anon_growth_mb": find_anonymous_mb() - anonymous,
                "first_batch_seconds": first,
                "positive_share": positive / (NUM_CHECKED * arguments.batch_size),
                **facts,
            }
        ),
        flush=True,
    )
    os._exit(0)  # loaders' workers would be waited for


def warm(*folders: Path) -> None:
    """Have the kernel hold the files, so that no way pays for another's disk."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 24):
                        pass


def _find_processes() -> list[int]:
    """List this process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _read_all(name: str) -> list[str]:
    """Read a file of /proc for each of these processes that is still there."""
    texts = []
    for process in _find_processes():
        with suppress(OSError):
            texts.append(Path(f"/proc/{process}/{name}").read_text())
    return texts


def _find_cpu_seconds() -> float:
    total = 0
    for stat in _read_all("stat"):
        fields = stat.rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def find_anonymous_mb() -> float:
    """Return the anonymous memory of this process and all that descend from it."""
    kilobytes = (
        int(line.split()[1])
        for status in _read_all("status")
        for line in status.splitlines()
        if line.startswith("RssAnon")
    )
    return sum(kilobytes) / 1024

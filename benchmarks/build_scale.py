"""Measure the time and memory of planning and resuming a build per photograph.

    python benchmarks/build_scale.py 300000 1000000

There are no files and no pixels: the list of photographs and their sizes are made up,
the label file is real. Each measurement runs in a new process.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from drtf.config import Config
from drtf.data import sources as drtf_sources
from drtf.data.build_plan import plan_dataset
from drtf.data.listing import Listing
from drtf.data.photographs import FileStatus, PhotographRef
from drtf.data.plan_file import encode_plan, parse_plan
from drtf.data.sources import Source

IMAGES = Path("/photographs")


def main() -> None:
    """Print a row of a table for each step and number of photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_photographs", type=int, nargs="+")
    counts = parser.parse_args().num_photographs
    print(
        "| photographs | step | s | us per photograph | peak, MB | B per photograph |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for count in counts:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=measure, args=(count,))
        process.start()
        process.join()


def measure(count: int) -> None:
    """Plan a build, save the plan and load it again."""
    with tempfile.TemporaryDirectory() as folder, made_up_photographs(count):
        labels = Path(folder) / "labels.csv"
        with labels.open("w") as file:
            file.write("image,level\n")
            for number in range(count):
                file.write(f"{stem(number)},{number % 7 % 5}\n")
        data = measure_plan(count, labels)
        before = memory_bytes("VmRSS")
        measured("load the plan", count, before, lambda: parse_plan(data, path="x"))


def measure_plan(count: int, labels: Path) -> bytes:
    """Plan a build, and return the plan's file."""
    sources = [Source(IMAGES, labels)]
    before = memory_bytes("VmRSS")
    plan = measured(
        "plan", count, before, lambda: plan_dataset(sources, "x", config=Config())
    )
    measured("hash", count, before, lambda: plan.sha256)
    return measured("save the plan", count, before, lambda: encode_plan(plan))


def measured(step: str, count: int, before: int, call: Callable[[], Any]) -> Any:
    """Call a function, and print how long it takes and its peak memory."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    peak = memory_bytes("VmHWM") - before
    print(
        f"| {count:,} | {step} | {seconds:.1f} | {1e6 * seconds / count:.1f} "
        f"| {peak / 1e6:,.0f} | {peak / count:,.0f} |",
        flush=True,
    )
    return result


def memory_bytes(name: str) -> int:
    """Return a value of this process's memory, such as VmRSS."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def stem(number: int) -> str:
    """Return the name of a photograph: both eyes of each patient."""
    return f"{number // 2}_{('left', 'right')[number % 2]}"


@contextmanager
def made_up_photographs(count: int) -> Iterator[None]:
    """Let drtf find photographs that do not exist, of many different sizes."""

    def list_photographs(images: Path | str) -> Listing:
        paths = sorted(f"{stem(number)}.jpeg" for number in range(count))
        return Listing(images, paths, [])

    def status(photograph: PhotographRef) -> FileStatus:
        number = hash(photograph.path)
        return FileStatus(200_000 + number % 1_800_000, number, str(number))

    def hash_parts(photograph: PhotographRef) -> int:
        return hash(photograph.path)

    with (
        mock.patch.object(drtf_sources, "list_photographs", list_photographs),
        mock.patch.object(PhotographRef, "status", status),
        mock.patch.object(PhotographRef, "hash_parts", hash_parts),
        mock.patch.object(PhotographRef, "read", lambda photograph: b""),
    ):
        yield


if __name__ == "__main__":
    main()

"""Measure the time and memory of the steps of a build, per photograph.

    python benchmarks/build_scale.py 300000 1000000

There are no photographs: their list, their sizes and their converted images are made
up. The label file and the dataset are real; a record has three bytes of image. Each
step of each size runs in a new process.

    python benchmarks/build_scale.py 20000 --copies 50 150

This also measures the steps that need only a dataset, with 50 and 150 times as many
records: links to the same shards.
"""

import argparse
import hashlib
import tempfile
import time
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from drtf.bench.linked import link_copies
from drtf.building import write
from drtf.building.build import _finished_shards
from drtf.building.journal import hold_build
from drtf.building.metadata import save_metadata
from drtf.building.plan import BuildPlan, plan_dataset
from drtf.building.shared_build import SharedBuild
from drtf.building.tasks import save_plan
from drtf.building.write import write_shards
from drtf.config import load_config
from drtf.images.quality import Quality
from drtf.labels import sources
from drtf.labels.sources import Source
from drtf.models.training_photographs import (
    count_training_photographs,
    save_training_photographs,
)
from drtf.photographs.listing import ListedFile, Listing, SkippedFile, make_table
from drtf.photographs.prepare import ShardImage
from drtf.photographs.references import FileStatus, PhotographRef
from drtf.records.reader import ShardDataset
from drtf.records.verify import find_faults
from drtf.texts import TextRows
from drtf.workers import run_in_process

IMAGES = Path("/photographs")
QUALITY = Quality(0.1, 0.2, 0.3, 0.4, is_black=False)


def main() -> None:
    """Print a row of a table for each step and number of photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_photographs", type=int, nargs="+")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--copies", nargs="+", type=int, default=[])
    arguments = parser.parse_args()
    print("| photographs | step | s | us each | peak, MB | B each |")
    print("|---|---|---|---|---|---|", flush=True)
    for count in arguments.num_photographs:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / str(count)
            folder.mkdir()
            run_steps(arguments.steps, folder)
            for copies in arguments.copies:
                larger = Path(parent) / str(copies * count)
                link_copies(folder / "dataset", larger / "dataset", num_copies=copies)
                run_steps(DATASET_STEPS, larger)


def run_steps(steps: Iterable[str], folder: Path) -> None:
    """Measure each step in a new process."""
    for step in steps:
        run_in_process(measure, step, folder)


def measure(step: str, folder: Path) -> None:
    """Run a step, and print how long it takes and its peak memory."""
    count = int(folder.name)
    with made_up_photographs(count):
        before = memory_bytes("VmRSS")
        start = time.perf_counter()
        STEPS[step](folder)
        seconds = time.perf_counter() - start
    peak = memory_bytes("VmHWM") - before
    print(
        f"| {count:,} | {step} | {seconds:.1f} | {1e6 * seconds / count:.1f} "
        f"| {peak / 1e6:,.0f} | {peak / count:,.0f} |",
        flush=True,
    )


def memory_bytes(name: str) -> int:
    """Return a value of this process's memory, such as VmRSS."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def stem(number: int) -> str:
    """Return the name of a photograph: both eyes of each patient."""
    return f"{number // 2}_{('left', 'right')[number % 2]}"


@contextmanager
def made_up_photographs(count: int) -> Iterator[None]:
    """Let drtf find and convert photographs that do not exist."""

    def list_photographs(images: Path | str) -> Listing:
        files = (ListedFile(f"{stem(number)}.jpeg") for number in range(count))
        table = make_table(files).sort_values("path", ignore_index=True)
        return Listing(images, table, [], TextRows(SkippedFile))

    def status(photograph: PhotographRef) -> FileStatus:
        number = zlib.crc32(photograph.path.encode())
        return FileStatus(200_000 + number % 1_800_000, number, str(number))

    def convert(
        plan: BuildPlan, photographs: Iterable[PhotographRef]
    ) -> Generator[ShardImage, None, None]:
        for photograph in photographs:
            sha256 = hashlib.sha256(photograph.path.encode()).hexdigest()
            yield ShardImage(
                path=photograph.path,
                data=bytes(3),
                sha256=sha256,
                has_field=True,
                quality=QUALITY,
            )

    with (
        mock.patch.object(sources, "list_photographs", list_photographs),
        mock.patch.object(PhotographRef, "status", status),
        mock.patch.object(PhotographRef, "hash_parts", lambda x: hash(x.path)),
        mock.patch.object(PhotographRef, "read", lambda x: b""),
        mock.patch.object(write, "convert_photographs", convert),
    ):
        yield


def plan(folder: Path) -> None:
    """Plan a build, and save the plan."""
    labels = folder / "labels.csv"
    with labels.open("w") as file:
        file.write("image,level\n")
        for number in range(int(folder.name)):
            file.write(f"{stem(number)},{number % 7 % 5}\n")
    config = load_config("", ["images.size=32", "build.shard_size_mb=20"])
    found = plan_dataset([Source(IMAGES, labels)], "x", config=config)
    save_plan(found, folder / "x")


def load_plan(folder: Path) -> BuildPlan:
    """Load the plan."""
    saved = SharedBuild.at(folder / "x").load_plan()
    if saved is None:
        raise SystemExit("the first step saves the plan")
    return saved.plan


def replace_plan(folder: Path) -> None:
    """Save a plan over the earlier one, from which a photograph differs."""
    found = load_plan(folder)
    found.table.loc[0, "changed_ns"] = -1
    save_plan(found, folder / "x")


def convert(folder: Path) -> None:
    """Write the shards that are missing."""
    dataset = folder / "dataset"
    dataset.mkdir(exist_ok=True)
    found = load_plan(folder)
    with hold_build(dataset, found):
        write_shards(dataset, found, max_rejected=1)


def describe(folder: Path) -> None:
    """Write the index, the manifest and the other files of the dataset."""
    found = load_plan(folder)
    shards = _finished_shards(folder / "dataset", found)
    save_metadata(folder / "dataset", found, shards)


def verify(folder: Path) -> None:
    """Check the dataset."""
    faults = find_faults(folder / "dataset")
    if faults:
        raise SystemExit(f"{faults[0]}")


def save_hashes(folder: Path) -> None:
    """Save the hashes of the photographs that a run was trained on."""
    with ShardDataset(folder / "dataset") as shards:
        save_training_photographs(folder, shards, validation_split="val")


def count_known(folder: Path) -> None:
    """Count the photographs of the dataset that the run was trained on."""
    with ShardDataset(folder / "dataset") as shards:
        count_training_photographs(folder, shards, "train")


STEPS = {
    "plan and save the plan": plan,
    "load the plan": load_plan,
    "replace the plan": replace_plan,
    "convert": convert,
    "resume": convert,
    "describe": describe,
    "verify": verify,
    "training photographs": save_hashes,
    "in training": count_known,
}
DATASET_STEPS = ("verify", "training photographs", "in training")

if __name__ == "__main__":
    main()

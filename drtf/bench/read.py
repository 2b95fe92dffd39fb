"""What reading batches costs, beside what else a user would pick."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drtf.config import SamplingConfig
from drtf.data.loader import read_batch
from drtf.data.pipeline import BALANCED, count_steps
from drtf.errors import ConfigError, DrtfError
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TaskName

READERS = Path(__file__).parent / "readers"
ROWS_AT_ONCE = 1024
NUM_FORMATS = 6
IMAGES_FILE = "images"
LABELS_FILE = "labels"


class Way(NamedTuple):
    """One way to read.

    Attributes:
        title: as the table shows it.
        script: in `readers`, without its suffix.
        environment: which of the user's environments runs it; empty for drtf's own.
        options: arguments of the script's own.
    """

    title: str
    script: str
    environment: str = ""
    options: Mapping[str, object] = {}


OURS = Way("drtf", "ours", options={"check": True})
RAW_WAYS = (
    OURS,
    Way("drtf without checksums", "ours", options={"check": False}),
    Way("TFRecordDataset, best of 8 settings", "tfrecord"),
    Way("float32 arrays in memory", "arrays"),
    Way("TFDS", "tfds_reader"),
    Way("webdataset", "webdataset_reader", "webdataset"),
    Way("MosaicML streaming", "mosaic_reader", "mosaic"),
    Way("grain, ArrayRecord", "grain_reader", "grain"),
    Way("FFCV, no checksums", "ffcv_reader", "ffcv"),
    Way("drtf's reader without tf.data", "bare"),
    Way("copy in memory", "memory_copy"),
)
ENCODED_WAYS = (OURS, Way("decode alone, on all cores", "decode_alone"))
ENVIRONMENTS = tuple(way.environment for way in RAW_WAYS if way.environment)


def parse_pythons(settings: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=FILE` settings of the environments that run some of the ways.

    Raises:
        ConfigError: if one names no environment, or no file.
    """
    pythons = {}
    for setting in settings:
        name, _, file = setting.partition("=")
        if name not in ENVIRONMENTS or not Path(file).is_file():
            raise ConfigError(
                f"--python takes NAME=FILE, NAME one of {', '.join(ENVIRONMENTS)} and "
                f"FILE an interpreter that is there; got {setting!r}"
            )
        pythons[name] = file
    return pythons


@dataclass
class WayResult:
    """What one way showed.

    Attributes:
        name: its title.
        rates: images a second, in windows of half a second of all repetitions.
        cpu_seconds: a thousand images, a value a repetition; so the next ones.
        rss_anon_mb: anonymous memory of all its processes after its first batches.
        rss_anon_growth_mb: what came to it until the end.
        first_batch_seconds: from opening its files to the first batch.
        positive_share: of the labels in its first batches.
        version: of the library, where it tells one.
        missing: why it could not be run; empty where it could.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    rss_anon_mb: list[float] = field(default_factory=list)
    rss_anon_growth_mb: list[float] = field(default_factory=list)
    first_batch_seconds: list[float] = field(default_factory=list)
    positive_share: list[float] = field(default_factory=list)
    version: str = ""
    missing: str = ""


@dataclass(frozen=True)
class ReadBench:
    """All that one run measured, and of what set."""

    num_records: int
    encoding: str
    size: int
    ways: list[WayResult]


def bench_read(
    shards: Path,
    *,
    work: Path,
    batch_size: int,
    seconds: float,
    num_repeats: int,
    pythons: Mapping[str, str],
) -> ReadBench:
    """Measure each way in a process of its own, all in turn in each repetition.

    Args:
        shards: a set; its train split is read. Raw images are compared with all other
            ways to read; encoded ones with their decoder, which is what costs there.
        work: a folder for raw images in the other ways' formats, as large for each.
        batch_size: images in a batch.
        seconds: to read for, each time.
        num_repeats: repetitions.
        pythons: the interpreters of environments for ways that clash with TensorFlow;
            those not named are tried in this one.

    Raises:
        DrtfError: if drtf's own way fails, or the set is smaller than a batch.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ShardDataset(shards) as shard_set:
        encoding, size = shard_set.manifest.encoding, shard_set.manifest.image_size
        check_batch_size(shard_set, "binary", BALANCED, batch_size)
        num_records = len(shard_set.split_rows("train"))
        if encoding == "raw":
            _check_room(shard_set, work)
            _export(shard_set, work)
    ways = RAW_WAYS if encoding == "raw" else ENCODED_WAYS
    results = [WayResult(way.title) for way in ways]
    with progress("Measuring", num_repeats * len(ways)) as advance:
        for seed in range(num_repeats):
            for way, result in zip(ways, results, strict=True):
                arguments = {
                    "shards": str(shards),
                    "encoding": encoding,
                    "images": str(work / IMAGES_FILE),
                    "labels": str(work / LABELS_FILE),
                    "work": str(work / way.script),
                    "shape": (size, size, 3),
                    "batch_size": batch_size,
                    "seconds": seconds,
                    "seed": seed,
                    **way.options,
                }
                if not result.missing:
                    python = pythons.get(way.environment, sys.executable)
                    _add(result, run_reader(python, way.script, arguments))
                advance(way.title)
    if results[0].missing:
        raise DrtfError(f"drtf's own reader failed: {results[0].missing}")
    return ReadBench(num_records, encoding, size, results)


def check_batch_size(
    shards: ShardDataset, task: TaskName, sampling: SamplingConfig, batch_size: int
) -> None:
    """Find out whether an epoch has a whole batch, as only these are measured.

    Raises:
        DrtfError: if it has none.
    """
    num_images = count_steps(
        shards, split="train", task=task, sampling=sampling, batch_size=1
    )
    if num_images < batch_size:
        raise DrtfError(
            f"an epoch of {shards.folder} has {num_images} photographs, fewer than a "
            f"batch of {batch_size}: choose a smaller one"
        )


def _check_room(shard_set: ShardDataset, work: Path) -> None:
    needed = NUM_FORMATS * shard_set.manifest.size_bytes
    free = shutil.disk_usage(work).free
    if free < needed:
        raise DrtfError(
            f"{work.parent} has {free / 1e9:.1f} GB free; the other ways' formats of "
            f"this set need {needed / 1e9:.1f} GB: set TMPDIR to a larger folder"
        )


def _export(shard_set: ShardDataset, work: Path) -> None:
    """Write the train split as bare arrays, for all others to convert."""
    rows = shard_set.split_rows("train")
    with (work / IMAGES_FILE).open("wb") as file:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chosen = rows[start : start + ROWS_AT_ONCE]
            file.write(read_batch(shard_set, chosen).tobytes())
    (shard_set.grades[rows] > 0).astype(np.int64).tofile(work / LABELS_FILE)


def run_reader(
    python: str, script: str, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Run one way; return what it printed, or why it failed as `missing`."""
    command = [python, str(READERS / f"{script}.py"), json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return {"missing": f"can't start {python}: {error.strerror}"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or ["no word"]
        errors = [line for line in said if re.match(r"\S*(Error|Exception)\b", line)]
        reason = (errors or said)[-1]
        return {"missing": f"{reason} (exit code {done.returncode})"}
    return json.loads(lines[-1])


def _add(result: WayResult, found: dict[str, Any]) -> None:
    result.missing = found.get("missing", "")
    if not result.missing:
        result.rates += found["rates"]
        for name in (
            "cpu_seconds",
            "rss_anon_mb",
            "rss_anon_growth_mb",
            "first_batch_seconds",
            "positive_share",
        ):
            getattr(result, name).append(found[name])
        result.version = found.get("version", "")

"""Measure how fast drtf and other libraries read shuffled, balanced batches."""

import json
import os
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
from drtf.data.sampling import BALANCED
from drtf.data.sampling_groups import group_photographs
from drtf.errors import ConfigError, DrtfError
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TaskName

READERS = Path(__file__).parent / "readers"
# Readers of libraries that drtf does not install. A wheel does not contain them.
CHECKOUT_READERS = Path(__file__).parents[2] / "benchmarks" / "readers"
CHUNK_ROWS = 1024
NUM_FORMATS = 6  # copies of the images that the other readers write
IMAGES_FILE = "images"
LABELS_FILE = "labels"


class ReaderError(DrtfError):
    """A reader's process failed; the message is the last line of its error."""


class Method(NamedTuple):
    """One way to read.

    Attributes:
        title: Its name in the table.
        script: Its file in `READERS` or `CHECKOUT_READERS`, without the suffix.
        library: Name of the library that it requires, which may be in an environment
            of its own. Empty if it requires only drtf's dependencies.
        options: Additional arguments of the script.
    """

    title: str
    script: str
    library: str = ""
    options: Mapping[str, object] = {}

    @property
    def path(self) -> Path:
        """Path of the script."""
        folder = CHECKOUT_READERS if self.library else READERS
        return folder / f"{self.script}.py"


DRTF = Method("drtf", "drtf_reader", options={"verify_checksums": True})
UNVERIFIED = {"verify_checksums": False}
RAW_METHODS = (
    DRTF,
    Method("drtf without checksums", "drtf_reader", options=UNVERIFIED),
    Method("drtf's reader without tf.data", "drtf_records_reader"),
    Method("TFRecordDataset, the best of 8 settings", "tfrecord_reader"),
    Method("float32 arrays in memory", "arrays_reader"),
    Method("TFDS", "tfds_reader", library="tfds"),
    Method("webdataset", "webdataset_reader", library="webdataset"),
    Method("MosaicML streaming", "mosaic_reader", library="mosaic"),
    Method("grain on ArrayRecord", "grain_reader", library="grain"),
    Method("FFCV, which has no checksums", "ffcv_reader", library="ffcv"),
    Method("copying from memory to memory", "memory_copy"),
)
ENCODED_METHODS = (DRTF, Method("decoder only, on all cores", "decode_only"))
LIBRARIES = tuple(method.library for method in RAW_METHODS if method.library)


def parse_pythons(settings: Iterable[str]) -> dict[str, str]:
    """Parse `NAME=FILE` settings: a library and the interpreter that has it installed.

    Raises:
        ConfigError: If a setting has an unknown name or a missing file, or if this is
            not a source checkout.
    """
    pythons = {}
    for setting in settings:
        name, _, file = setting.partition("=")
        if name not in LIBRARIES or not Path(file).is_file():
            raise ConfigError(
                f"--python requires NAME=FILE with NAME one of "
                f"{', '.join(LIBRARIES)} and FILE the path of a Python interpreter "
                f"(got {setting!r})"
            )
        if not CHECKOUT_READERS.is_dir():
            raise ConfigError(
                f"--python {setting} requires a source checkout of drtf, which has the "
                "readers of other libraries in benchmarks/readers"
            )
        pythons[name] = file
    return pythons


@dataclass
class ReadResult:
    """The measurements of one method, with one value per repetition.

    Attributes:
        name: Title of the method.
        rates: Images per second, in windows of half a second of all repetitions.
        cpu_us_per_image: CPU time of all its processes, in microseconds.
        rss_anon_mb: Anonymous memory of all its processes after the first batches.
        rss_anon_growth_mb: Growth of that memory until the end.
        first_batch_seconds: Time from opening the files to the first batch.
        positive_fraction: Fraction of positive labels in the first batches.
        version: Version of the library, if the script reports one.
        failure: Why the method failed; empty if it did not.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    cpu_us_per_image: list[float] = field(default_factory=list)
    rss_anon_mb: list[float] = field(default_factory=list)
    rss_anon_growth_mb: list[float] = field(default_factory=list)
    first_batch_seconds: list[float] = field(default_factory=list)
    positive_fraction: list[float] = field(default_factory=list)
    version: str = ""
    failure: str = ""

    def add(self, measurements: Mapping[str, Any]) -> None:
        """Add one repetition, as `measurement.measure` prints it."""
        self.rates += measurements["rates"]
        self.cpu_us_per_image.append(measurements["cpu_us_per_image"])
        self.rss_anon_mb.append(measurements["rss_anon_mb"])
        self.rss_anon_growth_mb.append(measurements["rss_anon_growth_mb"])
        self.first_batch_seconds.append(measurements["first_batch_seconds"])
        self.positive_fraction.append(measurements["positive_fraction"])
        self.version = measurements["version"]


@dataclass(frozen=True)
class ReadBench:
    """The results for one dataset.

    Attributes:
        num_records: Number of records in its train split.
        encoding: Encoding of its images.
        size: Height and width of its images, in px.
        results: One for each method, drtf first.
        left_out: Titles of the methods that require a source checkout, if this is none.
    """

    num_records: int
    encoding: str
    size: int
    results: list[ReadResult]
    left_out: list[str]


def bench_read(
    shards: Path,
    *,
    work: Path,
    batch_size: int,
    seconds: float,
    num_repeats: int,
    pythons: Mapping[str, str],
) -> ReadBench:
    """Measure each method in a separate process, alternating in each repetition.

    Args:
        shards: A dataset; its train split is read. Raw images are compared with all
            other methods, encoded ones only with their decoder, which is the limit
            there.
        work: Folder for the raw images in the formats of the other methods.
        batch_size: Number of images in a batch.
        seconds: Duration of each measurement.
        num_repeats: Number of repetitions.
        pythons: Python interpreters by name of the library, for libraries that
            conflict with TensorFlow. All others run in this environment.

    Raises:
        DrtfError: If drtf's own reader fails, the dataset is smaller than a batch, or
            the disk has too little space.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ShardDataset(shards) as dataset:
        encoding, size = dataset.manifest.encoding, dataset.manifest.image_size
        check_batch_size(dataset, "binary", BALANCED, batch_size)
        num_records = len(dataset.split_rows("train"))
        if encoding == "raw":
            _check_free_space(dataset, work)
            _export_arrays(dataset, work)
    candidates = RAW_METHODS if encoding == "raw" else ENCODED_METHODS
    methods = [method for method in candidates if method.path.exists()]
    left_out = [method.title for method in candidates if method not in methods]
    results = [ReadResult(method.title) for method in methods]
    with progress("Measuring", num_repeats * len(methods)) as advance:
        for seed in range(num_repeats):
            for method, result in zip(methods, results, strict=True):
                arguments = {
                    "shards": str(shards),
                    "encoding": encoding,
                    "images": str(work / IMAGES_FILE),
                    "labels": str(work / LABELS_FILE),
                    "work": str(work / method.script),
                    "shape": (size, size, 3),
                    "batch_size": batch_size,
                    "seconds": seconds,
                    "seed": seed,
                    **method.options,
                }
                if not result.failure:
                    python = pythons.get(method.library, sys.executable)
                    try:
                        result.add(run_reader(python, method.path, arguments))
                    except ReaderError as error:
                        result.failure = str(error)
                advance(method.title)
    if results[0].failure:
        raise DrtfError(f"drtf's own reader failed: {results[0].failure}")
    return ReadBench(num_records, encoding, size, results, left_out)


def check_batch_size(
    shards: ShardDataset, task: TaskName, sampling: SamplingConfig, batch_size: int
) -> None:
    """Check that an epoch has at least one full batch; only full ones are measured.

    Raises:
        DrtfError: If it has none.
    """
    groups = group_photographs(shards, "train", task=task, sampling=sampling)
    num_images = groups.images_per_epoch
    if num_images < batch_size:
        raise DrtfError(
            f"an epoch of {shards.folder} has {num_images} photographs, fewer than a "
            f"batch of {batch_size}; choose a smaller batch size"
        )


def run_reader(
    python: str, script: Path, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Run the script of a reader, and return the measurements that it prints as JSON.

    Raises:
        ReaderError: If the script fails or prints nothing.
    """
    command = [python, str(script), json.dumps(arguments)]
    # All scripts import `measurement`, those in another folder too.
    paths = [str(READERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
    except OSError as error:
        raise ReaderError(f"cannot start {python}: {error.strerror}") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        output = done.stderr.strip().splitlines() or ["it printed nothing"]
        errors = [line for line in output if re.match(r"\S*(Error|Exception)\b", line)]
        reason = (errors or output)[-1]
        raise ReaderError(f"{reason} (exit code {done.returncode})")
    return json.loads(lines[-1])


def _check_free_space(shards: ShardDataset, work: Path) -> None:
    needed = NUM_FORMATS * shards.manifest.size_bytes
    free = shutil.disk_usage(work).free
    if free < needed:
        raise DrtfError(
            f"{work.parent} has {free / 1e9:.1f} GB free, but this dataset in the "
            f"formats of the other readers needs {needed / 1e9:.1f} GB; set TMPDIR to "
            "a folder on a larger disk"
        )


def _export_arrays(shards: ShardDataset, work: Path) -> None:
    """Write the train split as plain arrays, which the other readers convert."""
    rows = shards.split_rows("train")
    with (work / IMAGES_FILE).open("wb") as file:
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = rows[start : start + CHUNK_ROWS]
            file.write(read_batch(shards, chunk).tobytes())
    (shards.grades[rows] > 0).astype(np.int64).tofile(work / LABELS_FILE)

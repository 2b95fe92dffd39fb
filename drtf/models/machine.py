"""What a machine offers to drtf, and what to do about what it lacks."""

import os
import platform
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tensorflow as tf

from drtf import __version__
from drtf.models.device import can_compile, choose_precision, list_gpus
from drtf.workers import count_cores

# Each under the names that it is distributed by; the last one is what to install.
PACKAGES = (
    ("tensorflow", "tensorflow-cpu", "tf-nightly", "tensorflow"),
    ("keras",),
    ("numpy",),
    ("pandas",),
    ("scikit-learn",),
    ("tf-keras-vis",),
    (
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
        "opencv-python-headless",
    ),
)
ONE_PIXEL = b"P5 1 1 255\n\x07"
LOW_DISK_GB = 10
LOW_MEMORY_GB = 4


@dataclass(frozen=True)
class Fact:
    """One thing found; `advice` is empty where nothing is missing."""

    name: str
    found: str
    advice: str = ""


def machine_facts() -> list[Fact]:
    """Look at versions, GPUs, precision, tensorflow-io, disk and memory."""
    return [
        Fact("drtf", __version__),
        Fact("Python", platform.python_version()),
        *(_find_package(names) for names in PACKAGES),
        *_find_gpus(),
        Fact("precision auto", choose_precision("auto")),
        _find_compiler(),
        _find_tensorflow_io(),
        Fact("CPUs", str(count_cores())),
        _find_memory(),
        _find_disk(),
    ]


def _find_package(names: Sequence[str]) -> Fact:
    for name in names:
        try:
            return Fact(name, version(name))
        except PackageNotFoundError:
            continue
    return Fact(names[0], "not installed", f"pip install {names[-1]}")


def _find_gpus() -> list[Fact]:
    gpus = list_gpus()
    if not gpus:
        return [
            Fact(
                "GPU",
                "none",
                "training runs on the CPU, far slower; if nvidia-smi lists a GPU, "
                "install tensorflow[and-cuda]",
            )
        ]
    return [
        Fact("GPU", f"{name}, compute capability {major}.{minor}")
        for name, (major, minor) in gpus
    ]


def _find_compiler() -> Fact:
    if can_compile():
        return Fact("XLA", "works")
    return Fact(
        "XLA",
        "can't compile",
        "augmentation takes about twice as long; tensorflow[and-cuda] brings what it "
        "needs",
    )


def _find_tensorflow_io() -> Fact:
    name = "tensorflow-io"
    try:
        installed = version(name)
        with warnings.catch_warnings(action="ignore"):
            import tensorflow_io

            tensorflow_io.experimental.image.decode_pnm(ONE_PIXEL)
    except PackageNotFoundError:
        return Fact(name, "not installed", "only s3:// and its like need it")
    except (ImportError, NotImplementedError, tf.errors.OpError):
        # On TensorFlow 2.18 and later the import succeeds and every op fails.
        return Fact(
            name,
            f"{installed}, does not work with TensorFlow {tf.__version__}",
            "s3:// and its like need TensorFlow 2.16 or 2.17; all else works",
        )
    return Fact(name, f"{installed}, works")


def _find_memory() -> Fact:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    free = pages
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    advice = ""
    if free < LOW_MEMORY_GB * 1e9:
        advice = "little: lower build.num_workers, score.num_workers, train.batch_size"
    return Fact("memory", f"{free / 1e9:.1f} of {pages / 1e9:.1f} GB free", advice)


def _find_disk() -> Fact:
    usage = shutil.disk_usage(Path.cwd())
    advice = ""
    if usage.free < LOW_DISK_GB * 1e9:
        advice = "little: EyePACS at 96 px takes 1 GB as shards, at 224 px 5 GB raw"
    text = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
    return Fact("disk here", text, advice)

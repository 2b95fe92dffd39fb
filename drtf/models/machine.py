"""Facts about the machine that matter to drtf, with advice if something is missing."""

import os
import platform
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tensorflow as tf

from drtf import __version__
from drtf.config import load_config
from drtf.models.device import can_compile, choose_precision, list_gpus
from drtf.models.device_checks import check_device, largest_batch, memory_bytes
from drtf.models.network import build_network
from drtf.models.weights import imagenet_problem
from drtf.records.gather import read_frames, read_frames_in_python
from drtf.resources import count_cores

# Each package by the names of its distributions. The last one is to be installed.
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
TENSORFLOW_IO_USE = (
    "to read shards from a store in TensorFlow code without drtf, with TensorFlow 2.16 "
    "or 2.17"
)


@dataclass(frozen=True)
class Fact:
    """One fact about the machine.

    Attributes:
        name: What the fact is about.
        value: What was found.
        advice: What to do; empty if nothing is missing.
        is_problem: Whether drtf does not work without it.
        excluded: What does not work because of it, if drtf works otherwise.
    """

    name: str
    value: str
    advice: str = ""
    is_problem: bool = False
    excluded: str = ""


def machine_facts() -> list[Fact]:
    """Return facts about versions, GPUs, precision, tensorflow-io, disk and memory."""
    return [
        Fact("drtf", __version__),
        Fact("Python", platform.python_version()),
        *(_package_fact(names) for names in PACKAGES),
        *_gpu_facts(),
        Fact("precision auto", choose_precision("auto")),
        _compiler_fact(),
        _tensorflow_io_fact(),
        _reader_fact(),
        _dicom_fact(),
        Fact("CPUs", str(count_cores())),
        _memory_fact(),
        _disk_fact(),
        _weights_fact(),
    ]


def verdict(facts: Sequence[Fact]) -> str:
    """Return in one sentence whether drtf works on a machine."""
    problems = [fact.name for fact in facts if fact.is_problem]
    if problems:
        return f"drtf does not work here yet: see {', '.join(problems)}"
    excluded = [fact.excluded for fact in facts if fact.excluded]
    if excluded:
        return f"drtf works here, except for {' and '.join(excluded)}"
    return "drtf works here"


def _reader_fact() -> Fact:
    name = "compiled reader"
    if read_frames is not read_frames_in_python:
        return Fact(name, "used")
    return Fact(
        name,
        "not used",
        "reading shards takes three to four times as long; install a C compiler (gcc) "
        "and install drtf again",
    )


def _dicom_fact() -> Fact:
    name = "pydicom"
    try:
        return Fact(name, version(name))
    except PackageNotFoundError:
        return Fact(
            name,
            "not installed",
            "it is required only for DICOM photographs: pip install 'drtf[dicom]'",
        )


def _package_fact(names: Sequence[str]) -> Fact:
    for name in names:
        try:
            return Fact(name, version(name))
        except PackageNotFoundError:
            continue
    return Fact(names[0], "not installed", f"pip install {names[-1]}", is_problem=True)


def _gpu_facts() -> list[Fact]:
    gpus = list_gpus()
    if not gpus:
        return [
            Fact(
                "GPU",
                "none",
                "training runs on the CPU, which is much slower; if nvidia-smi lists "
                "a GPU, install tensorflow[and-cuda]",
            )
        ]
    precision = choose_precision("auto")
    facts = []
    for number, (name, (major, minor)) in enumerate(gpus):
        device = f"GPU:{number}"
        num_bytes = memory_bytes(device)
        facts += [
            Fact("GPU", f"{name}, compute capability {major}.{minor}"),
            Fact("its memory", f"{num_bytes / 1e9:.1f} GB"),
            *_check_facts(check_device(device)),
            Fact(
                "its largest batch",
                f"about {_describe_batches(num_bytes, precision)} (estimated)",
            ),
        ]
    return facts


def _check_facts(errors: Mapping[str, str]) -> list[Fact]:
    """Return one fact for all computations that work, and one for each that fails."""
    working = [name for name, error in errors.items() if not error]
    return [
        Fact("it computes", ", ".join(working) or "nothing"),
        *(
            Fact(
                f"it fails at {name}",
                error,
                _check_advice(name),
                is_problem=name.endswith("float32"),
            )
            for name, error in errors.items()
            if error
        ),
    ]


def _check_advice(name: str) -> str:
    """Return the advice if a GPU fails at a computation."""
    if name.endswith("float16"):  # bfloat16 too
        return "set train.precision to one that works here, such as float32"
    if name.startswith(("XLA", "sending")):
        return "training is slower without it; install tensorflow[and-cuda]"
    return "reinstall tensorflow[and-cuda], or hide the GPU: CUDA_VISIBLE_DEVICES=''"


def _describe_batches(num_bytes: int, precision: str) -> str:
    """Return the largest batch of each recommended preset."""
    parts = []
    for preset in ("mobilenetv2-96", "mobilenetv2-224"):
        config = load_config(preset)
        network = build_network(
            config.model, image_size=config.images.size, load_weights=False
        )
        num_images = largest_batch(network, precision=precision, num_bytes=num_bytes)
        parts.append(f"{num_images:,} images for {preset}")
    return ", ".join(parts)


def _compiler_fact() -> Fact:
    if can_compile():
        return Fact("XLA", "works")
    return Fact(
        "XLA",
        "cannot compile",
        "augmentation takes about twice as long; install tensorflow[and-cuda]",
    )


def _tensorflow_io_fact() -> Fact:
    name = "tensorflow-io"
    try:
        installed = version(name)
        with warnings.catch_warnings(action="ignore"):
            import tensorflow_io

            tensorflow_io.experimental.image.decode_pnm(ONE_PIXEL)
    except PackageNotFoundError:
        return Fact(
            name,
            "not installed",
            f"it is required only {TENSORFLOW_IO_USE}: "
            "pip install tensorflow-io==0.37.1",
        )
    except (ImportError, NotImplementedError, tf.errors.OpError):
        # On TensorFlow 2.18 and later the import succeeds and every op fails.
        return Fact(
            name,
            f"{installed}, does not work with TensorFlow {tf.__version__}",
            f"it is required only {TENSORFLOW_IO_USE}",
        )
    return Fact(name, f"{installed}, works")


def _memory_fact() -> Fact:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    free = pages
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    advice = ""
    if free < LOW_MEMORY_GB * 1e9:
        advice = (
            "memory is low: lower build.num_workers, score.num_workers or "
            "train.batch_size"
        )
    return Fact("memory", f"{free / 1e9:.1f} of {pages / 1e9:.1f} GB free", advice)


def _weights_fact() -> Fact:
    config = load_config("mobilenetv2-96")  # mobilenetv2-224 has the same weights
    problem = imagenet_problem(config.model, image_size=config.images.size)
    if not problem:
        return Fact("ImageNet weights", "available")
    excluded = "training from ImageNet weights"
    return Fact("ImageNet weights", "unavailable", problem, excluded=excluded)


def _disk_fact() -> Fact:
    usage = shutil.disk_usage(Path.cwd())
    advice = ""
    if usage.free < LOW_DISK_GB * 1e9:
        advice = (
            "disk space is low: EyePACS as shards takes 1 GB at 96 px, and 5 GB at "
            "224 px raw"
        )
    text = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
    return Fact("disk here", text, advice)

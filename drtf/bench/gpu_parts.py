"""The measurements that depend on the GPU."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import cv2

from drtf.bench.sample_dataset import Sample, build_sample_dataset
from drtf.config import Config, load_config
from drtf.errors import DrtfError

# Precisions, and whether XLA compiles the step. It is quick to measure without XLA.
KINDS = (
    ("mixed_bfloat16", True),
    ("mixed_bfloat16", False),
    ("float32", False),
    ("mixed_float16", False),
    ("float32", True),
    ("mixed_float16", True),
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large the measurements are.

    Attributes:
        samples: The datasets to stream, each with the preset of its network.
        settings: Changes of these presets.
        widths: Settings of the width of the network.
        batch_sizes: Images per step; the first one is used where only one is measured.
        seconds: Duration of one measurement.
        demo_patients: Patients of the synthetic photographs that are trained on.
        demo_settings: Changes of the preset `demo`.
        photograph_width: Width in px of the photographs that are scored.
        num_photographs: How many are scored.
        score_batch_size: `score.batch_size`.
    """

    samples: tuple[tuple[str, Sample], ...] = (
        ("mobilenetv2-96", Sample(8192, 96, "raw")),
        ("mobilenetv2-224", Sample(4096, 224, "jpeg")),
    )
    settings: tuple[str, ...] = ("model.weights=none",)
    widths: tuple[str, ...] = ("model.alpha=1.0", "model.alpha=0.35")
    batch_sizes: tuple[int, ...] = (256, 64, 1024)
    seconds: float = 2.0
    demo_patients: int = 400
    demo_settings: tuple[str, ...] = ()
    photograph_width: int = 3888
    num_photographs: int = 2048
    score_batch_size: int = 64


FULL = Scale()
QUICK = Scale(
    samples=(
        ("eyenet-256", Sample(64, 32, "raw")),
        ("eyenet-256", Sample(64, 32, "jpeg")),
    ),
    settings=(),
    widths=("model.weights=none",),
    batch_sizes=(8, 4),
    seconds=0.1,
    demo_patients=20,
    demo_settings=("images.size=32", "train.epochs=1"),
    photograph_width=200,
    num_photographs=64,
    score_batch_size=8,
)


@dataclass(frozen=True)
class Part:
    """A part of the measurements, which runs in a separate process.

    Attributes:
        name: A word for it.
        title: The title of its table.
        seconds: Its time limit, if all parts have the usual one.
        measure: Takes the folder with the data and the scale, and yields rows.
    """

    name: str
    title: str
    seconds: float
    measure: Callable[[Path, Scale], Iterator[Row]]


def _checks(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield the device, and whether each of doctor's computations works on it."""
    from drtf.models.device import (
        choose_compiler,
        choose_precision,
        list_gpus,
        training_versions,
    )
    from drtf.models.device_checks import check_device

    device = "GPU:0" if list_gpus() else "CPU:0"
    for name, version in training_versions().items():
        yield {"what": name, "result": version}
    yield {"what": "precision auto", "result": choose_precision("auto")}
    compiled = choose_compiler("auto", num_devices=1)
    yield {"what": "jit_compile auto", "result": str(compiled)}
    for name, error in check_device(device).items():
        yield {"what": name, "result": error or "works"}


def _datasets(work: Path, scale: Scale) -> Iterator[Row]:
    """Build the datasets that later parts stream."""
    for _, sample in scale.samples:
        start = time.monotonic()
        build_sample_dataset(_sample_folder(work, sample), sample)
        yield {
            "images": f"{sample.size} px {sample.encoding}",
            "number": sample.num_records,
            "s": time.monotonic() - start,
        }


def _sample_folder(work: Path, sample: Sample) -> Path:
    return work / f"{sample.encoding}-{sample.size}"


def _precisions(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield each precision, with and without XLA."""
    for precision, compiled in KINDS:
        yield _train_row(
            work,
            scale,
            *scale.samples[0],
            precision=precision,
            jit_compile=compiled,
        )


def _grid(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield each batch size, sample and width, with the precision that is chosen."""
    from drtf.models.device import choose_compiler, choose_precision

    for batch_size, width, (preset, sample) in product(
        scale.batch_sizes, scale.widths, scale.samples
    ):
        yield _train_row(
            work,
            scale,
            preset,
            sample,
            precision=choose_precision("auto"),
            jit_compile=choose_compiler("auto", num_devices=1),
            width=width,
            batch_size=batch_size,
        )


def _deterministic(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield the chosen precision with deterministic operations."""
    import keras
    import tensorflow as tf

    from drtf.models.device import choose_compiler, choose_precision

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    yield _train_row(
        work,
        scale,
        *scale.samples[0],
        precision=choose_precision("auto"),
        jit_compile=choose_compiler("auto", num_devices=1),
    )


def _train_row(
    work: Path,
    scale: Scale,
    preset: str,
    sample: Sample,
    *,
    precision: str,
    jit_compile: bool,
    width: str = "",
    batch_size: int = 0,
) -> Row:
    """Measure the training step; by default, with the first width and batch size."""
    import tensorflow as tf

    from drtf.bench.train import bench_train
    from drtf.models.device import choose_compiler, choose_precision, list_gpus

    width = width or scale.widths[0]
    size = batch_size or scale.batch_sizes[0]
    changes = (f"images.size={sample.size}", f"train.batch_size={size}", width)
    config = load_config(preset, [*scale.settings, *changes])
    if list_gpus():
        tf.config.experimental.reset_memory_stats("GPU:0")
    (result,) = bench_train(
        _sample_folder(work, sample) / "shards",
        sampling=config.sampling,
        augment=config.augment,
        model=config.model,
        train=config.train,
        precisions=[precision],
        compilers=[jit_compile],
        seconds=scale.seconds,
        num_repeats=1,
    )
    row: Row = {
        "images": f"{sample.size} px {sample.encoding}",
        "width": width,
        "batch": size,
        "precision": precision,
        "XLA": jit_compile,
        "is auto": precision == choose_precision("auto")
        and jit_compile == choose_compiler("auto", num_devices=1),
    }
    if result.failure:
        return row | {"failure": result.failure}
    row |= {
        "training, images/s": size * median(result.streamed),
        "streamed / resident": median(result.streamed) / median(result.resident),
        "waiting for input": median(result.input_wait_fraction),
        "forward, images/s": size * median(result.forward),
        "augmentation / step": median(result.augment_fraction),
        "first step, s": result.first_step_seconds,
        "process peak, MB": getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    if list_gpus():
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        row["GPU memory, MB"] = peak / 1e6
    return row


def _augmentation(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield drtf's augmentation and Keras's layers."""
    from drtf.bench.augment import bench_augment

    for _, sample in scale.samples:
        results = bench_augment(
            image_size=sample.size,
            batch_size=scale.batch_sizes[0],
            dtype="float32",
            num_repeats=10,
        )
        times = [median(x.ms) if x.ms else None for x in results]
        for result, ms in zip(results, times, strict=True):
            yield {
                "images": f"{scale.batch_sizes[0]} of {sample.size} px",
                "method": result.name,
                "ms": ms or result.failure,
                "relative to drtf": ms / times[0] if ms and times[0] else "",
            }


def _training(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield a whole training on synthetic photographs, and its evaluation."""
    from drtf.building.build import build_shards
    from drtf.evaluation.evaluation import evaluate
    from drtf.intervals import format_estimate
    from drtf.labels.sources import Source
    from drtf.models.history import load_history
    from drtf.synthetic import write_photographs
    from drtf.training.run import train

    config = load_config("demo", scale.demo_settings)
    folder, shards = work / "synthetic", work / "synthetic-shards"
    labels = write_photographs(folder, num_patients=scale.demo_patients, seed=0)
    build_shards([Source(folder / "images", labels)], shards, config=config)
    info = train(shards, out=work / "run", config=config)
    last = load_history(work / "run")[-1]
    row = {
        "preset": "demo",
        "precision": info.precision,
        "epochs": info.num_epochs,
        "seconds of steps": info.seconds,
        "seconds of the last epoch": last["seconds"],
        "waiting for input": last["input_wait_fraction"],
        "process peak, MB": info.peak_memory_mb,
    }
    result = evaluate(
        work / "run",
        shards,
        split="test",
        out=work / "evaluation",
        config=config.evaluate,
        gradcam=config.gradcam,
    )
    yield row | {"ROC AUC": format_estimate(result.metrics["roc_auc"])}


def _scoring(work: Path, scale: Scale) -> Iterator[Row]:
    """Yield the rates of scoring large photographs, and of its two halves."""
    from drtf.bench.score import bench_score

    run = work / "run"
    if not (run / "run.json").exists():
        raise DrtfError("scoring requires the run of the part 'training'")
    images = work / "large"
    images.mkdir(exist_ok=True)
    for path in sorted((work / "synthetic" / "images").iterdir())[:32]:
        image = cv2.imread(str(path))
        factor = scale.photograph_width / image.shape[1]
        large = cv2.resize(image, None, fx=factor, fy=factor)
        cv2.imwrite(str(images / path.name), large)
    config = Config().score
    config = config.model_copy(update={"batch_size": scale.score_batch_size})
    rates = bench_score(
        run,
        images,
        config=config,
        num_photographs=scale.num_photographs,
        num_repeats=1,
    )
    (preparing,), (predicting,), (scoring,) = (
        rates.preparing,
        rates.predicting,
        rates.scoring,
    )
    yield {
        "photographs": f"{rates.num_photographs} of {scale.photograph_width} px",
        "only preparing, per s": preparing,
        "only predicting, per s": predicting,
        "scoring, per s": scoring,
        "scoring / slower half": scoring / min(preparing, predicting),
    }


# The most telling first, since the time may end before the last one.
PARTS = (
    Part("checks", "The device", 60, _checks),
    Part("datasets", "Building the datasets", 90, _datasets),
    Part("precisions", "Training and forward pass by precision", 210, _precisions),
    Part("training", "A whole training on synthetic photographs", 150, _training),
    Part("scoring", "Scoring large photographs", 60, _scoring),
    Part("augmentation", "Augmentation", 45, _augmentation),
    Part("deterministic", "With train.deterministic=true", 70, _deterministic),
    Part("grid", "Training by size, width and batch", 480, _grid),
)

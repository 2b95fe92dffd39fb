"""Measure how long converting a photograph takes, compared with alternatives."""

import functools
import hashlib
import itertools
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from drtf.config import BuildConfig, ImagesConfig
from drtf.errors import DrtfError, PhotographError
from drtf.images.decode import JPEG_FLAGS, decode_photograph
from drtf.images.preprocess import (
    OVERSAMPLING,
    equalize_lightness,
    limit_threads,
    preprocess_photograph,
)
from drtf.images.retina import build_thumbnail, crop, find_field, square_around
from drtf.photographs.listing import list_photographs
from drtf.photographs.prepare import prepare_for_shard
from drtf.photographs.references import PhotographRef
from drtf.progress import progress
from drtf.workers import MAX_PENDING_PER_WORKER, count_workers, map_in_order

NUM_CONVERTED = 300  # by each pool of workers
JPEG_MAGIC = b"\xff\xd8"


class Sample(NamedTuple):
    """A JPEG file, and OpenCV's flag for the scale at which drtf decodes it."""

    data: bytes
    flag: int


Method = Callable[[Sample], object]


@dataclass(frozen=True)
class MethodResult:
    """The measurements of one way to convert photographs.

    Attributes:
        name: Name of the method.
        cpu_ms: CPU time per photograph in ms, one value per repetition.
        psnr_db: PSNR of each image, compared with CLAHE at full size and area resize.
            Empty if the method does not make such an image.
    """

    name: str
    cpu_ms: list[float]
    psnr_db: list[float]


@dataclass(frozen=True)
class PoolResult:
    """The measurements of one number of worker processes.

    Attributes:
        num_workers: Number of processes; 1 means the calling process.
        images_per_second: Photographs per second, one value per repetition.
        peak_worker_mb: Peak memory of a worker; 0 if the calling process converts.
    """

    num_workers: int
    images_per_second: list[float]
    peak_worker_mb: float


@dataclass(frozen=True)
class ConvertBench:
    """The results of all methods and pools, for the same photographs."""

    num_photographs: int
    methods: list[MethodResult]
    pools: list[PoolResult]


def bench_convert(
    images: Path | str, *, config: ImagesConfig, limit: int, num_repeats: int
) -> ConvertBench:
    """Measure how long conversion takes; each repetition measures all methods in turn.

    Args:
        images: Folder of photographs, or a CSV of paths. JPEG files are measured.
        config: How to convert them; `contrast` must be "clahe".
        limit: Largest number of photographs, spread evenly over all.
        num_repeats: Number of repetitions.

    Raises:
        LabelError: If there are no photographs.
        DrtfError: If none of them is a usable JPEG file, or if the config does not use
            CLAHE.
    """
    limit_threads()
    if config.contrast != "clahe":
        raise DrtfError(
            f"this benchmark requires images.contrast='clahe' (got {config.contrast!r})"
        )
    config = config.model_copy(update={"mask": False, "reject_blank": False})
    photographs, samples = _load_samples(images, config=config, limit=limit)
    methods = _build_methods(config)
    scaled = config.model_copy(update={"decode": "scaled"})
    pools = sorted({1, 2, count_workers(0)})
    cpu_ms: dict[str, list[float]] = {name: [] for name in methods}
    rates: dict[int, list[float]] = {num_workers: [] for num_workers in pools}
    num_steps = num_repeats * (len(methods) + len(pools))
    with progress("Measuring", num_steps) as advance:
        for _ in range(num_repeats):
            for name, method in methods.items():
                method(samples[0])  # frees the memory of the previous method
                start = time.process_time()
                for sample in samples:
                    method(sample)
                seconds = time.process_time() - start
                cpu_ms[name].append(1000 * seconds / len(samples))
                advance(name)
            for num_workers in pools:
                rates[num_workers].append(
                    _measure_pool(photographs, scaled, num_workers)
                )
                advance(f"workers: {num_workers}")
    # The peak of the largest child process; all of them are workers.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    references = [_equalize_full_size(x.data, config, cv2.INTER_AREA) for x in samples]
    return ConvertBench(
        len(samples),
        [
            MethodResult(name, cpu_ms[name], _compare(map(method, samples), references))
            for name, method in methods.items()
        ],
        [PoolResult(x, rates[x], peak if x > 1 else 0.0) for x in pools],
    )


def _load_samples(
    images: Path | str, *, config: ImagesConfig, limit: int
) -> tuple[list[PhotographRef], list[Sample]]:
    """Return usable JPEG photographs, spread evenly over all, and their bytes."""
    listed = list_photographs(images).photographs
    count = len(listed)
    photographs, samples = [], []
    for index in np.linspace(0, count - 1, min(limit, count)).astype(int):
        photograph = listed[index]
        try:
            data = photograph.read()
            scale = decode_photograph(data, min_side=config.size * OVERSAMPLING).scale
        except PhotographError:
            continue
        if data.startswith(JPEG_MAGIC):
            photographs.append(photograph)
            samples.append(Sample(data, JPEG_FLAGS[scale]))
    if not samples:
        raise DrtfError(
            f"{images} contains no usable JPEG file; this benchmark requires some"
        )
    return photographs, samples


def _build_methods(config: ImagesConfig) -> dict[str, Method]:
    """Return the methods to compare, by name."""

    def drtf(sample: Sample, decode: str) -> np.ndarray:
        hashlib.sha256(sample.data).hexdigest()  # as a build does
        changed = config.model_copy(update={"decode": decode})
        return preprocess_photograph(sample.data, changed).image

    def full_size(sample: Sample, interpolation: int) -> np.ndarray:
        return _equalize_full_size(sample.data, config, interpolation)

    return {
        "decoding only, scaled": _decode_only,
        "drtf, scaled": functools.partial(drtf, decode="scaled"),
        "drtf, exact": functools.partial(drtf, decode="exact"),
        "CLAHE at full size, bilinear resize": functools.partial(
            full_size, interpolation=cv2.INTER_LINEAR
        ),
        "CLAHE at full size, area resize": functools.partial(
            full_size, interpolation=cv2.INTER_AREA
        ),
    }


def _decode_only(sample: Sample) -> None:
    cv2.imdecode(np.frombuffer(sample.data, np.uint8), sample.flag)


def _equalize_full_size(
    data: bytes, config: ImagesConfig, interpolation: int
) -> np.ndarray:
    """Crop, apply CLAHE and resize at full size, as most scripts do."""
    image = decode_photograph(data).image
    if config.crop == "retina":
        # The same square that drtf crops, so that the images can be compared.
        scaled, scale = decode_photograph(data, min_side=config.size * OVERSAMPLING)
        field = find_field(build_thumbnail(scaled))
        if field is not None:
            frame = square_around(field, scaled.shape, scale=scale)
            image = crop(image, frame, scale=1)
    lightness, a, b = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    lightness = equalize_lightness(
        lightness, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles
    )
    image = cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB)
    return cv2.resize(image, (config.size, config.size), interpolation=interpolation)


def _compare(images: Iterable[object], references: list[np.ndarray]) -> list[float]:
    """Return the PSNR of each image, in dB."""
    return [
        float(cv2.PSNR(image, reference))
        for image, reference in zip(images, references, strict=True)
        if isinstance(image, np.ndarray)
    ]


def _measure_pool(
    photographs: list[PhotographRef], config: ImagesConfig, num_workers: int
) -> float:
    """Return photographs per second of a pool whose workers have started."""
    num_warmup = MAX_PENDING_PER_WORKER * num_workers
    results = map_in_order(
        functools.partial(prepare_for_shard, images=config, build=BuildConfig()),
        itertools.islice(itertools.cycle(photographs), num_warmup + NUM_CONVERTED),
        num_workers=num_workers,
        initializer=limit_threads,
    )
    for _ in itertools.islice(results, num_warmup):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - start)

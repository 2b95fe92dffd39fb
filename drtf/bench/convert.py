"""What converting a photograph costs, beside its bare decode and the usual way."""

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
from drtf.data.photographs import PhotographRef, list_photographs
from drtf.data.prepare import prepare_for_shard
from drtf.errors import DrtfError, PhotographError
from drtf.images.decode import JPEG_FLAGS, decode_photograph
from drtf.images.preprocess import (
    OVERSAMPLING,
    equalize_lightness,
    limit_threads,
    preprocess_photograph,
)
from drtf.images.retina import build_thumbnail, crop, find_field, square_around
from drtf.progress import progress
from drtf.workers import MAX_PENDING_PER_WORKER, count_workers, map_in_order

NUM_CONVERTED = 300
JPEG_MARK = b"\xff\xd8"


class Sample(NamedTuple):
    """A JPEG file, and OpenCV's flag for the scale that drtf decodes it at."""

    data: bytes
    flag: int


Method = Callable[[Sample], object]


@dataclass(frozen=True)
class MethodResult:
    """What one way to convert costs, and how close its picture is.

    Attributes:
        name: of the way.
        cpu_ms: CPU time a photograph in ms, a value a repetition.
        psnr_db: of each picture against full-size CLAHE and area resize; empty where
            the way makes no such picture.
    """

    name: str
    cpu_ms: list[float]
    psnr_db: list[float]


@dataclass(frozen=True)
class PoolResult:
    """What a pool of workers reaches.

    Attributes:
        num_workers: processes.
        per_second: photographs a second, a value a repetition.
        worker_peak_mb: the most memory that a worker held; 0 where it was this process.
    """

    num_workers: int
    per_second: list[float]
    worker_peak_mb: float


@dataclass(frozen=True)
class ConvertBench:
    """All that one run measured."""

    num_photographs: int
    methods: list[MethodResult]
    pools: list[PoolResult]


def bench_convert(
    images: Path | str, *, config: ImagesConfig, limit: int, num_repeats: int
) -> ConvertBench:
    """Measure conversion, all ways in turn in each repetition.

    Args:
        images: the photographs.
        config: the `images` section.
        limit: how many photographs at most, spread evenly over all.
        num_repeats: repetitions.

    Raises:
        LabelError: if there are no photographs.
        DrtfError: if none of them is a JPEG that can be used.
    """
    limit_threads()
    photographs = list_photographs(images)
    if config.contrast != "clahe":
        raise DrtfError(f"the bench compares CLAHE; images.contrast={config.contrast}")
    count = len(photographs)
    chosen = np.linspace(0, count - 1, min(limit, count)).astype(int)
    config = config.model_copy(update={"mask": False, "reject_blank": False})
    usable, samples = [], []
    for photograph in (photographs[number] for number in chosen):
        try:
            data = photograph.read()
            scale = decode_photograph(data, min_side=config.size * OVERSAMPLING).scale
        except PhotographError:
            continue
        if data.startswith(JPEG_MARK):
            usable.append(photograph)
            samples.append(Sample(data, JPEG_FLAGS[scale]))
    if not samples:
        raise DrtfError(f"no JPEG in {images} that can be used: the bench needs some")
    methods = _find_methods(config)
    scaled = config.model_copy(update={"decode": "scaled"})
    pools = sorted({1, 2, count_workers(0)})
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    rates: dict[int, list[float]] = {count: [] for count in pools}
    num_steps = num_repeats * (len(methods) + len(pools))
    with progress("Measuring", num_steps) as advance:
        for _ in range(num_repeats):
            for name, method in methods.items():
                method(samples[0])  # not counted: the last way's memory is given back
                start = time.process_time()
                for sample in samples:
                    method(sample)
                seconds[name].append((time.process_time() - start) / len(samples))
                advance(name)
            for workers in pools:
                rates[workers].append(_measure_pool(usable, scaled, workers))
                advance(f"{workers} workers")
    # The largest child that was waited for: they are all workers.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    references = [_equalize_whole(x.data, config, cv2.INTER_AREA) for x in samples]
    return ConvertBench(
        len(samples),
        [
            MethodResult(
                name,
                [1000 * value for value in seconds[name]],
                _compare(map(method, samples), references),
            )
            for name, method in methods.items()
        ],
        [PoolResult(x, rates[x], peak if x > 1 else 0.0) for x in pools],
    )


def _find_methods(config: ImagesConfig) -> dict[str, Method]:
    def ours(sample: Sample, decode: str) -> np.ndarray:
        hashlib.sha256(sample.data).hexdigest()
        changed = config.model_copy(update={"decode": decode})
        return preprocess_photograph(sample.data, changed).image

    def whole(sample: Sample, interpolation: int) -> np.ndarray:
        return _equalize_whole(sample.data, config, interpolation)

    return {
        "scaled decode alone": _decode_alone,
        "drtf, scaled": functools.partial(ours, decode="scaled"),
        "drtf, exact": functools.partial(ours, decode="exact"),
        "CLAHE at full size, bilinear": functools.partial(
            whole, interpolation=cv2.INTER_LINEAR
        ),
        "CLAHE at full size, area": functools.partial(
            whole, interpolation=cv2.INTER_AREA
        ),
    }


def _decode_alone(sample: Sample) -> None:
    cv2.imdecode(np.frombuffer(sample.data, np.uint8), sample.flag)


def _equalize_whole(
    data: bytes, config: ImagesConfig, interpolation: int
) -> np.ndarray:
    """Do it all at full size, as most scripts do."""
    image = decode_photograph(data).image
    if config.crop == "retina":
        # The field as drtf finds it, so that the same square is compared.
        image_scaled, scale = decode_photograph(
            data, min_side=config.size * OVERSAMPLING
        )
        field = find_field(build_thumbnail(image_scaled).brightness)
        if field is not None:
            frame = square_around(field, image_scaled.shape, scale=scale)
            image = crop(image, frame, scale=1)
    lightness, a, b = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    lightness = equalize_lightness(
        lightness, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles
    )
    image = cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB)
    return cv2.resize(image, (config.size, config.size), interpolation=interpolation)


def _compare(images: Iterable[object], references: list[np.ndarray]) -> list[float]:
    return [
        float(cv2.PSNR(image, reference))
        for image, reference in zip(images, references, strict=True)
        if isinstance(image, np.ndarray)
    ]


def _measure_pool(
    photographs: list[PhotographRef], config: ImagesConfig, num_workers: int
) -> float:
    """Return photographs a second of a pool that runs warm."""
    warm = MAX_PENDING_PER_WORKER * num_workers
    results = map_in_order(
        functools.partial(prepare_for_shard, images=config, build=BuildConfig()),
        itertools.islice(itertools.cycle(photographs), warm + NUM_CONVERTED),
        num_workers=num_workers,
        initializer=limit_threads,
    )
    for _ in itertools.islice(results, warm):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - start)

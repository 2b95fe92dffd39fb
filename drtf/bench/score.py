"""Measure scoring, compared with only preparing and only predicting."""

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from drtf.config import ScoreConfig
from drtf.errors import DrtfError
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.models.views import photographs_per_batch
from drtf.photographs.listing import list_photographs
from drtf.progress import progress
from drtf.scoring.photograph_scores import prepare_photographs, score_photographs

MIN_BATCHES = 4


@dataclass(frozen=True)
class ScoreRates:
    """Photographs per second, with one value per repetition.

    Attributes:
        num_photographs: Number of photographs in each measurement.
        views: Views of each photograph, the run's test-time augmentation.
        preparing: Only decoding and preprocessing, on all cores.
        predicting: Only predicting, from batches that are already in memory.
        scoring: Both at once, as `drtf score` does it.
    """

    num_photographs: int
    views: str
    preparing: list[float]
    predicting: list[float]
    scoring: list[float]


def bench_score(
    run_folder: Path,
    images: Path | str,
    *,
    config: ScoreConfig,
    num_photographs: int,
    num_repeats: int,
    apart: bool = False,
) -> ScoreRates:
    """Measure preparing, predicting and scoring, in turn in each repetition.

    Args:
        run_folder: Folder of a run, made by `train`.
        images: Folder of photographs, or a CSV of paths. If there are fewer than
            `num_photographs`, they are repeated.
        config: The `score` section.
        num_photographs: Number of photographs in each measurement, at least four
            batches.
        num_repeats: Number of repetitions.
        apart: Whether to predict on half of the cores and do everything else on the
            other half, as on a machine with a GPU.

    Raises:
        DrtfError: If there are fewer than four batches, or if `apart` is set and there
            is only one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if apart and len(cores) == 1:
        raise DrtfError("--apart requires at least two cores; leave it out")
    half = len(cores) // 2 if apart else 0
    # TensorFlow's threads stay on the cores on which they start.
    with _pin_to_cores(cores[half:]):
        run = load_run(run_folder)
    batch_size = photographs_per_batch(config.batch_size, run.tta)
    if num_photographs < MIN_BATCHES * batch_size:
        raise DrtfError(
            f"{num_photographs} photographs are fewer than {MIN_BATCHES} batches of "
            f"{batch_size}; measure more photographs, or set score.batch_size"
        )
    listed = list_photographs(images).photographs
    photographs = list(itertools.islice(itertools.cycle(listed), num_photographs))
    rates: dict[str, list[float]] = {"preparing": [], "predicting": [], "scoring": []}
    with (
        _pin_to_cores(cores[:half] or cores),
        progress("Measuring", 3 * num_repeats) as advance,
    ):
        for _ in range(num_repeats):
            prepared = prepare_photographs(
                run, photographs, num_workers=config.num_workers
            )
            rates["preparing"].append(_rate(prepared, skip=num_photographs // 2))
            advance("preparing")
            rates["predicting"].append(
                _predicting_rate(run, batch_size, num_photographs)
            )
            advance("predicting")
            scored = score_photographs(run, photographs, config=config)
            rates["scoring"].append(_rate(scored, skip=num_photographs // 2))
            advance("scoring")
    return ScoreRates(num_photographs, run.tta, **rates)


@contextmanager
def _pin_to_cores(cores: Sequence[int]) -> Iterator[None]:
    """Run this thread, and all threads and processes that it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _rate(results: Iterable[object], *, skip: int) -> float:
    """Consume results, and return how many per second came after the first `skip`.

    The first ones are slow while the workers start, and then fast, because the workers
    got ahead while the network was compiled.
    """
    remaining = iter(results)
    for _ in itertools.islice(remaining, skip):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in remaining)
    return count / (time.perf_counter() - start)


def _predicting_rate(run: Run, batch_size: int, count: int) -> float:
    """Return photographs per second of the network, with batches of zeros."""
    size = run.info.image_size
    pixels = np.zeros((batch_size, size, size, 3), np.uint8)
    predict = build_predictor(run.network, run.tta)
    predict(tf.constant(pixels)).numpy()
    start = time.perf_counter()
    for _ in range(count // batch_size):
        predict(tf.constant(pixels)).numpy()
    return count // batch_size * batch_size / (time.perf_counter() - start)

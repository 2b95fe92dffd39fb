"""What scoring costs, beside its two halves alone: preparing and predicting."""

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from drtf.config import Config
from drtf.data.photographs import list_photographs
from drtf.errors import DrtfError
from drtf.inference.scoring import prepare_photographs, score_photographs
from drtf.models.prediction import build_predictor, fit_batch
from drtf.models.run import Run, load_run
from drtf.progress import progress


@dataclass(frozen=True)
class ScoreRates:
    """Photographs a second, a value a repetition.

    Attributes:
        num_photographs: handled in each measurement.
        views: of each, as the run's threshold was chosen with.
        preparing: decoding and preprocessing alone, on all cores.
        predicting: batches that are in memory already.
        scoring: both at once, as `drtf score` does.
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
    config: Config,
    num_photographs: int,
    num_repeats: int,
    apart: bool = False,
) -> ScoreRates:
    """Measure scoring beside each of its halves, each in turn in each repetition.

    Args:
        run_folder: what `train` left.
        images: a folder of photographs, or a CSV of paths; taken again from the first
            one on if they are fewer than wanted.
        config: its `score` section is used.
        num_photographs: to be handled in each measurement, four batches or more.
        num_repeats: repetitions.
        apart: whether to predict on one half of the cores and do all else on the other,
            as beside a device that has no part in it.

    Raises:
        DrtfError: if four batches need more photographs, or there is one core alone to
            be divided.
    """
    cores = sorted(os.sched_getaffinity(0))
    if apart and len(cores) == 1:
        raise DrtfError("one core can't be divided: measure without --apart")
    half = len(cores) // 2 if apart else 0
    # TensorFlow's threads stay where they are started.
    with _stay_on(cores[half:]):
        run = load_run(run_folder)
    batch_size = fit_batch(config.score.batch_size, run.tta)
    if num_photographs < 4 * batch_size:
        raise DrtfError(
            f"{num_photographs} photographs are less than four batches of "
            f"{batch_size}: measure more of them, or set score.batch_size"
        )
    listed = list_photographs(images)
    photographs = list(itertools.islice(itertools.cycle(listed), num_photographs))
    rates: dict[str, list[float]] = {"preparing": [], "predicting": [], "scoring": []}
    with (
        _stay_on(cores[:half] or cores),
        progress("Measuring", 3 * num_repeats) as advance,
    ):
        for _ in range(num_repeats):
            prepared = prepare_photographs(
                run, photographs, num_workers=config.score.num_workers
            )
            rates["preparing"].append(_measure(prepared, skip=num_photographs // 2))
            advance("preparing")
            rates["predicting"].append(
                _measure_predicting(run, batch_size, num_photographs)
            )
            advance("predicting")
            scored = score_photographs(run, photographs, config=config)
            rates["scoring"].append(_measure(scored, skip=num_photographs // 2))
            advance("scoring")
    return ScoreRates(num_photographs, run.tta, **rates)


@contextmanager
def _stay_on(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread, and what it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measure(results: Iterable[object], *, skip: int) -> float:
    """Count results a second, but for the first ones.

    Processes start then, and while a network is compiled they run ahead.
    """
    remaining = iter(results)
    for _ in itertools.islice(remaining, skip):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in remaining)
    return count / (time.perf_counter() - start)


def _measure_predicting(run: Run, batch_size: int, count: int) -> float:
    size = run.info.image_size
    pixels = np.zeros((batch_size, size, size, 3), np.uint8)
    predict = build_predictor(run.network, run.tta)
    predict(tf.constant(pixels)).numpy()
    start = time.perf_counter()
    for _ in range(count // batch_size):
        predict(tf.constant(pixels)).numpy()
    return count // batch_size * batch_size / (time.perf_counter() - start)

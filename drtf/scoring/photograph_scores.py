"""The score of each photograph: preparation, views, network and quality gate.

Whatever scores photographs calls these functions, so that all give the same numbers.
"""

import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drtf.config import ScoreConfig, Tta
from drtf.models.run import Run
from drtf.models.views import photographs_per_batch
from drtf.photographs.prepare import (
    NetworkInput,
    Rejected,
    map_photographs,
    prepare_for_network,
)
from drtf.photographs.references import PhotographRef


@dataclass(frozen=True)
class Scored:
    """The score of a photograph.

    Attributes:
        score: Mean over the views, in [0, 1].
        spread: Highest minus lowest score of the views.
        expected_grade: The mean of the grades, weighted by their probabilities; None if
            the run predicts no grades.
        ungradable_probability: The probability that a clinician calls it ungradable;
            None if the run has no quality gate.
    """

    score: float
    spread: float
    expected_grade: float | None
    ungradable_probability: float | None


class PredictedBatch(NamedTuple):
    """Photographs, and the network's outputs for each of them.

    Attributes:
        photographs: The photographs. What is returned for a rejected one is noise.
        by_view: float32 [B, V, C], the output of the network for each view.
        features: float32 [B, F], of the first view.
    """

    photographs: Sequence[NetworkInput | Rejected]
    by_view: np.ndarray
    features: np.ndarray


# Predicts at most as many photographs as fill a batch.
PredictBatch = Callable[[Sequence[NetworkInput | Rejected]], PredictedBatch]


def score_photographs(
    run: Run,
    photographs: Sequence[PhotographRef],
    *,
    config: ScoreConfig,
    picture_size: int = 0,
    predict_batch: PredictBatch | None = None,
) -> Iterator[tuple[NetworkInput | Rejected, Scored | None]]:
    """Prepare and score photographs, in order.

    Args:
        run: The run to score with.
        photographs: The photographs to score.
        config: Batch size and number of workers.
        picture_size: Side in px of an additional picture to display; 0 means none.
        predict_batch: From `build_batch_predictor`, if it was built before.

    Yields:
        Each photograph with its score, or its rejection with None.
    """
    batches = predict_photographs(
        run,
        photographs,
        tta=run.tta,
        config=config,
        picture_size=picture_size,
        predict_batch=predict_batch,
    )
    for batch in batches:
        yield from scored_photographs(run, batch)


def predict_photographs(
    run: Run,
    photographs: Sequence[PhotographRef],
    *,
    tta: Tta,
    config: ScoreConfig,
    picture_size: int = 0,
    predict_batch: PredictBatch | None = None,
) -> Iterator[PredictedBatch]:
    """Prepare photographs and apply the network to them, in order.

    Args:
        run: The run of the network.
        photographs: The photographs.
        tta: The views of each photograph.
        config: Batch size and number of workers.
        picture_size: As for `score_photographs`.
        predict_batch: As for `score_photographs`.
    """
    from drtf.models.device import translate_exhaustion

    prepared = prepare_photographs(
        run, photographs, num_workers=config.num_workers, picture_size=picture_size
    )
    batch_size = photographs_per_batch(config.batch_size, tta)
    if predict_batch is None:
        predict_batch = build_batch_predictor(run, tta=tta, batch_size=batch_size)
    batches = iter(lambda: list(itertools.islice(prepared, batch_size)), [])
    # One batch is predicted while the next one is prepared.
    with (
        closing(prepared),
        ThreadPoolExecutor(1) as device,
        translate_exhaustion("score.batch_size", config.batch_size),
    ):
        last = None
        for batch in batches:
            current = device.submit(predict_batch, batch)
            if last:
                yield last.result()
            last = current
        if last:
            yield last.result()


def build_batch_predictor(run: Run, *, tta: Tta, batch_size: int) -> PredictBatch:
    """Build a compiled function that applies the network to a batch of photographs.

    Args:
        run: The run of the network.
        tta: The views of each photograph.
        batch_size: The largest number of photographs per call.
    """
    # Loads TensorFlow, which a scoring that is refused does not need.
    from drtf.models.prediction import build_feature_predictor

    predict = build_feature_predictor(run.network, tta)
    size = run.info.image_size

    def predict_batch(batch: Sequence[NetworkInput | Rejected]) -> PredictedBatch:
        # All batches have one shape: each other one is compiled again, and rounds
        # differently.
        pixels = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, item in zip(pixels, batch, strict=False):
            if isinstance(item, NetworkInput):
                row[...] = item.image
        by_view, features = (x.numpy()[: len(batch)] for x in predict(pixels))
        return PredictedBatch(batch, by_view, features)

    return predict_batch


def scored_photographs(
    run: Run, batch: PredictedBatch
) -> Iterator[tuple[NetworkInput | Rejected, Scored | None]]:
    """Yield the photographs of a batch with their scores."""
    task, gate = run.task, run.quality_gate
    means = batch.by_view.mean(axis=1)
    scores = task.disease_scores(means)
    spreads = np.ptp(task.disease_scores(batch.by_view), axis=1)
    expected = task.expected_classes(means).tolist()
    ungradable = gate.apply(batch.features) if gate else None
    for number, item in enumerate(batch.photographs):
        if isinstance(item, Rejected):
            yield item, None
            continue
        yield (
            item,
            Scored(
                score=float(scores[number]),
                spread=float(spreads[number]),
                expected_grade=expected[number] if task.predicts_grades else None,
                ungradable_probability=(
                    None if ungradable is None else float(ungradable[number])
                ),
            ),
        )


def prepare_photographs(
    run: Run,
    photographs: Sequence[PhotographRef],
    *,
    num_workers: int,
    picture_size: int = 0,
) -> Generator[NetworkInput | Rejected, None, None]:
    """Yield each photograph as the run's training shards would hold it, in order.

    Args:
        run: The run whose preprocessing to apply.
        photographs: The photographs to prepare.
        num_workers: Worker processes; 0 means one per CPU.
        picture_size: Side in px of an additional picture to display; 0 means none.
    """
    prepare = preparation(run, picture_size=picture_size)
    return map_photographs(prepare, photographs, num_workers=num_workers)


def preparation(
    run: Run, *, picture_size: int = 0
) -> Callable[[PhotographRef], NetworkInput | Rejected]:
    """Return the function that prepares a photograph for the run's network.

    Args:
        run: The run whose preprocessing to apply.
        picture_size: Side in px of an additional picture to display; 0 means none.
    """
    return functools.partial(
        prepare_for_network,
        images=run.config.images,
        encoding=run.info.encoding,
        jpeg_quality=run.info.jpeg_quality,
        picture_size=picture_size,
    )

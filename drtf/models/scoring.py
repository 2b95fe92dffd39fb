"""Scoring: a folder of photographs in, a table of scores out."""

import csv
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from drtf.config import Config
from drtf.data.convert import report_death
from drtf.data.photographs import (
    Handle,
    Photographs,
    find_handles,
    find_photographs,
    load_photograph,
    strip_suffix,
)
from drtf.errors import PhotographError
from drtf.files import check_absent, find_aside
from drtf.images.preprocess import (
    decode_image,
    encode_image,
    limit_threads,
    preprocess_photograph,
)
from drtf.models.network import find_scores
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, RunInfo, load_run
from drtf.progress import progress
from drtf.workers import count_workers, map_in_order

COLUMNS = ("id", "path", "score", "probability", "decision", "error")
DEFAULT_THRESHOLD = 0.5


class Prepared(NamedTuple):
    """A photograph as the network takes it, or why there is none.

    `image` is uint8 RGB [size, size, 3], or None where `error` is not empty.
    """

    path: str
    image: np.ndarray | None
    error: str


@dataclass(frozen=True)
class ScoreReport:
    """What a scoring did.

    Attributes:
        num_scored: photographs with a score.
        num_failed: photographs with an error instead.
        num_positive: scores at or above the threshold.
        threshold: the score from which a photograph is positive.
        threshold_chosen: False where no evaluation had chosen one.
    """

    num_scored: int
    num_failed: int
    num_positive: int
    threshold: float
    threshold_chosen: bool


def score(
    run_folder: Path,
    images: Path | str,
    *,
    out: Path,
    config: Config,
    overwrite: bool = False,
) -> ScoreReport:
    """Score each photograph of a folder, and write a row for each, in sorted order.

    Threshold and test-time augmentation are those of the run's last evaluation; without
    one the threshold is 0.5 and there is one view. A photograph that can't be scored
    has its row too, with the reason.

    Args:
        run_folder: what `train` left.
        images: the folder, local or s3://, searched in depth, or a CSV of paths.
        out: the CSV to be written.
        config: its `score` section is used.
        overwrite: whether `out` may be replaced.

    Raises:
        RunError: if the run can't be used.
        LabelError: if the folder has no photographs.
        DrtfError: if `out` exists.
    """
    check_absent(out, overwrite=overwrite)
    run = load_run(run_folder)
    photographs = find_photographs(images)
    threshold = run.threshold.value if run.threshold else DEFAULT_THRESHOLD
    num_failed = num_positive = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = find_aside(out)
    with (
        aside.open(
            "w", newline="", encoding="utf-8", errors="backslashreplace"
        ) as file,
        progress("Scoring photographs", len(photographs.paths)) as advance,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for prepared, value in score_photographs(run, photographs, config=config):
            found = ("", "", "")
            if value is not None:
                positive = value >= threshold
                num_positive += positive
                found = (
                    f"{value:.6f}",
                    _find_probability(run, value),
                    str(int(positive)),
                )
            num_failed += value is None
            name = strip_suffix(Path(prepared.path).name)
            writer.writerow((name, prepared.path, *found, prepared.error))
            advance(f"{num_failed} with an error")
    aside.replace(out)
    return ScoreReport(
        num_scored=len(photographs.paths) - num_failed,
        num_failed=num_failed,
        num_positive=num_positive,
        threshold=threshold,
        threshold_chosen=run.threshold is not None,
    )


def _find_probability(run: Run, value: float) -> str:
    """Write a score's calibrated probability; nothing where no calibration is known."""
    if run.calibration is None:
        return ""
    return f"{run.calibration.apply(np.array([value]))[0]:.6f}"


def score_photographs(
    run: Run, photographs: Photographs, *, config: Config
) -> Iterator[tuple[Prepared, float | None]]:
    """Yield each photograph with its score, in order; None where there is an error."""
    prepared = prepare_photographs(
        run, photographs, num_workers=config.score.num_workers
    )
    predict = build_predictor(run.network, run.tta)
    size, batch_size = run.info.image_size, config.score.batch_size
    while batch := list(itertools.islice(prepared, batch_size)):
        # One shape for all batches: a second one would be compiled anew.
        pixels = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, item in zip(pixels, batch, strict=False):
            if item.image is not None:
                row[...] = item.image
        scores = find_scores(predict(tf.constant(pixels)).numpy().mean(axis=1))
        for item, value in zip(batch, scores.tolist(), strict=False):
            yield item, None if item.image is None else value


def prepare_photographs(
    run: Run, photographs: Photographs, *, num_workers: int
) -> Iterator[Prepared]:
    """Yield each photograph as it would come out of the shards trained on, in order."""
    places = ((photographs.folder, path) for path in photographs.paths)
    images = map_in_order(
        functools.partial(_prepare, config=run.config, info=run.info),
        find_handles(places),
        num_workers=count_workers(num_workers),
        initializer=limit_threads,
        on_death=lambda handle: (None, str(report_death(handle))),
    )
    for path, (image, error) in zip(photographs.paths, images, strict=True):
        yield Prepared(path, image, error)


def _prepare(
    handle: Handle, *, config: Config, info: RunInfo
) -> tuple[np.ndarray | None, str]:
    try:
        image = preprocess_photograph(load_photograph(handle), config.images).image
    except PhotographError as error:
        return None, str(error)
    stored = encode_image(image, info.encoding, jpeg_quality=info.jpeg_quality)
    data = np.frombuffer(stored, np.uint8)
    return decode_image(data, info.encoding, size=info.image_size), ""

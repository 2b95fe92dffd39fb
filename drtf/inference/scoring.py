"""Scoring: a folder of photographs in, a table of scores out."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from drtf.config import Config, ScoreConfig
from drtf.data.photographs import (
    PhotographRef,
    list_photographs,
    prefetch_photographs,
)
from drtf.data.prepare import (
    NetworkInput,
    Rejected,
    prepare_for_network,
    reject_crashed,
)
from drtf.errors import DrtfError
from drtf.files import (
    check_absent,
    lock_or_fail,
    partial_path,
    write_atomic,
    write_unbuffered,
)
from drtf.images.preprocess import limit_threads
from drtf.inference.score_table import (
    COLUMNS,
    Counts,
    Stamp,
    check_names,
    count_rows,
    encode_row,
    merge_parts,
    name_part,
    photograph_id,
    row_provenance,
    slice_part,
    write_kaggle,
    write_parquet,
)
from drtf.models.prediction import build_predictor, photographs_per_batch
from drtf.models.run import Run, load_run
from drtf.progress import progress
from drtf.storage import is_remote
from drtf.tasks import Task
from drtf.workers import count_workers, map_in_order


class Scored(NamedTuple):
    """What the network makes of a photograph.

    `score` is the mean over the views, `spread` the highest less the lowest of them;
    `grade` is the likeliest, None of a network that tells only two classes apart.
    """

    score: float
    spread: float
    grade: int | None


@dataclass(frozen=True)
class ScoreReport:
    """What a scoring did.

    Attributes:
        table: the file written.
        num_scored: photographs with a score.
        num_failed: photographs with an error instead.
        num_flagged: photographs that can hardly be graded.
        num_positive: scores at or above the threshold.
        threshold: the score from which a photograph is positive.
        threshold_chosen: False where no evaluation had chosen one.
    """

    table: Path
    num_scored: int
    num_failed: int
    num_flagged: int
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
    part: tuple[int, int] = (1, 1),
    merge: int = 0,
    kaggle: bool = False,
) -> ScoreReport:
    """Score each photograph of a folder, and write a row for each, in sorted order.

    Threshold and test-time augmentation are those that an evaluation kept in the run;
    without one the threshold is 0.5 and there is one view. A photograph that can't be
    scored has its row too, with the reason. A scoring that was killed goes on after its
    last whole row.

    Args:
        run_folder: what `train` left.
        images: the folder, local or s3://, searched in depth, or a CSV of paths.
        out: the .csv or .parquet to be written.
        config: its `score` section is used.
        overwrite: whether `out`, and what another scoring left unfinished there, may be
            replaced.
        part: number, from 1, and count of the processes that share the photographs;
            each of several writes a file of its own, see `name_part`.
        merge: join the files of so many processes, and score nothing.
        kaggle: write `image,level` alone, as a submission.

    Raises:
        RunError: if the run can't be used.
        LabelError: if the folder has no photographs.
        DrtfError: if `out` exists, was begun otherwise or can't be such a file, another
            process writes it, a part is missing or another's, or photographs of a
            submission share a name.
    """
    suffixes = (".csv",) if kaggle else (".csv", ".parquet")
    if out.suffix.lower() not in suffixes or out.is_dir():
        raise DrtfError(f"--out must name a {' or '.join(suffixes)} file; got {out}")
    target = out if part == (1, 1) else name_part(out, *part)
    check_absent(target, overwrite=overwrite)
    run = load_run(run_folder)
    photographs = list_photographs(images)
    paths = [photograph.path for photograph in photographs]
    if kaggle:
        check_names(paths)
    stamp = row_provenance(run, config.score)
    aside = partial_path(target)
    out.parent.mkdir(parents=True, exist_ok=True)
    with lock_or_fail(aside):
        check_absent(target, overwrite=overwrite)  # another process may have ended
        if merge:
            if _find_source(aside).exists() and not overwrite:
                raise DrtfError(
                    f"{aside} holds rows of a scoring without --shard that was "
                    "stopped: go on with that one, or give --overwrite to drop it"
                )
            counts = merge_parts(out, paths, merge, stamp, aside)
        else:
            paths = list(slice_part(paths, *part))
            photographs = list(slice_part(photographs, *part))
            counts = _find_begun(aside, images, paths, stamp, overwrite=overwrite)
            counts = _write_rows(run, photographs, aside, counts, stamp, config)
        if write := _find_form(target, out, kaggle):
            table = aside.with_suffix(".form")
            write(aside, table)
            table.replace(target)
            aside.unlink()
        else:
            aside.replace(target)
        _find_source(aside).unlink(missing_ok=True)
    return ScoreReport(
        table=target,
        num_scored=counts.num_rows - counts.num_failed,
        num_failed=counts.num_failed,
        num_flagged=counts.num_flagged,
        num_positive=counts.num_positive,
        threshold=run.cutoff,
        threshold_chosen=run.threshold is not None,
    )


def _find_source(aside: Path) -> Path:
    return aside.with_suffix(".source")


def _find_begun(
    aside: Path,
    images: Path | str,
    paths: Sequence[str],
    stamp: Stamp,
    *,
    overwrite: bool,
) -> Counts:
    """Count the rows that a scoring before, stopped, left of this one.

    Raises:
        DrtfError: if they are of another scoring, and may not be replaced.
    """
    source = _find_source(aside)
    location = os.fsencode(images if is_remote(images) else Path(images).resolve())
    with aside.open("rb") as lines:
        counts = count_rows(lines, iter(paths), stamp)
        lines.seek(counts.size_bytes)
        # One line there may be without its end, of whoever was killed.
        has_others = len(list(itertools.islice(lines, 2))) == 2
    alike = source.exists() and source.read_bytes() == location
    if (has_others or (counts.num_rows and not alike)) and not overwrite:
        raise DrtfError(
            f"{aside} holds rows of a scoring that was stopped, of other photographs, "
            "another run or other settings: go on with what it was begun with, or give "
            "--overwrite to begin anew"
        )
    if alike:
        return counts
    write_atomic(source, location)
    return Counts()


def _find_form(
    target: Path, out: Path, kaggle: bool
) -> Callable[[Path, Path], None] | None:
    """Return what turns the table into its last form; a part stays as it is."""
    if target != out:
        return None
    if kaggle:
        return write_kaggle
    return write_parquet if out.suffix.lower() == ".parquet" else None


def _write_rows(
    run: Run,
    photographs: Sequence[PhotographRef],
    aside: Path,
    counts: Counts,
    stamp: Stamp,
    config: Config,
) -> Counts:
    """Write the rows that are not there yet, and count all."""
    with aside.open("ab", buffering=0) as file:
        file.truncate(counts.size_bytes)
        if not counts.size_bytes:
            write_unbuffered(file, encode_row(COLUMNS))
        left, total = photographs[counts.num_rows :], len(photographs)
        with progress("Scoring photographs", total, done=counts.num_rows) as advance:
            for prepared, scored in score_photographs(run, left, config=config):
                row = _describe(run, prepared, scored, config.score) | stamp
                line = encode_row([row.get(column, "") for column in COLUMNS])
                write_unbuffered(file, line)
                counts = counts.add(row, len(line))
                advance(f"{counts.num_failed} without a score")
    return counts


def _describe(
    run: Run,
    prepared: NetworkInput | Rejected,
    scored: Scored | None,
    config: ScoreConfig,
) -> dict[str, str]:
    """Return a row's cells by column, all but those of the stamp."""
    cells = {"id": photograph_id(prepared.path), "path": prepared.path}
    if isinstance(prepared, Rejected):
        return cells | {"error": str(prepared)}
    cells["flags"] = ";".join(prepared.flags)
    if prepared.flags and config.on_ungradable == "reject":
        return cells | {"error": f"ungradable: {', '.join(prepared.flags)}"}
    if scored is None:
        return cells
    cells["score"] = f"{scored.score:.6f}"
    cells["predicted_label"] = str(int(scored.score >= run.cutoff))
    if run.tta != "none":
        cells["spread"] = f"{scored.spread:.6f}"
    if run.calibration:
        probability = run.calibration.apply(np.array([scored.score]))[0]
        cells["probability"] = f"{probability:.6f}"
    if scored.grade is not None:
        cells["predicted_grade"] = str(scored.grade)
    return cells


def score_photographs(
    run: Run,
    photographs: Sequence[PhotographRef],
    *,
    config: Config,
    picture_size: int = 0,
) -> Iterator[tuple[NetworkInput | Rejected, Scored | None]]:
    """Yield each photograph with its score, in order; None where there is an error.

    Args:
        run: an opened run.
        photographs: to score.
        config: its `score` section is used.
        picture_size: of a picture of each to be shown, in px; 0 is none.
    """
    prepared = prepare_photographs(
        run,
        photographs,
        num_workers=config.score.num_workers,
        picture_size=picture_size,
    )
    predict = build_predictor(run.network, run.tta)
    size, batch_size = (
        run.info.image_size,
        photographs_per_batch(config.score.batch_size, run.tta),
    )
    batches = iter(lambda: list(itertools.islice(prepared, batch_size)), [])

    def find_views(batch: Sequence[NetworkInput | Rejected]) -> np.ndarray:
        # One shape for all batches: a second one would be compiled anew.
        pixels = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, item in zip(pixels, batch, strict=False):
            if isinstance(item, NetworkInput):
                row[...] = item.image
        return predict(tf.constant(pixels)).numpy()

    # A batch is predicted, by whatever device, while the next one is gathered.
    with ThreadPoolExecutor(1) as device:
        last = None
        for batch in batches:
            current = batch, device.submit(find_views, batch)
            if last:
                yield from _find_scored(run.task, *last)
            last = current
        if last:
            yield from _find_scored(run.task, *last)


def _find_scored(
    task: Task,
    batch: Sequence[NetworkInput | Rejected],
    predicted: Future[np.ndarray],
) -> Iterator[tuple[NetworkInput | Rejected, Scored | None]]:
    views = predicted.result()  # [B, V, C]
    means = views.mean(axis=1)
    scores = task.disease_scores(means)
    spreads = np.ptp(task.disease_scores(views), axis=1)
    classes = task.predicted_classes(means)
    for number, item in enumerate(batch):
        if isinstance(item, Rejected):
            yield item, None
            continue
        grade = int(classes[number]) if task.predicts_grades else None
        yield item, Scored(float(scores[number]), float(spreads[number]), grade)


def prepare_photographs(
    run: Run,
    photographs: Sequence[PhotographRef],
    *,
    num_workers: int,
    picture_size: int = 0,
) -> Iterator[NetworkInput | Rejected]:
    """Yield each photograph as the run's training shards would hold it, in order.

    Args:
        run: The run whose preprocessing to apply.
        photographs: The photographs to prepare.
        num_workers: Worker processes; 0 means one per CPU.
        picture_size: Side in px of an additional picture to display; 0 means none.
    """
    prepare = functools.partial(
        prepare_for_network,
        images=run.config.images,
        encoding=run.info.encoding,
        jpeg_quality=run.info.jpeg_quality,
        picture_size=picture_size,
    )
    return map_in_order(
        prepare,
        prefetch_photographs(photographs),
        num_workers=count_workers(num_workers),
        initializer=limit_threads,
        on_crash=reject_crashed,
    )

"""Scoring: a folder of photographs in, a table with one row per photograph out."""

import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from drtf import page
from drtf.config import ScoreConfig
from drtf.data.listing import (
    SKIPPED_FILE,
    SkippedFile,
    list_photographs,
    save_skipped,
)
from drtf.data.photographs import (
    PhotographRef,
    photograph_id,
)
from drtf.data.prepare import (
    NetworkInput,
    Rejected,
    map_photographs,
    prepare_for_network,
)
from drtf.errors import DrtfError
from drtf.files import (
    append_regular,
    check_absent,
    lock_or_fail,
    move_into_place,
    open_regular,
    partial_path,
    read_regular,
    write_atomic,
    write_unbuffered,
)
from drtf.inference.score_table import (
    COLUMNS,
    Counts,
    Provenance,
    check_unique_ids,
    count_rows,
    encode_row,
    merge_parts,
    part_path,
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


@dataclass(frozen=True)
class Scored:
    """The score of a photograph.

    Attributes:
        score: Mean over the views, in [0, 1].
        spread: Highest minus lowest score of the views.
        predicted_grade: The most probable grade; None if the run predicts none.
    """

    score: float
    spread: float
    predicted_grade: int | None


# Rows of the table that a notebook shows.
NUM_ROWS_SHOWN = 5


@dataclass(frozen=True)
class ScoreReport:
    """What was scored.

    Attributes:
        table: The written file.
        num_scored: Number of photographs with a score.
        num_failed: Number of photographs with an error instead.
        num_flagged: Number of photographs that may be ungradable.
        num_positive: Number of scores at or above the threshold.
        threshold: The score from which a photograph is positive.
        threshold_chosen: False if no evaluation has chosen the threshold.
        skipped: Files that are not photographs, also listed beside the table.
    """

    table: Path
    num_scored: int
    num_failed: int
    num_flagged: int
    num_positive: int
    threshold: float
    threshold_chosen: bool
    skipped: list[SkippedFile]

    def load_table(self) -> pd.DataFrame:
        """Load the table, one row per photograph."""
        if self.table.suffix.lower() == ".parquet":
            return pd.read_parquet(self.table)
        return pd.read_csv(self.table, dtype={"id": str, "path": str, "error": str})

    def _repr_html_(self) -> str:
        """Show the counts in a notebook, and the first rows of the table."""
        chosen = "" if self.threshold_chosen else " (no evaluation has chosen one)"
        facts = {
            "Scored": f"{self.num_scored:,} photographs",
            "Failed": f"{self.num_failed:,}",
            "May be ungradable": f"{self.num_flagged:,}",
            "Positive": f"{self.num_positive:,}",
            "Threshold": f"{self.threshold:.4f}{chosen}",
            "Table": str(self.table),
        }
        head = self.load_table().head(NUM_ROWS_SHOWN)
        return page.format_facts("Scores", facts) + head.to_html(index=False)


def score(
    run_folder: Path,
    images: Path | str,
    *,
    out: Path,
    config: ScoreConfig,
    overwrite: bool = False,
    part: tuple[int, int] = (1, 1),
    merge: int = 0,
    kaggle: bool = False,
    decision_rule: Path | None = None,
) -> ScoreReport:
    """Score each photograph of a folder and write one row per photograph.

    Threshold and test-time augmentation are those of the run's decision rule; without
    one, the threshold is 0.5 and there is one view. A photograph that cannot be scored
    has a row with the reason. If scoring is interrupted, the same call resumes after
    the last complete row.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        images: A folder, local or s3://, searched recursively, or a CSV of paths.
        out: The .csv or .parquet file to write.
        config: How to score.
        overwrite: Whether to replace `out` and the partial rows of another call.
        part: Number, from 1, and count of the processes that share the photographs. If
            there are several, each writes its own file, see `part_path`.
        merge: Merge the files of this many processes instead of scoring; 0 scores.
        kaggle: Write only `image,level`, as a submission to Kaggle.
        decision_rule: The folder of an evaluation whose decision rule is used instead
            of the run's, which may be in a read-only folder.

    Raises:
        RunError: If the run cannot be loaded.
        LabelError: If the folder has no photographs.
        DrtfError: If `out` exists or has another suffix, the partial rows belong to
            another call, another process is writing them, a part is missing or does not
            fit, or photographs of a submission have the same name.
    """
    suffixes = (".csv",) if kaggle else (".csv", ".parquet")
    if out.suffix.lower() not in suffixes or out.is_dir():
        raise DrtfError(f"--out must name a {' or '.join(suffixes)} file; got {out}")
    target = out if part == (1, 1) else part_path(out, *part)
    check_absent(target, overwrite=overwrite)
    run = load_run(run_folder, rule_folder=decision_rule)
    listing = list_photographs(images)
    photographs = listing.photographs
    paths = [photograph.path for photograph in photographs]
    if kaggle:
        check_unique_ids(paths)
    provenance = row_provenance(run, config)
    partial = partial_path(target)
    out.parent.mkdir(parents=True, exist_ok=True)
    with lock_or_fail(partial):
        check_absent(target, overwrite=overwrite)  # another process may have written it
        if merge:
            if _source_file(partial).exists() and not overwrite:
                raise DrtfError(
                    f"{partial} has rows of an interrupted call without --part: "
                    "resume that call, or give --overwrite to discard the rows"
                )
            counts = merge_parts(out, paths, merge, provenance, partial)
        else:
            paths = list(slice_part(paths, *part))
            photographs = list(slice_part(photographs, *part))
            counts = _resume_rows(
                partial, images, paths, provenance, overwrite=overwrite
            )
            counts = _write_rows(run, photographs, partial, counts, provenance, config)
        if convert := _table_converter(target, out, kaggle):
            converted = partial.with_suffix(".form")
            convert(partial, converted)
            move_into_place(converted, target)
            partial.unlink()
        else:
            move_into_place(partial, target)
        if listing.skipped:
            save_skipped(out.with_suffix(f".{SKIPPED_FILE}"), listing.skipped)
        _source_file(partial).unlink(missing_ok=True)
    return ScoreReport(
        table=target,
        num_scored=counts.num_rows - counts.num_failed,
        num_failed=counts.num_failed,
        num_flagged=counts.num_flagged,
        num_positive=counts.num_positive,
        threshold=run.effective_threshold,
        threshold_chosen=run.threshold is not None,
        skipped=listing.skipped,
    )


def _source_file(partial: Path) -> Path:
    """Return the file that remembers which photographs the partial rows belong to."""
    return partial.with_suffix(".source")


def _resume_rows(
    partial: Path,
    images: Path | str,
    paths: Sequence[str],
    provenance: Provenance,
    *,
    overwrite: bool,
) -> Counts:
    """Count the rows that an interrupted call left and that can be kept.

    If none can be kept, record the photographs' location in the source file.

    Raises:
        DrtfError: If the rows belong to another call and `overwrite` is False.
    """
    source = _source_file(partial)
    location = os.fsencode(images if is_remote(images) else Path(images).resolve())
    with open_regular(partial) as lines:
        counts = count_rows(lines, iter(paths), provenance)
        lines.seek(counts.size_bytes)
        # A killed process may leave one incomplete line, but not two.
        has_others = len(list(itertools.islice(lines, 2))) == 2
    same_source = source.exists() and read_regular(source) == location
    if (has_others or (counts.num_rows and not same_source)) and not overwrite:
        raise DrtfError(
            f"{partial} has rows of an interrupted call with other photographs, "
            "another run or other settings: resume with the original ones, or give "
            "--overwrite to discard the rows"
        )
    if same_source:
        return counts
    write_atomic(source, location)
    return Counts()


def _table_converter(
    target: Path, out: Path, kaggle: bool
) -> Callable[[Path, Path], None] | None:
    """Return the function that converts the rows to the target's format, if any."""
    if target != out:  # a part stays a CSV until it is merged
        return None
    if kaggle:
        return write_kaggle
    return write_parquet if out.suffix.lower() == ".parquet" else None


def _write_rows(
    run: Run,
    photographs: Sequence[PhotographRef],
    partial: Path,
    counts: Counts,
    provenance: Provenance,
    config: ScoreConfig,
) -> Counts:
    """Write the missing rows and return the counts of all rows."""
    with append_regular(partial) as file:
        file.truncate(counts.size_bytes)
        if not counts.size_bytes:
            write_unbuffered(file, encode_row(COLUMNS))
        missing, total = photographs[counts.num_rows :], len(photographs)
        with progress("Scoring photographs", total, done=counts.num_rows) as advance:
            for prepared, scored in score_photographs(run, missing, config=config):
                row = _row(run, prepared, scored, config) | provenance
                line = encode_row([row.get(column, "") for column in COLUMNS])
                write_unbuffered(file, line)
                counts = counts.add(row, len(line))
                advance(f"{counts.num_failed} without a score")
    return counts


def _row(
    run: Run,
    prepared: NetworkInput | Rejected,
    scored: Scored | None,
    config: ScoreConfig,
) -> dict[str, str]:
    """Return the cells of a row by column, without the provenance."""
    cells = {"id": photograph_id(prepared.path), "path": prepared.path}
    if isinstance(prepared, Rejected):
        return cells | {"error": str(prepared)}
    cells["flags"] = ";".join(prepared.flags)
    if prepared.flags and config.on_ungradable == "reject":
        return cells | {"error": f"ungradable: {', '.join(prepared.flags)}"}
    if scored is None:
        return cells
    cells["score"] = f"{scored.score:.6f}"
    cells["predicted_label"] = str(int(scored.score >= run.effective_threshold))
    if run.tta != "none":
        cells["spread"] = f"{scored.spread:.6f}"
    if run.calibration:
        probability = run.calibration.apply(np.array([scored.score]))[0]
        cells["probability"] = f"{probability:.6f}"
    if scored.predicted_grade is not None:
        cells["predicted_grade"] = str(scored.predicted_grade)
    return cells


def score_photographs(
    run: Run,
    photographs: Sequence[PhotographRef],
    *,
    config: ScoreConfig,
    picture_size: int = 0,
) -> Iterator[tuple[NetworkInput | Rejected, Scored | None]]:
    """Prepare and score photographs, in order.

    Args:
        run: The run to score with.
        photographs: The photographs to score.
        config: Batch size and number of workers.
        picture_size: Side in px of an additional picture to display; 0 means none.

    Yields:
        Each photograph with its score, or its rejection with None.
    """
    prepared = prepare_photographs(
        run, photographs, num_workers=config.num_workers, picture_size=picture_size
    )
    predict = build_predictor(run.network, run.tta)
    size = run.info.image_size
    batch_size = photographs_per_batch(config.batch_size, run.tta)
    batches = iter(lambda: list(itertools.islice(prepared, batch_size)), [])

    def predict_batch(batch: Sequence[NetworkInput | Rejected]) -> np.ndarray:
        # All batches have one shape, because each new shape is compiled again.
        pixels = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, item in zip(pixels, batch, strict=False):
            if isinstance(item, NetworkInput):
                row[...] = item.image
        return predict(tf.constant(pixels)).numpy()

    # One batch is predicted while the next one is prepared.
    with closing(prepared), ThreadPoolExecutor(1) as device:
        last = None
        for batch in batches:
            current = batch, device.submit(predict_batch, batch)
            if last:
                yield from _scored_batch(run.task, *last)
            last = current
        if last:
            yield from _scored_batch(run.task, *last)


def _scored_batch(
    task: Task,
    batch: Sequence[NetworkInput | Rejected],
    predicted: Future[np.ndarray],
) -> Iterator[tuple[NetworkInput | Rejected, Scored | None]]:
    """Wait for the predictions of a batch and yield its photographs with scores."""
    by_view = predicted.result()  # [B, V, C]
    means = by_view.mean(axis=1)
    scores = task.disease_scores(means)
    spreads = np.ptp(task.disease_scores(by_view), axis=1)
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
) -> Generator[NetworkInput | Rejected, None, None]:
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
    return map_photographs(prepare, photographs, num_workers=num_workers)

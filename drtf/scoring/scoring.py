"""Scoring: a folder of photographs in, a table with one row per photograph out."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from drtf import page
from drtf.config import ScoreConfig
from drtf.errors import DrtfError
from drtf.files import save_rows, write_atomic
from drtf.locations import is_remote
from drtf.photographs.listing import (
    SKIPPED_FILE,
    SkippedFile,
    list_photographs,
)
from drtf.photographs.references import PhotographRef
from drtf.progress import progress
from drtf.scoring.kept_rows import (
    KeptRows,
    RowLog,
    check_complete,
    open_log,
    rows_in_log,
    rows_in_parts,
    rows_to_keep,
)
from drtf.scoring.patient_rows import patient_cells
from drtf.scoring.score_check import FLAG_NOTES
from drtf.scoring.score_table import (
    COLUMNS,
    NO_EVALUATION,
    SUBMISSIONS,
    Summary,
    check_unique_ids,
    encode_submission,
    hash_list,
    load_rows,
    part_path,
    slice_part,
    summarize,
    write_table,
    written_path,
)
from drtf.scoring.scorer import Scorer, load_scorer
from drtf.scoring.table_files import (
    Location,
    check_no_file,
    file_name,
    has_file,
    open_file,
    sibling,
    writing_file,
)
from drtf.texts import TextRows

_log = logging.getLogger(__name__)


# Rows of the table that a notebook shows.
NUM_ROWS_SHOWN = 5


@dataclass(frozen=True)
class ScoreReport:
    """The result of a scoring.

    Attributes:
        out: The written file.
        table: The file with all columns: `out`, unless that is a submission.
        summary: Counts of all rows of the table.
        threshold: The score from which a photograph is positive.
        threshold_rule: The rule that chose it; `none` if the run was never evaluated.
        num_views: Number of views of each photograph whose scores were averaged.
        combines_eyes: Whether the run combines the scores of both eyes.
        num_kept: Number of rows that an interrupted call had scored.
        is_reused: Whether an earlier call had written the whole table.
        skipped: Files that are not photographs, also listed next to the table.
    """

    out: Location
    table: Location
    summary: Summary
    threshold: float
    threshold_rule: str
    num_views: int
    combines_eyes: bool
    num_kept: int
    is_reused: bool
    skipped: TextRows[SkippedFile]

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each reason to be careful with the scores."""
        return summary_notes(self.summary, self.threshold_rule)

    def load_table(self) -> pd.DataFrame:
        """Load the table, one row per photograph."""
        with open_file(self.table) as file:
            if file_name(self.table).suffix.lower() == ".parquet":
                return pd.read_parquet(file)
            text = [name for name, kind in COLUMNS.items() if kind == pa.string()]
            return pd.read_csv(
                file, usecols=list(COLUMNS), dtype=dict.fromkeys(text, str)
            )

    def __repr__(self) -> str:
        """Return the table, and how many photographs were scored."""
        return (
            f"<ScoreReport {self.table}: {self.summary.num_scored:,} photographs "
            f"scored, {self.summary.num_failed:,} without a score>"
        )

    def _repr_html_(self) -> str:
        """Show the counts in a notebook, and the first rows of the table."""
        facts = {
            "Scored": f"{self.summary.num_scored:,} photographs",
            "Without a score": f"{self.summary.num_failed:,}",
            "May be ungradable": f"{self.summary.num_flagged:,}",
            "Positive": f"{self.summary.num_positive:,}",
            "Threshold": f"{self.threshold:.4f} (rule: {self.threshold_rule})",
            "Table": str(self.table),
        }
        facts |= {f"Note {n}": note for n, note in enumerate(self.notes(), start=1)}
        head = self.load_table().head(NUM_ROWS_SHOWN)
        return page.format_facts("Scores", facts) + head.to_html(index=False)


def summary_notes(summary: Summary, threshold_rule: str) -> Iterator[str]:
    """Yield a sentence for each reason to be careful with scores."""
    if threshold_rule == NO_EVALUATION:
        yield (
            "the run was never evaluated, so threshold and number of views are not "
            "chosen for it, and there are no probabilities. Choose them with drtf "
            "evaluate"
        )
    if summary.num_in_training:
        yield (
            f"{summary.num_in_training:,} of {summary.num_rows:,} photographs "
            "were in training or in the validation split (column in_training), so "
            "their scores say nothing about new photographs"
        )
    if summary.num_without_label:
        yield (
            "photographs without a predicted label, because they may be ungradable "
            f"(column flags): {summary.num_without_label:,}; set score.on_ungradable "
            "to predict or reject to change that"
        )
    if summary.num_disagreeing:
        yield (
            "photographs whose views have very different scores (views_disagree in "
            f"the column flags): {summary.num_disagreeing:,}"
        )
    for flag in summary.probability_flags:
        yield f"{FLAG_NOTES[flag]} The column probability_flags has {flag}."
    if len(summary.scores) == 1 and summary.num_scored > 1:
        yield (
            "all scores are equal, so they say nothing: the model ignores the "
            "photographs. Train it again, and look at its learning curves"
        )


def score(
    run_folder: Path,
    images: Path | str,
    *,
    out: Location,
    config: ScoreConfig,
    patient_pattern: str | None = None,
    overwrite: bool = False,
    part: tuple[int, int] = (1, 1),
    merge: int = 0,
    compare_files: bool = True,
    form: str = "table",
    decision_rule: Path | None = None,
) -> ScoreReport:
    """Score each photograph of a folder and write one row per photograph.

    Threshold and test-time augmentation are those of the run's decision rule; without
    one, the threshold is 0.5 and there is one view. A photograph that cannot be scored
    has a row with the reason. If scoring is interrupted, the same call resumes; rows of
    photographs that were replaced meanwhile are scored again.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        images: A folder, local or in a store, searched recursively, a photograph, or a
            CSV file of paths.
        out: The .csv or .parquet file to write, local or in a store. For a store, the
            rows of an interrupted call are in the cache of this machine.
        config: How to score.
        patient_pattern: The pattern of patients in photographs' names; None takes
            `labels.patient_pattern` of the run.
        overwrite: Whether to replace `out` and the rows of another interrupted call.
        part: Number, from 1, and count of the processes that share the photographs. If
            there are several, each writes its own file, see `part_path`.
        merge: Merge the files of this many processes instead of scoring; 0 scores.
        compare_files: Whether merging reads all photographs, to refuse a row of one
            that was replaced meanwhile.
        form: `table`, or a key of `SUBMISSIONS`. A submission has only two columns; the
            table with all columns is written next to it.
        decision_rule: The folder of an evaluation whose decision rule is used instead
            of the run's, which may be in a read-only folder.

    Raises:
        RunError: If the run cannot be loaded.
        LabelError: If the folder has no photographs.
        StorageError: If an object store fails.
        DrtfError: If `out` exists and is not what this call would write, or has another
            suffix; the rows of an interrupted call belong to another one; another
            process is writing them; a part is missing or does not fit; photographs of a
            submission have the same name, or may have no grade.
    """
    check_request(out, config, form=form)
    table = table_location(out, form)
    listing = list_photographs(images)
    listed = by_path = {written_path(x.path): x for x in listing}
    skipped = listing.skipped
    list_hash = ""
    if form in SUBMISSIONS:
        check_unique_ids(photograph.path for photograph in listed.values())
        if not has_file(table):
            check_no_file(out, overwrite=overwrite)
    if part != (1, 1):
        list_hash = hash_list(listed.values())
        out = table = part_path(table, *part)
        by_path = {x: listed[x] for x in slice_part(list(listed), *part)}
        skipped = TextRows(SkippedFile)  # the merge reports them
    scorer = load_scorer(
        run_folder,
        config,
        patient_pattern=patient_pattern,
        decision_rule=decision_rule,
    )
    run, common = scorer.run, scorer.common
    kept: KeptRows = {}
    with open_log(table) as log:
        is_reused = has_file(table) and not overwrite
        if is_reused:
            patients = patient_cells(listed, scorer.patient_pattern)
            check_complete(
                table,
                by_path,
                common,
                list_hash=list_hash,
                patients={path: patients[path] for path in by_path},
            )
        else:
            if merge:
                rows = kept = rows_in_parts(
                    table, by_path, merge, common, compare_files=compare_files
                )
            else:
                found = rows_in_log(log, by_path, common, overwrite=overwrite)
                kept = rows_to_keep(found, by_path)
                rows = score_missing(scorer, by_path, kept, log)
            # Both eyes of a patient may be in different parts.
            rows = scorer.complete_kept(rows, listed)
            with writing_file(table, overwrite=overwrite) as partial:
                lines = [rows[path].line for path in by_path]
                write_table(table, lines, partial, list_hash=list_hash)
    if out != table:
        _write_submission(out, table, form, overwrite=overwrite)
    if skipped:
        with writing_file(skipped_path(out), overwrite=True) as partial:
            save_rows(partial, SkippedFile._fields, skipped)
    return ScoreReport(
        out=out,
        table=table,
        summary=summarize(row for _, row in load_rows(table)),
        threshold=scorer.threshold,
        threshold_rule=scorer.threshold_rule,
        num_views=int(common["num_views"]),
        combines_eyes=bool(run.fellow_eye and run.fellow_eye.is_used),
        num_kept=len(kept),
        is_reused=is_reused,
        skipped=skipped,
    )


def _write_submission(
    out: Location, table: Location, form: str, *, overwrite: bool
) -> None:
    """Write the submission of a table, unless it is there already."""
    submission = encode_submission((row for _, row in load_rows(table)), form)
    if not _has_content(out, submission):
        check_no_file(out, overwrite=overwrite)
        with writing_file(out, overwrite=overwrite) as partial:
            write_atomic(partial, submission)


def skipped_path(out: Location) -> Location:
    """Return the file that lists the skipped files of a table or submission."""
    return sibling(out, f"{file_name(out).stem}.{SKIPPED_FILE}")


def table_location(out: Location, form: str) -> Location:
    """Return the table with all columns: `out`, or a file next to a submission."""
    if form in SUBMISSIONS:
        return sibling(out, f"{file_name(out).stem}-scores.csv")
    return out


def check_request(out: Location, config: ScoreConfig, *, form: str) -> None:
    """Refuse arguments of `score` that do not fit together.

    Raises:
        DrtfError: Names the option.
    """
    suffixes = (".csv",) if form in SUBMISSIONS else (".csv", ".parquet")
    suffix = file_name(out).suffix.lower()
    is_folder = not is_remote(out) and Path(out).is_dir()
    if suffix not in suffixes or is_folder:
        raise DrtfError(f"--out must name a {' or '.join(suffixes)} file; got {out}")
    if form in SUBMISSIONS and config.on_ungradable == "flag":
        raise DrtfError(
            f"--format {form} needs a grade for every photograph, but one that may be "
            "ungradable gets none: choose --on-ungradable predict, which grades it as "
            "any other, or --on-ungradable reject, which writes grade 0 for it"
        )


def score_missing(
    scorer: Scorer,
    photographs: Mapping[str, PhotographRef],
    kept: KeptRows,
    log: RowLog,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> KeptRows:
    """Score the photographs without a kept row, and return all rows.

    Args:
        scorer: What scores them.
        photographs: All photographs, by the cell of the column `path`.
        kept: The rows that some of them have.
        log: Where new rows are logged.
        stop: Whether to return only the rows that were scored so far.
    """
    missing = {x: ref for x, ref in photographs.items() if x not in kept}
    rows = dict(kept)
    num_failed = 0
    total, done = len(photographs), len(photographs) - len(missing)
    with progress("Scoring photographs", total, done=done) as advance:
        for path, scored in zip(
            missing, scorer.score(list(missing.values())), strict=True
        ):
            rows[path] = log.append(scored.row)
            num_failed += rows[path].failed
            advance(f"{num_failed} without a score")
            if stop():
                break
    return rows


def _has_content(location: Location, content: bytes) -> bool:
    """Return whether there is a file with exactly this content."""
    if not has_file(location):
        return False
    with open_file(location) as file:
        return file.read() == content

"""drtf score."""

import functools
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtf.terminal import show_line

from .options import (
    SOME_REJECTED,
    GroupedCommand,
    OutPath,
    Part,
    beam_runner_option,
    config_options,
    decision_rule_option,
    images_option,
    max_rejected_option,
    overwrite_option,
    path_option,
    run_argument,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from drtf.clinic.dicom_results import DicomResults
    from drtf.config import Config
    from drtf.models.run import Run
    from drtf.scoring.growing_table import Growth
    from drtf.scoring.score_table import Row, Summary
    from drtf.scoring.scorer import Scorer
    from drtf.scoring.scoring import ScoreReport

    # Writes the DICOM results of rows.
    WriteDicom = Callable[[Run, Iterable[Row]], None]

# The options of each section of the help; the first one has all others.
GROUPS = {
    "Options": (),
    "What is written": ("--format", "--by-patient", "--overwrite", "--max-rejected"),
    "A folder that grows": ("--append", "--watch"),
    "DICOM": ("--dicom-out", "--dicom-heatmaps", "--mercure"),
    "Several processes or hosts": ("--part", "--merge", "--beam-runner"),
}
REQUIRED = {"--watch": "--append", "--dicom-heatmaps": "--dicom-out"}
EXCLUDED = {
    "--part": ("--merge", "--append", "--beam-runner", "--by-patient", "--dicom-out"),
    "--merge": ("--append", "--beam-runner"),
    "--append": ("--beam-runner", "--overwrite", "--format"),
    "--watch": ("--max-rejected",),
    "--mercure": (
        "--images",
        "--out",
        "--dicom-out",
        "--format",
        "--by-patient",
        "--overwrite",
        "--max-rejected",
        "--append",
        "--part",
        "--merge",
        "--beam-runner",
    ),
}
# The columns shown for a single photograph.
RESULT_COLUMNS = (
    "id",
    "eye",
    "score",
    "spread",
    "probability",
    "predicted_label",
    "expected_grade",
    "predicted_grade",
    "flags",
    "ungradable_probability",
    "error",
)


@click.command(cls=GroupedCommand, groups=GROUPS, required=REQUIRED, excluded=EXCLUDED)
@run_argument
@images_option(
    "Folder of photographs, local or in a store, searched recursively; a zip archive; "
    "a single photograph; or a .csv file with a column path, which may also have "
    "columns with the patient and the eye. Required, except with --mercure.",
    required=False,
)
@path_option(
    "--out",
    "Table to write: a .csv or .parquet file, local or in a store. Required, except "
    "with --mercure.",
    required=False,
    kind=OutPath(),
)
@click.option(
    "--part",
    "part",
    type=Part(),
    default="1/1",
    metavar="I/N",
    help="Score part I of N of the photographs and write it to a separate file.",
)
@click.option(
    "--merge",
    type=click.IntRange(min=2),
    metavar="N",
    help="Merge the outputs of --part 1/N to N/N and check that no rows are missing.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "kaggle", "aptos"]),
    default="table",
    show_default=True,
    help="table: all columns. kaggle: a submission with image,level. aptos: one with "
    "id_code,diagnosis. A submission has the predicted grade or label, and 0 for "
    "photographs without one; NAME-scores.csv next to it has all columns.",
)
@click.option(
    "--on-ungradable",
    type=click.Choice(["flag", "predict", "reject"]),
    help="What to do with a photograph that may be ungradable (dark, blurred, not of a "
    "retina, or flagged by the quality gate of RUN). flag: score it, but predict no "
    "label. predict: predict a label as for any other. reject: give it no score. "
    "Default: score.on_ungradable of the config.",
)
@click.option(
    "--by-patient",
    is_flag=True,
    help="Also write NAME-patients next to the table: one row per patient, by the "
    "worse eye.",
)
@click.option(
    "--append",
    is_flag=True,
    help="Keep the rows of --out as they are, and append rows of photographs that are "
    "new. A photograph is known by its content, not by its name.",
)
@click.option(
    "--watch",
    "is_watching",
    is_flag=True,
    help="With --append: do it again and again, as photographs arrive, until Ctrl-C or "
    "SIGTERM.",
)
@max_rejected_option(
    "Exit with 3 if more than this fraction of the photographs cannot be scored. With "
    "--append, only new photographs count.",
    default="0%",
)
@decision_rule_option
@path_option(
    "--dicom-out",
    "Also write a DICOM structured report of each DICOM file to this folder. Requires "
    "drtf[dicom].",
    required=False,
)
@click.option(
    "--dicom-heatmaps",
    is_flag=True,
    help="With --dicom-out: also write each heat map as a DICOM secondary capture.",
)
@click.option(
    "--mercure",
    is_flag=True,
    help="Score the DICOM files that mercure hands over in $MERCURE_IN_DIR, and write "
    "DICOM results and result.json to $MERCURE_OUT_DIR.",
)
@beam_runner_option
@overwrite_option
@config_options
def score(
    run: Path,
    images: Path | str | None,
    out: Path | str | None,
    part: tuple[int, int],
    merge: int | None,
    form: str,
    on_ungradable: str | None,
    by_patient: bool,
    append: bool,
    is_watching: bool,
    max_rejected: float,
    decision_rule: Path | None,
    dicom_out: Path | None,
    dicom_heatmaps: bool,
    mercure: bool,
    beam_runner: str | None,
    beam_options: tuple[str, ...],
    overwrite: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Score a folder of photographs with the model in RUN.

    The photographs are preprocessed as in training. Threshold, test-time augmentation
    and calibration are those that evaluate stored in RUN. If the patient's other eye is
    among the photographs, the score combines both eyes. If a photograph cannot be
    scored, its row gives the reason and the exit code is 3. Run the same command again
    to resume after an interruption.
    """
    if mercure:
        if on_ungradable:
            overrides = (*overrides, f"score.on_ungradable={on_ungradable}")
        _score_for_mercure(run, config_source, overrides, decision_rule)
        return
    if images is None or out is None:
        raise click.UsageError("--images and --out are required, except with --mercure")
    from drtf.models.run import load_run, load_run_config
    from drtf.models.stored_run import location_of
    from drtf.scoring.patient_table import save_patient_table
    from drtf.scoring.score_table import load_rows
    from drtf.scoring.scorer import load_scorer
    from drtf.scoring.scoring import score as run_scoring

    if dicom_out:
        from drtf.clinic.dicom_results import check_can_write_dicom

        check_can_write_dicom()
    if on_ungradable:
        overrides = (*overrides, f"score.on_ungradable={on_ungradable}")
    sections = ["score", "labels.patient_pattern"]
    if dicom_heatmaps:
        sections.append("gradcam")
    config = load_run_config(run, config_source, overrides, sections=sections)
    write_dicom = None
    if dicom_out:
        write_dicom = functools.partial(
            _write_dicom,
            images=images,
            folder=dicom_out,
            config=config,
            with_heatmaps=dicom_heatmaps,
        )
    if append:
        scorer = load_scorer(
            run,
            config.score,
            patient_pattern=config.labels.patient_pattern,
            decision_rule=decision_rule,
        )
        given: dict[str, Any] = {"by_patient": by_patient, "write_dicom": write_dicom}
        if is_watching:
            _watch(scorer, images, out, **given)
            return
        summary = _append(scorer, images, out, **given)
    else:
        common: dict[str, Any] = {
            "out": out,
            "config": config.score,
            "patient_pattern": config.labels.patient_pattern,
            "overwrite": overwrite,
            "form": form,
            "decision_rule": decision_rule,
        }
        if beam_runner is None:
            report = run_scoring(run, images, part=part, merge=merge or 0, **common)
        else:
            from drtf.beam import score_with_beam

            common["decision_rule"] = decision_rule and location_of(decision_rule)
            report = score_with_beam(
                location_of(run),
                images,
                runner=beam_runner,
                options=beam_options,
                **common,
            )
        summary = report.summary
        show_report(report)
        if write_dicom:
            rows = (row for _, row in load_rows(report.table))
            write_dicom(load_run(run, rule_folder=decision_rule), rows)
        if by_patient:
            patients = save_patient_table(
                report.table,
                (row for _, row in load_rows(report.table)),
                patient_pattern=config.labels.patient_pattern,
            )
            show_line(f"{patients}: one row per patient")
    if summary.num_failed > max_rejected * summary.num_rows:
        sys.exit(SOME_REJECTED)


def _append(
    scorer: "Scorer",
    images: Path | str,
    out: Path | str,
    *,
    by_patient: bool,
    write_dicom: "WriteDicom | None",
) -> "Summary":
    """Score the photographs that have no row yet, and return the counts of new rows."""
    from drtf.scoring.growing_table import append_scores
    from drtf.scoring.scoring import summary_notes

    growth = append_scores(scorer, images, out, by_patient=by_patient)
    for line in describe_growth(growth):
        show_line(line)
    for note in summary_notes(growth.summary, scorer.threshold_rule):
        show_line(f"Note: {note}")
    if write_dicom:
        write_dicom(scorer.run, growth.current)
    return growth.summary


def _write_dicom(
    run: "Run",
    rows: "Iterable[Row]",
    *,
    images: Path | str,
    folder: Path,
    config: "Config",
    with_heatmaps: bool,
) -> None:
    """Write the DICOM results of rows of a table."""
    from drtf.clinic.dicom_results import write_dicom_results
    from drtf.photographs.listing import list_photographs

    results = write_dicom_results(
        run,
        list_photographs(images).photographs,
        rows,
        folder=folder,
        heatmaps=config.gradcam if with_heatmaps else None,
        num_workers=config.score.num_workers,
    )
    show_dicom_results(results)


def _score_for_mercure(
    run: Path,
    config_source: str,
    overrides: tuple[str, ...],
    decision_rule: Path | None,
) -> None:
    """Score the files of mercure. It fails only if no photograph has a score."""
    from drtf.clinic.mercure import score_for_mercure

    report = score_for_mercure(
        run,
        os.environ,
        config_source=config_source,
        overrides=overrides,
        decision_rule=decision_rule,
    )
    show_line(report.text)
    show_dicom_results(report.results)
    if not report.num_scored:
        sys.exit(SOME_REJECTED)


def show_dicom_results(results: "DicomResults") -> None:
    """Print how many DICOM results were written, and why others were not."""
    show_line(
        f"{results.folder}: {results.num_reports:,} structured reports, "
        f"{results.num_captures:,} heat maps"
    )
    for note in results.notes():
        show_line(f"Note: {note}")


def _watch(
    scorer: "Scorer",
    images: Path | str,
    out: Path | str,
    *,
    by_patient: bool,
    write_dicom: "WriteDicom | None",
) -> None:
    """Score photographs as they arrive, and print one line each time."""
    from drtf.scoring.watch import watch
    from drtf.signals import catch_signals

    has_written = False

    def save_results(growth: "Growth") -> None:
        nonlocal has_written
        if write_dicom is None:
            return
        from drtf.clinic.dicom_results import rows_of_files

        # The first time, or after a failure, results of earlier calls may be missing.
        is_first, has_written = not has_written, False
        changed = {*growth.added, *(x.path for x in growth.revisions)}
        write_dicom(
            scorer.run,
            growth.current if is_first else rows_of_files(growth.current, changed),
        )
        has_written = True

    show_line(f"Watching {images}; stop with Ctrl-C")
    with catch_signals() as signals:
        growths = watch(
            scorer,
            images,
            out,
            signals=signals,
            by_patient=by_patient,
            save_results=save_results,
        )
        for growth in growths:
            time = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            show_line(f"{time} {'; '.join(describe_growth(growth))}")
    show_line("Stopped; the same command continues")


def describe_growth(growth: "Growth") -> list[str]:
    """Describe the rows that were appended to a table."""
    from drtf.scoring.growing_table import revisions_path
    from drtf.scoring.scoring import skipped_path

    summary = growth.summary
    lines = [
        f"{growth.out}: new rows: {summary.num_rows:,} (positive: "
        f"{summary.num_positive:,}, may be ungradable: {summary.num_flagged:,}, "
        f"without a score: {summary.num_failed:,}), rows in all: {growth.num_rows:,}"
    ]
    for reason, group in summary.errors.items():
        lines.append(
            f"{group.count:,} x {reason}, the first one is {group.example}: "
            f"{group.detail}"
        )
    if growth.changed:
        lines.append(
            "new rows with the path of an earlier row, but another photograph: "
            f"{len(growth.changed):,} (first: {growth.changed[0]}); the last row of a "
            "path counts"
        )
    if growth.duplicates:
        path, kind, row_path = growth.duplicates[0]
        lines.append(
            "photographs whose content has a row already, which were not scored again: "
            f"{len(growth.duplicates):,} (first: {path}, {kind}: {row_path}); see "
            f"{skipped_path(growth.out)}"
        )
    if growth.revisions:
        lines.append(
            "earlier rows that would be different if they were scored now, with "
            "photographs that arrived later: "
            f"{len({revision.path for revision in growth.revisions}):,} (first: "
            f"{growth.revisions[0].path}); see {revisions_path(growth.out)}"
        )
    return lines


def show_report(report: "ScoreReport") -> None:
    """Print the result of a scoring, and notes for the reader of the table."""
    from pandas import isna

    from drtf.photographs.listing import describe_skipped
    from drtf.scoring.scoring import skipped_path

    summary = report.summary
    if report.is_reused:
        show_line("This command had already written the table; nothing was changed.")
    show_line(
        f"{report.out}: {summary.num_scored:,} of {summary.num_rows:,} photographs "
        f"scored, {summary.num_positive:,} positive (threshold {report.threshold:.4f}, "
        f"rule: {report.threshold_rule}, views: {report.num_views}), "
        f"{summary.num_flagged:,} may be ungradable"
    )
    if report.combines_eyes:
        show_line(
            f"{summary.num_with_fellow:,} of them with the score of the fellow eye too"
        )
    if report.table != report.out:
        show_line(f"{report.table}: the table with all columns")
    if report.num_kept:
        show_line(f"{report.num_kept:,} rows are of the call that was interrupted")
    if summary.num_rows == 1:
        (row,) = report.load_table().to_dict("records")
        for name in RESULT_COLUMNS:
            if not isna(row[name]):
                show_line(f"  {name}: {row[name]}")
    for reason, group in summary.errors.items():
        show_line(
            f"  {group.count:,} x {reason}, the first one is {group.example}: "
            f"{group.detail}"
        )
    if report.skipped:
        show_line(f"{describe_skipped(report.skipped)}; see {skipped_path(report.out)}")
    for note in report.notes():
        show_line(f"Note: {note}")

"""drtf score."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drtf.terminal import show_line

from .options import (
    RUN,
    SOME_REJECTED,
    BeamCommand,
    OutPath,
    Part,
    beam_runner_option,
    config_options,
    images_option,
    max_rejected_option,
    overwrite_option,
    path_option,
    run_argument,
)

if TYPE_CHECKING:
    from drtf.clinic.dicom_results import DicomResults
    from drtf.scoring.scoring import ScoreReport

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


@click.command(cls=BeamCommand)
@run_argument
@images_option(
    "Folder of photographs, local or in a store, searched recursively; a zip archive; "
    "a single photograph; or a .csv file with a column path. Required, except with "
    "--mercure.",
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
    "--add",
    is_flag=True,
    help="If --out exists, keep its rows, and score only photographs that are new or "
    "changed, or had no score. Rows of photographs that are gone stay.",
)
@max_rejected_option(
    "Exit with 3 if more than this fraction of the photographs cannot be scored. With "
    "--add, photographs that could not be scored before do not count again.",
    default="0%",
)
@path_option(
    "--decision-rule",
    "Folder of an evaluation of RUN, or one that recalibrate wrote, whose threshold "
    "and calibration are used instead of those stored in RUN.",
    required=False,
    kind=RUN,
)
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
    add: bool,
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
        if images or out or dicom_out or beam_runner is not None:
            raise click.UsageError(
                "--mercure cannot be combined with --images, --out, --dicom-out or "
                "--beam-runner"
            )
        if on_ungradable:
            overrides = (*overrides, f"score.on_ungradable={on_ungradable}")
        _score_for_mercure(run, config_source, overrides, decision_rule)
        return
    if images is None or out is None:
        raise click.UsageError("--images and --out are required, except with --mercure")
    if dicom_heatmaps and not dicom_out:
        raise click.UsageError("--dicom-heatmaps requires --dicom-out")
    if dicom_out and part != (1, 1):
        raise click.UsageError("--dicom-out and --part cannot be combined")
    if merge and part != (1, 1):
        raise click.UsageError("--part and --merge cannot be combined")
    if add and (overwrite or merge):
        raise click.UsageError("--add cannot be combined with --overwrite or --merge")
    if beam_runner is not None and (add or merge or part != (1, 1)):
        raise click.UsageError(
            "--beam-runner cannot be combined with --add, --part or --merge"
        )
    from drtf.models.run import load_run_config
    from drtf.models.stored_run import location_of
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
    common: dict[str, Any] = {
        "out": out,
        "config": config.score,
        "patient_pattern": config.labels.patient_pattern,
        "overwrite": overwrite,
        "form": form,
        "decision_rule": decision_rule,
    }
    if beam_runner is None:
        report = run_scoring(
            run, images, add=add, part=part, merge=merge or 0, **common
        )
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
    show_report(report)
    if dicom_out:
        from drtf.clinic.dicom_results import write_dicom_results
        from drtf.models.run import load_run
        from drtf.photographs.listing import list_photographs

        results = write_dicom_results(
            load_run(run, rule_folder=decision_rule),
            list_photographs(images).photographs,
            report.table,
            folder=dicom_out,
            heatmaps=config.gradcam if dicom_heatmaps else None,
        )
        show_dicom_results(results)
    if report.num_newly_failed > max_rejected * report.summary.num_rows:
        sys.exit(SOME_REJECTED)


def _score_for_mercure(
    run: Path,
    config_source: str,
    overrides: tuple[str, ...],
    decision_rule: Path | None,
) -> None:
    """Score what mercure hands over. It fails only if no photograph has a score."""
    from drtf.clinic.mercure import score_for_mercure

    report = score_for_mercure(
        run,
        os.environ,
        config_source=config_source,
        overrides=overrides,
        decision_rule=decision_rule,
    )
    show_report(report.scores)
    show_dicom_results(report.results)
    if not report.scores.summary.num_scored:
        sys.exit(SOME_REJECTED)


def show_dicom_results(results: "DicomResults") -> None:
    """Print how many DICOM results were written, and why others were not."""
    show_line(
        f"{results.folder}: {results.num_reports:,} structured reports, "
        f"{results.num_captures:,} heat maps"
    )
    for note in results.notes():
        show_line(f"Note: {note}")


def show_report(report: "ScoreReport") -> None:
    """Print what was scored, and what a reader of the table must know."""
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
        show_line(
            f"{report.num_kept:,} rows were kept, {report.num_gone:,} of them of "
            "photographs that were removed"
        )
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

"""drtf report-patients."""

import sys
from pathlib import Path

import click

from drtf.terminal import show_line

from .options import (
    SOME_REJECTED,
    config_options,
    decision_rule_option,
    images_option,
    out_option,
    run_argument,
)


@click.command()
@run_argument
@images_option(
    "Folder of photographs, local or in a store, searched recursively; a zip archive; "
    "or a .csv file with a column path."
)
@out_option("Folder to write to. Call the command again to add new photographs.")
@click.option(
    "--language",
    type=click.Choice(["en", "ko"]),
    default="en",
    show_default=True,
    help="Language of the pages.",
)
@decision_rule_option
@config_options
def report_patients(
    run: Path,
    images: Path | str,
    out: Path,
    language: str,
    decision_rule: Path | None,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Write one page per patient: result, pictures, quality, model and limits.

    Each page is an HTML file without external parts, and prints on one sheet of A4. The
    photographs are scored as by score --append, in scores.csv next to the pages. The
    same command adds new photographs and rewrites only pages that change.
    """
    from drtf.clinic.patient_pages import report_patients as write_pages
    from drtf.models.run import load_run_config
    from drtf.scoring.scorer import load_scorer
    from drtf.scoring.scoring import summary_notes

    from .score import describe_growth

    sections = ("score", "gradcam", "labels.patient_pattern")
    config = load_run_config(run, config_source, overrides, sections=sections)
    scorer = load_scorer(
        run,
        config.score,
        patient_pattern=config.labels.patient_pattern,
        decision_rule=decision_rule,
    )
    report = write_pages(
        scorer, images, out=out, gradcam=config.gradcam, language=language
    )
    for line in describe_growth(report.growth):
        show_line(line)
    for note in summary_notes(report.growth.summary, scorer.threshold_rule):
        show_line(f"Note: {note}")
    show_line(
        f"{report.folder}: pages written: {len(report.written):,}, unchanged: "
        f"{report.num_kept:,}"
    )
    if report.growth.summary.num_failed:
        sys.exit(SOME_REJECTED)

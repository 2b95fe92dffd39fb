"""drtf recalibrate."""

from pathlib import Path

import click

from drtf.terminal import show_line

from .options import (
    FILE,
    AnyPath,
    Percentage,
    config_options,
    out_option,
    overwrite_option,
    path_option,
    run_argument,
    show_next,
)


@click.command()
@run_argument
@click.option(
    "--prevalence",
    type=Percentage(),
    metavar="FRACTION",
    help="The fraction of positive photographs elsewhere, such as 12% or 0.12.",
)
@path_option(
    "--scores",
    "Table that drtf score wrote for the photographs, local or in a store. Without "
    "--labels, the scores must show the prevalence.",
    required=False,
    kind=AnyPath(),
)
@path_option(
    "--labels",
    "Label file of some of the photographs in --scores, a few hundred if possible: a "
    "CSV file with the grades, 0-4, local or in a store.",
    required=False,
    kind=FILE,
)
@out_option("Folder to write the decision rule to.")
@overwrite_option
@config_options
def recalibrate(
    run: Path,
    prevalence: float | None,
    scores: Path | str | None,
    labels: Path | None,
    out: Path,
    overwrite: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Correct the probabilities of RUN for photographs from elsewhere.

    Disease may be more or less common there than in the validation split. Give the
    prevalence, or the scores of photographs, from which it is estimated. If the camera
    or the patients differ too, give labels: threshold and calibration are then chosen
    on these photographs. RUN stays as it is; use the new decision rule with drtf score
    --decision-rule.
    """
    from drtf.adaptation.recalibration import recalibrate as run_recalibration
    from drtf.models.run import load_run_config

    config = load_run_config(run, config_source, overrides, sections=("labels",))
    result = run_recalibration(
        run,
        out=out,
        config=config.labels,
        prevalence=prevalence,
        scores=scores,
        labels=labels,
        overwrite=overwrite,
    )
    for name, fact in result.facts().items():
        show_line(f"{name}: {fact}")
    for note in result.notes():
        show_line(f"Note: {note}")
    words = ("--images", "FOLDER", "--out", "scores.csv", "--decision-rule", out)
    show_next("score", run, *words)

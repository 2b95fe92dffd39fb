"""drtf evaluate."""

from pathlib import Path

import click

from .options import (
    LocalPath,
    config_options,
    overwrite_option,
    path_option,
    shards_option,
)


@click.command()
@click.argument("run", type=LocalPath())
@shards_option("Set made by build-shards, a folder or s3://.")
@click.option("--split", default="test", show_default=True, help="Split to judge.")
@click.option(
    "--tta",
    type=click.Choice(["none", "flips5", "dihedral8"]),
    help="Test-time augmentation; without it the config's evaluate.tta.",
)
@path_option(
    "--out", "Folder to write to; without it RUN/evaluation-SPLIT.", required=False
)
@overwrite_option
@click.option(
    "--keep",
    is_flag=True,
    help="Have score decide by this threshold and calibration though the set is not "
    "the one trained on.",
)
@config_options
def evaluate(
    run: Path,
    shards: Path,
    split: str,
    tta: str | None,
    out: Path | None,
    overwrite: bool,
    keep: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Judge the model in RUN on a split of a set of shards.

    Without --config the run's own settings hold. The threshold is chosen on the
    validation split, and kept in RUN for score if the set is the one trained on; on
    another, --set evaluate.threshold=stored judges RUN as it scores. Writes
    metrics.json, predictions.csv, figures and report.html.
    """
    from drtf.inference.evaluation import evaluate as run_evaluation
    from drtf.inference.evaluation_result import (
        CLASS_COLUMNS,
        METRIC_COLUMNS,
        describe_calibration,
        describe_threshold,
        describe_views,
        list_classes,
        list_rows,
    )
    from drtf.inference.report import REPORT_FILE
    from drtf.models.run import load_run_config

    from .tables import show_table

    if tta:
        overrides = (*overrides, f"evaluate.tta={tta}")
    out = out or run / f"evaluation-{split}"
    evaluation = run_evaluation(
        run,
        shards,
        split=split,
        out=out,
        config=load_run_config(
            run, config_source, overrides, sections=("evaluate", "gradcam")
        ),
        overwrite=overwrite,
        keep=keep,
    )
    show_table(
        f"{run} on split {split}: {evaluation.num_photographs:,} photographs of "
        f"{evaluation.num_patients:,} patients",
        METRIC_COLUMNS,
        list_rows(evaluation),
    )
    show_table("Decisions by class", CLASS_COLUMNS, list_classes(evaluation.classes))
    if evaluation.grade_classes:
        rows = list_classes(evaluation.grade_classes)
        show_table("Decisions by grade", CLASS_COLUMNS, rows)
    threshold = evaluation.decision_rule.threshold
    click.echo(
        f"Threshold {describe_threshold(threshold)}; {describe_views(evaluation)}."
    )
    click.echo(
        f"Calibration: {describe_calibration(evaluation.decision_rule.calibration)}."
    )
    old = evaluation.replaced
    if old and old != threshold:
        click.echo(
            f"Note: drtf score now decides by this threshold and these views; before, "
            f"{run} had {old.value:.4f} ({old.rule}, views {old.tta})."
        )
    for note in evaluation.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Report: {out / REPORT_FILE}")

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
@shards_option("Dataset written by build-shards: a folder or s3://.")
@click.option("--split", default="test", show_default=True, help="Split to evaluate.")
@click.option(
    "--tta",
    type=click.Choice(["none", "flips5", "dihedral8"]),
    help="Test-time augmentation. Default: evaluate.tta of the config.",
)
@path_option(
    "--out", "Folder to write to. Default: RUN/evaluation-SPLIT.", required=False
)
@overwrite_option
@click.option(
    "--store-threshold",
    is_flag=True,
    help="Store threshold and calibration in RUN even if this is not its training "
    "dataset.",
)
@config_options
def evaluate(
    run: Path,
    shards: Path,
    split: str,
    tta: str | None,
    out: Path | None,
    overwrite: bool,
    store_threshold: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Evaluate the model in RUN on a split of a dataset.

    Without --config, RUN's own settings apply. The threshold is chosen on the
    validation split. If RUN was trained on this dataset, the threshold is stored in
    RUN, and score uses it. For another dataset, --set evaluate.threshold=stored uses
    RUN's own threshold. Writes metrics.json, predictions.csv, figures and report.html.
    """
    from drtf.inference.evaluation import evaluate as run_evaluation
    from drtf.inference.evaluation_result import (
        CLASS_COLUMNS,
        METRIC_COLUMNS,
        class_rows,
        describe_calibration,
        describe_threshold,
        describe_views,
        metric_rows,
    )
    from drtf.inference.report import REPORT_FILE
    from drtf.models.run import load_run_config

    from .tables import show_table

    if tta:
        overrides = (*overrides, f"evaluate.tta={tta}")
    out = out or run / f"evaluation-{split}"
    config = load_run_config(
        run, config_source, overrides, sections=("evaluate", "gradcam")
    )
    result = run_evaluation(
        run,
        shards,
        split=split,
        out=out,
        config=config.evaluate,
        gradcam=config.gradcam,
        overwrite=overwrite,
        store_threshold=store_threshold,
    )
    show_table(
        f"{run} on split {split}: {result.num_photographs:,} photographs of "
        f"{result.num_patients:,} patients",
        METRIC_COLUMNS,
        metric_rows(result),
    )
    show_table("Predictions by class", CLASS_COLUMNS, class_rows(result.labels))
    if result.grades:
        show_table("Predictions by grade", CLASS_COLUMNS, class_rows(result.grades))
    threshold = result.decision_rule.threshold
    click.echo(f"Threshold: {describe_threshold(threshold)}")
    click.echo(f"Calibration: {describe_calibration(result.decision_rule.calibration)}")
    click.echo(f"Test-time augmentation: {describe_views(result)}")
    old = result.replaced
    if old and old != threshold:
        click.echo(
            f"Note: drtf score now uses this threshold with TTA {threshold.tta}. It "
            f"replaces {old.value:.4f} (rule {old.rule}, TTA {old.tta}) in {run}."
        )
    for note in result.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Report: {out / REPORT_FILE}")

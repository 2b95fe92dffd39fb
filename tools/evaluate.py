"""drtf evaluate."""

import json
from pathlib import Path
from typing import Any

import click

from drtf.terminal import show_line

from .options import (
    FILE,
    config_options,
    overwrite_option,
    path_option,
    run_argument,
    shards_option,
    show_next,
)


@click.command()
@run_argument
@shards_option("Dataset written by build-shards: local or in a store.")
@click.option("--split", default="test", show_default=True, help="Split to evaluate.")
@click.option(
    "--tta",
    type=click.Choice(["none", "flips5", "dihedral8"]),
    help="Test-time augmentation. Default: evaluate.tta of the config.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN[:EDGES]",
    help="Report results for the photographs with each value of this column too "
    "(repeatable): source, eye, grade, a measure of quality, one of "
    "labels.keep_columns, or one of --table. A column of more than 10 numbers is cut "
    "into quartiles; age:40,60 cuts it at 40 and 60, and site:each does not cut it.",
)
@path_option(
    "--table",
    "Table with columns of --by that the dataset does not have: a CSV file with one "
    "row per photograph (column image) or per patient (column patient), local or in a "
    "store.",
    required=False,
    kind=FILE,
)
@path_option(
    "--out",
    "Folder to write to. Default: RUN/evaluation-SPLIT, or for another dataset than "
    "in training RUN/evaluation-DATASET-SPLIT.",
    required=False,
)
@overwrite_option
@click.option(
    "--store-threshold",
    is_flag=True,
    help="Choose a new threshold and calibration on this dataset, and store them in "
    "RUN in place of those that are there.",
)
@config_options
def evaluate(
    run: Path,
    shards: Path,
    split: str,
    tta: str | None,
    by: tuple[str, ...],
    table: Path | None,
    out: Path | None,
    overwrite: bool,
    store_threshold: bool,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Evaluate the model in RUN on a split of a dataset.

    The first evaluation on the training dataset chooses a threshold, a calibration and
    the weights of a patient's two eyes on the validation split, and stores them in RUN,
    with --tta. Later evaluations and score use what is stored. With another --tta,
    evaluate.threshold, evaluate.calibration or evaluate.fellow_eye, an evaluation
    chooses its own threshold and leaves the stored one as it is. Without --config,
    RUN's own settings apply. Writes metrics.json, predictions.csv, figures, report.html
    and, with --by, groups.csv. Prints the main results; the report has all metrics.
    """
    from drtf.evaluation.decision_rules import load_evaluation_config
    from drtf.evaluation.folder import REPORT_FILE, find_complete
    from drtf.evaluation.group_results import (
        GROUP_COLUMNS,
        describe_groups,
        group_rows,
    )
    from drtf.evaluation.result import (
        describe_calibration,
        describe_cut_points,
        describe_fellow_eye,
        describe_threshold,
        describe_views,
        headline_metrics,
        metric_rows,
    )

    from .tables import show_table

    if tta:
        overrides = (*overrides, f"evaluate.tta={tta}")
    if by:
        columns = json.dumps(by, ensure_ascii=False)
        overrides = (*overrides, f"evaluate.by={columns}")
    config = load_evaluation_config(run, config_source, overrides)
    request: dict[str, Any] = {
        "split": split,
        "out": out,
        "config": config.evaluate,
        "table": table,
        "overwrite": overwrite,
        "store_threshold": store_threshold,
    }
    result = find_complete(run, shards, **request)
    if result is None:
        # Loads TensorFlow, which takes seconds.
        from drtf.evaluation.evaluation import evaluate as run_evaluation

        result = run_evaluation(run, shards, gradcam=config.gradcam, **request)
    if result.is_reused:
        show_line(f"This evaluation was complete already: {result.folder}")
    patients = f" of {result.num_patients:,} patients" if result.patient_metrics else ""
    show_table(
        f"{run} on split {split} of {result.dataset_name}: "
        f"{result.num_photographs:,} photographs{patients}",
        result.metric_columns,
        metric_rows(result, headline_metrics(result)),
    )
    rule = result.decision_rule
    show_line(f"Threshold: {describe_threshold(rule.threshold)}")
    show_line(f"Report with all metrics: {result.folder / REPORT_FILE}")
    for note in result.notes:
        show_line(f"Note: {note}")
    for grouped in result.groups:
        show_table(f"By {grouped.title}", GROUP_COLUMNS, group_rows(grouped))
    if result.groups:
        show_line(describe_groups(result.groups, result.config))
    show_line(f"Fellow eye: {describe_fellow_eye(result)}")
    if rule.cut_points:
        show_line(f"Cut points of grades 1 to 4: {describe_cut_points(rule)}")
    show_line(f"Calibration: {describe_calibration(rule.calibration)}")
    show_line(f"Test-time augmentation: {describe_views(result)}")
    show_next("score", run, "--images", "FOLDER", "--out", "scores.csv")

"""The report of an evaluation: figures, and a page for its readers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from drtf import figures, page
from drtf.config import GradcamConfig, dump_config
from drtf.data.loader import read_batch
from drtf.inference.evaluation_result import (
    CLASS_COLUMNS,
    METRIC_COLUMNS,
    POINT_COLUMNS,
    EvaluationResult,
    class_rows,
    describe_calibration,
    describe_threshold,
    describe_views,
    metric_rows,
    operating_point_rows,
)
from drtf.inference.intervals import format_estimate, format_interval, format_value
from drtf.inference.overlays import (
    Explained,
    color_bar,
    describe_model,
    describe_photograph,
    draw_overlay,
    draw_photograph,
    explain,
    heat_scale,
)
from drtf.models.history import HISTORY_FIGURE
from drtf.models.run import Run
from drtf.records.reader import ShardDataset

REPORT_FILE = "report.html"
FIGURES = (
    "roc.png",
    "precision_recall.png",
    "confusion_matrix.png",
    "scores.png",
    "reliability.png",
)
GRADES_FIGURE = "grade_confusion_matrix.png"
MISTAKES_FIGURE = "mistakes.png"
REPORT_FILES = (REPORT_FILE, *FIGURES, GRADES_FIGURE, MISTAKES_FIGURE, HISTORY_FIGURE)
NUM_MISTAKES = 4  # of each kind
# With fewer photographs of a class, one photograph changes sensitivity or specificity
# by more than 0.05.
MIN_PER_CLASS = 20
LIMITS = (
    "This report is for research. The model is not a medical device. The results hold "
    "for photographs like the evaluated ones and will differ for other cameras, "
    "populations and disease prevalences. Before using the model elsewhere, choose a "
    "new threshold on photographs from that place, with drtf evaluate "
    "--store-threshold.",
    "Grades follow the ICDR scale, 0 to 4, and are those of the dataset's labels, with "
    "any mistakes they contain. Photographs that could not be used were rejected when "
    "the dataset was built and are not part of the results.",
)
INTERVALS = (
    "CI: confidence interval, by bootstrap over patients; exact intervals are used "
    "where no mistake was made. Per patient, the worse eye counts: the highest grade "
    "and the highest score. Brier score, log loss and calibration error are computed "
    "from the calibrated probabilities, ROC AUC and average precision from the scores."
)


def reader_notes(
    run: Run,
    split: str,
    *,
    same_dataset: bool,
    used_by_score: bool,
    patients: pd.Series,
    validation_labels: pd.Series | None,
) -> list[str]:
    """Return what a reader must know to interpret an evaluation.

    Args:
        run: The evaluated run.
        split: The evaluated split.
        same_dataset: Whether the run was trained on this dataset.
        used_by_score: Whether `drtf score` uses the evaluated threshold.
        patients: Patient of each evaluated photograph.
        validation_labels: Labels that the threshold was chosen on; None if it was not
            chosen in this evaluation.
    """
    notes = []
    if not same_dataset:
        notes.append(
            "This dataset is not the training dataset, but may contain some of the "
            "same photographs."
        )
    if not used_by_score:
        notes.append(
            "drtf score keeps using the run's own threshold, not this one, unless the "
            "evaluation is repeated with --store-threshold. To evaluate the run's own "
            "threshold, use --set evaluate.threshold=stored."
        )
    if same_dataset and split == run.config.train.validation_split:
        notes.append(
            f"The best epoch, and any threshold chosen by a rule, were chosen on this "
            f"split ({split}), so the results are optimistic."
        )
    if same_dataset and split == "train":
        notes.append("The model was trained on this split.")
    if run.config.split.by == "image":
        notes.append(
            "The photographs were split by image, so the two eyes of a patient may be "
            "in different splits."
        )
    if validation_labels is not None:
        num_positive = int(validation_labels.sum())
        rarer = min(num_positive, len(validation_labels) - num_positive)
        if rarer < MIN_PER_CLASS:
            notes.append(
                f"Threshold and calibration were chosen on only "
                f"{len(validation_labels):,} photographs, {rarer:,} of them in the "
                "rarer class. Other photographs may lead to a different threshold."
            )
    if patients.is_unique:
        notes.append(
            "Every photograph counts as a separate patient. If this is because the "
            "patients are not known, both eyes of a patient may be in different "
            "splits, and the intervals are too narrow."
        )
    return notes


def write_report(
    out: Path,
    run: Run,
    predictions: pd.DataFrame,
    result: EvaluationResult,
    *,
    history: Sequence[dict[str, float]],
    shards: ShardDataset,
    gradcam: GradcamConfig,
) -> None:
    """Draw the figures of an evaluation and write report.html.

    Args:
        out: The folder to write to.
        run: The evaluated run.
        predictions: The predictions for the split, in the order of the index.
        result: The result of the evaluation.
        history: What each epoch of the training measured; empty if there is none.
        shards: The evaluated dataset, open.
        gradcam: How to explain the worst mistakes.
    """
    for name in (GRADES_FIGURE, MISTAKES_FIGURE):  # may be left by an earlier report
        (out / name).unlink(missing_ok=True)
    _plot_figures(out, run, predictions, result)
    sections = [
        page.format_notes(result.notes),
        page.format_headline(_headline(result)),
        page.format_text("", _describe_evaluation(run, result)),
        page.format_figures("", [out / name for name in FIGURES]),
        page.format_table("Metrics", METRIC_COLUMNS, metric_rows(result)),
        page.format_text("", INTERVALS),
        page.format_table(
            "Predictions by class", CLASS_COLUMNS, class_rows(result.labels)
        ),
    ]
    if result.grades:
        matrix = np.array(result.grades.confusion_matrix)
        figures.plot_confusion(out / GRADES_FIGURE, matrix, labels=run.task.class_names)
        sections += [
            page.format_table(
                "Predictions by grade", CLASS_COLUMNS, class_rows(result.grades)
            ),
            page.format_figures("", [out / GRADES_FIGURE]),
        ]
    if result.operating_points:
        title = "Other thresholds chosen on the validation split"
        rows = operating_point_rows(result)
        sections.append(page.format_table(title, POINT_COLUMNS, rows))
    sections.append(_mistakes_section(out, run, predictions, result, shards, gradcam))
    if history:
        figures.plot_history(out / HISTORY_FIGURE, history)
        sections.append(
            page.format_figures("Learning curves", [out / HISTORY_FIGURE], wide=True)
        )
    sections += [
        page.format_facts("Model and data", _facts(run, result, shards)),
        page.format_text("Limitations", *LIMITS),
        page.format_details("Training settings", dump_config(run.config)),
    ]
    name = run.folder.resolve().name
    page.write_page(
        out / REPORT_FILE,
        title=f"Evaluation of {name} on split {result.split}",
        sections=sections,
    )


def _headline(result: EvaluationResult) -> list[tuple[str, str, str]]:
    names = {
        "ROC AUC": "roc_auc",
        "Sensitivity": "sensitivity",
        "Specificity": "specificity",
    }
    cells = []
    for title, name in names.items():
        estimate = result.metrics[name]
        interval = format_interval(estimate)
        below = f"95 % CI {interval}" if interval else ""
        cells.append((title, format_value(estimate.value), below))
    return cells


def _describe_evaluation(run: Run, result: EvaluationResult) -> str:
    """Describe which photographs, classes and threshold the headline refers to."""
    num_negative, num_positive = map(sum, result.labels.confusion_matrix)
    threshold = describe_threshold(result.decision_rule.threshold)
    return (
        f"Positive means grade {run.task.positive_from} or higher: "
        f"{num_positive:,} of the {result.num_photographs:,} photographs are positive, "
        f"{num_negative:,} are negative. Threshold: {threshold}."
    )


def _plot_figures(
    out: Path, run: Run, predictions: pd.DataFrame, result: EvaluationResult
) -> None:
    y_true, y_score = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    threshold = result.decision_rule.threshold.value
    others = [point.threshold for point in result.operating_points]
    roc_auc = format_estimate(result.metrics["roc_auc"])
    average_precision = format_estimate(result.metrics["average_precision"])
    figures.plot_roc(
        out / "roc.png",
        y_true,
        y_score,
        caption=f"AUC {roc_auc}",
        threshold=threshold,
        others=others,
    )
    figures.plot_precision_recall(
        out / "precision_recall.png",
        y_true,
        y_score,
        caption=f"AP {average_precision}",
        threshold=threshold,
        others=others,
    )
    figures.plot_scores(
        out / "scores.png",
        predictions["grade"].to_numpy(),
        y_score,
        threshold=threshold,
    )
    figures.plot_reliability(
        out / "reliability.png",
        y_true,
        {"Scores": y_score, "Calibrated": predictions["probability"].to_numpy()},
    )
    figures.plot_confusion(
        out / "confusion_matrix.png",
        np.array(result.labels.confusion_matrix),
        labels=run.task.label_names,
    )


def _mistakes_section(
    out: Path,
    run: Run,
    predictions: pd.DataFrame,
    result: EvaluationResult,
    shards: ShardDataset,
    config: GradcamConfig,
) -> str:
    """Plot the worst mistakes with their heat maps and return the section."""
    heading = "Worst mistakes"
    y_score, y_true = predictions["score"].to_numpy(), predictions["label"].to_numpy()
    wrong = y_true != predictions["predicted_label"].to_numpy()
    if not wrong.any():
        return page.format_text(heading, "All photographs were predicted correctly.")
    order = np.argsort(y_score, kind="stable")
    negative, positive = run.task.label_names
    kinds = {
        f"{positive}, lowest scores": order[(wrong & (y_true == 1))[order]],
        f"{negative}, highest scores": order[(wrong & (y_true == 0))[order]][::-1],
    }
    run = replace(run, decision_rule=result.decision_rule)
    rows = shards.split_rows(result.split)
    explained: dict[str, list[Explained]] = {}
    for title, mistakes in kinds.items():
        mistakes = mistakes[:NUM_MISTAKES]
        worst = predictions.iloc[mistakes]
        if len(worst):
            explained[title] = explain(
                run,
                read_batch(shards, rows[mistakes]),
                config,
                names=[f"{x.id}, grade {x.grade}" for x in worst.itertuples()],
                scores=worst["score"].tolist(),
            )
    scale = heat_scale([item for items in explained.values() for item in items])
    grid: list[figures.Row] = []
    for title, items in explained.items():
        captions = ["\n".join(describe_photograph(item, run)) for item in items]
        pictures = [draw_photograph(item) for item in items]
        overlays = [draw_overlay(item, config, scale=scale) for item in items]
        grid += [
            (title, list(zip(captions, panels, strict=True)))
            for panels in (pictures, overlays)
        ]
    figures.plot_grid(
        out / MISTAKES_FIGURE,
        grid,
        color_bar=color_bar(config, scale),
        footer=describe_model(run),
    )
    text = (
        f"{wrong.sum():,} photographs were predicted incorrectly. The worst ones are "
        "shown as the model sees them; below each, a heat map marks the regions that "
        f"raise its score ({config.method})."
    )
    figure = page.format_figures("", [out / MISTAKES_FIGURE], wide=True)
    return page.format_text(heading, text) + figure


def _facts(run: Run, result: EvaluationResult, shards: ShardDataset) -> dict[str, str]:
    split, manifest = run.config.split, shards.manifest
    facts = {
        "Evaluated photographs": f"{result.num_photographs:,} photographs of "
        f"{result.num_patients:,} patients, split {result.split} of {manifest.name}",
        "Task": f"{run.task.name}; positive means grade "
        f"{run.task.positive_from} or higher",
        "Threshold": describe_threshold(result.decision_rule.threshold),
        "Calibration": describe_calibration(result.decision_rule.calibration),
        "Test-time augmentation": describe_views(result),
    }
    for name, counts in manifest.num_records.items():
        grades = ", ".join(f"grade {grade}: {n:,}" for grade, n in counts.items())
        facts[f"Evaluated dataset, {name}"] = (
            f"{sum(counts.values()):,} photographs of "
            f"{manifest.num_patients[name]:,} patients; {grades}"
        )
    rejected = [f"{count:,} {reason}" for reason, count in manifest.rejected.items()]
    images = manifest.preprocessing.items()
    return facts | {
        "Evaluated dataset, rejected": ", ".join(rejected) or "none",
        "Evaluated dataset, SHA-256": result.dataset_sha256,
        "Preprocessing": ", ".join(f"{key} {value}" for key, value in images),
        "Model": run.describe(),
        "Model, SHA-256": run.info.model_sha256,
        "Training dataset": f"{run.info.dataset_name}, split by {split.by}, "
        f"seed {split.seed}",
        "Training dataset, SHA-256": run.info.dataset_sha256,
        "Training software": ", ".join(
            f"{k} {v}" for k, v in run.info.versions.items()
        ),
    }

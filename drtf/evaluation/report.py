"""The report of an evaluation: figures, and a page for its readers."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pandas as pd

from drtf import __version__, figures, page
from drtf.config import GradcamConfig, dump_config
from drtf.data.loader import read_batch
from drtf.evaluation.decision_rules import RulePlan
from drtf.evaluation.folder import (
    FIGURES,
    GRADES_FIGURE,
    GROUPS_FIGURE,
    MISTAKES_FIGURE,
    REPORT_FILE,
)
from drtf.evaluation.group_results import (
    GROUP_COLUMNS,
    GROUPS_FILE,
    SHOWN_METRICS,
    GroupedResult,
    GroupResult,
    describe_groups,
    group_rows,
)
from drtf.evaluation.result import (
    CLASS_COLUMNS,
    POINT_COLUMNS,
    EvaluationResult,
    class_rows,
    describe_calibration,
    describe_cut_points,
    describe_fellow_eye,
    describe_threshold,
    describe_views,
    headline_metrics,
    metric_rows,
    metric_title,
    operating_point_rows,
)
from drtf.heatmaps.heatmaps import build_map_function
from drtf.heatmaps.overlays import (
    Explained,
    color_bar,
    describe_model,
    describe_photograph,
    draw_overlay,
    draw_photograph,
    explain,
    heat_scale,
)
from drtf.intervals import (
    Estimate,
    format_estimate,
    format_interval,
    format_value,
)
from drtf.models.decision_rule import DecisionRule
from drtf.models.history import HISTORY_FIGURE
from drtf.models.run import Run
from drtf.records.manifest import Manifest
from drtf.records.reader import ShardDataset
from drtf.scoring.score_check import MIN_PER_CLASS, probability_notes
from drtf.tasks import GRADES

NUM_MISTAKES = 4  # of each kind
MAX_NAME_LENGTH = 28  # of a group in a figure
LIMITS = (
    "This report is for research. The model is not a medical device. The results hold "
    "for photographs like the evaluated ones and will differ for other cameras, "
    "populations and disease prevalences. Before using the model elsewhere, choose a "
    "new threshold and calibration on photographs from that place, with drtf "
    "recalibrate.",
    "Grades follow the ICDR scale, 0 to 4, and are those of the dataset's labels, with "
    "any mistakes they contain. Photographs that could not be used were rejected when "
    "the dataset was built and are not part of the results.",
)
# What the terms of the report mean, for a reader who has not met them.
TERMS = {
    "Score": "The output of the model for a photograph, from 0 to 1, averaged over the "
    "views of test-time augmentation. Higher means more likely positive. It is not a "
    "probability.",
    "Fellow eye": "The other eye of the patient. If it was photographed too, the score "
    "of a photograph combines both eyes, with weights that were fitted on the "
    "validation split. Expected grades and heat maps do not use the fellow eye.",
    "Probability": "The score after calibration: among photographs with probability "
    "0.8, about 80 % should be positive.",
    "Threshold": "A photograph whose score is at or above the threshold is predicted "
    "positive. A rule chooses it on the validation split: youden is the highest "
    "sensitivity + specificity, accuracy the highest accuracy, sensitivity>=0.90 the "
    "highest threshold with a sensitivity of at least 0.90.",
    "ROC AUC": "The probability that a positive photograph has a higher score than a "
    "negative one: 0.5 is chance, 1 is perfect. It does not depend on the threshold.",
    "Sensitivity, specificity": "The fraction of positive photographs that are "
    "predicted positive, and of negative ones that are predicted negative, at the "
    "threshold.",
    "Sensitivity at specificity 0.90": "The highest sensitivity of any threshold that "
    "has at least this specificity. This threshold is found on the evaluated "
    "photographs themselves, so the value is optimistic.",
    "Precision, negative predictive value": "The fraction of positive predictions, and "
    "of negative predictions, that are correct. Both depend on how common the disease "
    "is among these photographs.",
    "Expected grade": "The mean of the grades 0 to 4, weighted by the probabilities "
    "that the model gives them. Cut points turn it into the predicted grade. They are "
    "chosen on the validation split for the highest quadratic weighted kappa.",
    "Kappa": "Agreement beyond chance: 0 is chance, 1 is perfect. With quadratic "
    "weights, a mistake of two grades counts four times as much as one of one grade.",
    "Brier score, log loss, expected calibration error": "Errors of the probabilities; "
    "0 is perfect.",
    "Calibration": "Fitted on the validation split. The prior shift corrects for the "
    "mixture of classes in training: it is negative if training had a higher fraction "
    "of positive photographs. A temperature above 1 makes probabilities less extreme. "
    "An offset corrects a network that is biased towards one class.",
    "Test-time augmentation (TTA)": "Each photograph is predicted several times, for "
    "example mirrored, and the scores are averaged.",
    "Per patient": "Each patient counts once, by the worse eye: the highest grade and "
    "the highest score.",
    "95 % CI": "Confidence interval: the values that are plausible given the number of "
    "patients, by bootstrap over patients, or exact where no mistake was made.",
}


def reader_notes(
    run: Run,
    manifest: Manifest,
    split: str,
    *,
    plan: RulePlan,
    rule: DecisionRule,
    predictions: pd.DataFrame,
    num_in_training: int,
    validation: pd.DataFrame | None,
) -> list[str]:
    """Return notes for the reader of an evaluation, the most important first.

    Args:
        run: The evaluated run.
        manifest: Of the evaluated dataset.
        split: The evaluated split.
        plan: Where the decision rule comes from.
        rule: The decision rule of the evaluation.
        predictions: The predictions for the split.
        num_in_training: How many of its photographs the model was trained or chosen on.
        validation: Scores of the validation split; None if it was not scored.
    """
    notes = list(manifest.notes)
    if predictions["score"].nunique() == 1 < len(predictions):
        notes.append(
            f"All photographs have the same score, {predictions['score'].iloc[0]:.4f}: "
            "the model does not distinguish them. Its training has failed, and the "
            "metrics mean nothing."
        )
    if plan.is_training_dataset:
        if split == "train":
            notes.append("The model was trained on this split.")
        if split == run.config.train.validation_split:
            notes.append(
                "The best epoch, and any threshold chosen by a rule, were chosen on "
                f"this split ({split}), so the results are optimistic."
            )
    elif plan.kept is None and split == run.config.train.validation_split:
        notes.append(
            f"Threshold and calibration were chosen on this split ({split}), so the "
            "results at the threshold and the probabilities are optimistic."
        )
    own_splits = {"train", run.config.train.validation_split}
    if num_in_training and not (plan.is_training_dataset and split in own_splits):
        notes.append(
            f"{num_in_training:,} of these {len(predictions):,} photographs were in "
            "the training or validation split of the training dataset"
            + (", or of a run that this one started from" * bool(run.info.ancestors))
            + ", so the results are optimistic."
        )
    if run.config.split.by == "image":
        notes.append(
            "The photographs were split by image, so the two eyes of a patient may be "
            "in different splits."
        )
    notes += probability_notes(rule.calibration, predictions)
    notes += _threshold_notes(run, plan, rule)
    chosen_on = rule.calibration.histograms
    if chosen_on.num_rarer < MIN_PER_CLASS:
        notes.append(
            f"Threshold and calibration were chosen on only "
            f"{chosen_on.num_photographs:,} photographs, {chosen_on.num_rarer:,} of "
            "them in the rarer class. Other photographs may lead to a different "
            "threshold, and the probabilities are rough."
        )
    if rule.cut_points and validation is not None:
        notes += _cut_point_notes(validation["grade"])
    return notes


def _cut_point_notes(grades: pd.Series) -> list[str]:
    """Return a note if the cut points were chosen on few photographs of a grade."""
    counts = grades.value_counts().reindex(GRADES, fill_value=0)
    rare = counts[counts < MIN_PER_CLASS]
    if rare.empty:
        return []
    text = ", ".join(f"{count:,} of grade {grade}" for grade, count in rare.items())
    return [
        f"The cut points of the grades were chosen on few photographs: {text}. Other "
        "photographs may lead to different predicted grades."
    ]


def _threshold_notes(run: Run, plan: RulePlan, rule: DecisionRule) -> list[str]:
    """Return a note if the rule may surprise a reader."""
    if run.decision_rule == rule or (plan.stores and run.decision_rule is None):
        return []
    in_force = (
        f"the threshold stored in the run folder, {describe_threshold(run.threshold)}"
        if run.threshold
        else "a threshold of 0.5 and a single view, because none is stored in the run "
        "folder"
    )
    if plan.stores:
        return [
            "drtf score now uses the threshold of this evaluation. Before, it used "
            f"{in_force}."
        ]
    if plan.is_read_only:
        return [
            "The threshold of this evaluation is not stored, because the run folder is "
            f"read-only. drtf score uses {in_force}. To score with this threshold, "
            "pass the folder of this evaluation to drtf score --decision-rule, or "
            "copy the run folder and evaluate the copy."
        ]
    return [
        "The threshold of this evaluation is not stored. drtf score uses "
        f"{in_force}. To store the new one, evaluate with --store-threshold."
    ]


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
    # An earlier report may have left these.
    for name in (GROUPS_FILE, GRADES_FIGURE, MISTAKES_FIGURE):
        (out / name).unlink(missing_ok=True)
    for path in out.glob(GROUPS_FIGURE.format(number="*")):
        path.unlink()
    _plot_figures(out, run, predictions, result)
    sections = [
        page.format_notes(result.notes),
        page.format_headline(_headline(result)),
        page.format_text("", _describe_evaluation(run, result)),
        page.format_figures("", [out / name for name in FIGURES]),
        page.format_notes(
            probability_notes(result.decision_rule.calibration, predictions)
        ),
        page.format_table("Metrics", result.metric_columns, metric_rows(result)),
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
    sections += _group_sections(out, result)
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
        page.format_facts("How to read this report", TERMS),
        page.format_facts("Model and data", _facts(run, result, shards)),
        page.format_text("Limitations", *LIMITS),
        page.format_details("Training settings", dump_config(run.config)),
    ]
    page.write_page(
        out / REPORT_FILE,
        title=f"Evaluation of {run.name} on split {result.split} of "
        f"{result.dataset_name}",
        subtitle=f"{result.date}, drtf {__version__}, {run.describe()}",
        sections=sections,
    )


def _group_sections(out: Path, result: EvaluationResult) -> Iterator[str]:
    """Plot the results of subgroups and yield a section for each column."""
    if result.groups:
        text = describe_groups(result.groups, result.config)
        yield page.format_text("Results by subgroup", text)
    for number, grouped in enumerate(result.groups, 1):
        path = out / GROUPS_FIGURE.format(number=number)
        _plot_groups(path, grouped)
        yield page.format_figures(f"By {grouped.title}", [path], wide=True)
        yield page.format_table("", GROUP_COLUMNS, group_rows(grouped))


def _plot_groups(path: Path, result: GroupedResult) -> None:
    undefined = Estimate(np.nan, np.nan, np.nan)

    def values(group: GroupResult, name: str) -> tuple[float, float, float]:
        return astuple(group.metrics.get(name, undefined))

    def label(group: GroupResult) -> str:
        name = " ".join(group.name.split())
        if len(name) > MAX_NAME_LENGTH:
            name = f"{name[: MAX_NAME_LENGTH - 1]}…"
        return f"{name} (n = {group.num_photographs:,})"

    figures.plot_groups(
        path,
        list(map(label, result.groups)),
        {
            title: [values(group, name) for group in result.groups]
            for name, title in SHOWN_METRICS.items()
        },
        whole=[values(result.whole, name) for name in SHOWN_METRICS],
    )


def _headline(result: EvaluationResult) -> list[tuple[str, str, str]]:
    cells = []
    for name in headline_metrics(result):
        estimate = result.metrics[name]
        interval = format_interval(estimate)
        below = f"95 % CI {interval}" if interval else ""
        cells.append((metric_title(name), format_value(estimate.value), below))
    return cells


def _describe_evaluation(run: Run, result: EvaluationResult) -> str:
    """Describe which photographs, classes and threshold the headline refers to."""
    num_negative, num_positive = map(sum, result.labels.confusion_matrix)
    threshold = describe_threshold(result.decision_rule.threshold)
    return (
        f"Positive means grade {run.task.positive_from} or higher: "
        f"{num_positive:,} of the {result.num_photographs:,} photographs are positive, "
        f"{num_negative:,} are negative. Threshold: {threshold}. Fellow eye: "
        f"{describe_fellow_eye(result)}."
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
    compute_maps = build_map_function(run, config)
    explained: dict[str, list[Explained]] = {}
    for title, mistakes in kinds.items():
        mistakes = mistakes[:NUM_MISTAKES]
        worst = predictions.iloc[mistakes]
        if len(worst):
            explained[title] = explain(
                compute_maps,
                read_batch(shards, rows[mistakes]),
                names=[f"{x.id}, grade {x.grade}" for x in worst.itertuples()],
                scores=worst["score"].tolist(),
                is_positive=(worst["predicted_label"] == 1).tolist(),
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


def _count_text(manifest: Manifest, num_photographs: int, num_patients: int) -> str:
    patients = (
        "unknown patients"
        if manifest.patients_from == "none"
        else f"{num_patients:,} patients"
    )
    return f"{num_photographs:,} photographs of {patients}"


def _facts(run: Run, result: EvaluationResult, shards: ShardDataset) -> dict[str, str]:
    split, manifest = run.config.split, shards.manifest
    facts = {
        "Evaluated photographs": _count_text(
            manifest, result.num_photographs, result.num_patients
        )
        + f", split {result.split} of {manifest.name}",
        "Run": run.name,
        "Task": f"{run.task.name}; positive means grade "
        f"{run.task.positive_from} or higher",
        "Threshold": describe_threshold(result.decision_rule.threshold),
        "Calibration": describe_calibration(result.decision_rule.calibration),
        "Test-time augmentation": describe_views(result),
    }
    if result.decision_rule.cut_points:
        facts["Cut points of grades 1 to 4"] = describe_cut_points(result.decision_rule)
    for name, counts in manifest.num_records.items():
        grades = ", ".join(f"grade {grade}: {n:,}" for grade, n in counts.items())
        photographs = _count_text(
            manifest, sum(counts.values()), manifest.num_patients[name]
        )
        facts[f"Evaluated dataset, {name}"] = f"{photographs}; {grades}"
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
        **run.lineage_facts(),
        "Training software": ", ".join(
            f"{k} {v}" for k, v in run.info.versions.items()
        ),
    }

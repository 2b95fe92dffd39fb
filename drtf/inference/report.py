"""The report of an evaluation: figures, and a page for those who must judge it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from drtf import figures
from drtf.config import GradcamConfig, dump_config
from drtf.data.loader import read_batch
from drtf.inference import page
from drtf.inference.evaluation_result import (
    CLASS_COLUMNS,
    METRIC_COLUMNS,
    POINT_COLUMNS,
    Evaluation,
    describe_calibration,
    describe_threshold,
    describe_views,
    list_classes,
    list_operating_points,
    list_rows,
)
from drtf.inference.heatmaps import compute_maps, describe_map, draw_overlay
from drtf.inference.intervals import format_interval, format_value
from drtf.models.run import HISTORY_FIGURE, Run
from drtf.records.manifest import hash_manifest
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
LIMITS = (
    "For research; not a medical device. The figures hold for photographs like those "
    "judged: another camera, population or rate of disease gives others. Choose the "
    "threshold anew, with drtf evaluate --keep, on photographs of the place where the "
    "model is to be used.",
    "Grades are on the ICDR scale, 0 to 4, as the label file has them, mistakes "
    "included. Photographs that could not be used were set aside when the set was "
    "built, and are in none of the figures.",
)
INTERVALS = (
    "Intervals of 95 %: bootstrap over patients, and exact ones where no mistake was "
    "made. A patient has the grade and the score of the worse eye. Brier score, log "
    "loss and calibration error are of the calibrated probabilities."
)


def write_report(
    out: Path,
    run: Run,
    table: pd.DataFrame,
    evaluation: Evaluation,
    *,
    history: Sequence[dict[str, float]],
    shards: ShardDataset,
    gradcam: GradcamConfig,
) -> None:
    """Draw the figures of an evaluation, and write its page.

    Args:
        out: the folder.
        run: that was judged.
        table: its predictions, in the order of the split.
        evaluation: what was found.
        history: what each epoch of the training measured; empty for an ensemble.
        shards: the set judged on, open.
        gradcam: how the worst mistakes are explained.
    """
    for name in (GRADES_FIGURE, MISTAKES_FIGURE):  # an earlier one's, replaced
        (out / name).unlink(missing_ok=True)
    _plot_figures(out, run, table, evaluation)
    sections = [
        page.format_notes(evaluation.notes),
        page.format_headline(_find_headline(evaluation)),
        page.format_text("", _describe_decision(run, evaluation)),
        page.format_figures("", [out / name for name in FIGURES]),
        page.format_table("Metrics", METRIC_COLUMNS, list_rows(evaluation)),
        page.format_text("", INTERVALS),
        page.format_table(
            "Decisions by class", CLASS_COLUMNS, list_classes(evaluation.classes)
        ),
    ]
    if evaluation.grade_classes:
        rows = list_classes(evaluation.grade_classes)
        matrix = np.array(evaluation.grade_confusion_matrix)
        figures.plot_confusion(out / GRADES_FIGURE, matrix, labels=run.task.class_names)
        sections += [
            page.format_table("Decisions by grade", CLASS_COLUMNS, rows),
            page.format_figures("", [out / GRADES_FIGURE]),
        ]
    if evaluation.operating_points:
        title = "Other thresholds, chosen on validation too"
        rows = list_operating_points(evaluation)
        sections.append(page.format_table(title, POINT_COLUMNS, rows))
    sections.append(_show_mistakes(out, run, table, evaluation, shards, gradcam))
    if history:
        figures.plot_history(out / HISTORY_FIGURE, history)
        sections.append(
            page.format_figures("Learning curves", [out / HISTORY_FIGURE], wide=True)
        )
    sections += [
        page.format_facts("Model and data", _find_facts(run, evaluation, shards)),
        page.format_text("Limits", *LIMITS),
        page.format_details(
            "Settings that the model was trained with", dump_config(run.config)
        ),
    ]
    name = run.folder.resolve().name
    page.write_page(
        out / REPORT_FILE,
        title=f"Evaluation of {name} on split {evaluation.split}",
        sections=sections,
    )


def _find_headline(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    shown = {
        "ROC AUC": "roc_auc",
        "Sensitivity": "sensitivity",
        "Specificity": "specificity",
    }
    found = []
    for title, name in shown.items():
        estimate = evaluation.metrics[name]
        found.append((title, format_value(estimate.value), format_interval(estimate)))
    return found


def _describe_decision(run: Run, evaluation: Evaluation) -> str:
    """Tell of what, and of how many, the headline's figures are."""
    num_healthy, num_diseased = map(sum, evaluation.confusion_matrix)
    return (
        f"Positive is grade {run.task.positive_from} and above: "
        f"{num_diseased:,} photographs are, {num_healthy:,} are not. Threshold: "
        f"{describe_threshold(evaluation.decision_rule.threshold)}."
    )


def _plot_figures(
    out: Path, run: Run, table: pd.DataFrame, evaluation: Evaluation
) -> None:
    truth, scores = table["label"].to_numpy(), table["score"].to_numpy()
    threshold = evaluation.decision_rule.threshold.value
    others = [point.threshold for point in evaluation.operating_points]
    roc_auc = evaluation.metrics["roc_auc"]
    average_precision = evaluation.metrics["average_precision"]
    figures.plot_roc(
        out / "roc.png",
        truth,
        scores,
        caption=f"AUC {format_value(roc_auc.value)} ({format_interval(roc_auc)})",
        threshold=threshold,
        others=others,
    )
    figures.plot_precision_recall(
        out / "precision_recall.png",
        truth,
        scores,
        caption=f"AP {format_value(average_precision.value)} "
        f"({format_interval(average_precision)})",
        threshold=threshold,
        others=others,
    )
    figures.plot_scores(
        out / "scores.png", table["grade"].to_numpy(), scores, threshold=threshold
    )
    figures.plot_reliability(
        out / "reliability.png",
        truth,
        {"scores": scores, "calibrated": table["probability"].to_numpy()},
    )
    figures.plot_confusion(
        out / "confusion_matrix.png",
        np.array(evaluation.confusion_matrix),
        labels=run.task.label_names,
    )


def _show_mistakes(
    out: Path,
    run: Run,
    table: pd.DataFrame,
    evaluation: Evaluation,
    shards: ShardDataset,
    config: GradcamConfig,
) -> str:
    """Show the decisions that were most wrong, with what the network saw."""
    heading = "Worst mistakes"
    scores, truth = table["score"].to_numpy(), table["label"].to_numpy()
    wrong = truth != table["predicted_label"].to_numpy()
    if not wrong.any():
        return page.format_text(heading, "No photograph was decided wrongly.")
    order = np.argsort(scores, kind="stable")
    healthy, diseased = run.task.label_names
    kinds = {
        f"{diseased}, scored lowest": order[(wrong & (truth == 1))[order]],
        f"{healthy}, scored highest": order[(wrong & (truth == 0))[order]][::-1],
    }
    rows = shards.split_rows(evaluation.split)
    grid: list[figures.Row] = []
    for title, chosen in kinds.items():
        chosen = chosen[:NUM_MISTAKES]
        if not len(chosen):
            continue
        plain: list[figures.Picture] = []
        explained: list[figures.Picture] = []
        images = read_batch(shards, rows[chosen])
        maps = compute_maps(
            run.network,
            images,
            task=run.task,
            backbone=run.backbone,
            layer=config.layer,
            method=config.method,
        )
        for image, values, number in zip(images, maps, chosen, strict=True):
            row = table.iloc[number]
            caption = f"{row['id']}, grade {row['grade']}\nscore {row['score']:.3f}"
            plain.append((caption, image))
            caption += describe_map(values)
            explained.append((caption, draw_overlay(image, values, config)))
        grid += [(title, plain), (title, explained)]
    figures.plot_grid(out / MISTAKES_FIGURE, grid, colormap=config.colormap)
    text = (
        f"Of {wrong.sum():,} wrong decisions. Beneath each photograph, as the network "
        f"takes it, what in it speaks for disease, by {config.method}."
    )
    shown = page.format_figures("", [out / MISTAKES_FIGURE], wide=True)
    return page.format_text(heading, text) + shown


def _find_facts(
    run: Run, evaluation: Evaluation, shards: ShardDataset
) -> dict[str, str]:
    split, manifest = run.config.split, shards.manifest
    facts = {
        "Photographs": f"{evaluation.num_photographs:,} of "
        f"{evaluation.num_patients:,} patients, split {evaluation.split} of "
        f"{manifest.name}",
        "Positive": f"{run.task.name}: grade {run.task.positive_from} and above",
        "Threshold": describe_threshold(evaluation.decision_rule.threshold),
        "Calibration": describe_calibration(evaluation.decision_rule.calibration),
        "Views (TTA)": describe_views(evaluation),
    }
    for name, counts in manifest.num_records.items():
        grades = ", ".join(f"grade {grade}: {n:,}" for grade, n in counts.items())
        facts[f"Judged set, {name}"] = (
            f"{sum(counts.values()):,} photographs of "
            f"{manifest.num_patients[name]:,} patients; {grades}"
        )
    set_aside = [f"{count:,} {why}" for why, count in manifest.rejected.items()]
    images = manifest.preprocessing.items()
    return facts | {
        "Judged set, set aside": ", ".join(set_aside) or "none",
        "Judged set, SHA-256": hash_manifest(shards.folder),
        "Preprocessing": ", ".join(f"{key} {value}" for key, value in images),
        "Model": _describe_model(run),
        "Model, SHA-256": run.info.model_sha256,
        "Trained on": f"{run.info.dataset_name}, split by {split.by}, "
        f"seed {split.seed}",
        "Trained on, SHA-256": run.info.dataset_sha256,
        "Trained with": ", ".join(f"{k} {v}" for k, v in run.info.versions.items()),
    }


def _describe_model(run: Run) -> str:
    if members := run.info.members:
        return f"ensemble of {len(members)} runs, {run.info.image_size} px"
    return (
        f"{run.backbone.describe(run.config.model)}, "
        f"{run.info.image_size} px, epoch {run.info.best_epoch}, trained in "
        f"{run.info.precision}"
    )

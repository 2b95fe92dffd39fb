"""Evaluation: a run judged on a split, its threshold chosen on another."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score

from drtf import figures
from drtf.config import Config, EvaluateConfig, Tta
from drtf.data.labels import POSITIVE_FROM
from drtf.data.pipeline import count_examples
from drtf.data.sampling import count_draws
from drtf.errors import DrtfError
from drtf.files import check_absent, write_atomic
from drtf.inference.metrics import (
    Estimate,
    choose_threshold,
    format_interval,
    format_value,
    measure,
    measure_grades,
)
from drtf.inference.report import write_report
from drtf.models.calibration import Calibration, fit_calibration
from drtf.models.network import find_scores
from drtf.models.prediction import Predict, build_predictor, predict_split
from drtf.models.run import (
    HISTORY_FIGURE,
    Run,
    RunInfo,
    Threshold,
    load_history,
    load_run,
    save_calibration,
    save_threshold,
)
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardSet

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
REPORT_FILE = "report.html"
FIGURES = (
    "roc.png",
    "precision_recall.png",
    "confusion_matrix.png",
    "scores.png",
    "reliability.png",
)
METRIC_COLUMNS = ("metric", "per photograph", "95 %", "per patient", "95 %")
CLASS_COLUMNS = ("class", "precision", "recall", "f1-score", "support")
LABELS = {
    "binary": ("healthy", "diseased"),
    "referable": ("not referable", "referable"),
    "grades": ("not referable", "referable"),
}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        split: the split judged.
        tta: the views used.
        threshold: as chosen on the validation split.
        calibration: as fitted there.
        metrics: estimates by name, per photograph.
        patient_metrics: the same per patient, by the worse eye: the highest grade, and
            the highest score.
        classes: precision, recall, F1 and support of each class, then their macro and
            weighted averages, as scikit-learn's `classification_report` has them.
        single_view_roc_auc: of the unchanged view alone, to tell what the views gain.
        confusion_matrix: rows are truth, columns are decisions.
        num_photographs: judged.
        num_patients: to whom they belong.
        notes: what a reader must know to weigh the figures.
        settings: the `evaluate` section.
    """

    split: str
    tta: Tta
    threshold: Threshold
    calibration: Calibration
    metrics: dict[str, Estimate]
    patient_metrics: dict[str, Estimate]
    classes: dict[str, dict[str, float]]
    single_view_roc_auc: float
    confusion_matrix: list[list[int]]
    num_photographs: int
    num_patients: int
    notes: list[str]
    settings: dict[str, Any]


def evaluate(
    run_folder: Path,
    shards: Path,
    *,
    split: str,
    out: Path,
    config: Config,
    overwrite: bool = False,
) -> Evaluation:
    """Judge a run on a split and write metrics, predictions, figures and a report.

    The threshold is chosen on the split that training validated on; if the set is the
    one trained on, it is stored in the run folder for scoring.

    Args:
        run_folder: what `train` left.
        shards: a set preprocessed like the one trained on.
        split: to judge.
        out: the folder to write to.
        config: its `evaluate` section is used.
        overwrite: whether an earlier evaluation in `out` may be replaced.

    Raises:
        DrtfError: if run and set don't fit together, a split is missing or has one
            class only, or `out` holds an evaluation already.
    """
    check_absent(out / METRICS_FILE, overwrite=overwrite)
    run = load_run(run_folder)
    settings = config.evaluate
    with ShardSet(shards) as shard_set:
        check_preprocessing(run, shard_set)
        validation_split = run.config.train.validation_split
        predict = build_predictor(run.network, settings.tta)
        scored = {
            name: _score(run, shard_set, name, predict, settings.batch_size)
            for name in dict.fromkeys((validation_split, split))
        }
        shares = _find_shares(shard_set, run.config)
    validation = scored[validation_split]
    value = choose_threshold(
        validation["label"].to_numpy(),
        validation["score"].to_numpy(),
        settings.threshold,
    )
    threshold = Threshold(
        value=value,
        rule=str(settings.threshold),
        split=validation_split,
        tta=settings.tta,
        num_photographs=len(validation),
    )
    set_sha256 = hash_manifest(shards)
    calibration = fit_calibration(
        validation["label"].to_numpy(),
        validation["score"].to_numpy(),
        method=settings.calibration,
        **shares,
        split=validation_split,
        tta=settings.tta,
    )
    trained_on = set_sha256 == run.info.set_sha256
    table = scored[split]
    table["decision"] = (table["score"] >= value).astype(int)
    table["probability"] = calibration.apply(table["score"].to_numpy())
    truth, decision = table["label"].to_numpy(), table["decision"].to_numpy()
    bootstrap = {"num_resamples": settings.num_resamples, "seed": settings.seed}
    metrics = _measure(table, value, **bootstrap)
    if "decided_grade" in table:
        metrics |= measure_grades(
            table["grade"].to_numpy(),
            table["decided_grade"].to_numpy(),
            patients=table["patient"].to_numpy(),
            **bootstrap,
        )
    columns = ["label", "grade", "score", "probability"]
    patients = table.groupby("patient")[columns].max()
    evaluation = Evaluation(
        split=split,
        tta=settings.tta,
        threshold=threshold,
        calibration=calibration,
        metrics=metrics,
        patient_metrics=_measure(patients.reset_index(), value, **bootstrap),
        classes=describe_classes(truth, decision, labels=LABELS[run.config.train.task]),
        single_view_roc_auc=float(roc_auc_score(truth, table["first_view"])),
        confusion_matrix=confusion_matrix(truth, decision, labels=(0, 1)).tolist(),
        num_photographs=len(table),
        num_patients=table["patient"].nunique(),
        notes=_find_notes(run, split, trained_on),
        settings=settings.model_dump(mode="json"),
    )
    out.mkdir(parents=True, exist_ok=True)
    _write(out, run, table, evaluation, set_sha256=set_sha256)
    if trained_on:
        save_threshold(run.folder, threshold)
        save_calibration(run.folder, calibration)
    return evaluation


def was_judged(out: Path, info: RunInfo, config: EvaluateConfig) -> bool:
    """Tell whether a folder holds a run's evaluation with these settings."""
    try:
        found = json.loads((out / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return False
    settings = config.model_dump(mode="json")
    return (found.get("model_sha256"), found.get("settings")) == (
        info.model_sha256,
        settings,
    )


def check_preprocessing(run: Run, shards: ShardSet) -> None:
    """Refuse a set whose pixels were made otherwise than those trained on.

    Raises:
        DrtfError: names the first setting that differs.
    """
    expected = run.config.images.model_dump(mode="json")
    found = shards.manifest.preprocessing
    for key, value in expected.items():
        if found.get(key) != value:
            raise DrtfError(
                f"{shards.folder} was built with images.{key}={found.get(key)!r}, the "
                f"run {run.folder} was trained with {value!r}: build the set alike"
            )


def _score(
    run: Run, shards: ShardSet, split: str, predict: Predict, batch_size: int
) -> pd.DataFrame:
    task = run.config.train.task
    views = predict_split(
        predict, shards, split=split, task=task, batch_size=batch_size
    )
    columns = ["id", "patient", "grade"]
    table = shards.index.loc[shards.find_rows(split), columns].reset_index(drop=True)
    table["label"] = (table["grade"] >= POSITIVE_FROM[task]).astype(int)
    if table["label"].nunique() < 2:
        raise DrtfError(
            f"split {split!r} of {shards.folder} has photographs of one class only for "
            f"the task {task!r}: it can't be judged on"
        )
    probabilities = views.mean(axis=1)
    table["score"] = find_scores(probabilities)
    table["first_view"] = find_scores(views[:, 0])
    if task == "grades":
        table["decided_grade"] = probabilities.argmax(axis=1)
    return table


def _find_shares(shards: ShardSet, config: Config) -> dict[str, float]:
    """Find the share of positive photographs in training: as drawn, and as they are."""
    task = config.train.task
    counts = count_examples(shards, "train", task)
    first = POSITIVE_FROM[task] if task == "grades" else 1
    drawn = np.array(count_draws(counts, config.sampling))
    return {
        "trained_share": drawn[first:].sum() / drawn.sum(),
        "real_share": counts[first:].sum() / counts.sum(),
    }


def _measure(
    table: pd.DataFrame, threshold: float, *, num_resamples: int, seed: int
) -> dict[str, Estimate]:
    columns = ("label", "score", "probability", "patient", "grade")
    truth, scores, probabilities, patients, grades = (
        table[name].to_numpy() for name in columns
    )
    return measure(
        truth,
        scores,
        probabilities=probabilities,
        threshold=threshold,
        patients=patients,
        grades=grades,
        num_resamples=num_resamples,
        seed=seed,
    )


def describe_classes(
    truth: np.ndarray, decisions: np.ndarray, *, labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and support of each class, and their averages.

    Args:
        truth: int64 [n], 1 for positive.
        decisions: int64 [n].
        labels: of the two classes.
    """
    found = classification_report(
        truth,
        decisions,
        labels=(0, 1),
        target_names=labels,
        output_dict=True,
        zero_division=np.nan,
    )
    found.pop("accuracy", None)
    return {
        name: {key: float(value) for key, value in values.items()}
        for name, values in found.items()
    }


def _find_notes(run: Run, split: str, trained_on: bool) -> list[str]:
    notes = []
    if not trained_on:
        notes.append(
            "This is not the set that the model was trained on: it may hold "
            "photographs that were. The run's own threshold is left as it was."
        )
    if split == run.config.train.validation_split:
        notes.append(
            f"The threshold and the best epoch were chosen on this same split, "
            f"{split!r}: the figures flatter the model."
        )
    if split == "train":
        notes.append("The model was trained on this split.")
    if run.config.split.by == "image":
        notes.append(
            "The split is by image: the two eyes of a patient may be in two splits."
        )
    return notes


def list_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """List an evaluation's metrics as text.

    Returns:
        Name, then value and interval per photograph, then the same per patient.
    """
    rows = []
    for name, item in evaluation.metrics.items():
        row = [name, format_value(item.value), format_interval(item)]
        of_patients = evaluation.patient_metrics.get(name)
        if of_patients:
            row += [format_value(of_patients.value), format_interval(of_patients)]
        else:
            row += ["", ""]
        rows.append(tuple(row))
    return rows


def list_classes(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """List an evaluation's classes as text, as `CLASS_COLUMNS` says."""
    return [
        (
            name,
            *(format_value(values[key]) for key in CLASS_COLUMNS[1:-1]),
            f"{values['support']:,.0f}",
        )
        for name, values in evaluation.classes.items()
    ]


def _write(
    out: Path, run: Run, table: pd.DataFrame, evaluation: Evaluation, *, set_sha256: str
) -> None:
    task = run.config.train.task
    truth, scores = table["label"].to_numpy(), table["score"].to_numpy()
    threshold = evaluation.threshold.value
    roc_auc = evaluation.metrics["roc_auc"]
    average_precision = evaluation.metrics["average_precision"]
    figures.plot_roc(
        out / "roc.png",
        truth,
        scores,
        caption=f"AUC {format_value(roc_auc.value)} ({format_interval(roc_auc)})",
        threshold=threshold,
    )
    figures.plot_precision_recall(
        out / "precision_recall.png",
        truth,
        scores,
        caption=f"AP {format_value(average_precision.value)} "
        f"({format_interval(average_precision)})",
        threshold=threshold,
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
        labels=LABELS[task],
    )
    columns = ["id", "patient", "grade", "score", "probability", "decision"]
    columns += [name for name in ("decided_grade",) if name in table]
    write_atomic(out / PREDICTIONS_FILE, table[columns].to_csv(index=False))
    contents = _dump(evaluation.metrics) | {
        "per_patient": _dump(evaluation.patient_metrics),
        "classes": evaluation.classes,
        "confusion_matrix": evaluation.confusion_matrix,
        "single_view_roc_auc": evaluation.single_view_roc_auc,
        "num_photographs": evaluation.num_photographs,
        "num_patients": evaluation.num_patients,
        "split": evaluation.split,
        "task": task,
        "positive_from_grade": POSITIVE_FROM[task],
        "tta": evaluation.tta,
        "threshold": evaluation.threshold.model_dump(mode="json"),
        "calibration": evaluation.calibration.model_dump(mode="json"),
        "notes": evaluation.notes,
        "settings": evaluation.settings,
        "model_sha256": run.info.model_sha256,
        "set_sha256": set_sha256,
    }
    _write_report(out, run, evaluation)
    write_atomic(out / METRICS_FILE, json.dumps(contents, indent=2) + "\n")


def _dump(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    return {
        name: {
            key: value if math.isfinite(value) else None
            for key, value in dataclasses.asdict(estimate).items()
        }
        for name, estimate in metrics.items()
    }


def _describe_model(run: Run) -> str:
    if members := run.info.members:
        return f"ensemble of {len(members)} runs, {run.info.image_size} px"
    model = run.config.model
    return (
        f"{model.name}, alpha {model.alpha}, weights {Path(model.weights).name}, "
        f"{run.info.image_size} px, epoch {run.info.best_epoch}, trained in "
        f"{run.info.precision}"
    )


def _write_report(out: Path, run: Run, evaluation: Evaluation) -> None:
    threshold = evaluation.threshold
    roc_auc = evaluation.metrics["roc_auc"]
    facts = {
        "Photographs": f"{evaluation.num_photographs:,} of "
        f"{evaluation.num_patients:,} patients, split {evaluation.split}",
        "Positive": f"{run.config.train.task}: grade "
        f"{POSITIVE_FROM[run.config.train.task]} and above",
        "Threshold": f"{threshold.value:.4f} by {threshold.rule} on split "
        f"{threshold.split} ({threshold.num_photographs:,} photographs)",
        "Views (TTA)": f"{evaluation.tta}; ROC AUC {format_value(roc_auc.value)}, of "
        f"one view alone {format_value(evaluation.single_view_roc_auc)}",
        "Model": _describe_model(run),
        "Trained on": f"{run.info.set_name}, split by {run.config.split.by}",
        "Versions": ", ".join(f"{k} {v}" for k, v in run.info.versions.items()),
        "Model SHA-256": run.info.model_sha256,
    }
    names = list(FIGURES)
    if not run.info.members:
        names.append(HISTORY_FIGURE)
        figures.plot_history(out / HISTORY_FIGURE, load_history(run.folder))
    write_report(
        out / REPORT_FILE,
        title=f"Evaluation of {run.folder.resolve().name} on split {evaluation.split}",
        facts=facts,
        tables={
            "Metrics": (METRIC_COLUMNS, list_rows(evaluation)),
            "Classes": (CLASS_COLUMNS, list_classes(evaluation)),
        },
        notes=evaluation.notes,
        figures=[out / name for name in names],
    )

"""Evaluation: a run judged on a split, its threshold chosen on another."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import (
    classification_report,
    confusion_matrix,
    precision_score,
    recall_score,
)

from drtf.config import Config, EvaluateConfig, Tta
from drtf.data.pipeline import binary_labels
from drtf.errors import DrtfError
from drtf.files import check_absent, escape_formula, write_atomic
from drtf.inference.evaluation_result import (
    GIVEN,
    Evaluation,
    OperatingPoint,
)
from drtf.inference.heatmaps import check_settings
from drtf.inference.intervals import Estimate
from drtf.inference.metrics import compare_roc_auc, measure, measure_grades
from drtf.inference.report import REPORT_FILES, write_report
from drtf.inference.thresholds import choose_threshold
from drtf.models.calibration import fit_calibration
from drtf.models.prediction import (
    Predict,
    build_predictor,
    measure_views_cost,
    photographs_per_batch,
    predict_split,
)
from drtf.models.run import (
    DecisionRule,
    Run,
    RunInfo,
    Threshold,
    load_history,
    load_run,
    save_decision_rule,
)
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
# With fewer of a class a step of sensitivity or specificity is wider than 0.05.
MIN_TO_CHOOSE_BY = 20
# Thresholds that a reader may ask for, beside the one chosen.
OTHER_SET_NOTE = (
    "This is not the set that the model was trained on: it may hold photographs that "
    "were."
)
UNKNOWN_PATIENTS_NOTE = (
    "Each photograph counts as a patient of its own: where that is for want of "
    "knowing, two eyes of one may be in two splits, and intervals are too narrow."
)
RULES = (
    "youden",
    "accuracy",
    *(
        f"{name}>={share}"
        for name in ("sensitivity", "specificity")
        for share in ("0.80", "0.90", "0.95")
    ),
)


def evaluate(
    run_folder: Path,
    shards: Path,
    *,
    split: str,
    out: Path,
    config: Config,
    overwrite: bool = False,
    keep: bool = False,
) -> Evaluation:
    """Judge a run on a split and write metrics, predictions, figures and a report.

    The threshold is chosen on the split that training validated on; if the set is the
    one trained on, it is kept in the run folder for scoring. On any other set
    `evaluate.threshold="stored"` judges the run as it scores.

    Args:
        run_folder: what `train` left.
        shards: a set preprocessed like the one trained on.
        split: to judge.
        out: the folder to write to.
        config: its `evaluate` section is used, and `gradcam` for the worst mistakes.
        overwrite: whether an earlier evaluation in `out` may be replaced.
        keep: whether threshold and calibration are kept though the set is another.

    Raises:
        DrtfError: if run and set don't fit together, a split is missing or has one
            class only, the run has no threshold where its own is asked for, no heat map
            can be made as `gradcam` says, or `out` has a file that would be written.
    """
    written = METRICS_FILE, PREDICTIONS_FILE, *REPORT_FILES
    check_absent(*(out / name for name in written), overwrite=overwrite)
    run = load_run(run_folder)
    check_settings(run.network, config.gradcam, backbone=run.backbone)
    history = [] if run.info.members else load_history(run_folder)
    dataset_sha256 = hash_manifest(shards)
    trained_on = dataset_sha256 == run.info.dataset_sha256
    keep = keep or trained_on
    with ShardDataset(shards) as shard_set:
        check_preprocessing(run, shard_set)
        binary_labels(shard_set, split, run.config.train.task)  # before all the work
        evaluation, table = _judge(
            run, shard_set, split, config.evaluate, trained_on=trained_on, keep=keep
        )
        out.mkdir(parents=True, exist_ok=True)
        # Written last, so that whoever finds it has all of one evaluation.
        (out / METRICS_FILE).unlink(missing_ok=True)
        write_report(
            out,
            run,
            table,
            evaluation,
            history=history,
            shards=shard_set,
            gradcam=config.gradcam,
        )
    columns = ["id", "patient", "grade", "score", "probability", "predicted_label"]
    columns += [name for name in ("predicted_grade",) if name in table]
    names = {name: table[name].map(escape_formula) for name in ("id", "patient")}
    predictions = table[columns].assign(**names).to_csv(index=False)
    write_atomic(out / PREDICTIONS_FILE, predictions)
    contents = _describe(run, evaluation) | {"dataset_sha256": dataset_sha256}
    text = json.dumps(contents, indent=2, allow_nan=False)
    write_atomic(out / METRICS_FILE, text + "\n")
    if keep:
        save_decision_rule(run.folder, evaluation.decision_rule)
    return evaluation


def _judge(
    run: Run,
    shards: ShardDataset,
    split: str,
    settings: EvaluateConfig,
    *,
    trained_on: bool,
    keep: bool,
) -> tuple[Evaluation, pd.DataFrame]:
    """Judge a run on a split, and return the predictions too."""
    predict = build_predictor(run.network, settings.tta)
    batch_size = photographs_per_batch(settings.batch_size, settings.tta)
    score = functools.partial(
        _score, run, shards, predict=predict, batch_size=batch_size
    )
    stored = settings.threshold == "stored"
    chosen_by = None
    if stored:
        found = _find_stored(run, settings.tta)
        table, points = score(split), []
    else:
        validation_split = run.config.train.validation_split
        if validation_split not in shards.manifest.num_records:
            raise DrtfError(
                f"{shards.folder} has no split {validation_split!r} to choose a "
                "threshold on: judge by the run's own with --set "
                "evaluate.threshold=stored"
            )
        validation = score(validation_split)
        table = validation if split == validation_split else score(split)
        known = validation["label"].to_numpy(), validation["score"].to_numpy()
        found = _choose(run, *known, settings)
        chosen_by = known[0]
        points = [
            _find_operating_point(rule, choose_threshold(*known, rule), table)
            for rule in RULES
        ]
    value = found.threshold.value
    table["predicted_label"] = (table["score"] >= value).astype(int)
    table["probability"] = found.calibration.apply(table["score"].to_numpy())
    truth, decision = table["label"].to_numpy(), table["predicted_label"].to_numpy()
    labels = run.task.label_names
    grade_classes, grade_matrix = {}, []
    if "predicted_grade" in table:
        grades, decided = table["grade"].to_numpy(), table["predicted_grade"].to_numpy()
        grade_classes = describe_classes(grades, decided, labels=run.task.class_names)
        grade_matrix = count_decisions(grades, decided, labels=run.task.class_names)
    views_gain = None
    if settings.tta != "none":
        _, (_, views_gain, _) = compare_roc_auc(
            truth,
            table[["first_view", "score"]].to_numpy().T,
            patients=table["patient"].to_numpy(),
            num_resamples=settings.num_resamples,
            seed=settings.seed,
        )
    evaluation = Evaluation(
        split=split,
        tta=settings.tta,
        decision_rule=found,
        metrics=_measure(table, value, settings),
        patient_metrics=_measure(_find_worse_eyes(table), value, settings),
        classes=describe_classes(truth, decision, labels=labels),
        operating_points=points,
        views_gain=views_gain,
        views_cost=measure_views_cost(run.network, settings.tta, batch_size),
        confusion_matrix=count_decisions(truth, decision, labels=labels),
        grade_classes=grade_classes,
        grade_confusion_matrix=grade_matrix,
        num_photographs=len(table),
        num_patients=table["patient"].nunique(),
        notes=[
            *_find_notes(run, split, trained_on=trained_on, keep=keep or stored),
            *_find_doubts(table["patient"], chosen_by),
        ],
        replaced=run.threshold if keep else None,
        settings=settings.model_dump(mode="json"),
    )
    return evaluation, table


def _choose(
    run: Run, truth: np.ndarray, scores: np.ndarray, settings: EvaluateConfig
) -> DecisionRule:
    """Choose a threshold and fit a calibration on the validation split."""
    common: dict[str, Any] = {
        "split": run.config.train.validation_split,
        "tta": settings.tta,
    }
    threshold = Threshold(
        value=choose_threshold(truth, scores, settings.threshold),
        rule=settings.threshold if isinstance(settings.threshold, str) else GIVEN,
        num_photographs=len(truth),
        **common,
    )
    calibration = fit_calibration(
        truth,
        scores,
        method=settings.calibration,
        train_prior=run.info.train_prior,
        **common,
    )
    return DecisionRule(
        threshold=threshold,
        calibration=calibration,
        model_sha256=run.info.model_sha256,
    )


def _find_stored(run: Run, tta: Tta) -> DecisionRule:
    """Return the run's own threshold and calibration, if they are for these views."""
    if run.decision_rule is None:
        raise DrtfError(
            f"{run.folder} has no threshold and calibration yet: drtf evaluate on the "
            "set that it was trained on chooses them"
        )
    if run.tta != tta:
        raise DrtfError(
            f"the threshold of {run.folder} was chosen with views {run.tta!r}, not "
            f"{tta!r}: judge it with --tta {run.tta}"
        )
    return run.decision_rule


def _find_operating_point(
    rule: str, threshold: float, table: pd.DataFrame
) -> OperatingPoint:
    truth, decision = table["label"], (table["score"] >= threshold).astype(int)
    return OperatingPoint(
        rule,
        threshold,
        sensitivity=recall_score(truth, decision),
        specificity=recall_score(truth, decision, pos_label=0),
        precision=precision_score(truth, decision, zero_division=np.nan),
    )


def is_evaluated(out: Path, info: RunInfo, config: EvaluateConfig) -> bool:
    """Tell whether a folder holds an evaluation with these settings.

    Args:
        out: the folder.
        info: of a run, judged on the set that it was trained on.
        config: the `evaluate` section.
    """
    try:
        found = json.loads((out / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return False
    expected = {
        "model_sha256": info.model_sha256,
        "dataset_sha256": info.dataset_sha256,
        "settings": config.model_dump(mode="json"),
    }
    return isinstance(found, dict) and expected.items() <= found.items()


def check_preprocessing(run: Run, shards: ShardDataset) -> None:
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
    run: Run, shards: ShardDataset, split: str, *, predict: Predict, batch_size: int
) -> pd.DataFrame:
    task = run.task.name
    truth = binary_labels(shards, split, task)
    views = predict_split(
        predict, shards, split=split, task=task, batch_size=batch_size
    )
    columns = ["id", "patient", "grade"]
    table = shards.index.loc[shards.split_rows(split), columns].reset_index(drop=True)
    table["label"] = truth
    probabilities = views.mean(axis=1)
    table["score"] = run.task.disease_scores(probabilities)
    table["first_view"] = run.task.disease_scores(views[:, 0])
    if run.task.predicts_grades:
        table["predicted_grade"] = run.task.predicted_classes(probabilities)
    return table


def _find_worse_eyes(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each patient: the highest of what the photographs have."""
    of_eyes = table.drop(columns=["id", "first_view", "predicted_label"])
    return of_eyes.groupby("patient", as_index=False).max()


def _measure(
    table: pd.DataFrame, threshold: float, settings: EvaluateConfig
) -> dict[str, Estimate]:
    """Measure a table of photographs or of patients."""
    columns = {name: column.to_numpy() for name, column in table.items()}
    bootstrap: dict[str, Any] = {
        "patients": columns["patient"],
        "num_resamples": settings.num_resamples,
        "seed": settings.seed,
    }
    metrics = measure(
        columns["label"],
        columns["score"],
        threshold=threshold,
        grades=columns["grade"],
        probabilities=columns["probability"],
        **bootstrap,
    )
    if "predicted_grade" in columns:
        metrics |= measure_grades(
            columns["grade"], columns["predicted_grade"], **bootstrap
        )
    return metrics


def describe_classes(
    truth: np.ndarray, decisions: np.ndarray, *, labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and support of each class, and their averages.

    A precision that is undefined, of a class never decided for, is left out of the
    averages.

    Args:
        truth: int64 [n], classes from 0.
        decisions: int64 [n].
        labels: of the classes.
    """
    found = classification_report(
        truth,
        decisions,
        labels=range(len(labels)),
        target_names=labels,
        output_dict=True,
        zero_division=np.nan,
    )
    found.pop("accuracy", None)
    return {
        name: {key: float(value) for key, value in values.items()}
        for name, values in found.items()
    }


def count_decisions(
    truth: np.ndarray, decisions: np.ndarray, *, labels: Sequence[str]
) -> list[list[int]]:
    """Return the confusion matrix of classes, as `describe_classes` takes them."""
    return confusion_matrix(truth, decisions, labels=range(len(labels))).tolist()


def _find_notes(run: Run, split: str, *, trained_on: bool, keep: bool) -> list[str]:
    notes = []
    if not trained_on:
        notes.append(OTHER_SET_NOTE)
    if not keep:
        notes.append(
            "drtf score goes on with the run's own threshold, unless --keep is given; "
            "--set evaluate.threshold=stored judges by that one here."
        )
    if trained_on and split == run.config.train.validation_split:
        notes.append(
            f"The best epoch, and a threshold by rule, were chosen on this same "
            f"split, {split!r}: the figures flatter the model."
        )
    if trained_on and split == "train":
        notes.append("The model was trained on this split.")
    if run.config.split.by == "image":
        notes.append(
            "The split is by image: the two eyes of a patient may be in two splits."
        )
    return notes


def _find_doubts(patients: pd.Series, chosen_by: np.ndarray | None) -> list[str]:
    """Warn of too few photographs to choose by, and of patients that are not known.

    Args:
        patients: of the photographs judged.
        chosen_by: the truth of those that chose the threshold; None if none did here.
    """
    doubts = []
    if chosen_by is not None:
        fewest = int(min(chosen_by.sum(), (1 - chosen_by).sum()))
        if fewest < MIN_TO_CHOOSE_BY:
            doubts.append(
                f"Threshold and calibration were chosen by {len(chosen_by):,} "
                f"photographs, and {fewest:,} of them are of the rarer class: others "
                "would choose otherwise."
            )
    if patients.is_unique:
        doubts.append(UNKNOWN_PATIENTS_NOTE)
    return doubts


def _describe(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """Return the contents of metrics.json."""
    gain = evaluation.views_gain
    contents = _dump(evaluation.metrics) | {
        "per_patient": _dump(evaluation.patient_metrics),
        "classes": evaluation.classes,
        "operating_points": [
            dataclasses.asdict(point) for point in evaluation.operating_points
        ],
        "confusion_matrix": evaluation.confusion_matrix,
        "grade_classes": evaluation.grade_classes,
        "grade_confusion_matrix": evaluation.grade_confusion_matrix,
        "views_gain": gain and dataclasses.asdict(gain),
        "num_photographs": evaluation.num_photographs,
        "num_patients": evaluation.num_patients,
        "split": evaluation.split,
        "task": run.task.name,
        "positive_from_grade": run.task.positive_from,
        "tta": evaluation.tta,
        **evaluation.decision_rule.model_dump(mode="json"),
        "notes": evaluation.notes,
        "settings": evaluation.settings,
    }
    return _clean(contents)


def _dump(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: dataclasses.asdict(estimate) for name, estimate in metrics.items()}


def _clean(value: Any) -> Any:
    """Put None for what is undefined: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _clean(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_clean(x) for x in value]
    undefined = isinstance(value, float) and not math.isfinite(value)
    return None if undefined else value

"""Evaluation of a run on a split; its threshold is chosen on the validation split."""

import functools
from pathlib import Path
from typing import Any

import pandas as pd

from drtf.config import EvaluateConfig, GradcamConfig
from drtf.data.pipeline import binary_labels
from drtf.errors import DrtfError
from drtf.files import check_absent
from drtf.inference.decision_rules import (
    fit_decision_rule,
    operating_points,
    stored_decision_rule,
)
from drtf.inference.evaluation_result import (
    METRICS_FILE,
    EvaluationResult,
    save_result,
)
from drtf.inference.heatmaps import check_settings
from drtf.inference.intervals import Estimate
from drtf.inference.metrics import (
    ClassReport,
    class_report,
    compare_roc_auc,
    disease_metrics,
    grade_metrics,
)
from drtf.inference.predictions import (
    PREDICTIONS_FILE,
    apply_decision_rule,
    patient_predictions,
    save_predictions,
    score_split,
)
from drtf.inference.report import REPORT_FILES, reader_notes, write_report
from drtf.models.compatibility import check_preprocessing
from drtf.models.decision_rule import save_decision_rule
from drtf.models.history import load_history
from drtf.models.prediction import (
    build_predictor,
    measure_views_cost,
    photographs_per_batch,
)
from drtf.models.run import Run, load_run
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import Task


def evaluate(
    run_folder: Path,
    shards: Path,
    *,
    split: str,
    out: Path,
    config: EvaluateConfig,
    gradcam: GradcamConfig,
    overwrite: bool = False,
    store_threshold: bool = False,
) -> EvaluationResult:
    """Evaluate a run on a split and write metrics, predictions, figures and a report.

    The threshold is chosen on the split that training validated on. If the dataset is
    the one that the run was trained on, the threshold is stored in the run folder for
    scoring. With `config.threshold="stored"` the run's own threshold is used instead.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        shards: A dataset with the same preprocessing as in training.
        split: The split to evaluate on.
        out: The folder to write to.
        config: How to evaluate.
        gradcam: How to explain the worst mistakes in the report.
        overwrite: Whether to replace an earlier evaluation in `out`.
        store_threshold: Whether to store threshold and calibration in the run folder
            even if the dataset is another one than in training.

    Raises:
        DrtfError: If run and dataset do not fit together, a split is missing or has
            only one class, a stored threshold is requested and the run has none, the
            heat maps cannot be made, or `out` already has a file to be written.
    """
    files = METRICS_FILE, PREDICTIONS_FILE, *REPORT_FILES
    check_absent(*(out / name for name in files), overwrite=overwrite)
    run = load_run(run_folder)
    check_settings(run.network, gradcam, backbone=run.backbone)
    history = load_history(run_folder) if run.has_history else []
    dataset_sha256 = hash_manifest(shards)
    store_threshold = store_threshold or dataset_sha256 == run.info.dataset_sha256
    with ShardDataset(shards) as dataset:
        check_preprocessing(run, dataset)
        # Fail before the work if the split is missing or has only one class.
        binary_labels(dataset, split, run.task.name)
        result, predictions = _evaluate_split(
            run,
            dataset,
            split,
            config,
            dataset_sha256=dataset_sha256,
            store_threshold=store_threshold,
        )
        out.mkdir(parents=True, exist_ok=True)
        # Written last, so that a folder with this file is complete.
        (out / METRICS_FILE).unlink(missing_ok=True)
        write_report(
            out,
            run,
            predictions,
            result,
            history=history,
            shards=dataset,
            gradcam=gradcam,
        )
    save_predictions(out, predictions)
    save_result(out, result)
    if store_threshold:
        save_decision_rule(run.folder, result.decision_rule)
    return result


def _evaluate_split(
    run: Run,
    shards: ShardDataset,
    split: str,
    config: EvaluateConfig,
    *,
    dataset_sha256: str,
    store_threshold: bool,
) -> tuple[EvaluationResult, pd.DataFrame]:
    """Evaluate a run on a split; return the predictions too."""
    batch_size = photographs_per_batch(config.batch_size, config.tta)
    predict = build_predictor(run.network, config.tta)
    score = functools.partial(
        score_split, run, shards, predict=predict, batch_size=batch_size
    )
    validation = None
    if config.threshold == "stored":
        rule = stored_decision_rule(run, config.tta)
        scores = score(split)
    else:
        validation_split = run.config.train.validation_split
        _check_has_split(shards, validation_split)
        validation = score(validation_split)
        scores = validation if split == validation_split else score(split)
        rule = fit_decision_rule(run, validation, config)
    predictions = apply_decision_rule(scores, rule)
    notes = reader_notes(
        run,
        split,
        same_dataset=dataset_sha256 == run.info.dataset_sha256,
        used_by_score=store_threshold or validation is None,
        patients=predictions["patient"],
        validation_labels=None if validation is None else validation["label"],
    )
    result = EvaluationResult(
        task=run.task,
        split=split,
        dataset_sha256=dataset_sha256,
        tta=config.tta,
        decision_rule=rule,
        metrics=_metrics(predictions, config),
        patient_metrics=_metrics(patient_predictions(predictions), config),
        labels=class_report(
            predictions["label"].to_numpy(),
            predictions["predicted_label"].to_numpy(),
            names=run.task.label_names,
        ),
        grades=_grade_report(predictions, run.task),
        operating_points=(
            [] if validation is None else operating_points(validation, scores)
        ),
        views_gain=None if config.tta == "none" else _views_gain(scores, config),
        views_cost=measure_views_cost(run.network, config.tta, batch_size),
        num_photographs=len(predictions),
        num_patients=predictions["patient"].nunique(),
        notes=notes,
        config=config,
        replaced=run.threshold if store_threshold else None,
    )
    return result, predictions


def _check_has_split(shards: ShardDataset, validation_split: str) -> None:
    """Check that a dataset has the split to choose a threshold on."""
    if validation_split not in shards.manifest.num_records:
        raise DrtfError(
            f"{shards.folder} has no split {validation_split!r} to choose a threshold "
            "on: use the threshold of the run with --set evaluate.threshold=stored"
        )


def _metrics(predictions: pd.DataFrame, config: EvaluateConfig) -> dict[str, Estimate]:
    """Compute the metrics of predictions, per photograph or per patient."""
    columns = {name: column.to_numpy() for name, column in predictions.items()}
    bootstrap: dict[str, Any] = {
        "patients": columns["patient"],
        "num_resamples": config.num_resamples,
        "seed": config.seed,
    }
    metrics = disease_metrics(
        columns["label"],
        columns["score"],
        columns["predicted_label"],
        grades=columns["grade"],
        y_prob=columns["probability"],
        **bootstrap,
    )
    if "predicted_grade" in columns:
        metrics |= grade_metrics(
            columns["grade"], columns["predicted_grade"], **bootstrap
        )
    return metrics


def _grade_report(predictions: pd.DataFrame, task: Task) -> ClassReport | None:
    if not task.predicts_grades:
        return None
    grades, predicted = predictions["grade"], predictions["predicted_grade"]
    return class_report(grades.to_numpy(), predicted.to_numpy(), names=task.class_names)


def _views_gain(scores: pd.DataFrame, config: EvaluateConfig) -> Estimate:
    """Compute the gain in ROC AUC by test-time augmentation."""
    _, (_, gain, _) = compare_roc_auc(
        scores["label"].to_numpy(),
        scores[["first_view_score", "score"]].to_numpy().T,
        patients=scores["patient"].to_numpy(),
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    return gain

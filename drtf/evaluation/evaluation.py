"""Evaluation of a run on a split; its threshold is chosen on the validation split."""

import functools
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd

from drtf.config import EvaluateConfig, GradcamConfig
from drtf.data.examples import binary_labels
from drtf.errors import DrtfError
from drtf.evaluation.decision_rules import (
    RulePlan,
    fit_decision_rule,
    operating_points,
    plan_rule,
)
from drtf.evaluation.folder import (
    default_folder,
    find_complete,
    hash_table,
)
from drtf.evaluation.group_metrics import grouped_result
from drtf.evaluation.group_results import save_groups
from drtf.evaluation.metrics import (
    ClassReport,
    class_report,
    compare_roc_auc,
)
from drtf.evaluation.predictions import (
    apply_decision_rule,
    patient_predictions,
    prediction_metrics,
    save_predictions,
    score_split,
)
from drtf.evaluation.report import reader_notes, write_report
from drtf.evaluation.result import (
    EvaluationResult,
    FellowGain,
    save_result,
)
from drtf.heatmaps.heatmaps import check_settings
from drtf.intervals import Estimate
from drtf.labels.grouping import Groups, load_groups
from drtf.models.compatibility import check_preprocessing
from drtf.models.decision_rule import save_decision_rule
from drtf.models.device import translate_exhaustion
from drtf.models.history import load_history
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.models.run_files import METRICS_FILE
from drtf.models.stored_run import check_can_upload, upload_changes
from drtf.models.training_photographs import count_training_photographs
from drtf.models.views import photographs_per_batch
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import Task


def evaluate(
    run_folder: Path,
    shards: Path,
    *,
    split: str,
    config: EvaluateConfig,
    gradcam: GradcamConfig,
    table: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    store_threshold: bool = False,
) -> EvaluationResult:
    """Evaluate a run on a split and write metrics, predictions, figures and a report.

    The first evaluation on the training dataset chooses a decision rule (threshold,
    views and calibration) on the split that training validated on, and stores it in the
    run folder for scoring. Later evaluations with the same settings use the stored
    rule. An evaluation with other settings chooses its own rule and does not store it.

    The same call replaces what an interrupted evaluation left, and returns a complete
    one.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        shards: A dataset with the same preprocessing as in training.
        split: The split to evaluate on.
        config: How to evaluate.
        gradcam: How to explain the worst mistakes in the report.
        table: A table with columns of `evaluate.by` that the dataset does not have, one
            row per photograph or per patient.
        out: The folder to write to. Default: `default_folder`.
        overwrite: Whether to replace another evaluation in `out`.
        store_threshold: Whether to choose a new decision rule on this dataset and store
            it in the run folder, even if the run has one.

    Raises:
        LabelError: If the table cannot be read, or does not match the photographs.
        DrtfError: If run and dataset do not fit together, a split is missing or has
            only one class, a column of `evaluate.by` is missing, the heat maps
            cannot be made, a folder cannot be written to, or `out` holds something
            else.
    """
    complete = find_complete(
        run_folder,
        shards,
        split=split,
        config=config,
        table=table,
        out=out,
        overwrite=overwrite,
        store_threshold=store_threshold,
    )
    if complete:
        return complete
    out = out or default_folder(run_folder, shards, split)
    dataset_sha256 = hash_manifest(shards)
    run = load_run(run_folder)
    check_settings(run, gradcam)
    history = load_history(run_folder) if run.has_history else []
    with ShardDataset(shards) as dataset:
        check_preprocessing(run, dataset)
        # Fail before the work if the split is missing or has only one class.
        binary_labels(dataset, split, run.task.name)
        groups = load_groups(dataset, split, config.by, table)
        plan = plan_rule(
            run,
            config,
            is_training_dataset=dataset_sha256 == run.info.dataset_sha256,
            store_threshold=store_threshold,
        )
        if plan.stores or out.is_relative_to(run_folder):
            check_can_upload(run_folder)
        result, predictions = _evaluate_split(
            run,
            dataset,
            split,
            config,
            out=out,
            dataset_sha256=dataset_sha256,
            table_sha256=hash_table(table, config),
            groups=groups,
            plan=plan,
        )
        out.mkdir(parents=True, exist_ok=True)
        (out / METRICS_FILE).unlink(missing_ok=True)
        # Written first: it tells an interrupted evaluation from a user's own files.
        save_decision_rule(out, result.decision_rule)
        upload_changes(run_folder)
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
    if result.groups:
        save_groups(out, result.groups)
    if plan.stores:
        save_decision_rule(run.folder, result.decision_rule)
    upload_changes(run_folder)
    # Written last: a folder with this file is complete, and its threshold is stored.
    save_result(out, result)
    upload_changes(run_folder)
    return result


def _evaluate_split(
    run: Run,
    shards: ShardDataset,
    split: str,
    config: EvaluateConfig,
    *,
    out: Path,
    dataset_sha256: str,
    table_sha256: str,
    groups: Sequence[Groups],
    plan: RulePlan,
) -> tuple[EvaluationResult, pd.DataFrame]:
    """Evaluate a run on a split; return the predictions too."""
    batch_size = photographs_per_batch(config.batch_size, config.tta)
    predict = build_predictor(run.network, config.tta)
    score = functools.partial(
        score_split, run, shards, predict=predict, batch_size=batch_size
    )
    validation_split = run.config.train.validation_split
    splits = {split}
    if plan.uses_validation:
        _check_has_split(shards, validation_split)
        splits.add(validation_split)
    with translate_exhaustion("evaluate.batch_size", config.batch_size):
        tables = {name: score(name) for name in sorted(splits)}
    scores = tables[split]
    rule = plan.kept or fit_decision_rule(
        run, tables[validation_split], config, source=f"split {validation_split}"
    )
    predictions = apply_decision_rule(scores, rule)
    validation = (
        apply_decision_rule(tables[validation_split], rule)
        if plan.uses_validation
        else None
    )
    metrics = prediction_metrics(predictions, config)
    has_patients = not predictions["patient"].is_unique
    result = EvaluationResult(
        folder=out,
        task=run.task,
        split=split,
        dataset_name=shards.manifest.name,
        dataset_sha256=dataset_sha256,
        table_sha256=table_sha256,
        tta=config.tta,
        decision_rule=rule,
        metrics=metrics,
        patient_metrics=(
            prediction_metrics(patient_predictions(predictions), config)
            if has_patients
            else {}
        ),
        labels=class_report(
            predictions["label"].to_numpy(),
            predictions["predicted_label"].to_numpy(),
            names=run.task.label_names,
        ),
        grades=_grade_report(predictions, run.task),
        groups=[
            grouped_result(predictions, x, config, metrics=metrics) for x in groups
        ],
        operating_points=(
            [] if validation is None else operating_points(validation, predictions)
        ),
        fellow_gain=_fellow_gain(predictions, config),
        views_gain=None if config.tta == "none" else _views_gain(scores, config),
        num_photographs=len(predictions),
        num_patients=predictions["patient"].nunique(),
        notes=reader_notes(
            run,
            shards.manifest,
            split,
            plan=plan,
            rule=rule,
            predictions=predictions,
            num_in_training=count_training_photographs(run.folder, shards, split),
            validation=validation,
        ),
        config=config,
        date=date.today().isoformat(),
    )
    return result, predictions


def _check_has_split(shards: ShardDataset, validation_split: str) -> None:
    """Check that a dataset has the split to choose a threshold on."""
    if validation_split not in shards.manifest.num_records:
        raise DrtfError(
            f"{shards.folder} has no split {validation_split!r} to choose a threshold "
            "on: first evaluate the run on the dataset that it was trained on, which "
            "stores a threshold, and leave out settings that need another one"
        )


def _grade_report(predictions: pd.DataFrame, task: Task) -> ClassReport | None:
    if not task.predicts_grades:
        return None
    grades, predicted = predictions["grade"], predictions["predicted_grade"]
    return class_report(grades.to_numpy(), predicted.to_numpy(), names=task.class_names)


def _fellow_gain(
    predictions: pd.DataFrame, config: EvaluateConfig
) -> FellowGain | None:
    """Compare the combined scores of both eyes with the scores of each eye."""
    num_used = int(predictions["fellow_used"].sum())
    if not num_used:
        return None
    (own, _, _), (_, gain, _) = compare_roc_auc(
        predictions["label"].to_numpy(),
        predictions[["own_score", "score"]].to_numpy().T,
        patients=predictions["patient"].to_numpy(),
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    return FellowGain(num_used, own, gain)


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

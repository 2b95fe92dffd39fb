"""Metrics of predictions, with intervals by bootstrap over patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    classification_report,
    confusion_matrix,
    roc_auc_score,
)

from drtf.evaluation.weighted_metrics import (
    OPERATING_POINTS,
    calibration_metrics,
    ranking_metrics,
    recalls_by_grade,
    weighted_metrics,
)
from drtf.intervals import (
    Estimate,
    bootstrap_interval,
    bootstrap_weights,
    drop_zero_width,
    exact_fraction_intervals,
    exact_roc_auc_interval,
)
from drtf.tasks import NUM_GRADES


@dataclass(frozen=True)
class ClassReport:
    """Metrics of each class, and the confusion matrix.

    Attributes:
        metrics: By class, then `macro avg` and `weighted avg`: `precision`, `recall`,
            `f1-score` and `support`, as in scikit-learn's `classification_report`. The
            precision of a class that is never predicted is NaN and is left out of the
            averages.
        confusion_matrix: Counts [C][C]; rows are labels, columns are predictions.
    """

    metrics: dict[str, dict[str, float]]
    confusion_matrix: list[list[int]]


def class_report(
    y_true: np.ndarray, y_pred: np.ndarray, *, names: Sequence[str]
) -> ClassReport:
    """Compute precision, recall, F1 and support of each class, and count confusions.

    Args:
        y_true: int64 [n], classes from 0.
        y_pred: int64 [n], classes from 0.
        names: Name of each class.
    """
    classes = range(len(names))
    report = classification_report(
        y_true,
        y_pred,
        labels=classes,
        target_names=names,
        output_dict=True,
        zero_division=np.nan,
    )
    report.pop("accuracy", None)
    return ClassReport(
        metrics={
            name: {key: float(value) for key, value in values.items()}
            for name, values in report.items()
        },
        confusion_matrix=confusion_matrix(y_true, y_pred, labels=classes).tolist(),
    )


def disease_metrics(
    y_true: np.ndarray,
    y_score: np.ndarray,
    y_pred: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
    grades: np.ndarray | None = None,
    y_prob: np.ndarray | None = None,
) -> dict[str, Estimate]:
    """Compute the metrics of a binary prediction, each with its 95 % interval.

    Intervals are Efron's percentile bootstrap over patients rather than photographs,
    because the two eyes of a patient are not independent. Resamples in which a metric
    is undefined are left out of its interval. If all resamples agree, as they do when
    there are no mistakes, the bootstrap is uninformative. A fraction then gets the
    exact interval of Clopper and Pearson, the ROC AUC gets Newcombe's, and any other
    metric gets none.

    Args:
        y_true: int64 [n], 1 for positive.
        y_score: float [n] in [0, 1].
        y_pred: bool or int64 [n], 1 for positive: the scores compared with a threshold.
        patients: [n], names.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        grades: int [n], 0-4. Adds the recall of each grade.
        y_prob: float [n] in [0, 1], calibrated probabilities for the calibration
            metrics. Default: the scores.

    Returns:
        Estimates by name: the metrics of `weighted_metrics` and `calibration_metrics`,
        and `recall_grade_0` and so on.
    """
    y_prob = y_score if y_prob is None else y_prob
    y_pred = y_pred.astype(bool)

    def compute(weights: np.ndarray) -> dict[str, np.ndarray]:
        metrics = weighted_metrics(y_true, y_score, y_pred, weights)
        metrics |= calibration_metrics(y_true, y_prob, weights)
        if grades is not None:
            recalls = recalls_by_grade(grades, y_pred == y_true, weights)
            metrics |= {f"recall_grade_{grade}": x for grade, x in recalls.items()}
        return metrics

    values = compute(np.ones((1, len(y_true)), np.float32))
    if 0 < y_true.sum() < len(y_true):
        values["roc_auc"][0] = roc_auc_score(y_true, y_score)
        values["average_precision"][0] = average_precision_score(y_true, y_score)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in bootstrap_weights(patients, num_resamples, seed):
        for name, result in compute(weights).items():
            resampled[name].append(result)
    estimates = {
        name: bootstrap_interval(float(value[0]), np.concatenate(resampled[name]))
        for name, value in values.items()
    }
    counted = {
        "accuracy": np.full(len(y_true), True),
        "sensitivity": y_true == 1,
        "specificity": y_true == 0,
        "precision": y_pred,
        "negative_predictive_value": ~y_pred,
    }
    for level in OPERATING_POINTS:
        counted[f"sensitivity_at_specificity_{level:.2f}"] = y_true == 1
        counted[f"specificity_at_sensitivity_{level:.2f}"] = y_true == 0
    if grades is not None:
        present = np.unique(grades).tolist()
        counted |= {f"recall_grade_{grade}": grades == grade for grade in present}
    estimates |= exact_fraction_intervals(estimates, counted, patients)
    roc_auc = exact_roc_auc_interval(estimates["roc_auc"], y_true, patients)
    estimates["roc_auc"] = roc_auc
    return {name: drop_zero_width(x) for name, x in estimates.items()}


def differences_from_rest(
    y_true: np.ndarray,
    y_score: np.ndarray,
    y_pred: np.ndarray,
    members: np.ndarray,
    *,
    y_prob: np.ndarray,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Compute how much higher each metric is in a group than in the rest.

    A patient may have photographs in both, such as one of each eye, so all patients are
    resampled together. An interval on which all resamples agree is dropped.

    Args:
        y_true: As in `disease_metrics`, for all photographs.
        y_score: As in `disease_metrics`.
        y_pred: As in `disease_metrics`.
        members: bool [n], whether each photograph is in the group.
        y_prob: As in `disease_metrics`.
        patients: [n], names.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Estimates by name, of the metrics of `weighted_metrics` and
        `calibration_metrics`.
    """

    def compute(part: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        own = y_true[part], weights[:, part]
        metrics = weighted_metrics(own[0], y_score[part], y_pred[part], own[1])
        with np.errstate(invalid="ignore"):  # a resample may have none of them
            return metrics | calibration_metrics(own[0], y_prob[part], own[1])

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        rest = compute(~members, weights)
        return {name: x - rest[name] for name, x in compute(members, weights).items()}

    values = differences(np.ones((1, len(y_true)), np.float32))
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in bootstrap_weights(patients, num_resamples, seed):
        for name, result in differences(weights).items():
            resampled[name].append(result)
    return {
        name: drop_zero_width(
            bootstrap_interval(float(value[0]), np.concatenate(resampled[name]))
        )
        for name, value in values.items()
    }


def grade_metrics(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Compute the metrics of predicted grades, each with its 95 % interval.

    The kappa is Cohen's with quadratic weights: Psychological Bulletin 70(4), 1968.
    Intervals are those of `disease_metrics`.

    Args:
        y_true: int [n], grades 0-4.
        y_pred: int [n], predicted grades 0-4.
        patients: [n], names.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Estimates of `grades_accuracy`, `grades_quadratic_kappa`, and the recall of each
        grade that occurs, `grades_recall_0` and so on.
    """
    cells = np.eye(NUM_GRADES**2, dtype=np.float32)[NUM_GRADES * y_true + y_pred]
    penalties = np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)) ** 2
    present = np.unique(y_true).tolist()
    counted = {"grades_accuracy": np.full(len(y_true), True)}
    counted |= {f"grades_recall_{grade}": y_true == grade for grade in present}

    def compute(weights: np.ndarray) -> np.ndarray:
        counts = (weights @ cells).astype(np.float64)
        matrices = counts.reshape(-1, NUM_GRADES, NUM_GRADES)
        total = counts.sum(axis=1)
        rows, columns = matrices.sum(axis=2), matrices.sum(axis=1)
        by_chance = np.einsum("ri,rj,ij->r", rows, columns, penalties) / total
        correct = np.diagonal(matrices, axis1=1, axis2=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            kappa = 1 - np.einsum("rij,ij->r", matrices, penalties) / by_chance
            recalls = (correct / rows)[:, present].T
        return np.stack([correct.sum(axis=1) / total, *recalls, kappa])

    values = compute(np.ones((1, len(y_true)), np.float32))[:, 0]
    resampled = np.concatenate(
        [compute(x) for x in bootstrap_weights(patients, num_resamples, seed)], axis=1
    )
    names = [*counted, "grades_quadratic_kappa"]
    estimates = {
        name: bootstrap_interval(float(value), results)
        for name, value, results in zip(names, values, resampled, strict=True)
    }
    estimates |= exact_fraction_intervals(estimates, counted, patients)
    return {name: drop_zero_width(x) for name, x in estimates.items()}


def mean_roc_auc(
    y_true: np.ndarray,
    y_scores: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
    baseline: np.ndarray | None = None,
) -> Estimate:
    """Compute the mean ROC AUC of several models on the same photographs.

    Args:
        y_true: int64 [n], 1 for positive.
        y_scores: float [m, n] in [0, 1], scores of each model.
        patients: [n], names. Photographs are resampled by patient.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        baseline: float [k, n] in [0, 1], scores of models whose mean ROC AUC is
            subtracted. Default: none.
    """
    factors = np.full(len(y_scores), 1 / len(y_scores))
    if baseline is not None:
        y_scores = np.concatenate([y_scores, baseline])
        factors = np.append(factors, np.full(len(baseline), -1 / len(baseline)))
    values, resampled = _resampled_roc_auc(
        y_true, y_scores, patients, num_resamples, seed
    )
    estimate = bootstrap_interval(float(factors @ values), factors @ resampled)
    if baseline is not None:
        return drop_zero_width(estimate)
    return exact_roc_auc_interval(estimate, y_true, patients)


def compare_roc_auc(
    y_true: np.ndarray,
    y_scores: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> list[tuple[Estimate, Estimate, float]]:
    """Compare the ROC AUC of several models with that of the first model.

    Args:
        y_true: int64 [n], 1 for positive.
        y_scores: float [m, n], scores of each model for the same photographs.
        patients: [n], names. All models get the same resamples of patients.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        For each model: its ROC AUC, the difference from the first model, and the
        two-sided p-value of no difference. The p-value is twice the smaller fraction of
        resamples on either side of zero; undefined resamples are left out.
    """
    values, resampled = _resampled_roc_auc(
        y_true, y_scores, patients, num_resamples, seed
    )
    comparisons = []
    for value, results in zip(values, resampled, strict=True):
        differences = results - resampled[0]
        defined = differences[np.isfinite(differences)]
        # The original sample counts as one resample, so the p-value is never zero.
        rarer = 1 + min(np.sum(defined <= 0), np.sum(defined >= 0))
        fraction = rarer / (1 + len(defined))
        roc_auc = bootstrap_interval(float(value), results)
        difference = bootstrap_interval(float(value - values[0]), differences)
        comparisons.append(
            (
                exact_roc_auc_interval(roc_auc, y_true, patients),
                drop_zero_width(difference),
                min(1.0, 2 * float(fraction)),
            )
        )
    return comparisons


def _resampled_roc_auc(
    y_true: np.ndarray,
    y_scores: np.ndarray,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC AUC of each model, [m], and on each resample, [m, r]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = [
            [ranking_metrics(y_true, x, weights)["roc_auc"] for x in y_scores]
            for weights in bootstrap_weights(patients, num_resamples, seed)
        ]
    values = np.full(len(y_scores), np.nan)
    if 0 < y_true.sum() < len(y_true):
        values = np.array([roc_auc_score(y_true, x) for x in y_scores])
    return values, np.concatenate(resampled, axis=1)

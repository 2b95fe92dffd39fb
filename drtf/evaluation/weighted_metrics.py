"""Metrics under many weightings of the photographs at once, as a bootstrap needs them.

Each function equals scikit-learn's with `sample_weight`, one result per weighting.
"""

import numpy as np

from drtf.evaluation.thresholds import TOLERANCE

OPERATING_POINTS = (0.8, 0.9, 0.95)
NUM_BINS = 15
# Like scikit-learn, replace a probability of 0 or 1 by the nearest one that is neither.
MIN_PROBABILITY = np.finfo(np.float64).eps


def weighted_metrics(
    y_true: np.ndarray, y_score: np.ndarray, y_pred: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute metrics of scores and predicted labels for each weighting.

    The sensitivity at a specificity is the highest among the points of the ROC curve
    that have at least this specificity. The specificity at a sensitivity is defined in
    the same way.

    Args:
        y_true: int64 [n], 1 for positive.
        y_score: float [n] in [0, 1].
        y_pred: bool or int [n], 1 for positive.
        weights: float32 [r, n], how often each photograph counts.

    Returns:
        float64 [r] by name; NaN where a metric is undefined.
    """
    positive = y_pred.astype(np.float32)
    cells = np.stack(
        [y_true * positive, (1 - y_true) * positive, y_true * (1 - positive)], axis=1
    )
    counts = weights @ cells.astype(np.float32)
    tp, fp, fn = counts.astype(np.float64).T
    total = weights.sum(axis=1, dtype=np.float64)
    tn = total - tp - fp - fn
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        accuracy = (tp + tn) / total
        by_chance = ((tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)) / total**2
        f1, f1_negative = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
        ranking = ranking_metrics(y_true, y_score, weights)
        return {
            "roc_auc": ranking.pop("roc_auc"),
            "average_precision": ranking.pop("average_precision"),
            "accuracy": accuracy,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "negative_predictive_value": tn / (tn + fn),
            "f1": f1,
            "f1_negative": f1_negative,
            "f1_macro": (f1 + f1_negative) / 2,
            "f1_weighted": (f1 * (tp + fn) + f1_negative * (tn + fp)) / total,
            "cohen_kappa": (accuracy - by_chance) / (1 - by_chance),
            **ranking,
        }


def calibration_metrics(
    y_true: np.ndarray, y_prob: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute Brier score, log loss and calibration error for each weighting.

    The expected calibration error is that of Guo et al., 2017,
    https://arxiv.org/abs/1706.04599, with 15 bins of equal width.

    Args:
        y_true: int64 [n], 1 for positive.
        y_prob: float [n] in [0, 1], calibrated probabilities.
        weights: float32 [r, n], how often each photograph counts.

    Returns:
        float64 [r] by name.
    """
    total = weights.sum(axis=1, dtype=np.float64)
    clipped = np.clip(y_prob.astype(np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    losses = -np.log(np.where(y_true == 1, clipped, 1 - clipped))
    bins = np.minimum((y_prob * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = (y_prob - y_true)[:, None] * np.eye(NUM_BINS)[bins]
    return {
        "brier_score": weights @ ((y_prob - y_true) ** 2) / total,
        "log_loss": weights @ losses / total,
        "expected_calibration_error": np.abs(weights @ gaps).sum(axis=1) / total,
    }


def recalls_by_grade(
    grades: np.ndarray, correct: np.ndarray, weights: np.ndarray
) -> dict[int, np.ndarray]:
    """Compute the fraction of each grade that is predicted correctly.

    Args:
        grades: int [n], 0-4.
        correct: bool [n], whether the prediction of each photograph is correct.
        weights: float32 [r, n], how often each photograph counts.

    Returns:
        float64 [r] by grade, for each grade that occurs; NaN where undefined.
    """
    recalls = {}
    for grade in np.unique(grades).tolist():
        counted = weights[:, grades == grade].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = counted @ correct[grades == grade] / counted.sum(axis=1)
        recalls[grade] = recall
    return recalls


def ranking_metrics(
    y_true: np.ndarray, y_score: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the metrics that depend only on the order of the scores.

    These are ROC AUC, average precision, and the operating points of the ROC curve.
    Arguments and result are those of `weighted_metrics`.
    """
    order = np.argsort(-y_score, kind="stable")
    # Equal scores are one point of the curves.
    starts = np.flatnonzero(np.diff(y_score[order], prepend=np.inf))
    ordered = weights[:, order].astype(np.float64)
    positives = np.add.reduceat(ordered * y_true[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * (1 - y_true[order]), starts, axis=1)
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    num_positive, num_negative = true_positives[:, -1], false_positives[:, -1]
    # A pair that is ranked correctly counts 1, a tied one 1/2.
    area = (negatives * (true_positives - positives / 2)).sum(axis=1)
    predicted = true_positives + false_positives
    precision = np.divide(
        true_positives, predicted, out=np.zeros_like(predicted), where=predicted > 0
    )
    metrics = {
        "roc_auc": area / (num_positive * num_negative),
        "average_precision": (precision * positives).sum(axis=1) / num_positive,
    }
    sensitivity = true_positives / num_positive[:, None]
    false_positive_rate = false_positives / num_negative[:, None]
    # The curve starts where no photograph is predicted positive.
    sensitivity, false_positive_rate = (
        np.pad(values, ((0, 0), (1, 0)))
        for values in (sensitivity, false_positive_rate)
    )
    rows = np.arange(len(weights))
    undefined = ~np.isfinite(metrics["roc_auc"])
    for level in OPERATING_POINTS:
        last = (false_positive_rate <= 1 - level + TOLERANCE).sum(axis=1) - 1
        metrics[f"sensitivity_at_specificity_{level:.2f}"] = np.where(
            undefined, np.nan, sensitivity[rows, last]
        )
    for level in OPERATING_POINTS:
        first = np.minimum((sensitivity < level - TOLERANCE).sum(axis=1), len(starts))
        metrics[f"specificity_at_sensitivity_{level:.2f}"] = np.where(
            undefined, np.nan, 1 - false_positive_rate[rows, first]
        )
    return metrics

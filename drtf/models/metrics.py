"""Metrics of a binary decision, each with an interval by patient bootstrap."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

CONFIDENCE = 0.95
RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class Estimate:
    """A metric and the percentile interval of its bootstrap.

    Where the metric is undefined (one class is missing, say), `value` and the bounds
    are NaN.
    """

    value: float
    ci_low: float
    ci_high: float


def measure(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    threshold: float,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Measure scores and the decisions made from them.

    The interval is that of Efron's percentile bootstrap over patients, not over
    photographs, since the two eyes of a patient are not independent. Resamples in which
    a metric is undefined are left out of its interval.

    Args:
        truth: int64 [n], 1 for positive.
        scores: float [n] in [0, 1].
        threshold: the score from which a photograph is positive.
        patients: [n], names.
        num_resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Estimates by the metrics' names.
    """
    everyone = np.ones((1, len(truth)), np.float32)
    values = weighted_metrics(truth, scores, everyone, threshold=threshold)
    if 0 < truth.sum() < len(truth):
        values["roc_auc"][0] = roc_auc_score(truth, scores)
        values["average_precision"][0] = average_precision_score(truth, scores)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in _resample(patients, num_resamples, seed):
        for name, result in weighted_metrics(
            truth, scores, weights, threshold=threshold
        ).items():
            resampled[name].append(result)
    return {
        name: _estimate(float(value[0]), np.concatenate(resampled[name]))
        for name, value in values.items()
    }


def measure_mean_roc_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """Measure the mean ROC AUC of several models on the same photographs.

    Args:
        truth: int64 [n], 1 for positive.
        scores: float [m, n] in [0, 1], of each model.
        patients: [n], names, by which photographs are resampled.
        num_resamples: bootstrap resamples.
        seed: of the resampling.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = [
            np.mean([_rank_metrics(truth, x, weights)[0] for x in scores], axis=0)
            for weights in _resample(patients, num_resamples, seed)
        ]
    value = np.mean([roc_auc_score(truth, x) for x in scores])
    return _estimate(float(value), np.concatenate(resampled))


def weighted_metrics(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, threshold: float
) -> dict[str, np.ndarray]:
    """Compute each metric under many weightings of the photographs at once.

    Args:
        truth: int64 [n], 1 for positive.
        scores: float [n] in [0, 1].
        weights: float32 [r, n], how often each photograph counts in each resample.
        threshold: the score from which a photograph is positive.

    Returns:
        float64 [r] by metric; NaN where undefined. Equal to scikit-learn's functions
        with `sample_weight`.
    """
    positive = (scores >= threshold).astype(np.float32)
    cells = np.stack(
        [truth * positive, (1 - truth) * positive, truth * (1 - positive)], axis=1
    )
    counts = weights @ cells.astype(np.float32)
    tp, fp, fn = counts.astype(np.float64).T
    total = weights.sum(axis=1, dtype=np.float64)
    tn = total - tp - fp - fn
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        roc_auc, average_precision = _rank_metrics(truth, scores, weights)
        return {
            "roc_auc": roc_auc,
            "average_precision": average_precision,
            "accuracy": (tp + tn) / total,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "brier_score": weights @ ((scores - truth) ** 2) / total,
        }


def _resample(
    patients: np.ndarray, num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield float32 [r, n]: how often each photograph counts in some resamples."""
    codes = np.unique(patients, return_inverse=True)[1]
    num_patients = codes.max() + 1
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, num_resamples - start)
        shares = np.full(num_patients, 1 / num_patients)
        yield rng.multinomial(num_patients, shares, count)[:, codes].astype(np.float32)


def _rank_metrics(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    # Equal scores are one point of the curves.
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    ordered = weights[:, order].astype(np.float64)
    positives = np.add.reduceat(ordered * truth[order], starts, axis=1)
    negatives = np.add.reduceat(ordered * (1 - truth[order]), starts, axis=1)
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    num_positive, num_negative = true_positives[:, -1], false_positives[:, -1]
    # Each negative outranked counts whole, each tied one half.
    area = (negatives * (true_positives - positives / 2)).sum(axis=1)
    chosen = true_positives + false_positives
    precision = np.divide(
        true_positives, chosen, out=np.zeros_like(chosen), where=chosen > 0
    )
    return (
        area / (num_positive * num_negative),
        (precision * positives).sum(axis=1) / num_positive,
    )


def choose_threshold(truth: np.ndarray, scores: np.ndarray, rule: str | float) -> float:
    """Choose the score from which a photograph counts as positive.

    Args:
        truth: int64 [n], 1 for positive; both classes are there.
        scores: float [n] in [0, 1].
        rule: `youden` maximises sensitivity + specificity - 1 over all scores (Youden,
            Cancer 3(1), 1950); `accuracy` is the predecessor's sweep from 0.30 to 0.70
            by 0.01, the first of the best; a number is itself.
    """
    if not isinstance(rule, str):
        return rule
    if rule == "accuracy":
        candidates = np.arange(30, 71) / 100
        accuracy = [np.mean((scores >= value) == truth) for value in candidates]
        return float(candidates[np.argmax(accuracy)])
    candidates = np.unique(scores)
    # Midway between two scores, so that equal scores computed elsewhere decide alike.
    candidates = np.concatenate(
        [candidates[:1], (candidates[1:] + candidates[:-1]) / 2]
    )
    sensitivity = _share_from(scores[truth == 1], candidates)
    false_positives = _share_from(scores[truth == 0], candidates)
    return float(candidates[np.argmax(sensitivity - false_positives)])


def format_value(value: float) -> str:
    """Write a metric with three decimals."""
    return f"{value:.3f}" if np.isfinite(value) else "undefined"


def format_interval(estimate: Estimate) -> str:
    """Write an estimate's interval."""
    low, high = estimate.ci_low, estimate.ci_high
    return f"{low:.3f} to {high:.3f}" if np.isfinite(low) else ""


def _share_from(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return 1 - below / len(scores)


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(defined):
        return Estimate(value, np.nan, np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))

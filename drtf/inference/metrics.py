"""Metrics of a binary decision, each with an interval by patient bootstrap."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from drtf.inference.intervals import (
    Estimate,
    clopper_pearson_intervals,
    drop_empty,
    find_interval,
    mend_roc_auc,
    resample,
)
from drtf.inference.thresholds import TINY
from drtf.tasks import NUM_GRADES

OPERATING_POINTS = (0.8, 0.9, 0.95)
NUM_BINS = 15
# As scikit-learn does, a score of 0 or 1 is taken for the nearest one that is neither.
TINIEST = np.finfo(np.float64).eps


def measure(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    threshold: float,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
    grades: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
) -> dict[str, Estimate]:
    """Measure scores and the decisions made from them.

    The interval is that of Efron's percentile bootstrap over patients, not over
    photographs, since the two eyes of a patient are not independent. Resamples in which
    a metric is undefined are left out of its interval. Where all resamples agree, as
    they do where no mistake was made, the bootstrap says nothing: a share then has the
    exact interval of Clopper and Pearson, and the ROC AUC that of Newcombe; what is
    neither has none.

    Args:
        truth: int64 [n], 1 for positive.
        scores: float [n] in [0, 1].
        threshold: the score from which a photograph is positive.
        patients: [n], names.
        num_resamples: bootstrap resamples.
        seed: of the resampling.
        grades: int [n], 0-4; with them the recall of each grade is measured too.
        probabilities: float [n], what calibration makes of the scores; with them what
            the scores say of chances is measured of these.

    Returns:
        Estimates by the metrics' names; see the functions `weighted_…`.
    """
    everyone = np.ones((1, len(truth)), np.float32)
    chances = scores if probabilities is None else probabilities

    def measure_weighted(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = weighted_metrics(truth, scores, weights, threshold=threshold)
        found |= weighted_chances(truth, chances, weights)
        return found | weighted_recalls(truth, scores >= threshold, weights, grades)

    values = measure_weighted(everyone)
    if 0 < truth.sum() < len(truth):
        values["roc_auc"][0] = roc_auc_score(truth, scores)
        values["average_precision"][0] = average_precision_score(truth, scores)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in resample(patients, num_resamples, seed):
        for name, result in measure_weighted(weights).items():
            resampled[name].append(result)
    estimates = {
        name: find_interval(float(value[0]), np.concatenate(resampled[name]))
        for name, value in values.items()
    }
    positive = scores >= threshold
    shares = {
        "accuracy": np.full(len(truth), True),
        "sensitivity": truth == 1,
        "specificity": truth == 0,
        "precision": positive,
        "negative_predictive_value": ~positive,
    }
    for least in OPERATING_POINTS:
        shares[f"sensitivity_at_specificity_{least:.2f}"] = truth == 1
        shares[f"specificity_at_sensitivity_{least:.2f}"] = truth == 0
    if grades is not None:
        shares |= {f"recall_grade_{grade}": grades == grade for grade in _list(grades)}
    estimates |= clopper_pearson_intervals(estimates, shares, patients)
    estimates["roc_auc"] = mend_roc_auc(estimates["roc_auc"], truth, patients)
    return {name: drop_empty(x) for name, x in estimates.items()}


def measure_grades(
    grades: np.ndarray,
    decided: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Measure decisions between the five grades.

    Cohen's kappa with quadratic weights: Psychological Bulletin 70(4), 1968.

    Args:
        grades: int [n], 0-4.
        decided: int [n], 0-4.
        patients: [n], names, by which photographs are resampled.
        num_resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Estimates of `grades_accuracy` and `grades_quadratic_kappa`, and of the recall
        of each grade that is there, `grades_recall_0` and so on.
    """
    cells = np.eye(NUM_GRADES**2, dtype=np.float32)[NUM_GRADES * grades + decided]
    steps = np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)) ** 2
    present = _list(grades)
    shares = {"grades_accuracy": np.full(len(grades), True)}
    shares |= {f"grades_recall_{grade}": grades == grade for grade in present}

    def measure_weighted(weights: np.ndarray) -> np.ndarray:
        counts = (weights @ cells).astype(np.float64)
        matrices = counts.reshape(-1, NUM_GRADES, NUM_GRADES)
        total = counts.sum(axis=1)
        rows, columns = matrices.sum(axis=2), matrices.sum(axis=1)
        by_chance = np.einsum("ri,rj,ij->r", rows, columns, steps) / total
        right = np.diagonal(matrices, axis1=1, axis2=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            kappa = 1 - np.einsum("rij,ij->r", matrices, steps) / by_chance
            recalls = (right / rows)[:, present].T
        return np.stack([right.sum(axis=1) / total, *recalls, kappa])

    values = measure_weighted(np.ones((1, len(grades)), np.float32))[:, 0]
    resampled = np.concatenate(
        [measure_weighted(x) for x in resample(patients, num_resamples, seed)], axis=1
    )
    names = [*shares, "grades_quadratic_kappa"]
    estimates = {
        name: find_interval(float(value), found)
        for name, value, found in zip(names, values, resampled, strict=True)
    }
    estimates |= clopper_pearson_intervals(estimates, shares, patients)
    return {name: drop_empty(x) for name, x in estimates.items()}


def measure_mean_roc_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
    baseline: np.ndarray | None = None,
) -> Estimate:
    """Measure the mean ROC AUC of several models on the same photographs.

    Args:
        truth: int64 [n], 1 for positive.
        scores: float [m, n] in [0, 1], of each model.
        patients: [n], names, by which photographs are resampled.
        num_resamples: bootstrap resamples.
        seed: of the resampling.
        baseline: float [k, n] in [0, 1], of models whose mean is taken off; None takes
            nothing off.
    """
    shares = np.full(len(scores), 1 / len(scores))
    if baseline is not None:
        scores = np.concatenate([scores, baseline])
        shares = np.append(shares, np.full(len(baseline), -1 / len(baseline)))
    values, resampled = _resample_roc_auc(truth, scores, patients, num_resamples, seed)
    found = find_interval(float(shares @ values), shares @ resampled)
    if baseline is not None:
        return drop_empty(found)
    return mend_roc_auc(found, truth, patients)


def compare_roc_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> list[tuple[Estimate, Estimate, float]]:
    """Compare the ROC AUC of several models on the same photographs with the first.

    Args:
        truth: int64 [n], 1 for positive.
        scores: float [m, n], of each model.
        patients: [n], names, by which photographs are resampled, alike for all models.
        num_resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        For each model its ROC AUC, what that is above the first one's, and twice the
        smaller share of resamples on either side of no difference; those in which it
        is undefined are left out.
    """
    values, resampled = _resample_roc_auc(truth, scores, patients, num_resamples, seed)
    found = []
    for value, results in zip(values, resampled, strict=True):
        gains = results - resampled[0]
        defined = gains[np.isfinite(gains)]
        # Counting the photographs as they are among the resamples, it is never zero.
        rarer = 1 + min(np.sum(defined <= 0), np.sum(defined >= 0))
        sides = rarer / (1 + len(defined))
        found.append(
            (
                mend_roc_auc(find_interval(float(value), results), truth, patients),
                drop_empty(find_interval(float(value - values[0]), gains)),
                min(1.0, 2 * float(sides)),
            )
        )
    return found


def weighted_metrics(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, threshold: float
) -> dict[str, np.ndarray]:
    """Compute each metric under many weightings of the photographs at once.

    The sensitivity at a specificity is the highest of the ROC curve's points that have
    that specificity or a higher one, and the reverse likewise.

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
        accuracy = (tp + tn) / total
        by_chance = ((tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)) / total**2
        f1, f1_negative = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
        ranked = _rank(truth, scores, weights)
        return {
            "roc_auc": ranked.pop("roc_auc"),
            "average_precision": ranked.pop("average_precision"),
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
            **ranked,
        }


def weighted_chances(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute how well probabilities tell what comes true; as `weighted_metrics`.

    The expected calibration error is that of Guo et al., 2017,
    https://arxiv.org/abs/1706.04599, with 15 bins of equal width.
    """
    total = weights.sum(axis=1, dtype=np.float64)
    clipped = np.clip(probabilities.astype(np.float64), TINIEST, 1 - TINIEST)
    surprise = -np.log(np.where(truth == 1, clipped, 1 - clipped))
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = (probabilities - truth)[:, None] * np.eye(NUM_BINS)[bins]
    return {
        "brier_score": weights @ ((probabilities - truth) ** 2) / total,
        "log_loss": weights @ surprise / total,
        "expected_calibration_error": np.abs(weights @ gaps).sum(axis=1) / total,
    }


def weighted_recalls(
    truth: np.ndarray,
    positive: np.ndarray,
    weights: np.ndarray,
    grades: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Compute the share of each grade decided rightly; as `weighted_metrics`."""
    found = {}
    for grade in [] if grades is None else _list(grades):
        counted = weights[:, grades == grade].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = counted @ (positive == truth)[grades == grade] / counted.sum(axis=1)
        found[f"recall_grade_{grade}"] = share
    return found


def _list(grades: np.ndarray) -> list[int]:
    return np.unique(grades).tolist()


def _resample_roc_auc(
    truth: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    num_resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC AUC of each model, [m], and in each resample, [m, r]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = [
            [_rank(truth, x, weights)["roc_auc"] for x in scores]
            for weights in resample(patients, num_resamples, seed)
        ]
    values = np.full(len(scores), np.nan)
    if 0 < truth.sum() < len(truth):
        values = np.array([roc_auc_score(truth, x) for x in scores])
    return values, np.concatenate(resampled, axis=1)


def _rank(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the metrics that follow from the order of the scores."""
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
    found = {
        "roc_auc": area / (num_positive * num_negative),
        "average_precision": (precision * positives).sum(axis=1) / num_positive,
    }
    sensitivity = true_positives / num_positive[:, None]
    false_alarms = false_positives / num_negative[:, None]
    # The curve begins where nothing is positive.
    sensitivity, false_alarms = (
        np.pad(values, ((0, 0), (1, 0))) for values in (sensitivity, false_alarms)
    )
    rows = np.arange(len(weights))
    undefined = ~np.isfinite(found["roc_auc"])
    for least in OPERATING_POINTS:
        last = (false_alarms <= 1 - least + TINY).sum(axis=1) - 1
        found[f"sensitivity_at_specificity_{least:.2f}"] = np.where(
            undefined, np.nan, sensitivity[rows, last]
        )
    for least in OPERATING_POINTS:
        first = np.minimum((sensitivity < least - TINY).sum(axis=1), len(starts))
        found[f"specificity_at_sensitivity_{least:.2f}"] = np.where(
            undefined, np.nan, 1 - false_alarms[rows, first]
        )
    return found

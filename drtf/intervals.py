"""Confidence intervals: bootstrap over patients, and exact ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, norm

CONFIDENCE = 0.95
RESAMPLES_AT_ONCE = 100
# The standard error is zero at areas 0 and 1, so the search stays this far away.
MARGIN = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval.

    If the metric is undefined (one class is missing, for example), `value` and the
    bounds are NaN. If only the interval is unknown, only the bounds are NaN.
    """

    value: float
    ci_low: float
    ci_high: float


def bootstrap_weights(
    patients: np.ndarray, num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield how often each photograph counts in each resample of the patients.

    Each resample draws as many patients as there are, with replacement. All photographs
    of a patient are drawn together.

    Args:
        patients: [n], names.
        num_resamples: Total number of resamples.
        seed: Seed of the drawing.

    Yields:
        float32 [r, n], for up to 100 resamples at a time.
    """
    codes = np.unique(patients, return_inverse=True)[1]
    num_patients = codes.max() + 1
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, num_resamples - start)
        equal = np.full(num_patients, 1 / num_patients)
        yield rng.multinomial(num_patients, equal, count)[:, codes].astype(np.float32)


def bootstrap_interval(value: float, resampled: np.ndarray) -> Estimate:
    """Return a metric with its percentile bootstrap interval.

    Args:
        value: The metric on the original photographs.
        resampled: float [r], the metric on each resample. NaNs are ignored.
    """
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(defined):
        return Estimate(value, np.nan, np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


def exact_fraction_intervals(
    estimates: Mapping[str, Estimate],
    counted: Mapping[str, np.ndarray],
    patients: np.ndarray,
) -> dict[str, Estimate]:
    """Return Clopper-Pearson intervals for fractions on which all resamples agree.

    Args:
        estimates: By name.
        counted: By name, bool [n]: the photographs in the fraction's denominator.
        patients: [n], names. The interval counts patients, not photographs.

    Returns:
        Only the estimates whose bootstrap interval has zero width.
    """
    return {
        name: clopper_pearson_interval(
            estimates[name].value, len(np.unique(patients[photographs]))
        )
        for name, photographs in counted.items()
        if _has_zero_width(estimates[name])
    }


def exact_roc_auc_interval(
    estimate: Estimate, y_true: np.ndarray, patients: np.ndarray
) -> Estimate:
    """Replace a zero-width bootstrap interval of a ROC AUC by Newcombe's interval.

    Any other interval is returned unchanged.

    Args:
        estimate: The ROC AUC with its bootstrap interval.
        y_true: int64 [n], 1 for positive.
        patients: [n], names. The interval counts patients, not photographs.
    """
    if not _has_zero_width(estimate):
        return estimate
    counts = (len(np.unique(patients[y_true == label])) for label in (0, 1))
    return _newcombe_interval(estimate.value, *counts)


def drop_zero_width(estimate: Estimate) -> Estimate:
    """Drop a zero-width interval, because it suggests a certainty that is not there."""
    if not _has_zero_width(estimate):
        return estimate
    return Estimate(estimate.value, np.nan, np.nan)


def format_value(value: float) -> str:
    """Format a metric with three decimals."""
    return f"{value:.3f}" if np.isfinite(value) else "undefined"


def format_interval(estimate: Estimate) -> str:
    """Format the interval of an estimate; empty if there is none."""
    low, high = estimate.ci_low, estimate.ci_high
    return f"{low:.3f} to {high:.3f}" if np.isfinite(low) else ""


def format_estimate(estimate: Estimate, *, sign: str = "") -> str:
    """Format a metric with its interval; empty if the metric is undefined.

    Args:
        estimate: The metric.
        sign: `+` writes a plus sign before positive values.
    """
    if not np.isfinite(estimate.value):
        return ""
    interval = format_interval(estimate)
    return f"{estimate.value:{sign}.3f}" + (f" ({interval})" if interval else "")


def _has_zero_width(estimate: Estimate) -> bool:
    return estimate.ci_low == estimate.ci_high


def clopper_pearson_interval(fraction: float, num_patients: int) -> Estimate:
    """Return the exact binomial interval of a fraction.

    Clopper and Pearson, Biometrika 26, 1934.
    """
    tail = (1 - CONFIDENCE) / 2
    successes = round(fraction * num_patients)
    failures = num_patients - successes
    return Estimate(
        fraction,
        float(beta.ppf(tail, successes, failures + 1)) if successes else 0.0,
        float(beta.ppf(1 - tail, successes + 1, failures)) if failures else 1.0,
    )


def _newcombe_interval(value: float, num_negative: int, num_positive: int) -> Estimate:
    """Return the score interval of a ROC AUC: Newcombe's method 5.

    Its bounds are the areas whose own standard error just reaches the measured area.
    Newcombe, Statistics in Medicine 25, 2006.
    """
    z = norm.ppf((1 + CONFIDENCE) / 2)
    mean = (num_negative + num_positive) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * spread / (num_negative * num_positive)
        return float((value - area) ** 2 - z**2 * variance)

    low, high = 0.0, 1.0
    if value > 0:
        low = brentq(excess, 0, min(value, 1 - MARGIN))
    if value < 1:
        high = brentq(excess, max(value, MARGIN), 1)
    return Estimate(value, low, high)

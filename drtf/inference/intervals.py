"""Intervals of what is measured: by patient bootstrap, and exact ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, norm

CONFIDENCE = 0.95
RESAMPLES_AT_ONCE = 100
MARGIN = 1e-9  # of an area's search, at whose ends the standard error is zero


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval.

    Where the metric is undefined (one class is missing, say), `value` and the bounds
    are NaN; where it has no interval, the bounds alone.
    """

    value: float
    ci_low: float
    ci_high: float


def resample(
    patients: np.ndarray, num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield float32 [r, n]: how often each photograph counts in some resamples.

    Patients are drawn whole, as many as there are.

    Args:
        patients: [n], names.
        num_resamples: in all.
        seed: of the drawing.
    """
    codes = np.unique(patients, return_inverse=True)[1]
    num_patients = codes.max() + 1
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, num_resamples - start)
        shares = np.full(num_patients, 1 / num_patients)
        yield rng.multinomial(num_patients, shares, count)[:, codes].astype(np.float32)


def find_interval(value: float, resampled: np.ndarray) -> Estimate:
    """Return a value with the percentile interval of what resamples have.

    Args:
        value: of the photographs as they are.
        resampled: float [r]; those in which it is undefined are left out.
    """
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(defined):
        return Estimate(value, np.nan, np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


def clopper_pearson_intervals(
    estimates: dict[str, Estimate], shares: dict[str, np.ndarray], patients: np.ndarray
) -> dict[str, Estimate]:
    """Find the intervals of shares of which all resamples agree.

    Clopper and Pearson, Biometrika 26, 1934, counting patients.

    Args:
        estimates: by name.
        shares: bool [n] by name, the photographs that each is a share of.
        patients: [n], names.
    """
    return {
        name: _clopper_pearson_interval(
            estimates[name].value, len(np.unique(patients[counted]))
        )
        for name, counted in shares.items()
        if _says_nothing(estimates[name])
    }


def mend_roc_auc(
    estimate: Estimate, truth: np.ndarray, patients: np.ndarray
) -> Estimate:
    """Return the estimate of a ROC AUC, with Newcombe's interval if it needs one.

    Statistics in Medicine 25, 2006, method 5, counting patients.
    """
    if not _says_nothing(estimate):
        return estimate
    counts = (len(np.unique(patients[truth == label])) for label in (0, 1))
    return _roc_auc_interval(estimate.value, *counts)


def drop_empty(estimate: Estimate) -> Estimate:
    """Leave out an interval that would tell of a certainty that there is not."""
    if not _says_nothing(estimate):
        return estimate
    return Estimate(estimate.value, np.nan, np.nan)


def format_value(value: float) -> str:
    """Write a metric with three decimals."""
    return f"{value:.3f}" if np.isfinite(value) else "undefined"


def format_interval(estimate: Estimate) -> str:
    """Write an estimate's interval."""
    low, high = estimate.ci_low, estimate.ci_high
    return f"{low:.3f} to {high:.3f}" if np.isfinite(low) else ""


def format_estimate(estimate: Estimate, *, sign: str = "") -> str:
    """Write a metric with its interval, or nothing where it is undefined.

    Args:
        estimate: to write.
        sign: `+` to have one before what is above zero.
    """
    if not np.isfinite(estimate.value):
        return ""
    interval = format_interval(estimate)
    return f"{estimate.value:{sign}.3f}" + (f" ({interval})" if interval else "")


def _says_nothing(estimate: Estimate) -> bool:
    return estimate.ci_low == estimate.ci_high


def _clopper_pearson_interval(value: float, num: int) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    right = round(value * num)
    return Estimate(
        value,
        float(beta.ppf(tail, right, num - right + 1)) if right else 0.0,
        float(beta.ppf(1 - tail, right + 1, num - right)) if right < num else 1.0,
    )


def _roc_auc_interval(value: float, num_negative: int, num_positive: int) -> Estimate:
    """Find the areas whose own standard error reaches just to the one measured."""
    z = norm.ppf((1 + CONFIDENCE) / 2)
    mean = (num_negative + num_positive) / 2 - 1

    def overreach(area: float) -> float:
        spread = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * spread / (num_negative * num_positive)
        return float((value - area) ** 2 - z**2 * variance)

    low, high = 0.0, 1.0
    if value > 0:
        low = brentq(overreach, 0, min(value, 1 - MARGIN))
    if value < 1:
        high = brentq(overreach, max(value, MARGIN), 1)
    return Estimate(value, low, high)

"""Thresholds: the score from which a photograph is predicted positive."""

import re

import numpy as np

TOLERANCE = 1e-9  # for rounding errors of a point that just reaches its bound


def choose_threshold(
    y_true: np.ndarray, y_score: np.ndarray, rule: str | float
) -> float:
    """Choose the score from which a photograph is predicted positive.

    Args:
        y_true: int64 [n], 1 for positive. Both classes must occur.
        y_score: float [n] in [0, 1].
        rule: `youden` maximises sensitivity + specificity - 1 over all scores (Youden,
            Cancer 3(1), 1950). `accuracy` tries 0.30 to 0.70 in steps of 0.01 and takes
            the first threshold with the highest accuracy, as the predecessor did.
            `sensitivity>=0.85` is the highest threshold with this sensitivity,
            `specificity>=0.95` the lowest with this specificity. A number is used as
            it is.
    """
    if not isinstance(rule, str):
        return rule
    if rule == "accuracy":
        candidates = np.arange(30, 71) / 100
        accuracy = [np.mean((y_score >= value) == y_true) for value in candidates]
        return float(candidates[np.argmax(accuracy)])
    candidates = np.unique(y_score)
    # Halfway between scores, so that rounding on another machine changes no prediction.
    candidates = np.concatenate(
        [candidates[:1], (candidates[1:] + candidates[:-1]) / 2, [1.0]]
    )
    sensitivity = _fraction_at_or_above(y_score[y_true == 1], candidates)
    specificity = 1 - _fraction_at_or_above(y_score[y_true == 0], candidates)
    if match := re.fullmatch(r"(sensitivity|specificity)>=(.*)", rule):
        bound = float(match[2]) - TOLERANCE
        if match[1] == "sensitivity":
            return float(candidates[np.flatnonzero(sensitivity >= bound)[-1]])
        reached = np.flatnonzero(specificity >= bound)
        return float(candidates[reached[0] if len(reached) else -1])
    return float(candidates[np.argmax(sensitivity + specificity)])


def _fraction_at_or_above(y_score: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the fraction of scores at or above each threshold."""
    below = np.searchsorted(np.sort(y_score), thresholds, side="left")
    return 1 - below / len(y_score)

"""Thresholds: the score from which a photograph counts as positive."""

import re

import numpy as np

TINY = 1e-9  # a rounding error is no reason to miss a point that is just there


def choose_threshold(truth: np.ndarray, scores: np.ndarray, rule: str | float) -> float:
    """Choose the score from which a photograph counts as positive.

    Args:
        truth: int64 [n], 1 for positive; both classes are there.
        scores: float [n] in [0, 1].
        rule: `youden` maximises sensitivity + specificity - 1 over all scores (Youden,
            Cancer 3(1), 1950); `accuracy` is the predecessor's sweep from 0.30 to 0.70
            by 0.01, the first of the best; `sensitivity>=0.85` is the highest threshold
            that has it, `specificity>=0.95` the lowest; a number is itself.
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
        [candidates[:1], (candidates[1:] + candidates[:-1]) / 2, [1.0]]
    )
    sensitivity = _share_from(scores[truth == 1], candidates)
    specificity = 1 - _share_from(scores[truth == 0], candidates)
    if found := re.fullmatch(r"(sensitivity|specificity)>=(.*)", rule):
        least = float(found[2])
        if found[1] == "sensitivity":
            return float(candidates[np.flatnonzero(sensitivity >= least - TINY)[-1]])
        found_at = np.flatnonzero(specificity >= least - TINY)
        return float(candidates[found_at[0] if len(found_at) else -1])
    return float(candidates[np.argmax(sensitivity + specificity)])


def _share_from(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return 1 - below / len(scores)

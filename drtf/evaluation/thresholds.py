"""Thresholds and cut points: where scores and expected grades become predictions."""

import re

import numpy as np

from drtf.tasks import NUM_GRADES

TOLERANCE = 1e-9  # for rounding errors of a point that just reaches its bound


def choose_threshold(
    y_true: np.ndarray, y_score: np.ndarray, rule: str | float
) -> float:
    """Choose the score from which a photograph is predicted positive.

    Args:
        y_true: int64 [n], 1 for positive. Both classes must occur.
        y_score: float [n] in [0, 1].
        rule: `youden` maximizes sensitivity + specificity - 1 over all scores (Youden,
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


def choose_cut_points(grades: np.ndarray, expected: np.ndarray) -> tuple[float, ...]:
    """Choose the expected grades from which grade 1, 2, 3 and 4 are predicted.

    They maximize the quadratic weighted kappa, which is 1 - mistakes / by chance:
    Cohen, Psychological Bulletin 70(4), 1968. Both are sums over the photographs. So
    the best cut points for mistakes - ratio * by chance are found by dynamic
    programming, and the lowest ratio by Dinkelbach's iteration: Management Science
    13(7), 1967.

    Args:
        grades: int [n], the labels, 0-4. At least two of them must differ.
        expected: float [n], the expected grades, from 0 to 4.

    Returns:
        In ascending order, from 0 to 4. Equal ones leave out the grade between them.
    """
    values, places = np.unique(expected.astype(np.float64), return_inverse=True)
    penalties = np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)) ** 2
    counts = np.zeros((len(values), NUM_GRADES))
    np.add.at(counts, (places, grades), 1)
    # For each value and each grade that may be predicted for it.
    mistakes = counts @ penalties
    fractions = counts.sum(axis=0) / len(grades)
    by_chance = np.outer(counts.sum(axis=1), fractions @ penalties)
    starts, ratio = np.zeros(NUM_GRADES - 1, int), np.inf
    lower = 1.0  # of a single predicted grade
    while lower < ratio:
        ratio = lower
        starts = _cheapest_starts(mistakes - ratio * by_chance)
        predicted = np.searchsorted(starts, np.arange(len(values)), side="right")
        chosen = np.arange(len(values)), predicted
        lower = mistakes[chosen].sum() / by_chance[chosen].sum()
    # Halfway between values, so that rounding on another machine changes no prediction.
    edges = [0.0, *(values[1:] + values[:-1]) / 2, NUM_GRADES - 1.0]
    return tuple(float(edges[start]) for start in starts)


def _cheapest_starts(costs: np.ndarray) -> np.ndarray:
    """Split rows into one run per column so that the sum of costs is the lowest.

    Args:
        costs: float [n, K], of each row in each column. Runs may be empty.

    Returns:
        int [K - 1], the row where the run of column 1, 2 and so on starts.
    """
    # totals[i, k] is the cost of the first i rows in column k.
    totals = np.vstack([np.zeros(costs.shape[1]), np.cumsum(costs, axis=0)])
    rows = np.arange(len(totals))
    best, choices = totals[:, 0], []
    for total in totals.T[1:]:
        earlier = best - total
        lowest = np.minimum.accumulate(earlier)
        choices.append(np.maximum.accumulate(np.where(earlier == lowest, rows, 0)))
        best = total + lowest
    starts, end = [], len(costs)
    for choice in reversed(choices):
        end = choice[end]
        starts.append(end)
    return np.array(starts[::-1])


def _fraction_at_or_above(y_score: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the fraction of scores at or above each threshold."""
    below = np.searchsorted(np.sort(y_score), thresholds, side="left")
    return 1 - below / len(y_score)

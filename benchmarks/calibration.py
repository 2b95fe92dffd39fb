"""Compare calibrations that were fitted on few photographs.

    python benchmarks/calibration.py EVALUATION...

Each EVALUATION is the folder of an evaluation that wrote predictions.csv, in a run
folder. For each number of photographs, calibrations are fitted on that many photographs
at random, and the log loss and the expected calibration error are measured on all
others. The table has their means over 60 such divisions.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from drtf.evaluation.folder import PREDICTIONS_FILE
from drtf.models.calibration import fit_calibration
from drtf.models.run import load_info
from drtf.tasks import TASKS

NUM_FITTED = (20, 40, 80, 160, 320)
NUM_DIVISIONS = 60
NUM_BINS = 10
MARGIN = 1e-6

Calibrate = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Print a table for each evaluation."""
    for folder in map(Path, sys.argv[1:]):
        table = pd.read_csv(folder / PREDICTIONS_FILE)
        labels = (table["grade"] >= TASKS["binary"].positive_from).to_numpy(int)
        scores = table["score"].to_numpy().clip(MARGIN, 1 - MARGIN)
        prior = load_info(folder.parent).train_prior
        print(f"\n{folder}: {len(labels):,} photographs, {labels.mean():.2f} positive")
        for num_fitted in NUM_FITTED:
            if num_fitted <= len(labels) / 2:
                print_row(labels, scores, num_fitted, prior)


def print_row(
    labels: np.ndarray, scores: np.ndarray, num_fitted: int, prior: float
) -> None:
    """Print log loss and expected calibration error of each calibration."""
    rng = np.random.default_rng(num_fitted)
    errors: dict[str, list[tuple[float, float]]] = {}
    for _ in range(NUM_DIVISIONS):
        order = rng.permutation(len(labels))
        fitted, others = order[:num_fitted], order[num_fitted:]
        if not 0 < labels[fitted].sum() < num_fitted:
            continue
        for name, calibrate in fit_all(labels[fitted], scores[fitted], prior).items():
            y_true = labels[others]
            y_prob = calibrate(scores[others]).clip(MARGIN, 1 - MARGIN)
            error = log_loss(y_true, y_prob), calibration_error(y_true, y_prob)
            errors.setdefault(name, []).append(error)
    cells = [
        f"{name} {np.mean(values, axis=0)[0]:.3f} ({np.mean(values, axis=0)[1]:.3f})"
        for name, values in errors.items()
    ]
    print(f"{num_fitted:4}  " + "  ".join(cells))


def fit_all(
    labels: np.ndarray, scores: np.ndarray, prior: float
) -> dict[str, Calibrate]:
    """Fit drtf's calibrations, and others that it does not offer."""
    own: dict[str, Calibrate] = {
        method: fit_calibration(
            labels, scores, method=method, train_prior=prior, source="", tta="none"
        ).apply
        for method in ("none", "logistic", "isotonic")
    }
    shift = logit(labels.mean()) - logit(prior)
    return {
        "scores": lambda x: x,
        **own,
        "temperature": fit_curve(labels, scores, shift, has_offset=False),
        "logistic without priors": fit_curve(labels, scores, shift, has_offset=True),
    }


def fit_curve(
    labels: np.ndarray, scores: np.ndarray, shift: float, *, has_offset: bool
) -> Calibrate:
    """Fit a logistic curve of maximum likelihood."""

    def values(parameters: np.ndarray, scores: np.ndarray) -> np.ndarray:
        slope, offset = np.exp(parameters[0]), parameters[1] * has_offset
        return slope * (logit(scores) + shift) + offset

    def loss(parameters: np.ndarray) -> float:
        logits = values(parameters, scores)
        return float((np.logaddexp(0, logits) - labels * logits).sum())

    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead").x.clip(-3, 3)
    return lambda x: expit(values(best, x))


def calibration_error(y_true: np.ndarray, y_prob: np.ndarray) -> float:
    """Return the expected calibration error in bins of equal width."""
    bins = (y_prob * NUM_BINS).astype(int)
    gaps = np.bincount(bins, y_prob - y_true, NUM_BINS)
    return float(np.abs(gaps).sum() / len(y_true))


if __name__ == "__main__":
    main()

"""Compare what corrects probabilities on another collection of photographs.

    python benchmarks/other_collections.py TABLE.csv HOME=OTHER...

HOME is an evaluation of a run on its validation split, in the run folder; OTHER is an
evaluation of the same run on another collection. The run's calibration is fitted on
HOME. Each way to correct it is measured on the photographs of the other collection:
expected calibration error, Brier score and log loss. Calibrations that require labels
are fitted on some photographs at random and measured on the rest, as means over 40
divisions. Prints what `drtf recalibrate --scores` finds without labels, writes a row
for each run, and prints means over the runs.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.evaluation.predictions import load_predictions
from drtf.evaluation.weighted_metrics import calibration_metrics
from drtf.models.calibration import Calibration, fit_calibration
from drtf.models.run import load_info
from drtf.scoring.score_check import Mixture, fit_mixture, probability_flags
from drtf.tasks import TASKS

NUM_LABELLED = (50, 100, 150)
NUM_DIVISIONS = 40
Row = dict[str, float]


def main() -> None:
    """Measure each pair of evaluations."""
    table, *pairs = sys.argv[1:]
    rows = []
    for pair in pairs:
        home, other = map(Path, pair.split("="))
        for method, row in measure(home, other).items():
            rows.append({"run": home.parent.name, "method": method, **row})
    results = pd.DataFrame(rows).round(4)
    results.to_csv(table, index=False)
    print(results.drop(columns="run").groupby("method", sort=False).mean().round(3))


def measure(home: Path, other: Path) -> dict[str, Row]:
    """Return the errors of each method."""
    labels, scores, _ = load(home)
    prior = load_info(home.parent).train_prior
    calibration = fit(labels, scores, prior)
    labels, scores, num_patients = load(other)
    mixture = fit_mixture(calibration.histograms, scores, num_patients=num_patients)
    flags = probability_flags(calibration, scores, num_patients=num_patients)
    print(home.parent, ",".join(flags) or "no flag", describe(mixture))
    shown = mixture.prevalence.value
    methods = {
        "as calibrated at home": calibration,
        "prevalence given": calibration.with_prevalence(labels.mean()),
        "prevalence of the best mixture": calibration.with_prevalence(shown),
    }
    rows = {name: errors(labels, x.apply(scores)) for name, x in methods.items()}
    for num in NUM_LABELLED:
        rng = np.random.default_rng(num)
        found = []
        for _ in range(NUM_DIVISIONS):
            order = rng.permutation(len(labels))
            fitted, rest = order[:num], order[num:]
            own = fit(labels[fitted], scores[fitted], prior)
            found.append(errors(labels[rest], own.apply(scores[rest])))
        rows[f"{num} labels"] = {
            x: float(np.mean([row[x] for row in found])) for x in found[0]
        }
    return rows


def load(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return labels, scores and the number of patients."""
    table = load_predictions(folder)
    labels = (table["grade"] >= TASKS["binary"].positive_from).to_numpy(int)
    return labels, table["score"].to_numpy(), table["patient"].nunique()


def fit(labels: np.ndarray, scores: np.ndarray, prior: float) -> Calibration:
    """Fit the default calibration."""
    return fit_calibration(
        labels, scores, method="logistic", train_prior=prior, source="", tta="none"
    )


def errors(labels: np.ndarray, probabilities: np.ndarray) -> Row:
    """Return the calibration metrics by name."""
    once = np.ones((1, len(labels)), np.float32)
    metrics = calibration_metrics(labels, probabilities, once)
    return {name: float(value[0]) for name, value in metrics.items()}


def describe(mixture: Mixture) -> str:
    """Describe a mixture in one line."""
    low, high = mixture.prevalence.ci_low, mixture.prevalence.ci_high
    return (
        f"prevalence {mixture.prevalence.value:.2f} ({low:.2f} to {high:.2f}), "
        f"distance {mixture.distance:.2f}"
    )


if __name__ == "__main__":
    main()

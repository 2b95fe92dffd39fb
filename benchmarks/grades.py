"""Compare networks for the task `grades` by kappa and by ROC AUC.

    python benchmarks/grades.py OUT.csv NAME=EVALUATION NAME=EVALUATION...

All evaluations are of the same photographs. OUT.csv has a row per network: the
quadratic weighted kappa of its predicted grades, and the ROC AUC of the score of each
eye by itself for grade >= 1 and grade >= 2, with intervals by bootstrap over patients.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from predictions import estimate_cells, load_predictions

from drtf.evaluation.folder import METRICS_FILE
from drtf.evaluation.metrics import mean_roc_auc
from drtf.intervals import Estimate

FROM_GRADES = (1, 2)
NUM_RESAMPLES = 1000


def main() -> None:
    """Write the table and print it."""
    out, *given = sys.argv[1:]
    rows = [
        {"network": name, **measure(Path(evaluation))}
        for name, evaluation in (x.split("=", 1) for x in given)
    ]
    table = pd.DataFrame(rows).round(4)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


def measure(evaluation: Path) -> dict[str, float]:
    """Return the cells of a network."""
    metrics = json.loads((evaluation / METRICS_FILE).read_text())
    cells = estimate_cells("kappa", Estimate(**metrics["grades_quadratic_kappa"]))
    table = load_predictions(evaluation)
    for from_grade in FROM_GRADES:
        roc_auc = mean_roc_auc(
            (table["grade"] >= from_grade).to_numpy(int),
            table["score"].to_numpy(float)[None],
            patients=table["patient"].to_numpy(),
            num_resamples=NUM_RESAMPLES,
            seed=0,
        )
        cells |= estimate_cells(f"roc_auc_{from_grade}", roc_auc)
    return cells


if __name__ == "__main__":
    main()

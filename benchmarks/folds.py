"""Compare recipes whose networks were evaluated on folds of the same photographs.

    python benchmarks/folds.py OUT.csv NAME=EVALUATION[,EVALUATION...] NAME=...

Each EVALUATION is of a network on a fold that it was not trained on; all recipes have
the same folds in the same order. Give a recipe that was trained with several seeds once
per seed, with the same name. OUT.csv has the mean ROC AUC of each recipe over folds and
seeds, that of its worst seed, and the difference from the first recipe, with paired
intervals by bootstrap over the patients within each fold.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from predictions import estimate_cells, load_predictions

from drtf.evaluation.weighted_metrics import ranking_metrics
from drtf.intervals import bootstrap_interval, bootstrap_weights

FROM_GRADES = (1, 2)
NUM_RESAMPLES = 1000


def main() -> None:
    """Write the table and print it."""
    out, *given = sys.argv[1:]
    names, folders = zip(*(x.split("=", 1) for x in given), strict=True)
    evaluations = [
        [load_predictions(Path(x)) for x in text.split(",")] for text in folders
    ]
    rows = [row for grade in FROM_GRADES for row in compare(names, evaluations, grade)]
    table = pd.DataFrame(rows).round(4)
    table.to_csv(out, index=False)
    print(table.to_string(index=False))


def compare(
    names: tuple[str, ...], evaluations: list[list[pd.DataFrame]], from_grade: int
) -> list[dict[str, object]]:
    """Return a row per recipe."""
    # [run, 1 + resample]: means over the folds, first of all patients.
    runs = np.array(
        [
            np.mean([fold_roc_auc(x, from_grade, i) for i, x in enumerate(folds)], 0)
            for folds in evaluations
        ]
    )
    means = {
        name: runs[[other == name for other in names]].mean(0)
        for name in dict.fromkeys(names)
    }
    first = next(iter(means.values()))
    rows = []
    for name, values in means.items():
        roc_auc = bootstrap_interval(values[0], values[1:])
        gain = bootstrap_interval(values[0] - first[0], values[1:] - first[1:])
        seeds = runs[[other == name for other in names], 0]
        rows.append(
            {
                "from_grade": from_grade,
                "recipe": name,
                "num_seeds": len(seeds),
                **estimate_cells("roc_auc", roc_auc),
                "worst_seed": seeds.min(),
                **estimate_cells("gain", gain),
            }
        )
    return rows


def fold_roc_auc(table: pd.DataFrame, from_grade: int, fold: int) -> np.ndarray:
    """Return the ROC AUC of a fold: of all its patients, and of each resample."""
    score = table["score"].to_numpy(float)
    resamples = bootstrap_weights(table["patient"].to_numpy(), NUM_RESAMPLES, seed=fold)
    weights = np.concatenate([np.ones((1, len(table))), *resamples])
    y_true = (table["grade"] >= from_grade).to_numpy(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ranking_metrics(y_true, score, weights)["roc_auc"]


if __name__ == "__main__":
    main()

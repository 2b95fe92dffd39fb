"""Measure what the fellow eye's score adds, on patients that no run was trained on.

    python benchmarks/fellow_eye.py OUT.csv RUN EVALUATION [RUN EVALUATION]...

Each EVALUATION is the folder of an evaluation of RUN on other patients than in
training. RUN was also evaluated on its validation split, on which the weights of both
eyes are fitted. OUT.csv has the ROC AUC of each eye by itself and of both, over all
evaluations together, with paired intervals by bootstrap over patients. Also prints the
log loss of the probabilities of both eyes and of each eye by itself. The latter are
calibrated in two ways: on the scores of each eye by itself, and on those of both eyes.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from predictions import estimate_cells, load_predictions
from sklearn.metrics import log_loss

from drtf.evaluation.metrics import compare_roc_auc
from drtf.models.calibration import fit_calibration
from drtf.models.fellow_eye import combine_eyes, fellow_logits, fit_fellow_eye
from drtf.models.run import load_info
from drtf.tasks import TASKS

FROM_GRADES = (1, 2)
# Numbers of patients to fit the weights on, at random; 0: all of them.
NUM_FITTED = (0, 20, 50, 100)
NUM_DRAWS = 20


def main() -> None:
    """Write the table and print it."""
    out, *folders = map(Path, sys.argv[1:])
    tables = [
        score_eyes(run, evaluation)
        for run, evaluation in zip(folders[::2], folders[1::2], strict=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    rows = pd.DataFrame(
        [measure(table, x, y) for x in FROM_GRADES for y in NUM_FITTED]
    ).round(4)
    rows.to_csv(out, index=False)
    print(rows.to_string(index=False))
    for name, probabilities in table.filter(like="probability of").items():
        print(f"log loss, {name}: {log_loss(table['label'], probabilities):.4f}")


def score_eyes(run: Path, evaluation: Path) -> pd.DataFrame:
    """Return the photographs of an evaluation with their combined scores.

    The column `both-20-3` has the scores of the draw 3 of 20 patients.
    """
    prior = load_info(run).train_prior
    validation, table = load(run / "evaluation-val"), load(evaluation)
    scores, fellows = table["score"].to_numpy(), fellow_logits(table)
    patients = validation["patient"].unique()
    rng = np.random.default_rng(42)
    columns = {}
    for number in NUM_FITTED:
        for draw in range(NUM_DRAWS if number else 1):
            drawn = rng.choice(patients, number or len(patients), replace=False)
            fitted = fit_fellow_eye(
                validation[validation["patient"].isin(drawn)], train_prior=prior
            )
            columns[f"both-{number}-{draw}"], _ = combine_eyes(scores, fellows, fitted)
    fitted = fit_fellow_eye(validation, train_prior=prior)
    print(f"{run}: weights {fitted}", file=sys.stderr)
    own = validation["score"].to_numpy()
    both, _ = combine_eyes(own, fellow_logits(validation), fitted)
    own_curve, curve = (
        fit_calibration(
            validation["label"].to_numpy(),
            values,
            method="logistic",
            train_prior=prior,
            source="val",
            tta="none",
        )
        for values in (own, both)
    )
    columns |= {
        "probability of both eyes": curve.apply(columns["both-0-0"]),
        "probability of each eye by itself": own_curve.apply(scores),
        "probability of each eye, calibrated as both": curve.apply(scores),
    }
    return table.assign(**columns)


def load(evaluation: Path) -> pd.DataFrame:
    """Load the predictions of an evaluation, with labels; each eye by itself."""
    table = load_predictions(evaluation)
    labels = TASKS["binary"].labels(table["grade"].to_numpy())
    return table.assign(score=table["score"].astype(np.float32), label=labels)


def measure(table: pd.DataFrame, from_grade: int, num_fitted: int) -> dict[str, float]:
    """Return a row: the ROC AUC of each eye by itself, of both eyes, and the gain.

    It has the mean and the lowest gain of all draws. There are intervals only if there
    is a single draw, of all patients.
    """
    labels = (table["grade"] >= from_grade).to_numpy(int)
    both = table.filter(like=f"both-{num_fitted}-").to_numpy().T
    own, *combined = compare_roc_auc(
        labels,
        np.stack([table["score"].to_numpy(), *both]),
        patients=table["patient"].to_numpy(),
        num_resamples=1000,
        seed=42,
    )
    gains = [gain.value for _, gain, _ in combined]
    row = {
        "from_grade": from_grade,
        "num_fitted": num_fitted,
        "own": own[0].value,
        "both": float(np.mean([roc_auc.value for roc_auc, _, _ in combined])),
        "gain": float(np.mean(gains)),
        "lowest_gain": min(gains),
    }
    if len(combined) == 1:
        estimates = {"own": own[0], "both": combined[0][0], "gain": combined[0][1]}
        for name, estimate in estimates.items():
            row |= estimate_cells(name, estimate)
    return row


if __name__ == "__main__":
    main()

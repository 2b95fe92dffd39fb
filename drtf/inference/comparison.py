"""Comparison: several runs judged on the same photographs, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.errors import RunError
from drtf.inference.evaluation import PREDICTIONS_FILE
from drtf.inference.intervals import Estimate
from drtf.inference.metrics import compare_roc_auc

PHOTOGRAPH_COLUMNS = ["id", "patient", "grade"]


@dataclass(frozen=True)
class Compared:
    """A run beside the first one.

    Attributes:
        name: of the run.
        roc_auc: of its scores.
        difference: its ROC AUC less that of the first run.
        p_value: two-sided, that the difference is none; 1 for the first run itself.
    """

    name: str
    roc_auc: Estimate
    difference: Estimate
    p_value: float


def compare(
    evaluations: Sequence[Path], *, least_grade: int, num_resamples: int, seed: int
) -> list[Compared]:
    """Compare what runs were found to be worth on the same photographs.

    Args:
        evaluations: folders that `evaluate` wrote, of the same split of the same set.
        least_grade: from which on a photograph is positive, whatever each was trained
            for.
        num_resamples: bootstrap resamples, of patients, the same for all runs.
        seed: of the resampling.

    Raises:
        RunError: if an evaluation is missing, or is of other photographs, or these are
            all on one side of the grade.
    """
    tables = [load_predictions(folder) for folder in evaluations]
    first = tables[0]
    for folder, table in zip(evaluations, tables, strict=True):
        if not first[PHOTOGRAPH_COLUMNS].equals(table[PHOTOGRAPH_COLUMNS]):
            raise RunError(
                f"{folder} judges other photographs than {evaluations[0]}: evaluate "
                "both on the same split of the same set"
            )
    truth = (first["grade"] >= least_grade).to_numpy().astype(int)
    if len(set(truth)) < 2:
        which = "every" if truth.all() else "no"
        raise RunError(
            f"{which} photograph judged in {evaluations[0]} is of grade >= "
            f"{least_grade}, which leaves nothing to tell apart: choose another --grade"
        )
    found = compare_roc_auc(
        truth,
        np.stack([table["score"].to_numpy() for table in tables]),
        patients=first["patient"].to_numpy(),
        num_resamples=num_resamples,
        seed=seed,
    )
    return [
        Compared(str(folder.parent), *values)
        for folder, values in zip(evaluations, found, strict=True)
    ]


def load_predictions(folder: Path) -> pd.DataFrame:
    """Load what `evaluate` predicted: columns `id`, `patient`, `grade` and `score`.

    Raises:
        RunError: if it is missing or damaged.
    """
    path = folder / PREDICTIONS_FILE
    try:
        # A patient may be called NA.
        types = {"id": str, "patient": str}
        table = pd.read_csv(path, dtype=types, na_filter=False)
        return table[[*PHOTOGRAPH_COLUMNS, "score"]]
    except FileNotFoundError as error:
        raise RunError(f"no {path}: judge the run with drtf evaluate first") from error
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is not what drtf evaluate wrote: {error}") from error

"""Comparison: several runs judged on the same photographs, side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from drtf.errors import RunError
from drtf.inference.evaluation import METRICS_FILE, PREDICTIONS_FILE
from drtf.inference.intervals import Estimate
from drtf.inference.metrics import compare_roc_auc

PHOTOGRAPH_COLUMNS = ["id", "patient", "grade"]
# Of the metrics that each run was judged by, those that stand side by side; the last
# one is of runs that tell grades apart.
METRICS = (
    "sensitivity",
    "specificity",
    "average_precision",
    "brier_score",
    "grades_quadratic_kappa",
)


class Summary(NamedTuple):
    """How a run was judged, and some of what came out.

    `positive_from` is the grade from which on a photograph is positive to this run,
    `tta` are the views, `threshold` is its own, and `metrics` are those of `METRICS`
    that it has.
    """

    positive_from: int
    tta: str
    threshold: float
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Compared:
    """A run beside the first one.

    Attributes:
        name: of the run.
        roc_auc: of its scores.
        difference: its ROC AUC less that of the first run; without an interval where
            all resamples agree.
        p_value: two-sided, that the difference is none; 1 for the first run itself.
        summary: of the run by itself, as it was trained and evaluated.
    """

    name: str
    roc_auc: Estimate
    difference: Estimate
    p_value: float
    summary: Summary


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
        Compared(str(folder.parent), *values, load_summary(folder))
        for folder, values in zip(evaluations, found, strict=True)
    ]


def load_predictions(folder: Path) -> pd.DataFrame:
    """Load what `evaluate` predicted: columns `id`, `patient`, `grade` and `score`.

    The rows are in the order of the ids, whatever the set's.

    Raises:
        RunError: if it is missing or damaged.
    """
    path = folder / PREDICTIONS_FILE
    try:
        # A patient may be called NA.
        types = {"id": str, "patient": str}
        table = pd.read_csv(path, dtype=types, na_filter=False)
        table = table[[*PHOTOGRAPH_COLUMNS, "score"]]
        table = table.astype({"grade": int, "score": float})
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is not what drtf evaluate wrote: {error}") from error
    if not len(table) or table["score"].isna().any():
        raise RunError(f"{path} is not what drtf evaluate wrote: scores are missing")
    return table.sort_values(["id", "patient"], ignore_index=True)


def load_summary(folder: Path) -> Summary:
    """Load what `evaluate` measured.

    Raises:
        RunError: if it is missing or damaged.
    """
    path = folder / METRICS_FILE
    try:
        found = json.loads(path.read_text())
        return Summary(
            positive_from=found["positive_from_grade"],
            tta=found["tta"],
            threshold=float(found["threshold"]["value"]),
            metrics={name: _load(found[name]) for name in METRICS if name in found},
        )
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not what drtf evaluate wrote: {error}") from error


def _missing(path: Path) -> RunError:
    return RunError(f"no {path}: judge the run with drtf evaluate first")


def _load(values: Mapping[str, float | None]) -> Estimate:
    # JSON has no NaN.
    found = {key: np.nan if x is None else float(x) for key, x in values.items()}
    return Estimate(**found)

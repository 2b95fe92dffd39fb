"""The predictions of evaluations, and the cells of a table that compares them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from drtf.evaluation.folder import PREDICTIONS_FILE
from drtf.evaluation.metrics import compare_roc_auc
from drtf.intervals import Estimate


def load_predictions(evaluation: Path) -> pd.DataFrame:
    """Load the predictions of an evaluation by photograph.

    The column `score` is of each eye by itself.
    """
    types = {"id": str, "patient": str}
    table = pd.read_csv(evaluation / PREDICTIONS_FILE, dtype=types, na_filter=False)
    table = table.set_index("id").sort_index()
    return table.assign(score=table.get("own_score", table["score"]))


def roc_auc_rows(
    table: pd.DataFrame, ways: Sequence[str], *, from_grade: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each column of scores with the cells of its ROC AUC and its gain.

    The gain is over the first column.
    """
    estimates = compare_roc_auc(
        (table["grade"] >= from_grade).to_numpy(int),
        table[list(ways)].to_numpy().T,
        patients=table["patient"].to_numpy(),
        num_resamples=1000,
        seed=42,
    )
    for way, (roc_auc, gain, _) in zip(ways, estimates, strict=True):
        yield (
            way,
            {**estimate_cells("roc_auc", roc_auc), **estimate_cells("gain", gain)},
        )


def estimate_cells(name: str, estimate: Estimate) -> dict[str, float]:
    """Return the cells of an estimate: its value and its interval."""
    return {
        name: estimate.value,
        f"{name}_low": estimate.ci_low,
        f"{name}_high": estimate.ci_high,
    }

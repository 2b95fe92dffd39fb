"""The predictions of evaluations, and the cells of a table that compares them."""

from pathlib import Path

import pandas as pd

from drtf.evaluation.folder import PREDICTIONS_FILE
from drtf.intervals import Estimate


def load_predictions(evaluation: Path) -> pd.DataFrame:
    """Load the predictions of an evaluation by photograph.

    The column `score` is of each eye by itself.
    """
    types = {"id": str, "patient": str}
    table = pd.read_csv(evaluation / PREDICTIONS_FILE, dtype=types, na_filter=False)
    table = table.set_index("id").sort_index()
    return table.assign(score=table.get("own_score", table["score"]))


def estimate_cells(name: str, estimate: Estimate) -> dict[str, float]:
    """Return the cells of an estimate: its value and its interval."""
    return {
        name: estimate.value,
        f"{name}_low": estimate.ci_low,
        f"{name}_high": estimate.ci_high,
    }

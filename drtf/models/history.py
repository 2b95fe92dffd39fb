"""The history of a training run: what each epoch measured."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from drtf.errors import RunError
from drtf.files import read_regular, write_atomic

HISTORY_FILE = "history.csv"
HISTORY_FIGURE = "history.png"


def save_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv, one row per epoch."""
    file = io.StringIO(newline="")
    rows = csv.DictWriter(file, list(history[0]), lineterminator="\n")
    rows.writeheader()
    rows.writerows(history)
    write_atomic(folder / HISTORY_FILE, file.getvalue())


def load_history(folder: Path) -> list[dict[str, float]]:
    """Load the metrics of each epoch, by name.

    Raises:
        RunError: If history.csv is missing or damaged.
    """
    path = folder / HISTORY_FILE
    try:
        text = read_regular(path).decode()
        rows = csv.DictReader(io.StringIO(text, newline=""))
        epochs = [{key: float(x) for key, x in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not epochs or "val_loss" not in epochs[0]:
        raise RunError(f"{path} was not written by drtf train: it has no val_loss")
    return epochs

"""Soft labels: what another model, the teacher, predicts for training photographs.

Distillation: Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.config import TrainConfig
from drtf.errors import LabelError
from drtf.labels.extra_columns import MATCHED_COLUMNS, load_extra_columns
from drtf.labels.grouping import is_missing, load_column, parse_number
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS

IN_TRAINING = "in_training"  # column of a table of scores: 1 if the model has seen it

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SoftLabels:
    """The targets of a training with soft labels.

    Attributes:
        targets: float32 [n] in [0, 1], for each photograph of the training split in the
            order of the index. It is the label, mixed with the soft label if there is
            one.
        num_given: Number of photographs with a soft label.
    """

    targets: np.ndarray
    num_given: int

    @property
    def sha256(self) -> str:
        """The hash of the targets."""
        return hashlib.sha256(self.targets.tobytes()).hexdigest()

    def describe(self, config: TrainConfig) -> str:
        """Return how many photographs have a soft label, in one line."""
        missing = len(self.targets) - self.num_given
        return (
            f"Soft labels: column {config.soft_labels!r}, weight "
            f"{config.soft_weight:g}, for {self.num_given:,} of "
            f"{len(self.targets):,} training photographs"
            + (f"; the other {missing:,} keep their label" if missing else "")
        )


def load_soft_labels(
    shards: ShardDataset, config: TrainConfig, table: Path | None = None
) -> SoftLabels | None:
    """Load the soft labels of a dataset's training split, and mix them with its labels.

    Warns if the teacher was trained on some of the photographs, according to the column
    `in_training`, and if the soft labels are higher for negative photographs.

    Args:
        shards: An open dataset.
        config: The `train` section.
        table: A table with the column, one row per photograph. By default the column is
            one that the dataset has kept of its label file.

    Returns:
        None if `train.soft_labels` is empty.

    Raises:
        LabelError: If the column is missing, has no values, or has values that are not
            numbers from 0 to 1.
    """
    if not config.soft_labels:
        if table:
            raise LabelError(
                f"{table} is a table of soft labels: set train.soft_labels to its "
                "column, such as score"
            )
        return None
    rows = shards.split_rows("train")
    columns = _load_columns(shards, config.soft_labels, rows, table)
    cells = columns[config.soft_labels]
    given = ~cells.map(is_missing).to_numpy(bool)
    where = f"the column {config.soft_labels!r} of {table or shards.location}"
    if not given.any():
        raise LabelError(
            f"{where} is empty for all photographs of the split 'train': score these "
            "photographs with drtf score"
        )
    numbers = cells[given].map(parse_number).astype(float)
    wrong = numbers[~numbers.between(0, 1)]
    if len(wrong):
        row = rows[[wrong.index[0]]]
        name = shards.load_index(["id"], row)["id"].iloc[0]
        raise LabelError(
            f"{where} has {cells[wrong.index[0]]!r} for the photograph {name!r}, and "
            f"{len(wrong):,} such values in all; a soft label must be a number from 0 "
            "to 1, such as a score of drtf score"
        )
    labels = TASKS[config.task].labels(shards.grades[rows])
    _warn(columns, given, numbers, labels[given], where)
    targets = labels.astype(np.float32)
    targets[given] += config.soft_weight * (numbers.to_numpy() - labels[given])
    return SoftLabels(targets, int(given.sum()))


def _load_columns(
    shards: ShardDataset, name: str, rows: np.ndarray, table: Path | None
) -> dict[str, pd.Series]:
    """Load the text in a column, and in that of the teacher's training photographs."""
    if table is None:
        names = {name, *({IN_TRAINING} & set(shards.manifest.kept_columns))}
        return {x: load_column(shards, x, rows) for x in names}
    photographs = shards.load_index(MATCHED_COLUMNS)
    found = load_extra_columns(table, photographs, [name, IN_TRAINING])
    if name not in found:
        raise LabelError(f"{table} has no column {name!r} (train.soft_labels)")
    return {x: cells.iloc[rows].reset_index(drop=True) for x, cells in found.items()}


def _warn(
    columns: dict[str, pd.Series],
    given: np.ndarray,
    numbers: pd.Series,
    labels: np.ndarray,
    where: str,
) -> None:
    """Warn of soft labels that are optimistic, or the wrong way round."""
    seen = columns.get(IN_TRAINING)
    num_seen = 0 if seen is None else int((seen[given] == "1").sum())
    if num_seen:
        _log.warning(
            "the teacher was trained on %s of the %s photographs with a soft label, so "
            "its scores of them are close to their labels: divide the patients into "
            "folds, and score each fold with a model that was trained on the others",
            f"{num_seen:,}",
            f"{len(numbers):,}",
        )
    means = [numbers[labels == label].mean() for label in (0, 1)]
    if means[0] > means[1]:
        _log.warning(
            "%s is higher for negative photographs (mean %.2f) than for positive ones "
            "(mean %.2f): is it the score of another task?",
            where,
            *means,
        )

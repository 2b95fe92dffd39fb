"""The photographs of a split, with their classes and labels."""

import numpy as np

from drtf.errors import DrtfError
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS, TaskName


def rows_and_classes(
    shards: ShardDataset, split: str, task: TaskName
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index rows of a split, int64 [n], and their classes, int8 [n]."""
    rows = shards.split_rows(split)
    return rows, TASKS[task].classes(shards.grades[rows])


def count_examples(shards: ShardDataset, split: str, task: TaskName) -> np.ndarray:
    """Return the number of photographs in each class of a split, int64 [c]."""
    _, classes = rows_and_classes(shards, split, task)
    return np.bincount(classes, minlength=TASKS[task].num_classes)


def binary_labels(shards: ShardDataset, split: str, task: TaskName) -> np.ndarray:
    """Return the binary labels of a split, int64 [n], 1 for positive photographs.

    Raises:
        DrtfError: If all photographs are positive, or none are.
    """
    labels = TASKS[task].labels(shards.grades[shards.split_rows(split)])
    if labels.all() or not labels.any():
        first = TASKS[task].positive_from
        raise DrtfError(
            f"all photographs of split {split!r} of {shards.folder} are of one class "
            f"of the task {task!r}: grades below {first} and grades of {first} or "
            "higher are both required"
        )
    return labels

"""The groups of photographs that sampling draws equally often."""

from dataclasses import dataclass

import numpy as np

from drtf.config import SamplingConfig
from drtf.data.sampling import MAX_CLASSES, count_draws
from drtf.errors import DrtfError
from drtf.labels.grouping import CLASS, divide, load_column, parse_grouping
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS, TaskName


@dataclass(frozen=True)
class SamplingGroups:
    """The photographs of a split by group, and how often each group is drawn.

    Attributes:
        numbers: int16 [n], the group of each photograph, from 0.
        names: The name of each group.
        num_photographs: Photographs of each group.
        num_drawn: How often each group is drawn in an epoch.
        num_drawn_by_class: How often each class of the task is drawn in an epoch. This
            is the mean over epochs if a group has several classes.
    """

    numbers: np.ndarray
    names: list[str]
    num_photographs: list[int]
    num_drawn: list[int]
    num_drawn_by_class: list[int]

    @property
    def images_per_epoch(self) -> int:
        """The number of images that an epoch draws."""
        return sum(self.num_drawn)

    def count_steps(self, batch_size: int, *, num_parts: int = 1) -> int:
        """Return the number of batches in an epoch; the last one may be smaller.

        A last batch that has no image for each part is merged into the one before.
        """
        num_full, num_left = divmod(self.images_per_epoch, batch_size)
        return max(1, num_full + (num_left >= num_parts))


def group_photographs(
    shards: ShardDataset, split: str, *, task: TaskName, sampling: SamplingConfig
) -> SamplingGroups:
    """Divide the photographs of a split into the groups that sampling draws from.

    With several columns, each combination of their values is a group.

    Args:
        shards: An open dataset.
        split: Of the dataset.
        task: Defines the classes.
        sampling: The `sampling` section.

    Raises:
        DrtfError: If a column of `sampling.by` is missing, or there are too many
            groups.
        ConfigError: If `sampling.weights` is used and does not fit the classes.
    """
    rows = shards.split_rows(split)
    classes = TASKS[task].classes(shards.grades[rows])
    num_classes = TASKS[task].num_classes
    numbers, names = np.zeros(len(rows), np.int64), [""]
    for text in sampling.by:
        if text == CLASS:
            own, own_names = classes, [f"class {x}" for x in range(num_classes)]
        else:
            grouping = parse_grouping(text)
            values = load_column(shards, grouping.column, rows)
            found, own = np.unique(divide(values, grouping).names, return_inverse=True)
            own_names = [f"{grouping.column} {name}" for name in found]
        numbers = numbers * len(own_names) + own
        names = [f"{name}, {x}" if name else x for name in names for x in own_names]
    if len(names) > MAX_CLASSES:
        raise DrtfError(
            f"sampling.by={list(sampling.by)} makes {len(names):,} groups, more than "
            f"{MAX_CLASSES}: name fewer columns"
        )
    # Photographs by class and group, [c, g].
    joint = np.stack(
        [
            np.bincount(numbers[classes == own], minlength=len(names))
            for own in range(num_classes)
        ]
    )
    counts = joint.sum(axis=0)
    drawn = count_draws(counts, sampling)
    by_class = joint @ (drawn / np.maximum(counts, 1))
    return SamplingGroups(
        numbers.astype(np.int16),
        names,
        num_photographs=counts.tolist(),
        num_drawn=drawn,
        num_drawn_by_class=np.rint(by_class).astype(int).tolist(),
    )

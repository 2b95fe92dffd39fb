"""The groups of validation photographs whose ROC AUC is measured after each epoch."""

import logging

import numpy as np

from drtf.config import TrainConfig
from drtf.errors import ConfigError
from drtf.labels.grouping import load_groups
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS

_log = logging.getLogger(__name__)

# A ROC AUC of fewer photographs of a class changes too much from epoch to epoch.
MIN_PER_CLASS = 10
WORST = "worst_roc_auc"


def validation_groups(
    shards: ShardDataset, config: TrainConfig
) -> dict[str, np.ndarray]:
    """Return the index rows of each group of the validation split that is measured.

    Groups with too few photographs of a class are left out, with a warning.

    Args:
        shards: An open dataset.
        config: The `train` section.

    Returns:
        By the name of the group; empty if there are fewer than two groups.

    Raises:
        DrtfError: If the column of `train.validate_by` is missing or has too many
            values.
        ConfigError: If the worst group is to be monitored and there are no groups.
    """
    if not config.validate_by:
        return {}
    split = config.validation_split
    rows = shards.split_rows(split)
    labels = TASKS[config.task].labels(shards.grades[rows])
    (groups,) = load_groups(shards, split, [config.validate_by])
    measured: dict[str, np.ndarray] = {}
    small = []
    for name in np.unique(groups.names).tolist():
        members = groups.names == name
        num_positive = labels[members].sum()
        if min(num_positive, members.sum() - num_positive) < MIN_PER_CLASS:
            small.append(name)
        else:
            measured[name] = rows[members]
    if small and len(measured) + len(small) > 1:
        _log.warning(
            "train.validate_by=%r: validation does not measure %s, with fewer than %d "
            "photographs of a class in split %r",
            config.validate_by,
            ", ".join(map(repr, small)),
            MIN_PER_CLASS,
            split,
        )
    if len(measured) > 1:
        return measured
    if WORST in (config.monitor, config.plateau_monitor):
        raise ConfigError(
            f"monitoring {WORST!r} requires at least two groups of "
            f"train.validate_by={config.validate_by!r}, each with {MIN_PER_CLASS} "
            f"photographs of each class in split {split!r}; found {len(measured)}"
        )
    return {}

"""The metrics of each group of photographs, and how they differ from the rest."""

import math

import numpy as np
import pandas as pd

from drtf.config import EvaluateConfig
from drtf.evaluation.group_results import ALL, GroupedResult, GroupResult
from drtf.evaluation.metrics import differences_from_rest
from drtf.evaluation.predictions import prediction_metrics
from drtf.intervals import Estimate
from drtf.labels.grouping import Groups


def grouped_result(
    predictions: pd.DataFrame,
    groups: Groups,
    config: EvaluateConfig,
    *,
    metrics: dict[str, Estimate],
) -> GroupedResult:
    """Compute the results of each group.

    Args:
        predictions: One row per photograph, from `apply_decision_rule`.
        groups: The groups of these photographs.
        config: The bootstrap, and the minimum size of a group.
        metrics: The metrics on all photographs.
    """
    results = [
        _group_result(str(name), predictions, groups.names == name, config)
        for name in np.unique(groups.names)
    ]
    return GroupedResult(
        groups.title,
        sorted(results, key=_rank),
        whole=GroupResult(ALL, *_counts(predictions), metrics, {}),
    )


def _group_result(
    name: str, predictions: pd.DataFrame, members: np.ndarray, config: EvaluateConfig
) -> GroupResult:
    own = predictions[members]
    counts = _counts(own)
    num_other_patients = predictions.loc[~members, "patient"].nunique()
    is_shown = own["patient"].nunique() >= config.min_group_patients
    is_compared = is_shown and num_other_patients >= config.min_group_patients
    return GroupResult(
        name,
        *counts,
        metrics=prediction_metrics(own, config) if is_shown else {},
        differences=_differences(predictions, members, config) if is_compared else {},
    )


def _counts(predictions: pd.DataFrame) -> tuple[int, int, int]:
    """Return the number of photographs, of patients and of positive photographs."""
    num_patients = predictions["patient"].nunique()
    return len(predictions), num_patients, int(predictions["label"].sum())


def _differences(
    predictions: pd.DataFrame, members: np.ndarray, config: EvaluateConfig
) -> dict[str, Estimate]:
    columns = {name: column.to_numpy() for name, column in predictions.items()}
    return differences_from_rest(
        columns["label"],
        columns["score"],
        columns["predicted_label"],
        members,
        y_prob=columns["probability"],
        patients=columns["patient"],
        num_resamples=config.num_resamples,
        seed=config.seed,
    )


def _rank(group: GroupResult) -> tuple[int, float]:
    """Return the place of a group: the worst first, the smallest last."""
    if not group.metrics:
        return 2, -group.num_photographs
    roc_auc = group.metrics["roc_auc"].value
    if math.isnan(roc_auc):  # all of one class
        return 1, group.metrics["accuracy"].value
    return 0, roc_auc

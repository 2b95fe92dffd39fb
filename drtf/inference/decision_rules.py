"""Decision rules from validation scores, and what other thresholds would give."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_score, recall_score

from drtf.config import EvaluateConfig, Tta
from drtf.errors import DrtfError
from drtf.inference.thresholds import choose_threshold
from drtf.models.calibration import fit_calibration
from drtf.models.decision_rule import GIVEN, DecisionRule, Threshold
from drtf.models.run import Run

# The alternatives that a report lists next to the chosen threshold.
OPERATING_POINT_RULES = (
    "youden",
    "accuracy",
    *(
        f"{metric}>={bound}"
        for metric in ("sensitivity", "specificity")
        for bound in ("0.80", "0.90", "0.95")
    ),
)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen on the validation split, measured on the evaluated split."""

    rule: str
    threshold: float
    sensitivity: float
    specificity: float
    precision: float


def fit_decision_rule(
    run: Run, validation: pd.DataFrame, config: EvaluateConfig
) -> DecisionRule:
    """Choose a threshold and fit a calibration on the validation split.

    Args:
        run: The run that was scored.
        validation: From `score_split`.
        config: The rule, the calibration method, and the TTA of the scores.
    """
    y_true, y_score = validation["label"].to_numpy(), validation["score"].to_numpy()
    common: dict[str, Any] = {
        "split": run.config.train.validation_split,
        "tta": config.tta,
    }
    threshold = Threshold(
        value=choose_threshold(y_true, y_score, config.threshold),
        rule=config.threshold if isinstance(config.threshold, str) else GIVEN,
        num_photographs=len(validation),
        **common,
    )
    calibration = fit_calibration(
        y_true,
        y_score,
        method=config.calibration,
        train_prior=run.info.train_prior,
        **common,
    )
    return DecisionRule(
        threshold=threshold,
        calibration=calibration,
        model_sha256=run.info.model_sha256,
    )


def stored_decision_rule(run: Run, tta: Tta) -> DecisionRule:
    """Return the run's own decision rule.

    Raises:
        DrtfError: If the run has none, or it was chosen with another TTA.
    """
    if run.decision_rule is None:
        raise DrtfError(
            f"the run {run.folder} has no threshold and calibration yet: choose them "
            "with drtf evaluate on the dataset that it was trained on"
        )
    if run.tta != tta:
        raise DrtfError(
            f"the threshold of {run.folder} was chosen with TTA {run.tta!r}, not "
            f"{tta!r}: evaluate the run with --tta {run.tta}"
        )
    return run.decision_rule


def operating_points(
    validation: pd.DataFrame, evaluated: pd.DataFrame
) -> list[OperatingPoint]:
    """Choose a threshold by each rule on validation and measure it elsewhere.

    Args:
        validation: From `score_split`; the thresholds are chosen on it.
        evaluated: From `score_split`; sensitivity, specificity and precision are
            measured on it.
    """
    y_true, y_score = validation["label"].to_numpy(), validation["score"].to_numpy()
    points = []
    for rule in OPERATING_POINT_RULES:
        threshold = choose_threshold(y_true, y_score, rule)
        labels = evaluated["label"]
        predicted = (evaluated["score"] >= threshold).astype(int)
        point = OperatingPoint(
            rule,
            threshold,
            sensitivity=recall_score(labels, predicted),
            specificity=recall_score(labels, predicted, pos_label=0),
            precision=precision_score(labels, predicted, zero_division=np.nan),
        )
        points.append(point)
    return points

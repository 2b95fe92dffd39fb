"""Decision rules from validation scores, and what other thresholds would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_score, recall_score

from drtf.config import Config, EvaluateConfig
from drtf.errors import DrtfError
from drtf.evaluation.thresholds import choose_cut_points, choose_threshold
from drtf.files import is_writable
from drtf.models.calibration import fit_calibration
from drtf.models.decision_rule import GIVEN, DecisionRule, Threshold
from drtf.models.fellow_eye import combine_eyes, fellow_logits, fit_fellow_eye
from drtf.models.run import Run, load_decision_rule, load_run_config

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


@dataclass(frozen=True)
class RulePlan:
    """Where the decision rule of an evaluation comes from, and whether it is stored.

    Attributes:
        kept: The rule that is stored in the run, if the evaluation uses it. None: the
            evaluation chooses its own on the validation split.
        is_training_dataset: Whether the run was trained on the evaluated dataset.
        stores: Whether the rule is stored in the run, where scoring finds it.
        is_read_only: Whether it is not stored because the run folder is read-only.
    """

    kept: DecisionRule | None
    is_training_dataset: bool
    stores: bool
    is_read_only: bool

    @property
    def uses_validation(self) -> bool:
        """Whether the validation split is scored too."""
        return self.kept is None or self.is_training_dataset


def fit_decision_rule(
    run: Run, labeled: pd.DataFrame, config: EvaluateConfig, *, source: str
) -> DecisionRule:
    """Choose threshold and cut points and fit a calibration on labeled photographs.

    Threshold and calibration apply to the combined scores of both eyes, cut points to
    each photograph.

    Args:
        run: The run that was scored.
        labeled: As from `score_split`.
        config: The rule, the calibration method, and the TTA of the scores.
        source: Where the photographs are from, such as `split val` or a file.
    """
    train_prior = run.info.train_prior
    fellow_eye = (
        fit_fellow_eye(labeled, train_prior=train_prior) if config.fellow_eye else None
    )
    y_true = labeled["label"].to_numpy()
    own_scores = labeled["score"].to_numpy()
    y_score, _ = combine_eyes(own_scores, fellow_logits(labeled), fellow_eye)
    common: dict[str, Any] = {"source": source, "tta": config.tta}
    threshold = Threshold(
        value=choose_threshold(y_true, y_score, config.threshold),
        rule=config.threshold if isinstance(config.threshold, str) else GIVEN,
        num_photographs=len(labeled),
        **common,
    )
    calibration = fit_calibration(
        y_true,
        y_score,
        method=config.calibration,
        train_prior=train_prior,
        own_scores=own_scores,
        **common,
    )
    cut_points: tuple[float, ...] = ()
    if run.task.predicts_grades:
        cut_points = choose_cut_points(
            labeled["grade"].to_numpy(), labeled["expected_grade"].to_numpy()
        )
    return DecisionRule(
        fellow_eye=fellow_eye,
        threshold=threshold,
        calibration=calibration,
        cut_points=cut_points,
        model_sha256=run.info.model_sha256,
    )


def load_evaluation_config(
    run_folder: Path, source: str = "", overrides: Sequence[str] = ()
) -> Config:
    """Load the config to evaluate a run with.

    The settings of the run's stored decision rule apply, if it has one, unless `source`
    or `overrides` name others.

    Args:
        run_folder: The run folder.
        source: As in `load_run_config`.
        overrides: As in `load_run_config`; of the sections `evaluate` and `gradcam`.

    Raises:
        ConfigError: If the config is invalid.
        RunError: If the run's config or decision rule is damaged.
    """
    config = load_run_config(
        run_folder, source, overrides, sections=("evaluate", "gradcam")
    )
    rule = load_decision_rule(run_folder)
    if source or rule is None:
        return config
    named = {override.partition("=")[0].strip() for override in overrides}
    stored = {
        name: value
        for name, value in rule.settings.items()
        if f"evaluate.{name}" not in named
    }
    return config.model_copy(
        update={"evaluate": config.evaluate.model_copy(update=stored)}
    )


def plan_rule(
    run: Run,
    config: EvaluateConfig,
    *,
    is_training_dataset: bool,
    store_threshold: bool,
) -> RulePlan:
    """Decide whether an evaluation uses the stored decision rule or chooses its own.

    Args:
        run: The evaluated run.
        config: How it is evaluated.
        is_training_dataset: Whether it is evaluated on the dataset of its training.
        store_threshold: Whether the user asked to choose a rule and store it.

    Raises:
        DrtfError: If the user asked to store a rule in a folder that is read-only.
    """
    stored = run.decision_rule
    same = stored is not None and all(
        getattr(config, name) == value for name, value in stored.settings.items()
    )
    wants_to_store = store_threshold or (stored is None and is_training_dataset)
    is_read_only = wants_to_store and not is_writable(run.folder)
    if store_threshold and is_read_only:
        raise DrtfError(
            f"cannot store a threshold in {run.folder}, which is read-only: copy the "
            "run folder and evaluate the copy"
        )
    return RulePlan(
        kept=stored if same and not store_threshold else None,
        is_training_dataset=is_training_dataset,
        stores=wants_to_store and not is_read_only,
        is_read_only=is_read_only,
    )


def operating_points(
    validation: pd.DataFrame, evaluated: pd.DataFrame
) -> list[OperatingPoint]:
    """Choose a threshold by each rule on validation and measure it elsewhere.

    Args:
        validation: From `apply_decision_rule`; the thresholds are chosen on it.
        evaluated: From `apply_decision_rule`; sensitivity, specificity and precision
            are measured on it.
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

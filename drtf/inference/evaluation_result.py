"""Judgement: what an evaluation found, and the same as text."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drtf.config import Tta
from drtf.inference.intervals import (
    Estimate,
    format_estimate,
    format_interval,
    format_value,
)
from drtf.models.calibration import Calibration
from drtf.models.run import DecisionRule, Threshold

METRIC_COLUMNS = ("metric", "per photograph", "95 %", "per patient", "95 %")
CLASS_COLUMNS = ("class", "precision", "recall", "f1-score", "support")
GIVEN = "given"  # the rule of a threshold that is but a number
POINT_COLUMNS = ("rule", "threshold", "sensitivity", "specificity", "precision")


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold by a rule, chosen on validation, gives on the split judged."""

    rule: str
    threshold: float
    sensitivity: float
    specificity: float
    precision: float


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        split: the split judged.
        tta: the views used.
        decision_rule: the threshold and the calibration.
        metrics: estimates by name, per photograph.
        patient_metrics: the same per patient, by the worse eye: the highest grade, and
            the highest score.
        classes: precision, recall, F1 and support of each class, then their macro and
            weighted averages, as scikit-learn's `classification_report` has them.
        operating_points: what other thresholds from the validation split would give.
        views_gain: what the ROC AUC of all views is above that of the unchanged one;
            None where there is but one.
        views_cost: how many times as long the network takes for them.
        confusion_matrix: rows are truth, columns are decisions.
        grade_classes: as `classes`, of the decision between the five grades; empty
            where the run makes none.
        grade_confusion_matrix: of these; empty likewise.
        num_photographs: judged.
        num_patients: to whom they belong.
        notes: what a reader must know to weigh the figures.
        settings: the `evaluate` section.
        replaced: the threshold that the run had before, if this one took its place.
    """

    split: str
    tta: Tta
    decision_rule: DecisionRule
    metrics: dict[str, Estimate]
    patient_metrics: dict[str, Estimate]
    classes: dict[str, dict[str, float]]
    operating_points: list[OperatingPoint]
    views_gain: Estimate | None
    views_cost: float = field(compare=False)  # a measured time
    confusion_matrix: list[list[int]]
    grade_classes: dict[str, dict[str, float]]
    grade_confusion_matrix: list[list[int]]
    num_photographs: int
    num_patients: int
    notes: list[str]
    settings: dict[str, Any]
    replaced: Threshold | None = field(compare=False)


def list_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """List an evaluation's metrics as text.

    Returns:
        Name, then value and interval per photograph, then the same per patient.
    """
    rows = []
    for name, item in evaluation.metrics.items():
        row = [name, format_value(item.value), format_interval(item)]
        of_patients = evaluation.patient_metrics.get(name)
        if of_patients:
            row += [format_value(of_patients.value), format_interval(of_patients)]
        else:
            row += ["", ""]
        rows.append(tuple(row))
    return rows


def list_classes(
    classes: Mapping[str, Mapping[str, float]],
) -> list[tuple[str, ...]]:
    """List an evaluation's classes as text, as `CLASS_COLUMNS` says."""
    return [
        (
            name,
            *(format_value(values[key]) for key in CLASS_COLUMNS[1:-1]),
            f"{values['support']:,.0f}",
        )
        for name, values in classes.items()
    ]


def list_operating_points(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """List an evaluation's operating points as text, as `POINT_COLUMNS` says."""
    return [
        (point.rule, *(format_value(value) for value in dataclasses.astuple(point)[1:]))
        for point in evaluation.operating_points
    ]


def describe_threshold(threshold: Threshold) -> str:
    """Tell a threshold, and how it was chosen."""
    if threshold.rule == GIVEN:
        return f"{threshold.value:.4f}, as given"
    return (
        f"{threshold.value:.4f} by {threshold.rule} on split {threshold.split} "
        f"({threshold.num_photographs:,} photographs)"
    )


def describe_calibration(calibration: Calibration) -> str:
    """Tell how scores became probabilities."""
    method: str = calibration.method
    if method == "temperature":
        method = f"temperature {calibration.temperature:.2f}"
        if calibration.is_at_bound:
            method += " (its bound: not to be relied on)"
    shift = f"prior shift {calibration.prior_shift:+.2f}"
    return f"{method}, {shift}, fitted on split {calibration.split}"


def describe_views(evaluation: Evaluation) -> str:
    """Tell in a sentence what test-time augmentation gained, and what it cost."""
    gain = evaluation.views_gain
    if gain is None:
        return "one view of each photograph"
    return (
        f"{evaluation.tta} gains {format_estimate(gain, sign='+')} ROC AUC over one "
        f"view, and takes about {evaluation.views_cost:.1f} times as long"
    )

"""The result of an evaluation: as text, and as metrics.json."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtf import page
from drtf.config import EvaluateConfig, Tta
from drtf.files import parse_json, read_regular, write_atomic
from drtf.inference.decision_rules import OperatingPoint
from drtf.inference.intervals import (
    Estimate,
    format_estimate,
    format_interval,
    format_value,
)
from drtf.inference.metrics import ClassReport
from drtf.models.calibration import Calibration
from drtf.models.decision_rule import GIVEN, DecisionRule, Threshold
from drtf.models.run import RunInfo
from drtf.tasks import Task

METRICS_FILE = "metrics.json"
METRIC_COLUMNS = ("metric", "per photograph", "95 % CI", "per patient", "95 % CI")
CLASS_COLUMNS = ("class", "precision", "recall", "f1-score", "support")
POINT_COLUMNS = ("rule", "threshold", "sensitivity", "specificity", "precision")


@dataclass(frozen=True)
class EvaluationResult:
    """The result of evaluating a run on a split.

    Attributes:
        task: The run's task.
        split: The evaluated split.
        dataset_sha256: Hash of the dataset's manifest.
        tta: The test-time augmentation.
        decision_rule: The threshold and the calibration.
        metrics: Estimates by name, per photograph.
        patient_metrics: The same per patient, by the worse eye.
        labels: Metrics of each label, and the confusion matrix.
        grades: The same for predicted grades; None if the run predicts none.
        operating_points: What other thresholds from the validation split would give.
        views_gain: ROC AUC with test-time augmentation minus ROC AUC without; None
            without test-time augmentation.
        views_cost: How many times as long prediction takes with it.
        num_photographs: Number of evaluated photographs.
        num_patients: Number of their patients.
        notes: What a reader must know to interpret the metrics.
        config: The `evaluate` section.
        replaced: The threshold that this one replaced in the run; None if none.
    """

    task: Task
    split: str
    dataset_sha256: str
    tta: Tta
    decision_rule: DecisionRule
    metrics: dict[str, Estimate]
    patient_metrics: dict[str, Estimate]
    labels: ClassReport
    grades: ClassReport | None
    operating_points: list[OperatingPoint]
    views_gain: Estimate | None
    views_cost: float = field(compare=False)  # a measured time
    num_photographs: int
    num_patients: int
    notes: list[str]
    config: EvaluateConfig
    replaced: Threshold | None = field(compare=False)

    def _repr_html_(self) -> str:
        """Show the metrics in a notebook."""
        title = f"Split {self.split}: {self.num_photographs:,} photographs"
        return (
            page.format_notes(self.notes)
            + page.format_table(title, METRIC_COLUMNS, metric_rows(self))
            + page.format_table("Labels", CLASS_COLUMNS, class_rows(self.labels))
        )


def metric_rows(result: EvaluationResult) -> list[tuple[str, ...]]:
    """Format the metrics as rows of a table with `METRIC_COLUMNS`."""
    rows = []
    for name, estimate in result.metrics.items():
        row = [name, format_value(estimate.value), format_interval(estimate)]
        per_patient = result.patient_metrics.get(name)
        if per_patient:
            row += [format_value(per_patient.value), format_interval(per_patient)]
        else:
            row += ["", ""]
        rows.append(tuple(row))
    return rows


def class_rows(report: ClassReport) -> list[tuple[str, ...]]:
    """Format a class report as rows of a table with `CLASS_COLUMNS`."""
    return [
        (
            name,
            *(format_value(values[key]) for key in CLASS_COLUMNS[1:-1]),
            f"{values['support']:,.0f}",
        )
        for name, values in report.metrics.items()
    ]


def operating_point_rows(result: EvaluationResult) -> list[tuple[str, ...]]:
    """Format the operating points as rows of a table with `POINT_COLUMNS`."""
    return [
        (point.rule, *(format_value(value) for value in dataclasses.astuple(point)[1:]))
        for point in result.operating_points
    ]


def describe_threshold(threshold: Threshold) -> str:
    """Describe a threshold and how it was chosen."""
    if threshold.rule == GIVEN:
        return f"{threshold.value:.4f} (given)"
    return (
        f"{threshold.value:.4f} (rule {threshold.rule}, chosen on "
        f"{threshold.num_photographs:,} photographs of split {threshold.split})"
    )


def describe_calibration(calibration: Calibration) -> str:
    """Describe how scores are turned into probabilities."""
    method: str = calibration.method
    if method == "temperature":
        method = f"temperature {calibration.temperature:.2f}"
        if calibration.is_at_bound:
            method += " (at the search limit; unreliable)"
    shift = f"prior shift {calibration.prior_shift:+.2f}"
    return f"{method}, {shift}, fitted on split {calibration.split}"


def describe_views(result: EvaluationResult) -> str:
    """Describe what test-time augmentation gains and costs."""
    gain = result.views_gain
    if gain is None:
        return "none"
    return (
        f"{result.tta}; changes ROC AUC by {format_estimate(gain, sign='+')} and takes "
        f"{result.views_cost:.1f} times as long as a single view"
    )


def save_result(folder: Path, result: EvaluationResult) -> None:
    """Write metrics.json."""
    gain = result.views_gain
    grades = result.grades or ClassReport({}, [])
    points = [dataclasses.asdict(point) for point in result.operating_points]
    contents = _as_dicts(result.metrics) | {
        "per_patient": _as_dicts(result.patient_metrics),
        "classes": result.labels.metrics,
        "operating_points": points,
        "confusion_matrix": result.labels.confusion_matrix,
        "grade_classes": grades.metrics,
        "grade_confusion_matrix": grades.confusion_matrix,
        "views_gain": gain and dataclasses.asdict(gain),
        "num_photographs": result.num_photographs,
        "num_patients": result.num_patients,
        "split": result.split,
        "task": result.task.name,
        "positive_from_grade": result.task.positive_from,
        "tta": result.tta,
        **result.decision_rule.model_dump(mode="json"),
        "notes": result.notes,
        "settings": result.config.model_dump(mode="json"),
        "dataset_sha256": result.dataset_sha256,
    }
    text = json.dumps(_without_nan(contents), indent=2, allow_nan=False)
    write_atomic(folder / METRICS_FILE, text + "\n")


def is_evaluated(folder: Path, info: RunInfo, config: EvaluateConfig) -> bool:
    """Return whether a folder holds an evaluation of this run with this config.

    Args:
        folder: A folder that `evaluate` may have written.
        info: The run, evaluated on the dataset that it was trained on.
        config: The `evaluate` section.
    """
    try:
        contents = parse_json(read_regular(folder / METRICS_FILE))
    except (OSError, ValueError):
        return False
    expected = {
        "model_sha256": info.model_sha256,
        "dataset_sha256": info.dataset_sha256,
        "settings": config.model_dump(mode="json"),
    }
    return isinstance(contents, dict) and expected.items() <= contents.items()


def _as_dicts(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: dataclasses.asdict(estimate) for name, estimate in metrics.items()}


def _without_nan(value: Any) -> Any:
    """Replace each NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_without_nan(x) for x in value]
    undefined = isinstance(value, float) and not math.isfinite(value)
    return None if undefined else value

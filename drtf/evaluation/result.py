"""The result of an evaluation: as text, and as metrics.json."""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtf import __version__, page
from drtf.config import EvaluateConfig, Tta
from drtf.errors import RunError
from drtf.evaluation.decision_rules import OperatingPoint
from drtf.evaluation.group_results import (
    GROUP_COLUMNS,
    GroupedResult,
    group_rows,
    parse_grouped_result,
)
from drtf.evaluation.metrics import ClassReport
from drtf.files import encode_json, parse_json, read_regular, with_nan, write_atomic
from drtf.intervals import (
    Estimate,
    format_estimate,
    format_interval,
    format_value,
)
from drtf.models.calibration import Calibration
from drtf.models.decision_rule import GIVEN, DecisionRule, Threshold
from drtf.models.fellow_eye import MIN_PAIRS
from drtf.models.run import Run
from drtf.models.run_files import METRICS_FILE
from drtf.models.views import VIEWS
from drtf.tasks import TASKS, Task

PHOTOGRAPH_COLUMNS = ("metric", "value", "95 % CI")
PATIENT_COLUMNS = ("metric", "per photograph", "95 % CI", "per patient", "95 % CI")
CLASS_COLUMNS = ("class", "precision", "recall", "F1", "photographs")
CLASS_METRICS = ("precision", "recall", "f1-score")
POINT_COLUMNS = ("rule", "threshold", "sensitivity", "specificity", "precision")
# Titles of metrics whose names are not clear.
TITLES = {
    "roc_auc": "ROC AUC",
    "precision": "Precision (positive predictive value)",
    "f1": "F1 of the positive class",
    "f1_negative": "F1 of the negative class",
    "f1_macro": "F1, mean of both classes",
    "f1_weighted": "F1, mean weighted by class size",
    "cohen_kappa": "Cohen's kappa",
    "grades_accuracy": "Accuracy of the predicted grades",
    "grades_quadratic_kappa": "Quadratic weighted kappa of the grades",
}
# Titles of scikit-learn's averages of all classes.
AVERAGE_TITLES = {
    "macro avg": "mean of all classes",
    "weighted avg": "mean weighted by class size",
}
# Attributes of a result that metrics.json holds under the same name.
SAVED_AS_THEY_ARE = (
    "split",
    "dataset_name",
    "dataset_sha256",
    "table_sha256",
    "tta",
    "num_photographs",
    "num_patients",
    "notes",
    "date",
)


@dataclass(frozen=True)
class FellowGain:
    """The gain from the fellow eye's score over the score of each eye by itself.

    Attributes:
        num_used: Number of photographs whose fellow eye was used.
        own_roc_auc: ROC AUC of the photographs' own scores.
        gain: ROC AUC of the combined scores minus that of the own scores.
    """

    num_used: int
    own_roc_auc: Estimate
    gain: Estimate


@dataclass(frozen=True)
class EvaluationResult:
    """The result of evaluating a run on a split.

    Attributes:
        folder: The folder with its files.
        task: The run's task.
        split: The evaluated split.
        dataset_name: Name of the dataset.
        dataset_sha256: Hash of the dataset's manifest.
        table_sha256: Hash of the table of further columns; empty if there is none.
        tta: The test-time augmentation.
        decision_rule: How both eyes are combined, the threshold, the calibration and
            the cut points of grades.
        metrics: Estimates by name, per photograph.
        patient_metrics: The same per patient, by the worse eye. Empty if every patient
            has one photograph.
        labels: Metrics of each label, and the confusion matrix.
        grades: The same for predicted grades; None if the run predicts none.
        groups: The results of subgroups, for each column of `evaluate.by`.
        operating_points: What other thresholds from the validation split would give.
        fellow_gain: What the fellow eye's score adds; None if it was not used.
        views_gain: ROC AUC with test-time augmentation minus ROC AUC without; None
            without test-time augmentation.
        num_photographs: Number of evaluated photographs.
        num_patients: Number of their patients.
        notes: What a reader must know to interpret the metrics, the most important
            first.
        config: The `evaluate` section.
        date: The day of the evaluation, as YYYY-MM-DD.
        is_reused: Whether an earlier call had completed the same evaluation.
    """

    folder: Path = field(compare=False)
    task: Task
    split: str
    dataset_name: str
    dataset_sha256: str
    table_sha256: str
    tta: Tta
    decision_rule: DecisionRule
    metrics: dict[str, Estimate]
    patient_metrics: dict[str, Estimate]
    labels: ClassReport
    grades: ClassReport | None
    groups: list[GroupedResult]
    operating_points: list[OperatingPoint]
    fellow_gain: FellowGain | None
    views_gain: Estimate | None
    num_photographs: int
    num_patients: int
    notes: list[str]
    config: EvaluateConfig
    date: str = field(compare=False)
    is_reused: bool = field(default=False, compare=False)

    @property
    def metric_columns(self) -> tuple[str, ...]:
        """The columns of the table of metrics."""
        return PATIENT_COLUMNS if self.patient_metrics else PHOTOGRAPH_COLUMNS

    def __repr__(self) -> str:
        """Return the folder, the ROC AUC and the number of photographs."""
        return (
            f"<EvaluationResult {self.folder}: ROC AUC "
            f"{format_estimate(self.metrics['roc_auc'])} on {self.num_photographs:,} "
            "photographs>"
        )

    def _repr_html_(self) -> str:
        """Show the metrics in a notebook."""
        title = f"Split {self.split}: {self.num_photographs:,} photographs"
        return (
            page.format_notes(self.notes)
            + page.format_table(title, self.metric_columns, metric_rows(self))
            + page.format_table("Labels", CLASS_COLUMNS, class_rows(self.labels))
            + "".join(
                page.format_table(f"By {x.title}", GROUP_COLUMNS, group_rows(x))
                for x in self.groups
            )
        )


def metric_title(name: str) -> str:
    """Return the usual name of a metric, such as "ROC AUC" for `roc_auc`."""
    if match := re.fullmatch(r"recall_grade_(\d)", name):
        return f"Grade {match[1]}, label predicted correctly"
    if match := re.fullmatch(r"grades_recall_(\d)", name):
        return f"Grade {match[1]}, grade predicted correctly"
    return TITLES.get(name, name.replace("_", " ").capitalize())


def headline_metrics(result: EvaluationResult) -> list[str]:
    """Return the names of the metrics that a reader is shown first."""
    names = ["roc_auc", "sensitivity", "specificity"]
    return [*names, "grades_quadratic_kappa"] if result.grades else names


def metric_rows(
    result: EvaluationResult, names: Iterable[str] | None = None
) -> list[tuple[str, ...]]:
    """Format metrics as rows of a table with the columns `metric_columns`.

    Args:
        result: The result of an evaluation.
        names: The metrics; None for all.
    """
    rows = []
    for name in names or result.metrics:
        row = [metric_title(name), *_format_cells(result.metrics[name])]
        if result.patient_metrics:
            # No patient may have this grade in the worse eye.
            row += _format_cells(result.patient_metrics.get(name))
        rows.append(tuple(row))
    return rows


def _format_cells(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["", ""]
    return [format_value(estimate.value), format_interval(estimate)]


def class_rows(report: ClassReport) -> list[tuple[str, ...]]:
    """Format a class report as rows of a table with `CLASS_COLUMNS`."""
    return [
        (
            AVERAGE_TITLES.get(name, name),
            *(format_value(values[key]) for key in CLASS_METRICS),
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
        f"{threshold.num_photographs:,} photographs of {threshold.source}, TTA "
        f"{threshold.tta})"
    )


def describe_cut_points(rule: DecisionRule) -> str:
    """Describe from which expected grades the grades 1 to 4 are predicted."""
    values = ", ".join(f"{value:.2f}" for value in rule.cut_points)
    return (
        f"{values} (highest quadratic weighted kappa on "
        f"{rule.threshold.num_photographs:,} photographs of "
        f"{rule.threshold.source}, TTA {rule.threshold.tta})"
    )


def describe_calibration(calibration: Calibration) -> str:
    """Describe how scores are turned into probabilities."""
    method: str = calibration.method
    if method == "logistic":
        method = (
            f"logistic: temperature {calibration.temperature:.2f}, offset "
            f"{calibration.offset:+.2f}"
        )
    shift = f"prior shift {calibration.prior_shift:+.2f}"
    if calibration.prevalence_shift:
        shift += f", prevalence shift {calibration.prevalence_shift:+.2f}"
    return (
        f"{method}, {shift}, fitted on {calibration.source}, for a prevalence of "
        f"{calibration.prevalence:.2f}"
    )


def describe_fellow_eye(result: EvaluationResult) -> str:
    """Describe how the fellow eye's score is used, and its gain."""
    fellow_eye, gain = result.decision_rule.fellow_eye, result.fellow_gain
    if fellow_eye is None:
        return "not used; each eye is predicted by itself"
    source = result.decision_rule.threshold.source
    if fellow_eye.num_pairs < MIN_PAIRS:
        return (
            f"not used; {source} has both eyes of {fellow_eye.num_pairs:,} patients, "
            f"but at least {MIN_PAIRS} are required to fit its weight"
        )
    if not fellow_eye.is_used:
        return (
            f"not used; it improves no prediction for the {fellow_eye.num_pairs:,} "
            f"patients with both eyes in {source}"
        )
    if gain is None:
        return "not used; no patient here is known to have both eyes"
    return (
        f"used for {gain.num_used:,} of {result.num_photographs:,} photographs; "
        f"changes ROC AUC by {format_estimate(gain.gain, sign='+')} from "
        f"{format_estimate(gain.own_roc_auc)} of each eye by itself (weights "
        f"{fellow_eye.own:.2f} and {fellow_eye.fellow:.2f}, fitted on "
        f"{fellow_eye.num_pairs:,} patients)"
    )


def describe_views(result: EvaluationResult) -> str:
    """Describe the gain and the cost of test-time augmentation."""
    gain = result.views_gain
    if gain is None:
        return "none; one prediction per photograph"
    return (
        f"{result.tta}; changes ROC AUC by {format_estimate(gain, sign='+')} and takes "
        f"{len(VIEWS[result.tta])} predictions per photograph instead of one"
    )


def save_result(folder: Path, result: EvaluationResult) -> None:
    """Write metrics.json, which makes the folder a complete evaluation."""
    gain, fellow_gain = result.views_gain, result.fellow_gain
    grades = result.grades or ClassReport({}, [])
    points = [dataclasses.asdict(point) for point in result.operating_points]
    contents = _as_dicts(result.metrics) | {
        "per_patient": _as_dicts(result.patient_metrics),
        "classes": result.labels.metrics,
        "groups": [dataclasses.asdict(x) for x in result.groups],
        "operating_points": points,
        "confusion_matrix": result.labels.confusion_matrix,
        "grade_classes": grades.metrics,
        "grade_confusion_matrix": grades.confusion_matrix,
        "fellow_gain": fellow_gain and dataclasses.asdict(fellow_gain),
        "views_gain": gain and dataclasses.asdict(gain),
        "task": result.task.name,
        "positive_from_grade": result.task.positive_from,
        **result.decision_rule.model_dump(mode="json"),
        "settings": result.config.model_dump(mode="json"),
        "drtf": __version__,
        **{name: getattr(result, name) for name in SAVED_AS_THEY_ARE},
    }
    write_atomic(folder / METRICS_FILE, encode_json(contents))


def load_result(folder: Path) -> EvaluationResult:
    """Load a result; the inverse of `save_result`.

    Raises:
        RunError: If metrics.json is missing or damaged.
    """
    path = folder / METRICS_FILE
    try:
        contents = parse_json(read_regular(path))
        rule = {name: contents.pop(name) for name in DecisionRule.model_fields}
        contents = with_nan(contents)
        gain, fellow_gain = (contents.pop(x) for x in ("views_gain", "fellow_gain"))
        grades = ClassReport(
            contents["grade_classes"], contents["grade_confusion_matrix"]
        )
        return EvaluationResult(
            folder=folder,
            task=TASKS[contents["task"]],
            decision_rule=DecisionRule.model_validate(rule),
            metrics=_parse_estimates(contents),
            patient_metrics=_parse_estimates(contents["per_patient"]),
            labels=ClassReport(contents["classes"], contents["confusion_matrix"]),
            grades=grades if grades.metrics else None,
            groups=[parse_grouped_result(x) for x in contents["groups"]],
            operating_points=[
                OperatingPoint(**x) for x in contents["operating_points"]
            ],
            fellow_gain=_parse_fellow_gain(fellow_gain),
            views_gain=Estimate(**gain) if isinstance(gain, dict) else None,
            config=EvaluateConfig.model_validate(contents["settings"]),
            **{name: contents[name] for name in SAVED_AS_THEY_ARE},
            is_reused=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged, or drtf evaluate did not write it: {error!r}. "
            "Evaluate the run again with --overwrite"
        ) from error


def load_evaluations(run: Run) -> list[EvaluationResult]:
    """Load the evaluations in a run folder that used its present decision rule.

    Damaged ones, and those that another version wrote, are left out.
    """
    results = []
    for path in sorted(run.folder.glob(f"evaluation-*/{METRICS_FILE}")):
        with contextlib.suppress(RunError):
            results.append(load_result(path.parent))
    return [x for x in results if x.decision_rule == run.decision_rule]


def _parse_fellow_gain(contents: Any) -> FellowGain | None:
    if not isinstance(contents, dict):
        return None
    return FellowGain(
        contents["num_used"],
        own_roc_auc=Estimate(**contents["own_roc_auc"]),
        gain=Estimate(**contents["gain"]),
    )


def _parse_estimates(contents: Mapping[str, Any]) -> dict[str, Estimate]:
    keys = {field.name for field in dataclasses.fields(Estimate)}
    return {
        name: Estimate(**values)
        for name, values in contents.items()
        if isinstance(values, dict) and values.keys() == keys
    }


def find_differences(
    folder: Path,
    *,
    model_sha256: str,
    dataset_sha256: str,
    split: str,
    config: EvaluateConfig,
    table_sha256: str,
) -> list[str]:
    """Return how an evaluation in a folder differs from a requested one.

    Args:
        folder: A folder that `evaluate` may have written.
        model_sha256: Hash of the requested model.
        dataset_sha256: Hash of the manifest of the requested dataset.
        split: The requested split.
        config: The requested settings.
        table_sha256: Hash of the requested table of further columns.

    Returns:
        One text per difference. Empty if the folder holds the requested evaluation.
    """
    try:
        contents = parse_json(read_regular(folder / METRICS_FILE))
        found = contents | {f"evaluate.{k}": x for k, x in contents["settings"].items()}
    except FileNotFoundError:
        return [f"{METRICS_FILE} is missing"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return [f"{METRICS_FILE} is damaged"]
    settings = config.model_dump(mode="json").items()
    expected = {
        "model_sha256": model_sha256,
        "dataset_sha256": dataset_sha256,
        "table_sha256": table_sha256,
        "split": split,
        **{f"evaluate.{name}": value for name, value in settings},
    }
    return [
        f"{name} is {found.get(name)!r} instead of {value!r}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def _as_dicts(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: dataclasses.asdict(estimate) for name, estimate in metrics.items()}

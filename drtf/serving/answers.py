"""The answers of a service: the models of its JSON, made from rows of the table."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model

from drtf.evaluation.result import EvaluationResult, load_evaluations
from drtf.heatmaps.overlays import LIMITS, Explained
from drtf.scoring.patient_table import COLUMNS as PATIENT_COLUMNS
from drtf.scoring.patient_table import patient_rows
from drtf.scoring.score_check import FLAG_NOTES
from drtf.scoring.score_table import (
    COLUMNS,
    Row,
    encode_csv,
    encode_header,
    encode_row,
    parse_row,
    split_flags,
)
from drtf.scoring.scorer import Scorer
from drtf.serving.limits import Limits
from drtf.serving.model_service import Answer, ModelService

# The metrics that describe a model in one line.
SHOWN_METRICS = ("roc_auc", "sensitivity", "specificity", "precision")

_TYPES: Mapping[pa.DataType, Any] = {
    pa.string(): (str, ...),
    pa.float64(): (float | None, ...),
    pa.int8(): (int | None, ...),
    pa.int64(): (int | None, ...),
}


def _row_model(name: str, columns: Mapping[str, pa.DataType]) -> type[BaseModel]:
    """Return the model of a row; cells of numbers that are empty in CSV are null."""
    return create_model(name, **{key: _TYPES[kind] for key, kind in columns.items()})


# The rows of the tables of `drtf score` and of `drtf score --by-patient`.
PhotographRow = _row_model("PhotographRow", COLUMNS)
PatientRow = _row_model("PatientRow", PATIENT_COLUMNS)


class OverlayFiles(BaseModel):
    """A heat map.

    Attributes:
        picture: The photograph as the network sees it, a PNG file in base64.
        overlay: The same with the regions that raise the score, a PNG file in base64.
    """

    picture: str
    overlay: str


class ScoreAnswer(BaseModel):
    """The answer to a request with photographs.

    Attributes:
        rows: One row per photograph, in the order of the request.
        table: The same rows as the CSV file that drtf score writes.
        uncombined: The same rows as they were before they were compared with others,
            for `POST /table`: without a patient and an eye that only names show.
        patients: One row per patient, as drtf score --by-patient writes it.
        overlays: Their heat maps, if requested; null for a photograph without a score.
        notes: A sentence for each flag in the column `probability_flags`.
        limitations: What the answer must not be used for.
    """

    rows: list[PhotographRow]  # type: ignore[valid-type]
    table: str
    uncombined: str
    patients: list[PatientRow]  # type: ignore[valid-type]
    overlays: list[OverlayFiles | None]
    notes: dict[str, str]
    limitations: str = LIMITS


class Metric(BaseModel):
    """A metric with its 95 % interval."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


class EvaluationAnswer(BaseModel):
    """How good the model was on photographs with known labels.

    Attributes:
        dataset: Name of the dataset.
        split: The evaluated split.
        num_photographs: Number of photographs.
        num_patients: Number of patients.
        date: The day of the evaluation.
        metrics: Metrics at the operating point, by name.
    """

    dataset: str
    split: str
    num_photographs: int
    num_patients: int
    date: str
    metrics: dict[str, Metric]


class ModelAnswer(BaseModel):
    """The model that a service scores with.

    Attributes:
        name: Name of the run.
        description: Backbone, image size and training, in one line.
        task: `binary`, `referable` or `grades`.
        label_names: What a predicted label of 0 and 1 means.
        model: The column `model` of each row.
        settings: The column `settings` of each row.
        model_sha256: Hash of the model's file.
        dataset: Name of the dataset that it was trained on.
        dataset_sha256: Hash of this dataset's manifest.
        threshold: The score from which a photograph is positive.
        threshold_rule: The rule that chose it; `none` if the run was never evaluated.
        threshold_source: The photographs on which it was chosen; empty if it was given.
        num_views: Number of views of each photograph whose scores are averaged.
        calibration: The method that turns scores into probabilities, or null.
        prevalence: The fraction of positive photographs that probabilities assume.
        combines_eyes: Whether the score of a photograph uses the fellow eye's.
        quality_gate: What the quality gate was fitted on, or null.
        evaluations: Its evaluations at this threshold.
        max_photographs: Largest number of photographs per request.
        max_request_bytes: Largest size of a request.
        version: Version of drtf.
        limitations: What its answers must not be used for.
    """

    model_config = ConfigDict(protected_namespaces=())

    name: str
    description: str
    task: str
    label_names: tuple[str, str]
    model: str
    settings: str
    model_sha256: str
    dataset: str
    dataset_sha256: str
    threshold: float
    threshold_rule: str
    threshold_source: str
    num_views: int
    calibration: str | None
    prevalence: float | None
    combines_eyes: bool
    quality_gate: str | None
    evaluations: list[EvaluationAnswer]
    max_photographs: int
    max_request_bytes: int
    version: str
    limitations: str = LIMITS


class HealthAnswer(BaseModel):
    """The state of a service: `ok`, or `failed` if its model has stopped."""

    status: str = Field(pattern="^(ok|failed)$")


def score_answer(
    service: ModelService, answers: Sequence[Answer], *, with_overlays: bool
) -> ScoreAnswer:
    """Combine the answers for the photographs of a request.

    Args:
        service: What scored the photographs.
        answers: What it said.
        with_overlays: Whether to draw heat maps. They have the colors of what is
            decided from both eyes.
    """
    scorer = service.scorer
    uncombined = [encode_row(answer.row) for answer in answers]
    lines = scorer.complete_lines(uncombined)
    rows = [parse_row(line) for line in lines]
    patients = patient_rows(rows, patient_pattern=scorer.patient_pattern)
    flags = {flag for row in rows for flag in split_flags(row["probability_flags"])}
    return ScoreAnswer(
        rows=[_parse_cells(PhotographRow, COLUMNS, row) for row in rows],
        table=_decode_table(lines),
        uncombined=_decode_table(uncombined),
        patients=[_parse_cells(PatientRow, PATIENT_COLUMNS, row) for row in patients],
        overlays=[
            _draw(service, answer.explained, row["predicted_label"] == "1")
            if answer.explained
            else None
            for answer, row in zip(answers, rows, strict=True)
            if with_overlays
        ],
        notes={flag: note for flag, note in FLAG_NOTES.items() if flag in flags},
    )


def model_answer(scorer: Scorer, *, limits: Limits, version: str) -> ModelAnswer:
    """Describe the model of a service.

    Args:
        scorer: The run, with the settings to score with.
        limits: What the service accepts.
        version: Version of drtf.
    """
    run = scorer.run
    threshold = run.threshold if scorer.has_stored_threshold else None
    evaluations = load_evaluations(run) if scorer.has_stored_threshold else []
    return ModelAnswer(
        name=run.name,
        description=run.describe(),
        task=run.task.name,
        label_names=run.task.label_names,
        model=scorer.common["model"],
        settings=scorer.common["settings"],
        model_sha256=run.info.model_sha256,
        dataset=run.info.dataset_name,
        dataset_sha256=run.info.dataset_sha256,
        threshold=scorer.threshold,
        threshold_rule=scorer.threshold_rule,
        threshold_source=threshold.source if threshold else "",
        num_views=int(scorer.common["num_views"]),
        calibration=run.calibration.method if run.calibration else None,
        prevalence=run.calibration.prevalence if run.calibration else None,
        combines_eyes=bool(run.fellow_eye and run.fellow_eye.is_used),
        quality_gate=run.quality_gate.describe() if run.quality_gate else None,
        evaluations=[_evaluation_answer(x) for x in evaluations],
        max_photographs=limits.max_photographs,
        max_request_bytes=limits.max_request_bytes,
        version=version,
    )


def _draw(
    service: ModelService, explained: Explained, is_positive: bool
) -> OverlayFiles:
    overlay = service.draw(explained, is_positive=is_positive)
    return OverlayFiles(
        picture=base64.b64encode(overlay.picture).decode(),
        overlay=base64.b64encode(overlay.overlay).decode(),
    )


def _decode_table(lines: Sequence[bytes]) -> str:
    return b"".join(encode_csv(encode_header(), lines)).decode()


def _parse_cells(
    model: type[BaseModel], columns: Mapping[str, pa.DataType], row: Row
) -> BaseModel:
    """Return a row with numbers as numbers."""
    empty = {
        name: "" if kind == pa.string() else None for name, kind in columns.items()
    }
    return model.model_validate({name: row[name] or empty[name] for name in columns})


def _evaluation_answer(result: EvaluationResult) -> EvaluationAnswer:
    return EvaluationAnswer(
        dataset=result.dataset_name,
        split=result.split,
        num_photographs=result.num_photographs,
        num_patients=result.num_patients,
        date=result.date,
        metrics={
            name: Metric(
                value=_finite(estimate.value),
                ci_low=_finite(estimate.ci_low),
                ci_high=_finite(estimate.ci_high),
            )
            for name, estimate in result.metrics.items()
            if name in SHOWN_METRICS
        },
    )


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None

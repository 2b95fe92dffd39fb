"""DICOM structured reports of scores (DICOM PS3.16, TID 1500 and 1501)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drtf import __version__
from drtf.clinic.dicom_series import (
    Algorithm,
    derive_uid,
    describe_series,
)
from drtf.images.dicom_tags import RESULT_MANUFACTURER
from drtf.scoring.score_table import VIEWS_DISAGREE, Row, split_flags
from drtf.tasks import Task

if TYPE_CHECKING:
    from highdicom import sr
    from pydicom import Dataset

SERIES_NUMBER = 9001
SERIES_DESCRIPTION = "Diabetic retinopathy scores, not for diagnosis"
# Concepts that have no code in SNOMED CT or in DICOM are of this private scheme.
PRIVATE_SCHEME = "99DRTF"
GRADES = (
    "No diabetic retinopathy",
    "Mild nonproliferative diabetic retinopathy",
    "Moderate nonproliferative diabetic retinopathy",
    "Severe nonproliferative diabetic retinopathy",
    "Proliferative diabetic retinopathy",
)


@dataclass(frozen=True)
class Finding:
    """The result of a photograph.

    Attributes:
        frame: The number of its frame from 1; 0 if the file has only one.
        row: Its row of the table.
    """

    frame: int
    row: Row


def build_report(
    source: "Dataset", findings: Sequence[Finding], algorithm: Algorithm
) -> "Dataset":
    """Build a Comprehensive SR with one group of measurements per photograph.

    Args:
        source: The tags of the file that was scored.
        findings: Its photographs that have a score.
        algorithm: What computed the scores.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derive_uid("device", algorithm.model),
        name=algorithm.name,
        manufacturer_name=RESULT_MANUFACTURER,
        model_name=algorithm.name,
        serial_number=algorithm.model,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _measurement_group(source, finding, algorithm) for finding in findings
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )
    text = content[0].to_json()
    study, image = source.StudyInstanceUID, source.SOPInstanceUID
    report = sr.ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=derive_uid("reports", study, algorithm.identity),
        series_number=SERIES_NUMBER,
        sop_instance_uid=derive_uid("report", image, algorithm.identity, text),
        instance_number=int(source.get("InstanceNumber") or 1),
        manufacturer=RESULT_MANUFACTURER,
        is_complete=True,
        is_final=False,
    )
    return describe_series(report, source, algorithm, SERIES_DESCRIPTION)


def _measurement_group(
    source: "Dataset", finding: Finding, algorithm: Algorithm
) -> "sr.MeasurementsAndQualitativeEvaluations":
    from highdicom import sr

    row, image = finding.row, source.SOPInstanceUID
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derive_uid("photograph", image, str(finding.frame)),
            identifier=f"frame {finding.frame}" if finding.frame else "photograph",
        ),
        finding_type=_disease(algorithm.task),
        algorithm_id=sr.AlgorithmIdentification(
            name=algorithm.name,
            version=__version__,
            manufacturer=RESULT_MANUFACTURER,
            parameters=algorithm.parameters,
        ),
        finding_sites=[_retina(row["eye"])],
        measurements=list(_measurements(row, algorithm.task)),
        qualitative_evaluations=list(_evaluations(row, algorithm.task)),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                source.SOPClassUID, image, [finding.frame] if finding.frame else None
            )
        ],
    )


def _measurements(row: Row, task: Task) -> Iterator["sr.Measurement"]:
    """Yield the numbers of a row, which have no unit."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    disease = _disease(task).meaning.lower()
    names = {
        "probability": f"Probability of {disease}",
        "score": f"Score for {disease}",
        "threshold": "Score from which the finding is present",
        "expected_grade": "Expected grade on the ICDR scale, 0 to 4",
        "ungradable_probability": "Probability that the photograph is ungradable",
    }
    for column, meaning in names.items():
        if row[column]:
            yield sr.Measurement(
                name=_private(column, meaning),
                value=float(row[column]),
                unit=codes.UCUM.NoUnits,
            )


def _evaluations(row: Row, task: Task) -> Iterator["sr.QualitativeEvaluation"]:
    """Yield the predictions of a row in words."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    labels = {"1": codes.SCT.Present, "0": codes.SCT.Absent}
    label = labels.get(row["predicted_label"], codes.SCT.Indeterminate)
    yield sr.QualitativeEvaluation(_disease(task), label)
    if row["predicted_grade"]:
        grade = int(row["predicted_grade"])
        yield sr.QualitativeEvaluation(
            _private("icdr_grade", "Grade on the ICDR scale"),
            _private(f"icdr_grade_{grade}", GRADES[grade]),
        )
    for flag in split_flags(row["flags"]):
        name = "Reason for doubt" if flag == VIEWS_DISAGREE else "Reason of low quality"
        yield sr.QualitativeEvaluation(
            _private("flag", name), _private(flag, flag.replace("_", " "))
        )
    yield sr.QualitativeEvaluation(
        _private("intended_use", "Intended use"),
        _private("research_only", "Research only, not for diagnosis"),
    )


def _disease(task: Task) -> "sr.CodedConcept":
    """Return the concept of the disease that a score is for."""
    from highdicom import sr

    if task.positive_from == 1:
        return sr.CodedConcept("4855003", "SCT", "Diabetic retinopathy")
    return _private("referable", "Referable diabetic retinopathy")


def _retina(eye: str) -> "sr.FindingSite":
    from highdicom import sr
    from pydicom.sr.codedict import codes

    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right}
    return sr.FindingSite(codes.SCT.Retina, laterality=sides.get(eye))


def _private(value: str, meaning: str) -> "sr.CodedConcept":
    """Return a private code; highdicom writes a long value as a Long Code Value."""
    from highdicom import sr

    return sr.CodedConcept(value, PRIVATE_SCHEME, meaning)

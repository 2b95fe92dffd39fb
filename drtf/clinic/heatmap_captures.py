"""DICOM secondary captures of heat maps, drawn over their photographs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from drtf.clinic.dicom_series import (
    Algorithm,
    derive_uid,
    describe_series,
)
from drtf.clinic.structured_reports import Finding
from drtf.config import GradcamConfig
from drtf.heatmaps.heatmaps import ComputeMaps
from drtf.heatmaps.overlays import (
    LIMITS,
    Explained,
    add_caption,
    describe_remarks,
    draw_overlay,
    explain,
)
from drtf.images.dicom_tags import RESULT_MANUFACTURER
from drtf.models.run import Run
from drtf.photographs.prepare import NetworkInput
from drtf.scoring.score_table import Row

if TYPE_CHECKING:
    from pydicom import Dataset

SERIES_NUMBER = 9002
SERIES_DESCRIPTION = "Heat maps of diabetic retinopathy scores, not for diagnosis"
# Rows point to the patient's left, columns to the feet.
UPRIGHT = ("L", "F")
DERIVATION = "Heat map over the photograph: the regions that raise the score. " + LIMITS


def draw_captures(
    run: Run,
    photographs: Sequence[NetworkInput],
    findings: Sequence[Finding],
    config: GradcamConfig,
    *,
    compute_maps: ComputeMaps,
) -> Iterator[np.ndarray]:
    """Draw heat maps over their photographs, with captions, uint8 RGB [H, W, 3].

    Each map has its own scale, since the photographs of other calls are unknown.

    Args:
        run: The run that scored the photographs.
        photographs: The photographs, with pictures to display.
        findings: Their results.
        config: How to draw the maps.
        compute_maps: From `build_map_function`.
    """
    if not photographs:
        return
    config = config.model_copy(update={"scale": "image"})
    explained = explain(
        compute_maps,
        np.stack([x.image for x in photographs]),
        names=[x.path for x in photographs],
        scores=[float(x.row["score"]) for x in findings],
        is_positive=[x.row["predicted_label"] == "1" for x in findings],
        pictures=[x.image if x.picture is None else x.picture for x in photographs],
    )
    for item, finding in zip(explained, findings, strict=True):
        yield add_caption(
            draw_overlay(item, config, scale=0), _caption(item, finding.row, run)
        )


def build_capture(
    source: "Dataset", finding: Finding, algorithm: Algorithm, picture: np.ndarray
) -> "Dataset":
    """Build a secondary capture that refers to its photograph.

    Args:
        source: The tags of the photograph's file.
        finding: The photograph's result.
        algorithm: What computed the result.
        picture: uint8 RGB [H, W, 3].
    """
    from highdicom.sc import SCImage
    from pydicom.dataset import Dataset
    from pydicom.uid import ExplicitVRLittleEndian

    study, image = source.StudyInstanceUID, source.SOPInstanceUID
    digest = derive_uid("pixels", picture.tobytes().hex())
    capture = SCImage.from_ref_dataset(
        source,
        picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=derive_uid("heat maps", study, algorithm.identity),
        series_number=SERIES_NUMBER,
        sop_instance_uid=derive_uid(
            "heat map", image, str(finding.frame), algorithm.identity, digest
        ),
        instance_number=max(1, finding.frame),
        manufacturer=RESULT_MANUFACTURER,
        laterality={"left": "L", "right": "R"}.get(finding.row["eye"]),
        patient_orientation=_orientation(source),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    original = Dataset()
    original.ReferencedSOPClassUID = source.SOPClassUID
    original.ReferencedSOPInstanceUID = image
    if finding.frame:
        original.ReferencedFrameNumber = finding.frame
    capture.SourceImageSequence = [original]
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DerivationDescription = DERIVATION
    capture.ConversionType = "WSD"  # by a workstation
    capture.BurnedInAnnotation = "NO"  # the caption names no patient
    describe_series(capture, source, algorithm, SERIES_DESCRIPTION)
    capture.DateOfSecondaryCapture = capture.ContentDate
    capture.TimeOfSecondaryCapture = capture.ContentTime
    return capture


def _orientation(source: "Dataset") -> Sequence[str]:
    """Return where the rows and the columns of a photograph point to."""
    orientation = source.get("PatientOrientation") or ()
    return tuple(orientation) if len(orientation) == 2 else UPRIGHT


def _caption(item: Explained, row: Row, run: Run) -> list[str]:
    """Return the lines below the picture; without the name, which may identify."""
    negative, positive = run.task.label_names
    decisions = {
        "1": f"at or above threshold: {positive}",
        "0": f"below threshold (gray): {negative}",
    }
    undecided = f"no decision (gray): it may be ungradable ({row['flags']})"
    return [
        f"score {float(row['score']):.3f}, threshold {float(row['threshold']):.3f}",
        decisions.get(row["predicted_label"], undecided),
        *describe_remarks(item),
        f"Model {run.folder.resolve().name} ({run.info.model_sha256[:8]}). {LIMITS}",
    ]

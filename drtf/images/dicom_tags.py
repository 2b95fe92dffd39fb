"""The tags of a DICOM file: the eye, the patient, the date and the camera."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drtf.images.dicom_files import count_frames, damaged_file, kind_of

if TYPE_CHECKING:
    from pydicom import Dataset

EYES = {"L": "left", "R": "right"}
# Codes of the modifier of an anatomic region in SNOMED CT and SRT (DICOM PS3.16, CID
# 244).
EYE_CODES = {
    "7771000": "left",
    "G-A101": "left",
    "24028007": "right",
    "G-A100": "right",
}
# An angiography has some hundreds.
MAX_FRAMES = 1000
# The manufacturer of the heat maps that scoring writes, which are no photographs.
RESULT_MANUFACTURER = "drtf"
# Of optical coherence tomography: its frames are sections of the retina.
TOMOGRAPHY = (
    "1.2.840.10008.5.1.4.1.1.77.1.5.4",
    "1.2.840.10008.5.1.4.1.1.77.1.5.5",
    "1.2.840.10008.5.1.4.1.1.77.1.5.8",
)


@dataclass(frozen=True)
class DicomTags:
    """The tags of a DICOM file; a text is empty if it is unknown.

    Attributes:
        kind: What the file holds if it holds no photograph, such as `SR`; empty if it
            holds one.
        patient_id: The identifier of the patient.
        issuer: Who issued the identifier.
        eyes: The eye of each frame: `left`, `right` or an empty text. A file with none
            or more than MAX_FRAMES counts as one photograph, which cannot be decoded.
        acquired: The day on which it was acquired, as YYYYMMDD.
        camera: The manufacturer and the model of the camera.
    """

    kind: str
    patient_id: str
    issuer: str
    eyes: tuple[str, ...]
    acquired: str
    camera: str


def parse_tags(header: "Dataset") -> DicomTags:
    """Return the tags in the header of a DICOM file, see `read_header`.

    Raises:
        PhotographError: With reason `not_an_image`, if a tag is damaged.
    """
    with damaged_file("not_an_image"):
        acquired = (
            _text(header, name)
            for name in (
                "AcquisitionDateTime",
                "AcquisitionDate",
                "ContentDate",
                "StudyDate",
            )
        )
        camera = (_text(header, x) for x in ("Manufacturer", "ManufacturerModelName"))
        return DicomTags(
            kind=_kind(header),
            patient_id=_text(header, "PatientID"),
            issuer=_text(header, "IssuerOfPatientID"),
            eyes=tuple(_eyes(header)),
            acquired=next(filter(None, acquired), "")[:8],
            camera=" ".join(filter(None, camera)),
        )


def _kind(header: "Dataset") -> str:
    """Return the kind of a file without a photograph."""
    if "Columns" not in header:
        return kind_of(header)
    if header.get("SOPClassUID") in TOMOGRAPHY:
        return "tomography"
    if _text(header, "Manufacturer") == RESULT_MANUFACTURER:
        return "result of drtf"
    return ""


def _text(header: "Dataset", name: str) -> str:
    """Return a tag as text; the first one if it has several values."""
    value = header.get(name)
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = next(iter(value), "")
    return str(value or "").replace("\0", "").strip()


def _eyes(header: "Dataset") -> list[str]:
    """Return the eye of each frame; one if there are too many frames, or none."""
    num_frames = count_frames(header)
    if not 1 <= num_frames <= MAX_FRAMES:
        num_frames = 1  # its row says what is wrong
    whole = _eye_of_image(header)
    shared = _eye_of_frame(_first(header, "SharedFunctionalGroupsSequence"))
    eyes = [shared or whole] * num_frames
    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    for number, frame in enumerate(frames[: len(eyes)]):
        eyes[number] = _eye_of_frame(frame) or eyes[number]
    return eyes


def _eye_of_frame(groups: "Dataset | None") -> str:
    anatomy = _first(groups, "FrameAnatomySequence")
    return "" if anatomy is None else EYES.get(_text(anatomy, "FrameLaterality"), "")


def _eye_of_image(header: "Dataset") -> str:
    for name in ("ImageLaterality", "Laterality"):
        if side := _text(header, name).upper():
            return EYES.get(side, "")  # both eyes are none
    region = _first(header, "AnatomicRegionSequence")
    modifier = _first(region, "AnatomicRegionModifierSequence")
    return "" if modifier is None else EYE_CODES.get(_text(modifier, "CodeValue"), "")


def _first(dataset: "Dataset | None", name: str) -> Any:
    """Return the first item of a sequence, or None."""
    items = dataset.get(name) if dataset is not None else None
    return items[0] if items else None

"""The headers of DICOM files among the photographs."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from drtf.errors import PhotographError
from drtf.images.dicom_files import read_header
from drtf.images.dicom_tags import DicomTags, parse_tags
from drtf.photographs.frames import frame_path, split_frame
from drtf.photographs.patient_columns import PatientEye, names_patient
from drtf.photographs.pseudonyms import pseudonym
from drtf.photographs.references import PhotographRef

if TYPE_CHECKING:
    from pydicom import Dataset

# Most headers have fewer; of others, the whole file is read.
HEADER_BYTES = 65_536


def load_header(photograph: PhotographRef) -> "Dataset":
    """Load the tags before the pixels of a DICOM file.

    Raises:
        PhotographError: If the file cannot be read, or its header is damaged.
        StorageError: If the object store fails.
        DrtfError: If the machine is at fault.
    """
    file = replace(photograph, path=split_frame(photograph.path)[0])
    head = file.read_head(HEADER_BYTES)
    if head is not None and len(head) == HEADER_BYTES:
        with contextlib.suppress(PhotographError):
            return read_header(head, is_whole=False)
    return read_header(file.read())


def find_tags(photograph: PhotographRef) -> DicomTags | None:
    """Return the tags of a DICOM file, or None if its header cannot be read.

    Raises:
        StorageError: If the object store fails.
        DrtfError: If the machine is at fault.
    """
    try:
        return parse_tags(load_header(photograph))
    except PhotographError:
        return None


def state_frames(
    photograph: PhotographRef, tags: DicomTags
) -> Iterator[tuple[str, PatientEye]]:
    """Yield the path of each photograph of a DICOM file, with its patient and its eye.

    What a table states about the file comes before its tags. The patient of the tags
    has a pseudonym.

    Args:
        photograph: The file, or one of its frames.
        tags: The tags of the file.

    Raises:
        DrtfError: If the key of the pseudonyms cannot be loaded.
    """
    patient = photograph.patient
    if not patient and names_patient(tags.patient_id):
        patient = pseudonym(tags.patient_id, tags.issuer)
    path, number = split_frame(photograph.path)
    for frame, eye in enumerate(tags.eyes, start=1):
        if number in (0, frame):
            is_frame = number or len(tags.eyes) > 1
            yield (
                frame_path(path, frame) if is_frame else path,
                PatientEye(patient, photograph.eye or eye),
            )
    if number > len(tags.eyes):  # there is no such frame, as its row will say
        yield photograph.path, PatientEye(patient, photograph.eye)

"""Photographs whose files are in memory, such as those that arrive over a network."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

from drtf.errors import PhotographError
from drtf.images.dicom_files import extract_frames
from drtf.images.dicom_tags import DicomTags
from drtf.photographs.dicom_headers import find_tags, state_frames
from drtf.photographs.frames import split_frame
from drtf.photographs.prepare import Rejected
from drtf.photographs.references import PhotographRef, PrefetchedPhotograph


@dataclass(frozen=True)
class OpenedFile:
    """The contents of a file.

    Attributes:
        tags: The tags of a DICOM file; None if it is another file, or is damaged.
        frames: The frames of a DICOM file with several, by number, each as a separate
            file.
    """

    tags: DicomTags | None
    frames: Mapping[int, bytes | PhotographError]


def photograph_from_bytes(
    path: str, data: bytes, *, patient: str = "", eye: str = ""
) -> PrefetchedPhotograph:
    """Return a reference to a photograph whose file is in memory.

    Args:
        path: The path to refer to it by.
        data: The bytes of its file.
        patient: The patient, if it is stated.
        eye: `left` or `right`, if it is stated.
    """
    return PrefetchedPhotograph("", path, data, None, patient=patient, eye=eye)


def open_dicom(file: PhotographRef, *, max_frames: int, max_bytes: int) -> OpenedFile:
    """Read the tags and the frames of a DICOM file.

    A hostile file may crash or hang its process.

    Args:
        file: The file.
        max_frames: The number of frames after which no further ones are extracted.
        max_bytes: The size of all frames after which no further ones are extracted.
    """
    tags = find_tags(file)
    frames: dict[int, bytes | PhotographError] = {}
    if tags is None or tags.kind:
        return OpenedFile(tags, frames)
    named = split_frame(file.path)[1]
    numbers = [named] if named else range(1, len(tags.eyes) + 1)
    if len(numbers) == 1 and not named:
        return OpenedFile(tags, frames)
    size_bytes = 0
    for number, frame in zip(
        numbers, extract_frames(io.BytesIO(file.read()), numbers), strict=True
    ):
        frames[number] = frame
        size_bytes += len(frame) if isinstance(frame, bytes) else 0
        if len(frames) > max_frames or size_bytes > max_bytes:
            break
    return OpenedFile(tags, frames)


def photographs_of_file(
    file: PrefetchedPhotograph, opened: OpenedFile | Rejected
) -> list[PrefetchedPhotograph]:
    """Return a reference to each photograph of a file, as a folder's listing does.

    A DICOM file has one for each frame, with the patient and the eye of its tags. What
    the file's reference states comes before them.

    Args:
        file: The file.
        opened: What it holds, or why it cannot be opened.

    Raises:
        DrtfError: If the key of the patients' pseudonyms cannot be loaded.
    """
    if isinstance(opened, Rejected):
        return [_rejected(file, PhotographError(opened.reason, opened.detail))]
    tags = opened.tags
    if tags is None:
        return [file]
    if tags.kind:
        error = PhotographError(
            "not_an_image", f"a DICOM file without a photograph, but with {tags.kind}"
        )
        return [_rejected(file, error)]
    photographs = []
    for path, stated in state_frames(file, tags):
        number = split_frame(path)[1]
        frame = opened.frames.get(number) if number else file.data
        if frame is None:  # there were too many
            break
        data, problem = (b"", frame) if isinstance(frame, Exception) else (frame, None)
        photographs.append(
            PrefetchedPhotograph(
                "", path, data, problem, patient=stated.patient, eye=stated.eye
            )
        )
    return photographs


def _rejected(
    file: PrefetchedPhotograph, error: PhotographError
) -> PrefetchedPhotograph:
    return PrefetchedPhotograph(
        "", file.path, b"", error, patient=file.patient, eye=file.eye
    )

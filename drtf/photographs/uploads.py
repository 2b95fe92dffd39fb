"""Photographs whose files are in memory, such as those that arrive over a network."""

from collections.abc import Iterator

from drtf.errors import PhotographError
from drtf.images.dicom_files import extract_frame, is_dicom
from drtf.photographs.dicom_headers import find_tags, state_frames
from drtf.photographs.frames import split_frame
from drtf.photographs.references import PrefetchedPhotograph


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


def photographs_from_bytes(
    path: str, data: bytes, *, patient: str = "", eye: str = ""
) -> Iterator[PrefetchedPhotograph]:
    """Yield a reference to each photograph of a file, as a folder's listing does.

    A DICOM file has one for each frame, with the patient and the eye of its tags.

    Args:
        path: As for `photograph_from_bytes`, and so are the others.
        data: The bytes of the file.
        patient: The patient; it comes before the file's tags.
        eye: The eye; it comes before the file's tags.

    Raises:
        DrtfError: If the key of the patients' pseudonyms cannot be loaded.
    """
    file = photograph_from_bytes(path, data, patient=patient, eye=eye)
    tags = find_tags(file) if is_dicom(data) else None
    if tags is None:
        yield file
        return
    if tags.kind:
        error = PhotographError(
            "not_an_image", f"a DICOM file without a photograph, but with {tags.kind}"
        )
        yield PrefetchedPhotograph("", path, b"", error)
        return
    for frame_path, stated in state_frames(file, tags):
        number = split_frame(frame_path)[1]
        frame, problem = data, None
        if number:
            try:
                frame = extract_frame(data, number)
            except PhotographError as caught:
                frame, problem = b"", caught
        yield PrefetchedPhotograph(
            "", frame_path, frame, problem, patient=stated.patient, eye=stated.eye
        )

"""The reader's inner loop: images read to where they belong, their records checked."""

import os

import numpy as np

from drtf.records.framing import (
    FRAME_BYTES,
    HEADER,
    find_frame_fault,
    read_footer,
)


def read_frames_in_python(
    files: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    image_offsets: np.ndarray,
    image_lengths: np.ndarray,
    crcs: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
    check: bool = True,
) -> int:
    """Read records, check their checksums, and put their images into `out`.

    Args:
        files: int32 [n], open descriptors.
        offsets: int64 [n], of the frames in their files.
        lengths: int32 [n], of the records' data.
        image_offsets: int32 [n], of the images in the data.
        image_lengths: int32 [n].
        crcs: uint32 [n], masked, of the data; a record of another place has another.
        starts: int64 [n], where each image begins in `out`.
        out: uint8 [m].
        check: whether checksums are compared; only a benchmark does without.

    Returns:
        How many records were whole before the first that was not; n if all were.
    """
    columns = (files, offsets, lengths, image_offsets, image_lengths, crcs, starts)
    for number, row in enumerate(zip(*(x.tolist() for x in columns), strict=True)):
        file, offset, length, image_offset, image_length, crc, start = row
        try:
            data = os.pread(file, length + FRAME_BYTES, offset)
        except OSError:
            return number
        frame = np.frombuffer(data, np.uint8)
        fault = find_frame_fault(frame, length=length)
        if check and (fault or read_footer(frame) != crc):
            return number
        image = frame[HEADER.size + image_offset :][:image_length]
        out[start : start + image_length] = image
    return len(files)


try:
    # The same in C: it leaves the interpreter's lock to others.
    from drtf.records._frames import read_frames
except ImportError:  # no compiler was at hand where drtf was installed
    read_frames = read_frames_in_python

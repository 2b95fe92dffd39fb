"""The reader's inner loop: images read to where they belong, their records checked."""

import os
from typing import NamedTuple

import numpy as np

from drtf.records.framing import (
    FRAME_BYTES,
    HEADER,
    find_frame_fault,
    read_footer,
)


class Frames(NamedTuple):
    """Where the records of a set lie, a number of each.

    Attributes:
        files: int32 [n], open descriptors.
        offsets: int64 [n], of the frames in their files.
        lengths: int32 [n], of the records' data.
        image_offsets: int32 [n], of the images in the data.
        image_lengths: int32 [n].
        crcs: uint32 [n], masked, of the data; a record of another place has another.
    """

    files: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    image_offsets: np.ndarray
    image_lengths: np.ndarray
    crcs: np.ndarray


def read_frames_in_python(
    frames: Frames,
    rows: np.ndarray,
    out: np.ndarray,
    num_threads: int,
    check: bool = True,
) -> int:
    """Read records, check their checksums, and put their images into `out`.

    Args:
        frames: of all records.
        rows: int64 [m], which of them to read.
        out: uint8 [k], to take the images, one after the other.
        num_threads: to read with; here all is read by the calling one.
        check: whether checksums are compared; only a benchmark does without.

    Returns:
        How many records were whole before the first that was not; m if all were.
    """
    start = 0
    for number, row in enumerate(zip(*(x[rows].tolist() for x in frames), strict=True)):
        file, offset, length, image_offset, image_length, crc = row
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
        start += image_length
    return len(rows)


try:
    # The same in C: it leaves the interpreter's lock to others.
    from drtf.records._frames import read_frames
except ImportError:  # no compiler was at hand where drtf was installed
    read_frames = read_frames_in_python

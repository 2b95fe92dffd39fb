"""The reader's inner loop: reads records, checks them and copies out their images."""

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
    """Locations of all records of a dataset.

    Attributes:
        files: int32 [n], open file descriptors.
        offsets: int64 [n], offsets of the frames in their files, in bytes.
        lengths: int32 [n], lengths of the records' data, in bytes.
        image_offsets: int32 [n], offsets of the images in the data, in bytes.
        image_lengths: int32 [n], lengths of the images, in bytes.
        crcs: uint32 [n], masked checksums of the data; they also reveal an intact
            record in the wrong place.
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
    verify_checksums: bool = True,
) -> int:
    """Read records, compare their checksums, and copy their images to `out`.

    Args:
        frames: Locations of all records.
        rows: int64 [m], the records to read.
        out: uint8 [k], filled with the images back to back.
        num_threads: Number of threads of the version in C; this one uses none.
        verify_checksums: Whether to compare checksums. Without it, a damaged record
            gives a wrong image and no error.

    Returns:
        Number of intact records before the first damaged one; m if all are intact.
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
        if verify_checksums and (fault or read_footer(frame) != crc):
            return number
        image = frame[HEADER.size + image_offset :][:image_length]
        out[start : start + image_length] = image
        start += image_length
    return len(rows)


try:
    # The same in C, without holding the interpreter's lock.
    from drtf.records._frames import read_frames
except ImportError:  # drtf was installed without a C compiler
    read_frames = read_frames_in_python

"""Framing: the TFRecord header and footer around the bytes of each record.

    uint64 length | uint32 masked CRC32C of length | data | uint32 masked CRC32C of data

The CRC mask is the one in tensorflow/tsl/lib/hash/crc32c.h.
"""

import struct

import google_crc32c
import numpy as np

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
FRAME_BYTES = HEADER.size + FOOTER.size
OTHER_RECORD = "the record is intact, but not the one in the index"


def masked_crc(data: bytes | np.ndarray) -> int:
    """Return the masked CRC32C of bytes or of a contiguous uint8 array."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_footer(frame: bytes | np.ndarray) -> int:
    """Return the masked CRC32C of the data that a complete frame stores."""
    return FOOTER.unpack_from(frame, len(frame) - FOOTER.size)[0]


def frame_record(data: bytes) -> bytes:
    """Wrap a record's bytes in a frame."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data)))
    )


def find_frame_fault(frame: np.ndarray, *, length: int) -> str:
    """Find the first fault of a frame.

    Args:
        frame: uint8 [n], as much of the frame as could be read.
        length: Expected length of the frame's data in bytes.

    Returns:
        A description of the fault, empty if there is none.
    """
    if len(frame) >= HEADER.size and (
        HEADER.unpack_from(frame)[1] != masked_crc(frame[:8])
    ):
        return "the length's checksum does not match"
    if len(frame) < length + FRAME_BYTES:
        return f"cut short: {len(frame)} of {length + FRAME_BYTES} bytes"
    stored_length, _ = HEADER.unpack_from(frame)
    if stored_length != length:
        return f"the length is {stored_length} bytes; the index says {length}"
    (data_crc,) = FOOTER.unpack_from(frame, HEADER.size + length)
    if data_crc != masked_crc(frame[HEADER.size : HEADER.size + length]):
        return "the data's checksum does not match"
    return ""

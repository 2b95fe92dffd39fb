"""The TFRecord frame around each record's bytes.

    uint64 length | uint32 masked CRC32C of length | data | uint32 masked CRC32C of data

The mask is that of tensorflow/tsl/lib/hash/crc32c.h.
"""

import struct

import google_crc32c
import numpy as np

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
FRAME_BYTES = HEADER.size + FOOTER.size
OTHER_RECORD = "it is whole, and not the record that the index names"


def masked_crc(data: bytes | np.ndarray) -> int:
    """Return the masked CRC32C of bytes, or of a contiguous uint8 array."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_footer(frame: bytes | np.ndarray) -> int:
    """Return the masked CRC32C that a whole frame holds for its data."""
    return FOOTER.unpack_from(frame, len(frame) - FOOTER.size)[0]


def frame_record(data: bytes) -> bytes:
    """Put a record's bytes into their frame."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data)))
    )


def find_frame_fault(frame: np.ndarray, *, length: int) -> str:
    """Tell what is wrong with a frame, or return an empty string.

    Args:
        frame: uint8 [n], what could be read of the frame.
        length: the length in bytes that the frame's data should have.
    """
    if len(frame) >= HEADER.size and (
        HEADER.unpack_from(frame)[1] != masked_crc(frame[:8])
    ):
        return "the length's checksum does not match"
    if len(frame) < length + FRAME_BYTES:
        return f"cut short: {len(frame)} of {length + FRAME_BYTES} bytes are there"
    found, _ = HEADER.unpack_from(frame)
    if found != length:
        return f"the length is {found} bytes, the index says {length}"
    (data_crc,) = FOOTER.unpack_from(frame, HEADER.size + length)
    if data_crc != masked_crc(frame[HEADER.size : HEADER.size + length]):
        return "the data's checksum does not match"
    return ""

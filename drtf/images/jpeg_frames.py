"""The frame of a JPEG file: the size and depth of its picture."""

from typing import NamedTuple

JPEG_START = b"\xff\xd8"
# Of all variants of JPEG, and of JPEG-LS.
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
FRAME_BYTES = 10  # marker, length, bits per sample, height, width and components
COMPONENT_BYTES = 3  # id, sampling factors and table


class JpegFrame(NamedTuple):
    """The size and depth that a JPEG file declares.

    Attributes:
        marker: The second byte of the frame's marker, which names the variant of JPEG.
        bits: Bits per sample.
        width: Width in px.
        height: Height in px.
        start: Where the frame starts in the file.
        components: The ids of the components, one byte each.
        is_subsampled: Whether some components have fewer samples than others, as the
            color of YCbCr mostly has.
    """

    marker: int
    bits: int
    width: int
    height: int
    start: int
    components: bytes
    is_subsampled: bool


def find_jpeg_frame(data: bytes) -> JpegFrame | None:
    """Find the frame of a JPEG file; None if there is none or it is cut short.

    Previews within other segments do not count.
    """
    if not data.startswith(JPEG_START):
        return None
    position = len(JPEG_START)
    while data[position : position + 1] == b"\xff":
        part = data[position : position + FRAME_BYTES]
        if len(part) < FRAME_BYTES:
            return None
        marker = part[1]
        if marker in FRAME_MARKERS:
            height, width = (int.from_bytes(part[at : at + 2], "big") for at in (5, 7))
            first = position + FRAME_BYTES
            stop = first + COMPONENT_BYTES * part[9]
            factors = set(data[first + 1 : stop : COMPONENT_BYTES])
            return JpegFrame(
                marker=marker,
                bits=part[4],
                width=width,
                height=height,
                start=position,
                components=data[first:stop:COMPONENT_BYTES],
                is_subsampled=len(factors) > 1,
            )
        position += 2 + int.from_bytes(part[2:4], "big")
    return None

"""DICOM files: extracts the photograph with pydicom and its plugins."""

import importlib.util
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from drtf.errors import PhotographError
from drtf.images.depth import reduce_to_8_bits
from drtf.images.dicom_files import (
    DEFLATED,
    check_raw_pixels,
    count_frames,
    damaged_file,
    load_file,
    transfer_syntax,
)
from drtf.images.jpeg_frames import JpegFrame, find_jpeg_frame

if TYPE_CHECKING:
    from pydicom import Dataset

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
# The plugins of pydicom, the preferred one first: with GDCM, damaged files can end the
# process.
PLUGINS = ("pyjpegls", "pillow", "pylibjpeg", "pydicom", "gdcm")
# Color spaces that become RGB; the samples of others would be taken for it.
COLORS = (
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
)
# Color spaces that libjpeg decodes by default.
JPEG_COLORS = ("YBR_FULL_422", "YBR_FULL", "MONOCHROME2")
# With one of these, a JPEG file itself says what its color space is.
JPEG_APPLICATIONS = (b"JFIF\0", b"Adobe\0")
# The start of a JPEG 2000 image with the two corners of its reference grid.
JPEG2000_SIZE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{4})(.{4})(.{4})(.{4})", re.S)


def read_dicom(
    data: bytes, *, check_size: Callable[[int, int], None]
) -> bytes | np.ndarray:
    """Extract the photograph from a DICOM file with one frame.

    Args:
        data: Bytes of the file.
        check_size: Called with the declared width and height in px, before memory is
            allocated for the pixels. Raises PhotographError to refuse them.

    Returns:
        The bytes of an embedded JPEG file, or else uint8 RGB [H, W, 3].

    Raises:
        PhotographError: With reason `unsupported`, `not_an_image`, `too_large` or
            `undecodable`, or as raised by `check_size`.
    """
    syntax = transfer_syntax(data)
    plugin = _choose_plugin(syntax)
    dataset = load_file(data, check_size=check_size)
    with damaged_file("undecodable"):
        return _decode(dataset, syntax, plugin)


def _decode(dataset: "Dataset", syntax: str, plugin: str) -> bytes | np.ndarray:
    """Decode a loaded file, see `read_dicom`."""
    width, height = int(dataset.Columns), int(dataset.Rows)
    num_frames = count_frames(dataset)
    if num_frames != 1:
        raise PhotographError(
            "unsupported",
            f"a DICOM file with {num_frames} frames; name one of them, as in "
            "NAME.dcm#frame=1",
        )
    color = str(dataset.PhotometricInterpretation)
    if color not in COLORS:
        raise PhotographError(
            "unsupported",
            "a DICOM file whose PhotometricInterpretation is none of "
            f"{', '.join(COLORS)}; export it as RGB",
        )
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frame = _only_frame(dataset)
        jpeg = find_jpeg_frame(frame)
        _check_frame_size(frame, jpeg, width, height)
        if jpeg and syntax in (JPEG_BASELINE, JPEG_EXTENDED):
            if jpeg.bits > 8:
                _check_can_decode_12_bits()
            elif _has_usual_colors(frame, jpeg, color):
                return frame
    else:
        check_raw_pixels(dataset)
    with warnings.catch_warnings(action="ignore"):
        pixels = _rgb_pixels(dataset, color, plugin)
    if pixels.shape != (height, width, 3):
        raise PhotographError(
            "undecodable",
            f"a DICOM file that declares {width}x{height} px but has "
            f"{pixels.size // 3}",
        )
    return pixels


def _choose_plugin(syntax: str) -> str:
    """Return the plugin that decodes a transfer syntax; empty if none is needed.

    Raises:
        PhotographError: With reason `unsupported`.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    name = UID(syntax).name
    if syntax == DEFLATED:
        return ""
    try:
        decoder = get_decoder(UID(syntax))
    except NotImplementedError as error:
        raise PhotographError(
            "unsupported",
            f"a DICOM file in {name}, which is not a format of photographs that can be "
            "decoded; export it as JPEG, or decompress it, for example with gdcmconv "
            "--raw IN OUT",
        ) from error
    if not decoder.is_available:
        raise PhotographError(
            "unsupported",
            f"a DICOM file in {name}, which requires a decoder: pip install "
            "'drtf[dicom]'",
        )
    return min(decoder.available_plugins, key=PLUGINS.index, default="")


def _only_frame(dataset: "Dataset") -> bytes:
    from pydicom.encaps import get_frame

    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _has_usual_colors(frame: bytes, jpeg: JpegFrame, color: str) -> bool:
    """Return whether libjpeg decodes a JPEG file to the colors that it should have.

    Files in YCbCr often declare RGB. In RGB, all components have as many samples.
    """
    head = frame[: jpeg.start]
    is_clear = (
        jpeg.is_subsampled
        or jpeg.components == b"RGB"
        or any(name in head for name in JPEG_APPLICATIONS)
    )
    return color in JPEG_COLORS or (color == "RGB" and is_clear)


def _check_can_decode_12_bits() -> None:
    """Check that a decoder of JPEG files with 12 bits per sample is installed.

    Raises:
        PhotographError: With reason `unsupported`.
    """
    if importlib.util.find_spec("libjpeg") is None:
        raise PhotographError(
            "unsupported",
            "a DICOM file with a JPEG of 12 bits per sample, which requires a decoder "
            "under the GPL: pip install pylibjpeg-libjpeg",
        )


def _check_frame_size(
    frame: bytes, jpeg: JpegFrame | None, width: int, height: int
) -> None:
    """Check that a compressed frame has the size that its DICOM file declares.

    A decoder allocates what the frame declares, which may be far more.

    Raises:
        PhotographError: With reason `undecodable`.
    """
    if jpeg:
        size = (jpeg.width, jpeg.height)
    elif found := JPEG2000_SIZE.search(frame):
        right, bottom, left, top = (int.from_bytes(x, "big") for x in found.groups())
        size = (right - left, bottom - top)
    else:  # RLE, whose decoder knows the size
        return
    if size != (width, height):
        raise PhotographError(
            "undecodable",
            f"a DICOM file that declares {width}x{height} px around a picture of "
            f"{size[0]}x{size[1]} px",
        )


def _rgb_pixels(dataset: "Dataset", color: str, plugin: str) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, pixel_array

    pixels = pixel_array(dataset, decoding_plugin=plugin)  # converts YBR to RGB
    bits = int(dataset.BitsStored)
    if color == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.dtype.itemsize
    pixels = reduce_to_8_bits(pixels, declared_bits=bits)
    if color == "MONOCHROME1":
        pixels = 255 - pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

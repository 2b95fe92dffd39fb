"""Decoding of image files to RGB pixels, for building and scoring alike."""

import io
import math
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from drtf.errors import PhotographError
from drtf.images.dicom import is_dicom, read_dicom

SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom")
KINDS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "DIB")
# Signed, 32-bit, floating-point or CIELAB samples, which OpenCV misreads or refuses.
UNSUPPORTED_MODES = ("I", "F", "LAB")
# Below the limit at which Pillow refuses to read even the header.
MAX_PIXELS = 150_000_000
MIN_SIDE = 32
MAX_ASPECT_RATIO = 8
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK_BYTES = 12  # length, name and checksum

# libjpeg can shrink a picture to 1/2, 1/4 or 1/8 within the DCT, at far less cost.
JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class Decoded(NamedTuple):
    """A decoded photograph.

    Attributes:
        image: uint8 RGB [H, W, 3].
        scale: Factor by which it was shrunk during decoding: 1, 2, 4 or 8.
    """

    image: np.ndarray
    scale: int


def decode_photograph(data: bytes, *, min_side: int = 0) -> Decoded:
    """Decode a photograph, and rotate it upright according to its EXIF data.

    Args:
        data: Bytes of a JPEG, PNG, TIFF, WebP, BMP or DICOM file.
        min_side: If above 0, shrink the photograph to the smallest of 1/2, 1/4 and 1/8
            whose shorter side still has this many px. A JPEG is shrunk in the DCT, any
            other file by averaging blocks.

    Raises:
        PhotographError: With reason `empty`, `not_an_image`, `unsupported`,
            `too_large`, `too_small`, `too_narrow` or `undecodable`.
    """
    if is_dicom(data):
        dicom = read_dicom(data, check_size=check_size)
        if isinstance(dicom, np.ndarray):
            scale = choose_scale(dicom.shape[1], dicom.shape[0], min_side)
            return Decoded(shrink(dicom, scale), scale)
        data = dicom
    width, height, kind = _read_header(data)
    scale = choose_scale(width, height, min_side)
    is_jpeg = kind in ("JPEG", "MPO")
    flag = JPEG_FLAGS[scale] if is_jpeg else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise PhotographError("undecodable", str(error.err)) from error
    if image is None:
        raise PhotographError(
            "undecodable",
            f"a {kind} file that is damaged, truncated or unsupported by OpenCV",
        )
    if not is_jpeg:
        image = shrink(image, scale)
    return Decoded(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), scale)


def choose_scale(width: int, height: int, min_side: int) -> int:
    """Return the factor to shrink a photograph by during decoding: 8, 4, 2 or 1."""
    scales = (x for x in (8, 4, 2) if min_side and min(width, height) >= min_side * x)
    return next(scales, 1)


def shrink(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrink uint8 [H, W, 3] by averaging blocks of `scale` x `scale` px."""
    if scale == 1:
        return image
    height, width = (math.ceil(side / scale) for side in image.shape[:2])
    # Pad to whole blocks first, as libjpeg does, so that the picture isn't stretched.
    bottom, right = (
        side * scale - unpadded
        for side, unpadded in zip((height, width), image.shape[:2], strict=True)
    )
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def check_size(width: int, height: int) -> None:
    """Check that a declared size in px is plausible and fits into memory.

    Raises:
        PhotographError: With reason `too_large`, `too_small` or `too_narrow`.
    """
    if width * height > MAX_PIXELS:
        raise PhotographError(
            "too_large", f"{width}x{height} px; the maximum is {MAX_PIXELS} px"
        )
    if min(width, height) < MIN_SIDE:
        raise PhotographError(
            "too_small", f"{width}x{height} px; the minimum is {MIN_SIDE} px per side"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotographError(
            "too_narrow",
            f"{width}x{height} px; the maximum aspect ratio is {MAX_ASPECT_RATIO}:1",
        )


def _read_header(data: bytes) -> tuple[int, int, str]:
    if not data:
        raise PhotographError("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings(action="ignore"):
            header = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise PhotographError(
            "too_large", f"it declares more than {MAX_PIXELS} px"
        ) from error
    except Exception as error:  # on damaged files, Pillow raises many kinds of errors
        raise PhotographError(
            "not_an_image",
            "its first bytes match no known image format, or are cut short",
        ) from error
    kind = str(header.format)
    if kind not in KINDS:
        raise PhotographError(
            "unsupported",
            f"its content is {kind}, which is not supported; convert it to JPEG or PNG",
        )
    if kind == "TIFF" and header.mode in UNSUPPORTED_MODES:
        raise PhotographError(
            "unsupported",
            "a TIFF with signed, 32-bit, floating-point or CIELAB samples",
        )
    check_size(*header.size)
    if kind == "PNG":
        _check_png(data)
    return *header.size, kind


def _check_png(data: bytes) -> None:
    """Refuse PNG files that would crash OpenCV or make it allocate a declared size."""
    position, name = len(PNG_SIGNATURE), b""
    while name != b"IEND" and position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if name == b"acTL":
            raise PhotographError("unsupported", "an animated PNG")
        position += PNG_CHUNK_BYTES + length
    if position > len(data):
        raise PhotographError("undecodable", "a PNG file that ends within a chunk")

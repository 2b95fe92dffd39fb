"""From a file's bytes to RGB pixels: the one decoder of building and scoring."""

import io
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from drtf.errors import PhotographError
from drtf.images.dicom import is_dicom, read_dicom

SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom")
KINDS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "DIB")
# Signed, 32-bit, floating-point or CIELAB samples: OpenCV reads them wrongly or not.
UNSUPPORTED_MODES = ("I", "F", "LAB")
# Below the number from which Pillow refuses to read even a header.
MAX_PIXELS = 150_000_000
MIN_PIXELS_A_SIDE = 32
MAX_ASPECT_RATIO = 8

# libjpeg halves, quarters or eighths a picture in the DCT, at a fraction of the work.
JPEG_SCALES = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)


class Decoded(NamedTuple):
    """Pixels, uint8 RGB [H, W, 3], and by how much they were shrunk in decoding."""

    image: np.ndarray
    scale: int


def decode_photograph(data: bytes, *, min_side: int = 0) -> Decoded:
    """Decode a photograph, upright as its EXIF orientation says.

    Args:
        data: a JPEG, PNG, TIFF, WebP, BMP or DICOM file.
        min_side: where above 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size,
            the smallest whose shorter side still has this many px.

    Raises:
        PhotographError: with reason `empty`, `not_an_image`, `unsupported`,
            `too_large`, `too_small`, `too_narrow` or `undecodable`.
    """
    if is_dicom(data):
        dicom = read_dicom(data, check_size=check_size)
        if isinstance(dicom, np.ndarray):
            return Decoded(dicom, 1)
        data = dicom
    width, height, kind = _read_header(data)
    flag, scale = cv2.IMREAD_COLOR, 1
    if min_side and kind in ("JPEG", "MPO"):
        for denominator, reduced in JPEG_SCALES:
            if min(width, height) >= min_side * denominator:
                flag, scale = reduced, denominator
                break
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise PhotographError("undecodable", str(error.err)) from error
    if image is None:
        raise PhotographError(
            "undecodable",
            f"a {kind} file that is damaged, truncated or of a kind OpenCV can't read",
        )
    return Decoded(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), scale)


def check_size(width: int, height: int) -> None:
    """Refuse a declared size, in px, that is no photograph's or costs too much memory.

    Raises:
        PhotographError: with reason `too_large`, `too_small` or `too_narrow`.
    """
    if width * height > MAX_PIXELS:
        raise PhotographError(
            "too_large", f"{width}x{height} px; at most {MAX_PIXELS} px are decoded"
        )
    if min(width, height) < MIN_PIXELS_A_SIDE:
        raise PhotographError(
            "too_small", f"{width}x{height} px; at least {MIN_PIXELS_A_SIDE} a side"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotographError(
            "too_narrow", f"{width}x{height} px; at most {MAX_ASPECT_RATIO} to 1"
        )


def _read_header(data: bytes) -> tuple[int, int, str]:
    if not data:
        raise PhotographError("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings(action="ignore"):
            header = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise PhotographError(
            "too_large", f"more than {MAX_PIXELS} px are declared"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise PhotographError(
            "not_an_image", "its first bytes are of no known image format"
        ) from error
    kind = str(header.format)
    if kind not in KINDS:
        raise PhotographError("unsupported", f"a {kind} file, whatever its name")
    if kind == "TIFF" and header.mode in UNSUPPORTED_MODES:
        raise PhotographError(
            "unsupported", "a TIFF of signed, 32-bit, floating-point or CIELAB samples"
        )
    check_size(*header.size)
    return *header.size, kind

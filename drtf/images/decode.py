"""From a file's bytes to RGB pixels: the one decoder of building and scoring."""

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
# Signed, 32-bit, floating-point or CIELAB samples: OpenCV reads them wrongly or not.
UNSUPPORTED_MODES = ("I", "F", "LAB")
# Below the number from which Pillow refuses to read even a header.
MAX_PIXELS = 150_000_000
MIN_PIXELS_A_SIDE = 32
MAX_ASPECT_RATIO = 8
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK_BYTES = 12  # length, name and checksum

# libjpeg halves, quarters or eighths a picture in the DCT, at a fraction of the work.
JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class Decoded(NamedTuple):
    """Pixels, uint8 RGB [H, W, 3], and by how much they were shrunk in decoding."""

    image: np.ndarray
    scale: int


def decode_photograph(data: bytes, *, min_side: int = 0) -> Decoded:
    """Decode a photograph, upright as a JPEG's, PNG's or TIFF's EXIF says.

    Args:
        data: a JPEG, PNG, TIFF, WebP, BMP or DICOM file.
        min_side: where above 0, the photograph may be shrunk to 1/2, 1/4 or 1/8, the
            smallest whose shorter side still has this many px: a JPEG in the DCT, any
            other by averaging blocks.

    Raises:
        PhotographError: with reason `empty`, `not_an_image`, `unsupported`,
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
    in_dct = kind in ("JPEG", "MPO")
    flag = JPEG_FLAGS[scale] if in_dct else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise PhotographError("undecodable", str(error.err)) from error
    if image is None:
        raise PhotographError(
            "undecodable",
            f"a {kind} file that is damaged, truncated or of a kind OpenCV can't read",
        )
    if not in_dct:
        image = shrink(image, scale)
    return Decoded(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), scale)


def choose_scale(width: int, height: int, min_side: int) -> int:
    """Return 8, 4, 2 or 1: by how much a photograph may be shrunk in decoding."""
    scales = (x for x in (8, 4, 2) if min_side and min(width, height) >= min_side * x)
    return next(scales, 1)


def shrink(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrink uint8 [H, W, 3] by averaging blocks of `scale` x `scale` px."""
    if scale == 1:
        return image
    height, width = (math.ceil(side / scale) for side in image.shape[:2])
    # To whole blocks first, as libjpeg does, so that the picture isn't stretched.
    bottom, right = (
        side * scale - found
        for side, found in zip((height, width), image.shape[:2], strict=True)
    )
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


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
    except Exception as error:  # Pillow's readers raise whatever damage leads them to
        raise PhotographError(
            "not_an_image", "its first bytes are of no known image format, or cut short"
        ) from error
    kind = str(header.format)
    if kind not in KINDS:
        raise PhotographError("unsupported", f"a {kind} file, whatever its name")
    if kind == "TIFF" and header.mode in UNSUPPORTED_MODES:
        raise PhotographError(
            "unsupported", "a TIFF of signed, 32-bit, floating-point or CIELAB samples"
        )
    check_size(*header.size)
    if kind == "PNG":
        _check_png(data)
    return *header.size, kind


def _check_png(data: bytes) -> None:
    """Refuse what OpenCV would crash on, or take memory for as a chunk declares it."""
    position, name = len(PNG_SIGNATURE), b""
    while name != b"IEND" and position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if name == b"acTL":
            raise PhotographError("unsupported", "an animated PNG")
        position += PNG_CHUNK_BYTES + length
    if position > len(data):
        raise PhotographError("undecodable", "a PNG file that ends within a chunk")

"""From a file's bytes to RGB pixels: the one decoder of building and scoring."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from drtf.errors import PhotographError

SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp")
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


def decode_photograph(data: bytes, *, min_side: int = 0) -> np.ndarray:
    """Decode a photograph, upright as its EXIF orientation says.

    Args:
        data: a JPEG, PNG, TIFF, WebP or BMP file.
        min_side: where above 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size,
            the smallest whose shorter side still has this many px.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        PhotographError: with reason `empty`, `not_an_image`, `too_large`, `too_small`,
            `too_narrow` or `undecodable`.
    """
    width, height, kind = _read_declared_size(data)
    flag = cv2.IMREAD_COLOR
    if min_side and kind == "JPEG":
        for scale, reduced in JPEG_SCALES:
            if min(width, height) >= min_side * scale:
                flag = reduced
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
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_declared_size(data: bytes) -> tuple[int, int, str]:
    if not data:
        raise PhotographError("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings(action="ignore"):
            header = Image.open(io.BytesIO(data))
        (width, height), kind = header.size, header.format
    except Image.DecompressionBombError as error:
        raise PhotographError(
            "too_large", f"more than {MAX_PIXELS} px are declared"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise PhotographError(
            "not_an_image", "its first bytes are of no known image format"
        ) from error
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
    return width, height, str(kind)

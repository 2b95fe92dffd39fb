"""The retina's field in a photograph: finds it and crops the square around it."""

import math
from typing import NamedTuple

import cv2
import numpy as np

THUMBNAIL_SIDE = 256
MIN_AREA_FRACTION = 0.1
GRID = 8  # px; a JPEG is decoded at a scale of at most 1/8
# Of 255. Sensor noise stays below this; even the darkest retina exceeds it.
BLACK_BELOW = 16


class Thumbnail(NamedTuple):
    """A photograph shrunk to the size at which its field is found and measured.

    Attributes:
        image: uint8 RGB [h, w, 3], the longer side at most 256 px.
        brightness: uint8 [h, w], the brightest channel, smoothed to suppress noise.
    """

    image: np.ndarray
    brightness: np.ndarray


class Square(NamedTuple):
    """A square in px of the full-size photograph; it may extend beyond the edges."""

    left: int
    top: int
    side: int


def build_thumbnail(image: np.ndarray) -> Thumbnail:
    """Shrink a photograph, uint8 RGB [H, W, 3], to at most 256 px."""
    height, width = image.shape[:2]
    longest = max(height, width)
    # Averaging whole blocks first is fast and suppresses noise and moire.
    factor = max(longest // THUMBNAIL_SIDE, 1)
    size = (max(width // factor, 1), max(height // factor, 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = min(THUMBNAIL_SIDE / longest, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    red, green, blue = cv2.split(small)
    brightest = cv2.max(cv2.max(red, green), blue)
    return Thumbnail(small, cv2.GaussianBlur(brightest, (5, 5), 0))


def find_field(brightness: np.ndarray) -> np.ndarray | None:
    """Find the retina's bright field on the camera's black mask.

    The threshold is Otsu's, on the logarithm of the brightness, so that dark and bright
    photographs are treated alike. Opening removes thin flare at the border. The field
    is the largest component, including its dark regions.

    Args:
        brightness: uint8 [h, w], of a thumbnail.

    Returns:
        uint8 [h, w], 1 inside the field. None if no bright region is large enough. A
        photograph without a black mask is all field.
    """
    darkest, brightest, _, _ = cv2.minMaxLoc(brightness)
    low, high = math.log1p(darkest), math.log1p(brightest)
    if high - low < 0.5:  # uniform brightness: there is no mask
        everything = np.ones_like(brightness)
        return everything if brightness.mean() > BLACK_BELOW else None
    logs = (np.log1p(np.arange(256)) - low) * (255 / (high - low))
    level = cv2.LUT(brightness, np.clip(logs, 0, 255).astype(np.uint8))
    _, mask = cv2.threshold(level, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea, default=None)
    if largest is None or cv2.contourArea(largest) < MIN_AREA_FRACTION * mask.size:
        return None
    return cv2.drawContours(np.zeros_like(mask), [largest], 0, 1, cv2.FILLED)


def square_around(field: np.ndarray, shape: tuple[int, ...], *, scale: int) -> Square:
    """Return the square around a field.

    Args:
        field: uint8 [h, w], 1 inside the field.
        shape: [H, W, ...] of the decoded photograph.
        scale: Factor by which it was shrunk during decoding.

    Returns:
        The square, aligned to 8 px so that it can be cropped exactly at every scale.
        The detected edge of the field may differ between scales by 1/256 of the
        photograph.
    """
    left, top, width, height = cv2.boundingRect(field)
    scale_x = shape[1] * scale / field.shape[1]
    scale_y = shape[0] * scale / field.shape[0]
    width, height = width * scale_x, height * scale_y
    side = math.ceil(max(width, height) / GRID) * GRID
    return Square(
        round((left * scale_x + (width - side) / 2) / GRID) * GRID,
        round((top * scale_y + (height - side) / 2) / GRID) * GRID,
        side,
    )


def crop(image: np.ndarray, square: Square, *, scale: int) -> np.ndarray:
    """Crop a square; pixels outside the photograph are zero.

    Args:
        image: uint8 [H, W] or [H, W, C].
        square: The square, in px of the full-size photograph.
        scale: Factor by which the image was shrunk during decoding.
    """
    left, top, side = (round(value / scale) for value in square)
    inside = image[max(top, 0) : top + side, max(left, 0) : left + side]
    before_y, before_x = max(-top, 0), max(-left, 0)
    return cv2.copyMakeBorder(
        inside,
        before_y,
        side - before_y - inside.shape[0],
        before_x,
        side - before_x - inside.shape[1],
        cv2.BORDER_CONSTANT,
        value=(0, 0, 0),
    )

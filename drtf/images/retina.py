"""Where in a photograph the retina is: the bright field on the camera's black mask."""

import math
from typing import NamedTuple

import cv2
import numpy as np

SURVEY_SIDE = 256
MIN_AREA_SHARE = 0.1
GRID = 8  # px, the coarsest scale of a JPEG
BLACK_BELOW = 16  # of 255: sensor noise stays below it, the darkest retina doesn't


class Survey(NamedTuple):
    """A photograph shrunk to what finding and judging its field needs.

    Attributes:
        image: uint8 RGB [h, w, 3], the longer side at most 256 px.
        brightness: uint8 [h, w], the brightest channel, smoothed against noise.
    """

    image: np.ndarray
    brightness: np.ndarray


class Frame(NamedTuple):
    """A square in px of the whole photograph; it may reach outside."""

    left: int
    top: int
    side: int


def survey(image: np.ndarray) -> Survey:
    """Shrink a photograph, uint8 RGB [H, W, 3]."""
    height, width = image.shape[:2]
    longest = max(height, width)
    # Averaging whole blocks first is fast, and keeps noise and moire out.
    factor = max(longest // SURVEY_SIDE, 1)
    size = (max(width // factor, 1), max(height // factor, 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = min(SURVEY_SIDE / longest, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    red, green, blue = cv2.split(small)
    brightest = cv2.max(cv2.max(red, green), blue)
    return Survey(small, cv2.GaussianBlur(brightest, (5, 5), 0))


def find_field(brightness: np.ndarray) -> np.ndarray | None:
    """Find the bright field on the camera's black mask.

    The threshold is Otsu's between field and mask, found on the logarithm of the
    brightness, so that dark photographs are cut where bright ones are; opening takes
    off thin flare at the border, and the largest component is the field, with what is
    dark inside it.

    Args:
        brightness: uint8 [h, w], of a survey.

    Returns:
        uint8 [h, w], 1 in the field; None where nothing bright is large enough to be
        one. A photograph without a mask is all field.
    """
    darkest, brightest, _, _ = cv2.minMaxLoc(brightness)
    low, high = math.log1p(darkest), math.log1p(brightest)
    if high - low < 0.5:  # one even brightness: no mask to tell the field from
        even = np.ones_like(brightness)
        return even if brightness.mean() > BLACK_BELOW else None
    logs = (np.log1p(np.arange(256)) - low) * (255 / (high - low))
    level = cv2.LUT(brightness, np.clip(logs, 0, 255).astype(np.uint8))
    _, mask = cv2.threshold(level, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea, default=None)
    if largest is None or cv2.contourArea(largest) < MIN_AREA_SHARE * mask.size:
        return None
    return cv2.drawContours(np.zeros_like(mask), [largest], 0, 1, cv2.FILLED)


def find_frame(field: np.ndarray, shape: tuple[int, ...], *, scale: int) -> Frame:
    """Find the square around a field.

    Args:
        field: uint8 [h, w], 1 in the field.
        shape: [H, W, ...] of the photograph as it was decoded.
        scale: by how much it was shrunk in decoding.

    Returns:
        The square, on a grid of 8 px, which each scale can cut exactly. Where the
        field's edge is found may differ between scales by a 256th of the photograph.
    """
    left, top, width, height = cv2.boundingRect(field)
    scale_x = shape[1] * scale / field.shape[1]
    scale_y = shape[0] * scale / field.shape[0]
    width, height = width * scale_x, height * scale_y
    side = math.ceil(max(width, height) / GRID) * GRID
    return Frame(
        round((left * scale_x + (width - side) / 2) / GRID) * GRID,
        round((top * scale_y + (height - side) / 2) / GRID) * GRID,
        side,
    )


def cut(image: np.ndarray, frame: Frame, *, scale: int) -> np.ndarray:
    """Cut a square out; what lies outside the photograph is zero.

    Args:
        image: uint8 [H, W] or [H, W, C].
        frame: in px of the whole photograph.
        scale: by how much the image was shrunk in decoding.
    """
    left, top, side = (round(value / scale) for value in frame)
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

"""Where in a photograph the retina is: the bright field on the camera's black mask."""

from typing import NamedTuple

import cv2
import numpy as np

SURVEY_SIDE = 256
MIN_AREA_SHARE = 0.1
BLACK_BELOW = 16  # of 255: sensor noise stays below it, the darkest retina doesn't


class Box(NamedTuple):
    """A rectangle in px; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int


def survey(image: np.ndarray) -> np.ndarray:
    """Shrink a photograph to what finding and judging its field needs.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        uint8 RGB, the longer side at most 256 px.
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    # Averaging whole blocks first is fast, and keeps noise and moire out.
    factor = max(longest // SURVEY_SIDE, 1)
    size = (max(width // factor, 1), max(height // factor, 1))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = min(SURVEY_SIDE / longest, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def find_field(small: np.ndarray) -> np.ndarray | None:
    """Find the bright field on the camera's black mask.

    The threshold is Otsu's between field and mask, found on the logarithm of the
    brightest channel, so that dark photographs are cut where bright ones are; opening
    takes off thin flare at the border, and the largest component is the field.

    Args:
        small: uint8 RGB [h, w, 3], what `survey` returned.

    Returns:
        uint8 [h, w], 1 in the field; None where nothing bright is large enough to be
        one. A photograph without a mask is all field.
    """
    brightness = brightest_channel(small)
    log = np.log1p(brightness.astype(np.float32))
    span = float(log.max() - log.min())
    if span < 0.5:  # one even brightness: no mask to tell the field from
        even = np.ones(small.shape[:2], np.uint8)
        return even if brightness.mean() > BLACK_BELOW else None
    level = ((log - log.min()) * (255 / span)).astype(np.uint8)
    _, mask = cv2.threshold(level, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < MIN_AREA_SHARE * mask.size:
        return None
    return (labels == largest).astype(np.uint8)


def find_box(field: np.ndarray, shape: tuple[int, ...]) -> Box:
    """Return the box around a field, in px of a photograph of `shape` [H, W, ...]."""
    left, top, width, height = cv2.boundingRect(field)
    scale_y, scale_x = shape[0] / field.shape[0], shape[1] / field.shape[1]
    return Box(
        int(left * scale_x),
        int(top * scale_y),
        round((left + width) * scale_x),
        round((top + height) * scale_y),
    )


def crop_square(image: np.ndarray, box: Box) -> np.ndarray:
    """Cut a box out and pad it with zeros to a square, the box in the middle."""
    cut = image[box.top : box.bottom, box.left : box.right]
    height, width = cut.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        cut,
        top,
        side - height - top,
        left,
        side - width - left,
        cv2.BORDER_CONSTANT,
        value=(0, 0, 0),
    )


def brightest_channel(image: np.ndarray) -> np.ndarray:
    """Return each px's brightest channel, smoothed against noise.

    Args:
        image: uint8 RGB [h, w, 3].

    Returns:
        uint8 [h, w].
    """
    red, green, blue = cv2.split(image)
    return cv2.GaussianBlur(cv2.max(cv2.max(red, green), blue), (5, 5), 0)

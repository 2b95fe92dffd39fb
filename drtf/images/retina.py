"""Where in a photograph the retina is: the bright field on the camera's black mask."""

from typing import NamedTuple

import cv2
import numpy as np

SEARCH_SIDE = 256
MIN_AREA_SHARE = 0.1


class Box(NamedTuple):
    """A rectangle in px; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int


def find_retina(image: np.ndarray) -> Box | None:
    """Find the box around the bright field.

    The threshold is Otsu's between field and mask, found on the logarithm of the
    brightest channel, so that dark photographs are cut where bright ones are; opening
    takes off thin flare at the border, and the largest component is the field.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        The field's box, or None where nothing bright is large enough to be one.
    """
    height, width = image.shape[:2]
    scale = min(SEARCH_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    brightness = cv2.GaussianBlur(small.max(axis=2), (5, 5), 0)
    log = np.log1p(brightness.astype(np.float32))
    span = float(log.max() - log.min())
    if span < 0.5:  # one even brightness: no mask to tell the field from
        return Box(0, 0, width, height) if brightness.mean() > 16 else None
    level = ((log - log.min()) * (255 / span)).astype(np.uint8)
    _, mask = cv2.threshold(level, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return None
    left, top, box_width, box_height, area = stats[1:][
        stats[1:, cv2.CC_STAT_AREA].argmax()
    ]
    if area < MIN_AREA_SHARE * mask.size:
        return None
    return Box(
        int(left / scale),
        int(top / scale),
        min(round((left + box_width) / scale), width),
        min(round((top + box_height) / scale), height),
    )


def crop_square(image: np.ndarray, box: Box) -> np.ndarray:
    """Cut a box out and pad it with black to a square, the box in the middle."""
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

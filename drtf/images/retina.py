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
MIN_LOG_RANGE = 0.5
MAX_AREA_FRACTION = 0.995

# Chosen on 4,659 photographs of EyePACS, IDRiD and APTOS: see docs/results.md.
CORNERS_PER_SIDE = 24
MAX_SURROUND_DEVIATION = 10
MAX_SURROUND_DIFFERENCE = 16
MIN_LIT_SURROUND = 48
MIN_LIT_GRAY = 16
MAX_SURROUND_REDNESS = 1.1
MIN_DIFFERENCE = 12
MAX_MARGIN_DIFFERENCE = 8
MIN_MARGIN_FRACTION = 0.5  # of a row; the rest may be text
EVEN_FRACTION = 0.98
MAX_SURROUND_LEVEL = 0.25  # of the field's median
MAX_LIT_OUTSIDE = 0.03  # of the field's area
TEXT = np.ones((7, 7), np.uint8)
MAX_OFF_CENTER = 0.25
MAX_SHIFT = 0.4
MAX_FIELD_ASPECT = 1.55
MIN_ROUNDNESS = 0.6
MIN_LIT_FRACTION = 0.85
MIN_REDNESS_UNFRAMED = 1.15


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


def find_field(thumbnail: Thumbnail) -> np.ndarray | None:
    """Find the retina's field, which the camera's black mask usually surrounds.

    Exported pictures may have a white, gray or blue surround instead, or none. A field
    that is not plausible is not returned, because a crop could cut through the retina.

    Args:
        thumbnail: Thumbnail of the photograph.

    Returns:
        uint8 [h, w], 1 inside the field. None if no plausible field was found. A
        photograph that is all retina is all field.
    """
    image, brightness = thumbnail
    inside = _inside_margins(image)
    if image[inside].shape != image.shape:
        inner = find_field(Thumbnail(image[inside], brightness[inside]))
        if inner is None:
            return None
        whole = np.zeros_like(brightness)
        whole[inside] = inner
        return whole
    surround = _find_lit_surround(image)
    if surround is not None:
        return _find_field_on(surround, thumbnail)
    field = _largest_component(_threshold_brightness(brightness))
    if (
        field is not None
        and field.mean() < MAX_AREA_FRACTION
        and _is_plausible(field, brightness)
    ):
        return field
    return np.ones_like(brightness) if _is_all_retina(thumbnail) else None


def _find_lit_surround(image: np.ndarray) -> np.ndarray | None:
    """Find the color around the retina if it is even, neutral and not dark.

    Text or a logo may cover one of the four corners.

    Returns:
        float64 [3], RGB in 0-255, or None.
    """
    side = max(min(image.shape[:2]) // CORNERS_PER_SIDE, 2)
    ends = np.s_[:side], np.s_[-side:]
    corners = np.array([image[y, x].reshape(-1, 3) for y in ends for x in ends])
    colors = np.median(corners, axis=1)
    surround = np.median(colors, axis=0)
    is_even = corners.std(axis=1).max(axis=1) < MAX_SURROUND_DEVIATION
    is_equal = abs(colors - surround).max(axis=1) < MAX_SURROUND_DIFFERENCE
    is_surround = np.count_nonzero(is_even & is_equal) >= 3 and _is_paper(surround)
    return surround if is_surround else None


def _is_paper(color: np.ndarray) -> bool:
    """Return True for an RGB color that is neither dark nor that of a retina."""
    red, green, blue = color
    is_lit = color.max() >= MIN_LIT_SURROUND or color.min() >= MIN_LIT_GRAY
    return bool(is_lit and red <= MAX_SURROUND_REDNESS * max(green, blue))


def _inside_margins(image: np.ndarray) -> tuple[slice, slice]:
    """Return the part of a picture inside its outermost page, frame or caption."""
    height, width = image.shape[:2]
    top, bottom = _margin(image), _margin(image[::-1])
    columns = image.swapaxes(0, 1)
    left, right = _margin(columns), _margin(columns[::-1])
    if top + bottom >= height or left + right >= width:
        return np.s_[:, :]
    return np.s_[top : height - bottom, left : width - right]


def _margin(rows: np.ndarray) -> int:
    """Count the rows before the photograph that have one even, lit, neutral color.

    Text may cover part of them, but not of the last one: a field on an even surround
    begins with a short row.
    """
    color = np.median(rows[0], axis=0)
    if not _is_paper(color):
        return 0
    is_even = abs(rows - color).max(axis=2) < MAX_MARGIN_DIFFERENCE
    fraction = is_even.mean(axis=1)
    is_margin = np.append(fraction >= MIN_MARGIN_FRACTION, False)
    even = np.flatnonzero(fraction[: is_margin.argmin()] >= EVEN_FRACTION)
    return int(even[-1]) + 1 if len(even) else 0


def _find_field_on(surround: np.ndarray, thumbnail: Thumbnail) -> np.ndarray | None:
    """Find the field on a surround of an even color, as `find_field` does."""
    difference = abs(thumbnail.image - surround).max(axis=2).astype(np.uint8)
    difference = cv2.GaussianBlur(difference, (5, 5), 0)
    field = _largest_component((difference >= MIN_DIFFERENCE).astype(np.uint8))
    if field is None or not _is_plausible(field, difference):
        return None
    # The local average may have been subtracted: the retina is then of the surround's
    # color, and only its vessels stand out.
    typical = np.median(thumbnail.image[field > 0], axis=0)
    return field if abs(typical - surround).max() >= MIN_DIFFERENCE else None


def _threshold_brightness(brightness: np.ndarray) -> np.ndarray:
    """Return 1 where a photograph is bright compared with its darkest part.

    The threshold is Otsu's, on the logarithm of the brightness, so that dark and bright
    photographs are treated alike.
    """
    darkest, brightest, _, _ = cv2.minMaxLoc(brightness)
    low, high = math.log1p(darkest), math.log1p(brightest)
    if high - low < MIN_LOG_RANGE:  # there is no mask
        return np.full_like(brightness, brightness.mean() > BLACK_BELOW)
    logs = (np.log1p(np.arange(256)) - low) * (255 / (high - low))
    level = cv2.LUT(brightness, np.clip(logs, 0, 255).astype(np.uint8))
    return cv2.threshold(level, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]


def _largest_component(mask: np.ndarray) -> np.ndarray | None:
    """Return the largest component of a mask with its holes filled.

    Opening removes thin flare at the border. None if no component is large enough.
    """
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea, default=None)
    if largest is None or cv2.contourArea(largest) < MIN_AREA_FRACTION * mask.size:
        return None
    return cv2.drawContours(np.zeros_like(mask), [largest], 0, 1, cv2.FILLED)


def _is_plausible(field: np.ndarray, level: np.ndarray) -> bool:
    """Return True for the field of one eye, outside of which there is no retina.

    Args:
        field: uint8 [h, w], 1 inside the field.
        level: uint8 [h, w], how much each pixel stands out from the surround.
    """
    left, top, width, height = cv2.boundingRect(field)
    if max(width, height) > MAX_FIELD_ASPECT * min(width, height):
        return False  # two eyes side by side
    shift_x = abs(left + width / 2 - field.shape[1] / 2)
    shift_y = abs(top + height / 2 - field.shape[0] / 2)
    if shift_x > MAX_SHIFT * width or shift_y > MAX_SHIFT * height:
        return False  # a second eye may be too dark to be seen
    typical = np.median(level[field > 0])
    lit = (level > max(MAX_SURROUND_LEVEL * typical, BLACK_BELOW)).astype(np.uint8)
    side = max(width, height)
    x, y = left + (width - side) // 2, top + (height - side) // 2
    lit[max(y, 0) : y + side, max(x, 0) : x + side] = 0
    lit = cv2.morphologyEx(lit, cv2.MORPH_OPEN, TEXT)  # text and dates may be there
    if cv2.countNonZero(lit) > MAX_LIT_OUTSIDE * cv2.countNonZero(field):
        return False
    (center_x, center_y), _ = _enclosing_circle(field)
    # At the photograph's edge, the field may be cut off on one side.
    is_centered = (
        abs(center_x - left - width / 2) < MAX_OFF_CENTER * width
        or left == 0
        or left + width == field.shape[1]
    ) and (
        abs(center_y - top - height / 2) < MAX_OFF_CENTER * height
        or top == 0
        or top + height == field.shape[0]
    )
    return is_centered and measure_roundness(field) >= MIN_ROUNDNESS


def _is_all_retina(thumbnail: Thumbnail) -> bool:
    """Return True if a photograph is lit everywhere, in the colors of one retina."""
    image, brightness = thumbnail
    height, width = brightness.shape
    is_lit = brightness > max(MAX_SURROUND_LEVEL * np.median(brightness), BLACK_BELOW)
    red, green, blue = image.reshape(-1, 3).mean(axis=0)
    return bool(
        max(height, width) <= MAX_FIELD_ASPECT * min(height, width)
        and is_lit.mean() >= MIN_LIT_FRACTION
        and red >= MIN_REDNESS_UNFRAMED * max(green, blue)
    )


def measure_roundness(field: np.ndarray) -> float:
    """Return how round a field is: its intersection over union with a circle.

    It is the enclosing circle, cut off at the field's bounding box, since many cameras
    cut off the top and the bottom of the field.

    Args:
        field: uint8 [h, w], 1 inside the field.
    """
    left, top, width, height = cv2.boundingRect(field)
    box = np.s_[top : top + height, left : left + width]
    (x, y), radius = _enclosing_circle(field)
    circle = np.zeros_like(field)
    cv2.circle(circle, (round(x), round(y)), round(radius), 1, cv2.FILLED)
    cut_off = np.zeros_like(field)
    cut_off[box] = circle[box]
    both, either = cut_off & field, cut_off | field
    return cv2.countNonZero(both) / max(cv2.countNonZero(either), 1)


def _enclosing_circle(field: np.ndarray) -> tuple[tuple[float, float], float]:
    """Return the center and the radius of the smallest circle around a field."""
    # The hull of the outline equals that of all points, but is 20 times as fast.
    edge, _ = cv2.findContours(field, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    center, radius = cv2.minEnclosingCircle(cv2.convexHull(np.concatenate(edge)))
    return (center[0], center[1]), radius


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

"""Whether a photograph shows a retina well enough to be graded."""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from drtf.images.retina import Survey

Flag = Literal["no_retina", "not_a_fundus", "too_dark", "blurred"]

# The field is looked at with this many px a side, in tiles of a sixteenth of it; the
# finest vessels that are left lie between these two scales.
SIDE, TILE = 160, 10
FINE, COARSE = 0.7, 1.4
RIM = np.ones((11, 11), np.uint8)
EDGE = np.ones((7, 7), np.uint8)

# Found on 3,755 photographs of EyePACS that a clinician had judged, 205 of IDRiD, the
# same degraded, and pictures of other things; what they come to is in docs/results.md.
MIN_BRIGHTNESS = 0.25
MIN_SHARPNESS = 2.0
MAX_SHARPNESS = 16.0
MAX_SURROUND = 0.25
MIN_ROUNDNESS = 0.6
MIN_RED = 0.9
MIN_RED_UNFRAMED = 1.15
MIN_COLOR = 0.04


class ImageStatistics(NamedTuple):
    """What a photograph looks like.

    Attributes:
        light: median over the field of the brightest channel, in [0, 1].
        clarity: how much fine detail the field has in the green channel, where vessels
            and lesions stand out most. It is equalised first, so that dark photographs
            are not taken for blurred ones: the root mean square of a difference of
            Gaussians, in levels of 255, as the geometric mean over tiles.
        surround: how bright it is around the field, as a share of the field's own
            brightness; 0 where the field fills the photograph.
        roundness: intersection over union of the field and the circle around it, cut
            off where the field is.
        red: mean red of the field as a multiple of its green or blue, the lesser one.
        color: what the dullest channel lacks to the brightest, as a share of this.
        framed: whether anything lies around the field.
    """

    light: float
    clarity: float
    surround: float
    roundness: float
    red: float
    color: float
    framed: bool


def gradability_flags(found: Survey, field: np.ndarray | None) -> tuple[Flag, ...]:
    """List why a photograph can hardly be graded; nothing where it can.

    Args:
        found: the photograph's survey.
        field: uint8 [h, w], 1 in the field; None where none was found.
    """
    if field is None:
        return ("no_retina",)
    looks = measure_statistics(found.image, field)
    if looks.surround > MAX_SURROUND:
        # No camera's mask lies around it: a fundus that was cut out fills the picture.
        looks = measure_statistics(found.image, np.ones_like(field))
    least_red = MIN_RED if looks.framed else MIN_RED_UNFRAMED
    is_fundus = (
        looks.roundness >= MIN_ROUNDNESS
        and looks.red >= least_red
        and looks.color >= MIN_COLOR
        and looks.clarity <= MAX_SHARPNESS
    )
    if not is_fundus:
        return ("not_a_fundus",)
    flags: list[Flag] = []
    if looks.light < MIN_BRIGHTNESS:
        flags.append("too_dark")
    if looks.clarity < MIN_SHARPNESS:
        flags.append("blurred")
    return tuple(flags)


def measure_statistics(image: np.ndarray, field: np.ndarray) -> ImageStatistics:
    """Measure what a photograph looks like.

    Args:
        image: uint8 RGB [h, w, 3], of a survey.
        field: uint8 [h, w], 1 in the field.
    """
    left, top, width, height = cv2.boundingRect(field)
    box = np.s_[top : top + height, left : left + width]
    red, green, blue = cv2.split(image)
    brightest = cv2.max(cv2.max(red, green), blue)
    dullest = cv2.min(cv2.min(red, green), blue)
    around = 1 - cv2.dilate(field, EDGE)
    means = [mean + 1 for mean in cv2.mean(image, mask=field)[:3]]
    light = max(cv2.mean(brightest, mask=field)[0], 1)
    framed = bool(around.any())
    return ImageStatistics(
        light=_find_median(brightest, cv2.erode(field, EDGE, borderValue=1)) / 255,
        clarity=_measure_clarity(green[box], field[box]),
        surround=_find_median(brightest, around) / light if framed else 0.0,
        roundness=_measure_roundness(field, box),
        red=means[0] / max(means[1:]),
        color=(light - cv2.mean(dullest, mask=field)[0]) / light,
        framed=framed,
    )


def _find_median(plane: np.ndarray, mask: np.ndarray) -> float:
    return float(np.median(plane[mask > 0])) if mask.any() else 0.0


def _measure_clarity(green: np.ndarray, field: np.ndarray) -> float:
    scale = SIDE / max(green.shape)
    size = [max(round(side * scale), 1) for side in green.shape[::-1]]
    shrinks = scale < 1
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    green = cv2.resize(green, size, interpolation=method)
    # The rim's edge is the camera's, not the retina's.
    inside = cv2.resize(field, size, interpolation=cv2.INTER_NEAREST)
    inside = cv2.erode(inside, RIM, borderValue=0)
    counts = cv2.calcHist([green], [0], inside, [256], [0, 256]).ravel()
    if not counts.any():
        return 0.0
    ranks = (np.cumsum(counts) - counts / 2) * (255 / counts.sum())
    equal = ranks.astype(np.float32)[green]
    detail = cv2.GaussianBlur(equal, (0, 0), FINE)
    detail -= cv2.GaussianBlur(equal, (0, 0), COARSE)
    tiles = [max(side // TILE, 1) for side in size]
    share = cv2.resize(inside.astype(np.float32), tiles, interpolation=cv2.INTER_AREA)
    energy = cv2.resize(detail**2 * inside, tiles, interpolation=cv2.INTER_AREA)
    most = share > 0.5
    if not most.any():
        return 0.0
    return float(np.exp(np.log(np.sqrt(energy[most] / share[most]) + 0.1).mean()))


def _measure_roundness(field: np.ndarray, box: tuple[slice, slice]) -> float:
    # The hull of the edge is that of all points, and found twenty times as fast.
    edge, _ = cv2.findContours(field, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(edge))
    (x, y), radius = cv2.minEnclosingCircle(hull)
    circle = np.zeros_like(field)
    cv2.circle(circle, (round(x), round(y)), round(radius), 1, cv2.FILLED)
    # Many cameras cut top and bottom off.
    cut_off = np.zeros_like(field)
    cut_off[box] = circle[box]
    both, either = cut_off & field, cut_off | field
    return cv2.countNonZero(both) / max(cv2.countNonZero(either), 1)

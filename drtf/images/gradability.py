"""Gradability: flags photographs that can hardly be graded, with the reason."""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from drtf.images.retina import (
    MIN_REDNESS_UNFRAMED,
    MIN_ROUNDNESS,
    Thumbnail,
    measure_roundness,
)

Flag = Literal["no_field", "not_a_fundus", "too_dark", "blurred"]

# Sharpness is measured at this many px per side, in tiles of 1/16 of a side. The finest
# vessels at this size lie between the two Gaussian scales.
SIDE, TILE = 160, 10
FINE_SIGMA, COARSE_SIGMA = 0.7, 1.4
RIM = np.ones((11, 11), np.uint8)
EDGE = np.ones((7, 7), np.uint8)

# Chosen on 3,755 EyePACS photographs that a clinician rated for quality, 205 IDRiD
# photographs, degraded copies of these, and other pictures: see docs/results.md.
MIN_BRIGHTNESS = 0.25
MIN_SHARPNESS = 2.0
MAX_SHARPNESS = 16.0
MIN_REDNESS = 0.9
MIN_COLORFULNESS = 0.04


class ImageStatistics(NamedTuple):
    """Statistics of a photograph that tell a gradable fundus from other pictures.

    Attributes:
        brightness: Median of the brightest channel inside the field, in [0, 1].
        sharpness: Amount of fine detail in the green channel of the field, where
            vessels and lesions have the most contrast: the root mean square of a
            difference of Gaussians, in levels of 255, as the geometric mean over tiles.
            The channel is equalized first, so that dark photographs do not count as
            blurred.
        roundness: Intersection over union of the field and its enclosing circle, which
            is cut off where the field is.
        redness: Mean red of the field divided by the larger mean of green and blue.
        colorfulness: Difference between the brightest and the darkest channel as a
            fraction of the brightest.
        is_framed: Whether there is anything around the field.
    """

    brightness: float
    sharpness: float
    roundness: float
    redness: float
    colorfulness: float
    is_framed: bool


def gradability_flags(
    thumbnail: Thumbnail, field: np.ndarray | None
) -> tuple[Flag, ...]:
    """Return the reasons why a photograph can hardly be graded, if there are any.

    Args:
        thumbnail: Thumbnail of the photograph.
        field: uint8 [h, w], 1 inside the field; None if none was found.
    """
    if field is None:
        return ("no_field",)
    statistics = measure_statistics(thumbnail.image, field)
    min_redness = MIN_REDNESS if statistics.is_framed else MIN_REDNESS_UNFRAMED
    is_fundus = (
        statistics.roundness >= MIN_ROUNDNESS
        and statistics.redness >= min_redness
        and statistics.colorfulness >= MIN_COLORFULNESS
        and statistics.sharpness <= MAX_SHARPNESS
    )
    if not is_fundus:
        return ("not_a_fundus",)
    flags: list[Flag] = []
    if statistics.brightness < MIN_BRIGHTNESS:
        flags.append("too_dark")
    if statistics.sharpness < MIN_SHARPNESS:
        flags.append("blurred")
    return tuple(flags)


def measure_statistics(image: np.ndarray, field: np.ndarray) -> ImageStatistics:
    """Measure the statistics of a photograph.

    Args:
        image: uint8 RGB [h, w, 3], of a thumbnail.
        field: uint8 [h, w], 1 inside the field.
    """
    left, top, width, height = cv2.boundingRect(field)
    box = np.s_[top : top + height, left : left + width]
    red, green, blue = cv2.split(image)
    brightest = cv2.max(cv2.max(red, green), blue)
    darkest = cv2.min(cv2.min(red, green), blue)
    around = 1 - cv2.dilate(field, EDGE)
    means = [mean + 1 for mean in cv2.mean(image, mask=field)[:3]]
    brightness = max(cv2.mean(brightest, mask=field)[0], 1)
    return ImageStatistics(
        brightness=_median(brightest, cv2.erode(field, EDGE, borderValue=1)) / 255,
        sharpness=_measure_sharpness(green[box], field[box]),
        roundness=measure_roundness(field),
        redness=means[0] / max(means[1:]),
        colorfulness=(brightness - cv2.mean(darkest, mask=field)[0]) / brightness,
        is_framed=bool(around.any()),
    )


def _median(plane: np.ndarray, mask: np.ndarray) -> float:
    return float(np.median(plane[mask > 0])) if mask.any() else 0.0


def _measure_sharpness(green: np.ndarray, field: np.ndarray) -> float:
    scale = SIDE / max(green.shape)
    size = [max(round(side * scale), 1) for side in green.shape[::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    green = cv2.resize(green, size, interpolation=method)
    # The sharp edge of the field comes from the camera, not from the retina.
    inside = cv2.resize(field, size, interpolation=cv2.INTER_NEAREST)
    inside = cv2.erode(inside, RIM, borderValue=0)
    counts = cv2.calcHist([green], [0], inside, [256], [0, 256]).ravel()
    if not counts.any():
        return 0.0
    ranks = (np.cumsum(counts) - counts / 2) * (255 / counts.sum())
    equalized = ranks.astype(np.float32)[green]
    detail = cv2.GaussianBlur(equalized, (0, 0), FINE_SIGMA)
    detail -= cv2.GaussianBlur(equalized, (0, 0), COARSE_SIGMA)
    tiles = [max(side // TILE, 1) for side in size]
    inside_fraction = cv2.resize(
        inside.astype(np.float32), tiles, interpolation=cv2.INTER_AREA
    )
    energy = cv2.resize(detail**2 * inside, tiles, interpolation=cv2.INTER_AREA)
    is_counted = inside_fraction > 0.5
    if not is_counted.any():
        return 0.0
    detail_rms = np.sqrt(energy[is_counted] / inside_fraction[is_counted])
    return float(np.exp(np.log(detail_rms + 0.1).mean()))

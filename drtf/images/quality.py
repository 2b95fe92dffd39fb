"""How good a photograph is, in a few figures that cost next to nothing."""

from typing import NamedTuple

import cv2
import numpy as np

from drtf.errors import PhotographError
from drtf.images.retina import BLACK_BELOW, Thumbnail

BLANK_BELOW = 2  # of 255, the deviation of any channel
RIM = np.ones((7, 7), np.uint8)


class Quality(NamedTuple):
    """The quality of one photograph, measured at 256 px before any equalization.

    Attributes:
        brightness: mean grey level of the field, in [0, 1].
        contrast: standard deviation of these grey levels (Peli, Contrast in complex
            images, J. Opt. Soc. Am. A, 1990), in [0, 0.5].
        sharpness: variance of the Laplacian of the field's grey levels of 0-255
            (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR
            2000), >= 0; it compares photographs of one kind of camera.
        field: share of the photograph's area that is field, in [0, 1].
        black: whether nothing in it is lit.
    """

    brightness: float
    contrast: float
    sharpness: float
    field: float
    black: bool


def measure_quality(found: Thumbnail, field: np.ndarray | None) -> Quality:
    """Measure a photograph's quality.

    Args:
        found: the photograph's survey.
        field: uint8 [h, w], 1 in the field; None where none was found: then the whole
            photograph is measured.
    """
    grey = cv2.cvtColor(found.image, cv2.COLOR_RGB2GRAY)
    inside = field
    if field is not None:
        # The rim's edge is the camera's, not the retina's.
        inside = cv2.erode(field, RIM, borderValue=1)
    mean, deviation = (x.item() for x in cv2.meanStdDev(grey, mask=inside))
    laplacian = cv2.Laplacian(grey, cv2.CV_16S)
    sharpness = cv2.meanStdDev(laplacian, mask=inside)[1].item() ** 2
    return Quality(
        brightness=mean / 255,
        contrast=deviation / 255,
        sharpness=sharpness,
        field=0.0 if field is None else float(field.mean()),
        black=int(found.brightness.max()) < BLACK_BELOW,
    )


def check_not_blank(found: Thumbnail, quality: Quality) -> None:
    """Refuse a photograph that shows nothing.

    Args:
        found: the photograph's survey.
        quality: of it.

    Raises:
        PhotographError: with reason `black` where nothing is lit, `blank` where all is
            of one colour.
    """
    if quality.black:
        raise PhotographError(
            "black", f"no part of it reaches a brightness of {BLACK_BELOW} of 255"
        )
    if cv2.meanStdDev(found.image)[1].max() < BLANK_BELOW:
        raise PhotographError(
            "blank", f"one even colour: it deviates by less than {BLANK_BELOW} of 255"
        )

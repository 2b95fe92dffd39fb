"""The quality of a photograph, as a few numbers that are quick to compute."""

from typing import NamedTuple

import cv2
import numpy as np

from drtf.errors import PhotographError
from drtf.images.retina import BLACK_BELOW, Thumbnail

MIN_DEVIATION = 2  # of 255, of at least one channel; anything below is one even color
RIM = np.ones((7, 7), np.uint8)


class Quality(NamedTuple):
    """The quality of one photograph, measured at 256 px before equalization.

    Each field is a column of a dataset's index.

    Attributes:
        brightness: Mean gray level of the field, in [0, 1].
        contrast: Standard deviation of these gray levels (Peli, Contrast in complex
            images, J. Opt. Soc. Am. A, 1990), in [0, 0.5].
        sharpness: Variance of the Laplacian of the field's gray levels of 0-255
            (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR
            2000), >= 0. Only values from similar cameras are comparable.
        field_fraction: Fraction of the photograph's area that is field, in [0, 1].
        is_black: Whether no part of the photograph is lit.
    """

    brightness: float
    contrast: float
    sharpness: float
    field_fraction: float
    is_black: bool


# The numeric fields of Quality, whose quantiles a dataset's manifest has.
QUALITY_MEASURES = tuple(
    name for name in Quality._fields if Quality.__annotations__[name] is float
)


def measure_quality(thumbnail: Thumbnail, field: np.ndarray | None) -> Quality:
    """Measure a photograph's quality.

    Args:
        thumbnail: The photograph's thumbnail.
        field: uint8 [h, w], 1 in the field; None if no field was found, in which case
            the whole photograph is measured.
    """
    gray = cv2.cvtColor(thumbnail.image, cv2.COLOR_RGB2GRAY)
    inside = field
    if field is not None:
        # The edge at the rim belongs to the camera's mask, not to the retina.
        inside = cv2.erode(field, RIM, borderValue=1)
    mean, deviation = (x.item() for x in cv2.meanStdDev(gray, mask=inside))
    laplacian = cv2.Laplacian(gray, cv2.CV_16S)
    sharpness = cv2.meanStdDev(laplacian, mask=inside)[1].item() ** 2
    return Quality(
        brightness=mean / 255,
        contrast=deviation / 255,
        sharpness=sharpness,
        field_fraction=0.0 if field is None else float(field.mean()),
        is_black=int(thumbnail.brightness.max()) < BLACK_BELOW,
    )


def check_not_blank(thumbnail: Thumbnail, quality: Quality) -> None:
    """Refuse a photograph that shows nothing.

    Args:
        thumbnail: The photograph's thumbnail.
        quality: The photograph's quality.

    Raises:
        PhotographError: With reason `black` if nothing is lit, or `blank` if the whole
            photograph has one color.
    """
    if quality.is_black:
        raise PhotographError(
            "black", f"no part of it reaches a brightness of {BLACK_BELOW} of 255"
        )
    if cv2.meanStdDev(thumbnail.image)[1].max() < MIN_DEVIATION:
        raise PhotographError(
            "blank",
            f"one even color: each channel deviates by less than {MIN_DEVIATION} of "
            "255",
        )

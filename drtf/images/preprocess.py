"""The one definition of preprocessing, shared by building and scoring."""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from drtf.config import ImagesConfig
from drtf.errors import PhotographError
from drtf.images.decode import decode_photograph
from drtf.images.quality import Quality, measure_quality, refuse_blank
from drtf.images.retina import crop_square, find_box, find_field, survey

# A scaled decode keeps this many px for each px of the target: with fewer, CLAHE's
# tiles are too coarse, and PSNR against full size falls below 38 dB.
OVERSAMPLING = 3
GRAHAM_GREY = 128
GRAHAM_GAIN = 4
GRAHAM_RADII_A_SIGMA = 30
GRAHAM_SHARE = 0.9  # of the radius; beyond it the rim's own edge is enhanced


@dataclass(frozen=True)
class Preprocessed:
    """A photograph ready for a shard or a model.

    Attributes:
        image: uint8 RGB [size, size, 3].
        field_found: whether the retina's bright field was found; where it was not, the
            whole photograph is taken for it.
        quality: of the photograph before equalization.
    """

    image: np.ndarray
    field_found: bool
    quality: Quality


def preprocess_photograph(data: bytes, config: ImagesConfig) -> Preprocessed:
    """Decode, crop, equalise and resize one photograph.

    With `decode = "exact"` it is the predecessor's way bit for bit: full decode, CLAHE
    at full size, bilinear resize. Otherwise JPEG is decoded at the smallest DCT scale
    with pixels enough, and the resize averages areas, which doesn't alias.

    Args:
        data: an image file's bytes.
        config: the `images` section.

    Raises:
        PhotographError: if the bytes can't be decoded or processed, or show nothing.
    """
    try:
        return _preprocess(data, config)
    except (cv2.error, MemoryError) as error:
        raise PhotographError("unprocessable", str(error).strip()) from error


def _preprocess(data: bytes, config: ImagesConfig) -> Preprocessed:
    exact = config.decode == "exact"
    min_side = 0 if exact else config.size * OVERSAMPLING
    image, scale = decode_photograph(data, min_side=min_side)
    small = survey(image)
    field = find_field(small)
    quality = measure_quality(small, field)
    if config.reject_blank:
        refuse_blank(small, quality)
    area = np.ones_like(small[..., 0]) if field is None else field
    if config.crop == "retina":
        box = find_box(area, image.shape)
        missing = min_side / max(box.right - box.left, box.bottom - box.top)
        if scale > 1 and missing > 1:  # a field much smaller than its photograph
            image = decode_photograph(
                data, min_side=math.ceil(min(image.shape[:2]) * missing)
            ).image
            box = find_box(area, image.shape)
        image = crop_square(image, box)
    size = (config.size, config.size)
    shrinks = min(image.shape[:2]) >= config.size
    resize = functools.partial(
        cv2.resize,
        dsize=size,
        interpolation=cv2.INTER_AREA if shrinks and not exact else cv2.INTER_LINEAR,
    )
    if config.contrast == "clahe":
        lab = equalize_lightness(
            image, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles
        )
        if exact:
            image = resize(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
        else:  # fewer px to convert, with the same picture
            image = cv2.cvtColor(resize(lab), cv2.COLOR_LAB2RGB)
    elif config.contrast == "graham":
        image = resize(subtract_local_average(image))
    else:
        image = resize(image)
    if config.mask and field is not None:
        grey = GRAHAM_GREY if config.contrast == "graham" else 0
        image[_find_outside(field, config)] = grey
    return Preprocessed(image, field is not None, quality)


def _find_outside(field: np.ndarray, config: ImagesConfig) -> np.ndarray:
    """Return bool [size, size], True outside the field; Graham took its rim off too."""
    if config.crop == "retina":
        field = crop_square(field, find_box(field, field.shape))
    if config.contrast == "graham":
        rim = 2 * round((1 - GRAHAM_SHARE) / 2 * max(field.shape)) + 1
        field = cv2.erode(
            field, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim))
        )
    field = cv2.resize(field * 255, (config.size, config.size))
    return field < 128


def equalize_lightness(
    image: np.ndarray, *, clip_limit: float, tiles: int
) -> np.ndarray:
    """Apply contrast-limited adaptive histogram equalization to L of CIELAB.

    Zuiderveld, Contrast Limited Adaptive Histogram Equalization, Graphics Gems IV,
    1994, as implemented by OpenCV.

    Args:
        image: uint8 RGB [H, W, 3].
        clip_limit: the bound of a histogram bin, as a multiple of the mean.
        tiles: tiles along each side.

    Returns:
        uint8 CIELAB [H, W, 3], as OpenCV scales it to 0-255.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    return cv2.insertChannel(clahe.apply(cv2.extractChannel(lab, 0)), lab, 0)


def subtract_local_average(image: np.ndarray) -> np.ndarray:
    """Take the local average colour off, and raise what is left fourfold.

    As the winner of the 2015 Kaggle competition did (Graham, Kaggle Diabetic
    Retinopathy Detection competition report, 2015): the average is Gaussian, its sigma
    a thirtieth of the field's radius, and the new mean is 128.

    Args:
        image: uint8 RGB [H, W, 3], the field filling its longer side.

    Returns:
        uint8 RGB [H, W, 3].
    """
    sigma = max(image.shape[:2]) / 2 / GRAHAM_RADII_A_SIGMA
    average = cv2.GaussianBlur(image, (0, 0), sigma)
    return cv2.addWeighted(image, GRAHAM_GAIN, average, -GRAHAM_GAIN, GRAHAM_GREY)


def encode_image(image: np.ndarray, encoding: str, *, jpeg_quality: int) -> bytes:
    """Encode pixels as they stand in a record.

    Args:
        image: uint8 RGB [H, W, 3].
        encoding: `raw`, `png` or `jpeg`.
        jpeg_quality: 1-100, for `jpeg`.
    """
    if encoding == "raw":
        return image.tobytes()
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if encoding == "jpeg" else []
    _, data = cv2.imencode(f".{encoding}", bgr, options)
    return data.tobytes()


def decode_image(data: np.ndarray, encoding: str, *, size: int) -> np.ndarray:
    """Decode a record's image; the inverse of `encode_image` up to JPEG's loss.

    Args:
        data: uint8 [n], the record's image bytes.
        encoding: `raw`, `png` or `jpeg`.
        size: height and width in px.

    Returns:
        uint8 RGB [size, size, 3].
    """
    if encoding == "raw":
        return data.reshape(size, size, 3)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def limit_threads() -> None:
    """Keep OpenCV to one thread, as each process of a pool should be."""
    cv2.setNumThreads(1)

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
from drtf.images.retina import Survey, cut, find_field, find_frame, survey

# A scaled decode keeps this many px for each px of the target, and CLAHE gets tiles of
# this many px, enlarged where need be: with fewer its histograms are too coarse, and
# PSNR against full size falls below 38 dB.
OVERSAMPLING = 2
MIN_TILE_SIDE = 48
MAX_WORKING_SCALE = 8
GRAHAM_GREY = 128
GRAHAM_GAIN = 4
GRAHAM_RADII_A_SIGMA = 30
GRAHAM_SHARE = 0.9  # of the radius; beyond it the rim's own edge is enhanced


@dataclass(frozen=True)
class Preprocessed:
    """A photograph ready for a shard or a model.

    Attributes:
        image: uint8 RGB [size, size, 3].
        survey: of the photograph before equalization.
        field: uint8 [h, w], 1 in the retina's bright field of the survey; None where
            none was found: then the whole photograph is taken for it.
        quality: of the photograph before equalization.
    """

    image: np.ndarray
    survey: Survey
    field: np.ndarray | None
    quality: Quality


def preprocess_photograph(data: bytes, config: ImagesConfig) -> Preprocessed:
    """Decode, crop, equalise and resize one photograph.

    With `decode = "exact"` it is the predecessor's way bit for bit: full decode, CLAHE
    at full size, bilinear resize. Otherwise it is shrunk in decoding while enough
    pixels remain, and the resize averages areas, which doesn't alias.

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
    found = survey(image)
    field = find_field(found.brightness)
    quality = measure_quality(found, field)
    if config.reject_blank:
        refuse_blank(found, quality)
    mask = np.ones_like(found.brightness) if field is None else field
    if config.crop == "retina":
        frame = find_frame(mask, image.shape, scale=scale)
        if scale > 1 and frame.side < min_side * scale:
            # A field much smaller than its photograph is decoded at a finer scale.
            finer = min_side * scale / frame.side * min(image.shape[:2])
            image, scale = decode_photograph(data, min_side=math.ceil(finer))
        if config.mask:
            mask = cut(cv2.resize(mask, image.shape[1::-1]), frame, scale=scale)
        image = cut(image, frame, scale=scale)
    if config.contrast == "graham":
        image = subtract_local_average(image)
    if config.contrast == "clahe":
        image = _equalize(image, config)
    else:
        image = _resize(image, config)
    if config.mask:
        image = _paint_outside(image, mask, config)
    return Preprocessed(image, found, field, quality)


def _equalize(image: np.ndarray, config: ImagesConfig) -> np.ndarray:
    equalize = functools.partial(
        equalize_lightness, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles
    )
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness = cv2.extractChannel(lab, 0)
    if config.decode == "exact":
        lab = cv2.insertChannel(equalize(lightness), lab, 0)
        return _resize(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), config)
    # A whole multiple of the target, so that each of its px averages whole blocks.
    size = config.size
    factor = math.ceil(MIN_TILE_SIDE * config.clahe_tiles / size)
    least = size * min(factor, MAX_WORKING_SCALE)
    sides = [math.ceil(max(side, least) / size) * size for side in lab.shape[1::-1]]
    lightness = equalize(cv2.resize(lightness, sides, interpolation=cv2.INTER_LINEAR))
    # Shrunk before it is converted back, which takes far fewer px; colours vary so
    # slowly that halfway they need no averaging.
    lab = cv2.resize(lab, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)
    lab = cv2.insertChannel(_resize(lightness, config), _resize(lab, config), 0)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _resize(image: np.ndarray, config: ImagesConfig) -> np.ndarray:
    shrinks = min(image.shape[:2]) >= config.size
    averages = shrinks and config.decode == "scaled"
    return cv2.resize(
        image,
        (config.size, config.size),
        interpolation=cv2.INTER_AREA if averages else cv2.INTER_LINEAR,
    )


def _paint_outside(
    image: np.ndarray, mask: np.ndarray, config: ImagesConfig
) -> np.ndarray:
    """Make all black, or grey, outside the field; Graham took its rim off too."""
    mask = cv2.resize(mask * 255, image.shape[:2])
    grey = 0
    if config.contrast == "graham":
        grey = GRAHAM_GREY
        rim = 2 * round((1 - GRAHAM_SHARE) / 2 * max(cv2.boundingRect(mask)[2:])) + 1
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim))
        mask = cv2.erode(mask, ellipse, borderValue=0)
    return np.where(mask[..., None] < 128, np.uint8(grey), image)


def equalize_lightness(
    lightness: np.ndarray, *, clip_limit: float, tiles: int
) -> np.ndarray:
    """Apply contrast-limited adaptive histogram equalization.

    Zuiderveld, Contrast Limited Adaptive Histogram Equalization, Graphics Gems IV,
    1994, as implemented by OpenCV.

    Args:
        lightness: uint8 [H, W], L of CIELAB.
        clip_limit: the bound of a histogram bin, as a multiple of the mean.
        tiles: tiles along each side.

    Returns:
        uint8 [H, W].
    """
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    return clahe.apply(lightness)


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
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def find_image_fault(data: np.ndarray, encoding: str, size: int) -> str:
    """Tell what is wrong with a record's image, or return an empty string.

    Args:
        data: uint8 [n], the record's image bytes.
        encoding: `raw`, `png` or `jpeg`.
        size: the height and width in px that it should have.
    """
    if encoding == "raw":
        expected = size * size * 3
        return "" if len(data) == expected else f"{len(data)} of {expected} image bytes"
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None:
        return f"its {encoding} image can't be decoded"
    if image.shape != (size, size, 3):
        return f"its image is {image.shape}, the manifest says {(size, size, 3)}"
    return ""


def limit_threads() -> None:
    """Keep OpenCV to one thread, as each process of a pool should be."""
    cv2.setNumThreads(1)

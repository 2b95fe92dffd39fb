"""Preprocessing of a photograph: the same code for building and for scoring."""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from drtf.config import ImagesConfig
from drtf.errors import PhotographError
from drtf.images.decode import check_memory, decode_photograph
from drtf.images.quality import Quality, check_not_blank, measure_quality
from drtf.images.retina import (
    Square,
    Thumbnail,
    build_thumbnail,
    crop,
    find_field,
    square_around,
)

# A scaled decode keeps at least this many px per px of the target. CLAHE tiles have at
# least this many px per side, if need be by enlarging: with fewer, its histograms are
# too coarse, and the PSNR against full-size processing falls below 38 dB.
OVERSAMPLING = 2
MIN_TILE_SIDE = 48
MAX_WORKING_SCALE = 8
# The largest photographs that are allowed take half of it.
MAX_MEMORY_BYTES = 2_500_000_000
GRAHAM_GRAY = 128
GRAHAM_GAIN = 4
GRAHAM_SIGMAS_PER_RADIUS = 30
# Fraction of the radius that is kept; beyond it, the edge of the field is enhanced.
GRAHAM_RADIUS_FRACTION = 0.9


@dataclass(frozen=True)
class Preprocessed:
    """A photograph ready for a shard or a model.

    Attributes:
        image: uint8 RGB [size, size, 3].
        thumbnail: The photograph before contrast enhancement, shrunk.
        field: uint8 [h, w], 1 inside the retina's field of the thumbnail. None if none
            was found; the whole photograph is used then.
        square: The part of the full-size photograph that the image shows. None if it
            shows the whole photograph.
        quality: Quality measures of the photograph before contrast enhancement.
    """

    image: np.ndarray
    thumbnail: Thumbnail
    field: np.ndarray | None
    square: Square | None
    quality: Quality


def preprocess_photograph(data: bytes, config: ImagesConfig) -> Preprocessed:
    """Decode, crop, enhance and resize one photograph.

    `decode = "exact"` reproduces the notebook bit for bit: full decode, CLAHE at full
    size, bilinear resize. Otherwise the photograph is shrunk during decoding while
    enough pixels remain, and the resize averages areas, which avoids aliasing.

    Args:
        data: Bytes of an image file.
        config: The `images` section.

    Raises:
        PhotographError: If the bytes cannot be decoded or processed, or the photograph
            is blank.
        MemoryError: If there is less memory than a photograph may need.
    """
    try:
        return _preprocess(data, config)
    except (cv2.error, MemoryError) as error:
        if isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem:
            check_memory(MAX_MEMORY_BYTES)
        raise PhotographError("unprocessable", str(error).strip()) from error


def _preprocess(data: bytes, config: ImagesConfig) -> Preprocessed:
    exact = config.decode == "exact"
    min_side = 0 if exact else config.size * OVERSAMPLING
    image, scale = decode_photograph(data, min_side=min_side)
    thumbnail = build_thumbnail(image)
    field = find_field(thumbnail)
    quality = measure_quality(thumbnail, field)
    if config.reject_blank:
        check_not_blank(thumbnail, quality)
    mask = np.ones_like(thumbnail.brightness) if field is None else field
    square = None
    if config.crop == "retina":
        square = square_around(mask, image.shape, scale=scale)
        if scale > 1 and square.side < min_side * scale:
            # A field much smaller than its photograph needs a larger decoding scale.
            finer = min_side * scale / square.side * min(image.shape[:2])
            image, scale = decode_photograph(data, min_side=math.ceil(finer))
        if config.mask:
            mask = crop(cv2.resize(mask, image.shape[1::-1]), square, scale=scale)
        image = crop(image, square, scale=scale)
    if config.contrast == "graham":
        image = subtract_local_average(image)
    if config.contrast == "clahe":
        image = _equalize(image, config)
    else:
        image = _resize(image, config)
    if config.mask:
        image = _paint_outside(image, mask, config)
    return Preprocessed(image, thumbnail, field, square, quality)


def _equalize(image: np.ndarray, config: ImagesConfig) -> np.ndarray:
    equalize = functools.partial(
        equalize_lightness, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles
    )
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness = cv2.extractChannel(lab, 0)
    if config.decode == "exact":
        lab = cv2.insertChannel(equalize(lightness), lab, 0)
        return _resize(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), config)
    # A whole multiple of the target size, so that each px averages whole blocks.
    size = config.size
    factor = math.ceil(MIN_TILE_SIDE * config.clahe_tiles / size)
    min_side = size * min(factor, MAX_WORKING_SCALE)
    sides = [math.ceil(max(side, min_side) / size) * size for side in lab.shape[1::-1]]
    lightness = equalize(cv2.resize(lightness, sides, interpolation=cv2.INTER_LINEAR))
    # Shrinking before the conversion back to RGB saves most of its work. Colors vary
    # so slowly that the first half of the shrinking needs no averaging.
    lab = cv2.resize(lab, (2 * size, 2 * size), interpolation=cv2.INTER_LINEAR)
    lab = cv2.insertChannel(_resize(lightness, config), _resize(lab, config), 0)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _resize(image: np.ndarray, config: ImagesConfig) -> np.ndarray:
    is_shrinking = min(image.shape[:2]) >= config.size
    is_averaging = is_shrinking and config.decode == "scaled"
    return cv2.resize(
        image,
        (config.size, config.size),
        interpolation=cv2.INTER_AREA if is_averaging else cv2.INTER_LINEAR,
    )


def _paint_outside(
    image: np.ndarray, mask: np.ndarray, config: ImagesConfig
) -> np.ndarray:
    """Paint everything outside the field black; with Graham's contrast, gray.

    Graham also removed the rim of the field.
    """
    mask = cv2.resize(mask * 255, image.shape[:2])
    gray = 0
    if config.contrast == "graham":
        gray = GRAHAM_GRAY
        rim = (
            2
            * round((1 - GRAHAM_RADIUS_FRACTION) / 2 * max(cv2.boundingRect(mask)[2:]))
            + 1
        )
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim))
        mask = cv2.erode(mask, ellipse, borderValue=0)
    return np.where(mask[..., None] < 128, np.uint8(gray), image)


def equalize_lightness(
    lightness: np.ndarray, *, clip_limit: float, tiles: int
) -> np.ndarray:
    """Apply contrast-limited adaptive histogram equalization.

    Zuiderveld, Contrast Limited Adaptive Histogram Equalization, Graphics Gems IV,
    1994, as implemented by OpenCV.

    Args:
        lightness: uint8 [H, W], L of CIELAB.
        clip_limit: Upper bound of a histogram bin, as a multiple of the mean.
        tiles: Number of tiles along each side.

    Returns:
        uint8 [H, W].
    """
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    return clahe.apply(lightness)


def subtract_local_average(image: np.ndarray) -> np.ndarray:
    """Subtract the local average color and multiply the rest by four.

    This is the method of the winner of the 2015 Kaggle competition (Graham, Kaggle
    Diabetic Retinopathy Detection competition report, 2015): a Gaussian average whose
    sigma is 1/30 of the field's radius, and a new mean of 128.

    Args:
        image: uint8 RGB [H, W, 3]; the field fills the longer side.

    Returns:
        uint8 RGB [H, W, 3].
    """
    sigma = max(image.shape[:2]) / 2 / GRAHAM_SIGMAS_PER_RADIUS
    average = cv2.GaussianBlur(image, (0, 0), sigma)
    return cv2.addWeighted(image, GRAHAM_GAIN, average, -GRAHAM_GAIN, GRAHAM_GRAY)


def encode_image(image: np.ndarray, encoding: str, *, jpeg_quality: int = 95) -> bytes:
    """Encode pixels for a record.

    Args:
        image: uint8 RGB [H, W, 3].
        encoding: `raw`, `png` or `jpeg`.
        jpeg_quality: 1-100; used for `jpeg` only.
    """
    if encoding == "raw":
        return image.tobytes()
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if encoding == "jpeg" else []
    _, data = cv2.imencode(f".{encoding}", bgr, options)
    return data.tobytes()


def decode_image(data: np.ndarray, encoding: str, *, size: int) -> np.ndarray:
    """Decode a record's image: the inverse of `encode_image`, except for JPEG's loss.

    Args:
        data: uint8 [n], the encoded image.
        encoding: `raw`, `png` or `jpeg`.
        size: Height and width in px.

    Returns:
        uint8 RGB [size, size, 3].
    """
    if encoding == "raw":
        return data.reshape(size, size, 3)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def find_image_fault(data: np.ndarray, encoding: str, size: int) -> str:
    """Find the first fault of a record's image.

    Args:
        data: uint8 [n], the encoded image.
        encoding: `raw`, `png` or `jpeg`.
        size: Expected height and width in px.

    Returns:
        A description of the fault, empty if there is none.
    """
    if encoding == "raw":
        expected = size * size * 3
        return "" if len(data) == expected else f"{len(data)} of {expected} image bytes"
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None:
        return f"the {encoding} image cannot be decoded"
    if image.shape != (size, size, 3):
        return f"the image is {image.shape}; the manifest says {(size, size, 3)}"
    return ""


def limit_threads() -> None:
    """Limit OpenCV to one thread, for a worker process in a pool."""
    cv2.setNumThreads(1)

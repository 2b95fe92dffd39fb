"""The one definition of preprocessing, shared by building and scoring."""

from dataclasses import dataclass

import cv2
import numpy as np

from drtf.config import ImagesConfig
from drtf.errors import PhotographError
from drtf.images.decode import decode_photograph
from drtf.images.retina import crop_square, find_retina

# A scaled decode keeps this many px for each px of the target, so that CLAHE and the
# area resize still have something to average.
OVERSAMPLING = 2


@dataclass(frozen=True)
class Preprocessed:
    """A photograph ready for a shard or a model.

    Attributes:
        image: uint8 RGB [size, size, 3].
        retina_found: False where a crop was asked for and no field could be found;
            the photograph is then left uncropped.
    """

    image: np.ndarray
    retina_found: bool


def preprocess_photograph(data: bytes, config: ImagesConfig) -> Preprocessed:
    """Decode, crop, equalise and resize one photograph.

    With `decode = "exact"` it is the predecessor's way bit for bit: full decode, CLAHE
    at full size, bilinear resize. Otherwise JPEG is decoded at the smallest DCT scale
    with pixels enough, and the resize averages areas, which doesn't alias.

    Args:
        data: an image file's bytes.
        config: the `images` section.

    Raises:
        PhotographError: if the bytes can't be decoded or processed.
    """
    try:
        return _preprocess(data, config)
    except (cv2.error, MemoryError) as error:
        raise PhotographError("unprocessable", str(error).strip()) from error


def _preprocess(data: bytes, config: ImagesConfig) -> Preprocessed:
    exact = config.decode == "exact"
    min_side = 0 if exact else config.size * OVERSAMPLING
    image = decode_photograph(data, min_side=min_side)
    retina_found = True
    if config.crop == "retina":
        box = find_retina(image)
        retina_found = box is not None
        if box is not None:
            image = crop_square(image, box)
    if config.contrast == "clahe":
        image = equalize(
            image, clip_limit=config.clahe_clip_limit, tiles=config.clahe_tiles
        )
    shrinks = min(image.shape[:2]) >= config.size
    interpolation = cv2.INTER_AREA if shrinks and not exact else cv2.INTER_LINEAR
    size = (config.size, config.size)
    image = cv2.resize(image, size, interpolation=interpolation)
    return Preprocessed(image, retina_found)


def equalize(image: np.ndarray, *, clip_limit: float, tiles: int) -> np.ndarray:
    """Apply contrast-limited adaptive histogram equalization to L of CIELAB.

    Zuiderveld, Contrast Limited Adaptive Histogram Equalization, Graphics Gems IV,
    1994, as implemented by OpenCV.

    Args:
        image: uint8 RGB [H, W, 3].
        clip_limit: the bound of a histogram bin, as a multiple of the mean.
        tiles: tiles along each side.

    Returns:
        uint8 RGB [H, W, 3].
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lightness = np.ascontiguousarray(lab[..., 0])
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    lab[..., 0] = clahe.apply(lightness)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


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

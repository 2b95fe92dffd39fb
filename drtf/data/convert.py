"""The conversion of one photograph, as each process of the pool does it."""

import hashlib
from typing import NamedTuple

from drtf.config import BuildConfig, ImagesConfig
from drtf.data.photographs import Handle, load_photograph
from drtf.errors import PhotographError
from drtf.images.preprocess import encode_image, preprocess_photograph
from drtf.images.quality import Quality


class Converted(NamedTuple):
    """A photograph as it will stand in a record.

    Attributes:
        image: the stored bytes.
        sha256: of the photograph's file.
        field_found: whether the retina's field was found.
        quality: of the photograph.
    """

    image: bytes
    sha256: str
    field_found: bool
    quality: Quality


def convert_photograph(
    handle: Handle, *, images: ImagesConfig, build: BuildConfig
) -> Converted | PhotographError:
    """Read a photograph's file once, and convert it; or return why it can't be used.

    Args:
        handle: what to have its bytes by.
        images: what is made of its pixels.
        build: how they are encoded.
    """
    if isinstance(handle, tuple) and not _is_utf8(handle[1]):
        return PhotographError("unreadable", "its path is not UTF-8, as an index needs")
    try:
        data = load_photograph(handle)
        result = preprocess_photograph(data, images)
    except PhotographError as error:
        return error
    return Converted(
        encode_image(result.image, build.encoding, jpeg_quality=build.jpeg_quality),
        hashlib.sha256(data).hexdigest(),
        result.field is not None,
        result.quality,
    )


def report_death(handle: Handle) -> PhotographError:
    """Return why a photograph can't be used whose conversion ends its process."""
    return PhotographError(
        "unprocessable",
        "a process that converted it alone died: for want of memory, or since its "
        "damage crashes the decoder",
    )


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True

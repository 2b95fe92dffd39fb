"""A photograph as a network takes it, as each process of the pool makes it."""

from typing import NamedTuple

import numpy as np

from drtf.config import Encoding, ImagesConfig
from drtf.data.photographs import Handle, load_photograph
from drtf.errors import PhotographError
from drtf.images.gradability import Flag, gradability_flags
from drtf.images.preprocess import decode_image, encode_image, preprocess_photograph


class Prepared(NamedTuple):
    """A photograph as the network takes it, or why there is none.

    `image` is uint8 RGB [size, size, 3], or None where `error` is not empty; `picture`
    is the same at another size, to be shown, if it was asked for; `flags` say why the
    photograph can hardly be graded.
    """

    path: str = ""
    image: np.ndarray | None = None
    picture: np.ndarray | None = None
    flags: tuple[Flag, ...] = ()
    error: str = ""


def prepare_photograph(
    handle: Handle,
    *,
    images: ImagesConfig,
    encoding: Encoding,
    jpeg_quality: int,
    picture_size: int = 0,
) -> Prepared:
    """Read a photograph's file, and make of it what would come out of shards.

    Args:
        handle: what to have its bytes by.
        images: what is made of its pixels.
        encoding: of the shards.
        jpeg_quality: of these, for `jpeg`.
        picture_size: of a picture to be shown, in px; 0 is none.
    """
    picture = None
    try:
        data = load_photograph(handle)
        found = preprocess_photograph(data, images)
        if picture_size:
            shown = images.model_copy(update={"size": picture_size})
            picture = preprocess_photograph(data, shown).image
    except PhotographError as error:
        return Prepared(error=str(error))
    image = found.image
    if encoding == "jpeg":  # its loss is in the shards too
        stored = encode_image(image, "jpeg", jpeg_quality=jpeg_quality)
        image = decode_image(np.frombuffer(stored, np.uint8), "jpeg", size=images.size)
    return Prepared(
        image=image, picture=picture, flags=gradability_flags(found.survey, found.field)
    )

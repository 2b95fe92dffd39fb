"""The preparation of photographs, which building and scoring share.

These functions run in worker processes, so this module must not import TensorFlow.
"""

import hashlib
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from drtf.config import BuildConfig, Encoding, ImagesConfig
from drtf.errors import PhotographError
from drtf.images.gradability import Flag, gradability_flags
from drtf.images.preprocess import (
    Preprocessed,
    decode_image,
    encode_image,
    limit_threads,
    preprocess_photograph,
)
from drtf.images.quality import Quality
from drtf.photographs.references import PhotographRef, prefetch_photographs
from drtf.workers import TIMEOUT_SIGNAL, map_in_order, open_workers

Result = TypeVar("Result")
StartPreparation = Callable[
    [Callable[[PhotographRef], Any], PhotographRef], "Future[Any]"
]

# The largest photographs that are allowed take a tenth of it.
MAX_CPU_SECONDS = 120


@dataclass(frozen=True)
class Rejected:
    """A photograph that cannot be used.

    Attributes:
        path: Its path relative to the image folder.
        reason: A word from a fixed vocabulary, such as `undecodable`.
        detail: What exactly was wrong.
    """

    path: str
    reason: str
    detail: str

    def __str__(self) -> str:
        """Return `reason: detail`."""
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class Prepared:
    """A photograph that was read and preprocessed.

    Attributes:
        path: Its path relative to the image folder.
        data: The bytes of its file.
        preprocessed: The preprocessed image, and what was measured on the way.
        picture: The same at another size, uint8 RGB [picture_size, picture_size, 3],
            or None if no picture was requested.
    """

    path: str
    data: bytes
    preprocessed: Preprocessed
    picture: np.ndarray | None


@dataclass(frozen=True)
class ShardImage:
    """A photograph as a shard stores it.

    Attributes:
        path: Its path relative to the image folder.
        data: The encoded image.
        sha256: Hash of the photograph's file.
        has_field: Whether the retina's field was found.
        quality: The photograph's quality before equalization.
    """

    path: str
    data: bytes
    sha256: str
    has_field: bool
    quality: Quality


@dataclass(frozen=True)
class NetworkInput:
    """A photograph as a network takes it.

    Attributes:
        path: Its path relative to the image folder.
        sha256: Hash of the photograph's file.
        image: uint8 RGB [size, size, 3], equal to the image that a shard would hold.
        flags: Why the photograph may be ungradable; empty if it looks gradable.
        picture: The same at another size, uint8 RGB [picture_size, picture_size, 3],
            or None if no picture was requested.
    """

    path: str
    sha256: str
    image: np.ndarray
    flags: tuple[Flag, ...]
    picture: np.ndarray | None


def prepare(
    photograph: PhotographRef, *, images: ImagesConfig, picture_size: int = 0
) -> Prepared | Rejected:
    """Read a photograph once and preprocess it.

    Args:
        photograph: The photograph; it may be prefetched.
        images: How to preprocess it.
        picture_size: Side in px of an additional picture to display; 0 means none.

    Raises:
        StorageError: If the object store fails.
    """
    picture = None
    try:
        data = photograph.read()
        preprocessed = preprocess_photograph(data, images)
        if picture_size:
            resized = images.model_copy(update={"size": picture_size})
            picture = preprocess_photograph(data, resized).image
    except PhotographError as error:
        return Rejected(photograph.path, error.reason, error.detail)
    return Prepared(photograph.path, data, preprocessed, picture)


def prepare_for_shard(
    photograph: PhotographRef, *, images: ImagesConfig, build: BuildConfig
) -> ShardImage | Rejected:
    """Prepare a photograph and encode its image for a shard.

    Args:
        photograph: The photograph; it may be prefetched.
        images: How to preprocess it.
        build: How to encode it.

    Raises:
        StorageError: If the object store fails.
    """
    prepared = prepare(photograph, images=images)
    if isinstance(prepared, Rejected):
        return prepared
    result = prepared.preprocessed
    return ShardImage(
        path=prepared.path,
        data=encode_image(
            result.image, build.encoding, jpeg_quality=build.jpeg_quality
        ),
        sha256=hashlib.sha256(prepared.data).hexdigest(),
        has_field=result.field is not None,
        quality=result.quality,
    )


def prepare_for_network(
    photograph: PhotographRef,
    *,
    images: ImagesConfig,
    encoding: Encoding,
    jpeg_quality: int,
    picture_size: int = 0,
) -> NetworkInput | Rejected:
    """Prepare a photograph as it would come out of the shards trained on.

    Args:
        photograph: The photograph; it may be prefetched.
        images: How to preprocess it.
        encoding: Encoding of the shards. JPEG's loss is applied here too.
        jpeg_quality: JPEG quality of the shards, 1-100.
        picture_size: Side in px of an additional picture to display; 0 means none.

    Raises:
        StorageError: If the object store fails.
    """
    prepared = prepare(photograph, images=images, picture_size=picture_size)
    if isinstance(prepared, Rejected):
        return prepared
    result = prepared.preprocessed
    image = result.image
    if encoding == "jpeg":
        stored = encode_image(image, "jpeg", jpeg_quality=jpeg_quality)
        image = decode_image(np.frombuffer(stored, np.uint8), "jpeg", size=images.size)
    return NetworkInput(
        path=prepared.path,
        sha256=hashlib.sha256(prepared.data).hexdigest(),
        image=image,
        flags=gradability_flags(result.thumbnail, result.field),
        picture=prepared.picture,
    )


def map_photographs(
    function: Callable[[PhotographRef], Result],
    photographs: Iterable[PhotographRef],
    *,
    num_workers: int,
) -> Generator[Result | Rejected, None, None]:
    """Apply a function to photographs in worker processes, in order.

    A photograph that crashes its process, or takes more than MAX_CPU_SECONDS of CPU
    time, is rejected. What is the machine's fault is an error: the same command may
    succeed later.

    Args:
        function: `prepare_for_shard` or `prepare_for_network`, with its settings.
        photographs: The photographs; remote ones are read ahead.
        num_workers: See `map_in_order`.

    Raises:
        StorageError: If the object store fails.
        DrtfError: If a photograph cannot be read or processed, although nothing is
            wrong with it.
    """
    return map_in_order(
        function,
        prefetch_photographs(photographs),
        num_workers=num_workers,
        initializer=limit_threads,
        max_cpu_seconds=MAX_CPU_SECONDS,
        on_crash=_reject_crashed,
    )


@dataclass(frozen=True)
class _Work:
    """A photograph and what to do with it."""

    function: Callable[[PhotographRef], Any]
    photograph: PhotographRef

    def __str__(self) -> str:
        return str(self.photograph)


@contextmanager
def open_preparation(*, num_workers: int) -> Iterator[StartPreparation]:
    """Keep worker processes for photographs that arrive one by one.

    They reject and fail as those of `map_photographs` do.

    Args:
        num_workers: See `open_workers`.

    Yields:
        A function that applies a function, as for `map_photographs`, to a photograph in
        the next free process.
    """
    with open_workers(
        _work,
        num_workers=num_workers,
        initializer=limit_threads,
        max_cpu_seconds=MAX_CPU_SECONDS,
        on_crash=lambda work, cause: _reject_crashed(work.photograph, cause),
    ) as start:
        yield lambda function, photograph: start(_Work(function, photograph))


def _work(work: _Work) -> Any:
    return work.function(work.photograph)


def _reject_crashed(photograph: PhotographRef, cause: signal.Signals) -> Rejected:
    detail = f"decoding it crashes the process ({cause.name})"
    if cause == TIMEOUT_SIGNAL:
        detail = f"decoding it takes more than {MAX_CPU_SECONDS} s of CPU time"
    return Rejected(photograph.path, "unprocessable", detail)

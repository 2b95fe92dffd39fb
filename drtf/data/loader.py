"""Loading batches: on all cores, into memory that is used again."""

import itertools
import logging
import math
import weakref
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from drtf.config import OnCorrupt
from drtf.errors import DamagedRecordError, RecordError
from drtf.images.preprocess import decode_image
from drtf.records.reader import ShardDataset
from drtf.workers import count_workers

ALIGNMENT = 64

_log = logging.getLogger(__name__)


def read_batch(
    shards: ShardDataset, rows: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Read and decode the images of some records.

    Args:
        shards: an open set.
        rows: int64 [B], rows of its index.
        out: uint8 [B, H, W, 3], contiguous, to fill; without it a new array is made.

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        DamagedRecordError: at a damaged record.
    """
    size, encoding = shards.manifest.image_size, shards.manifest.encoding
    images = np.empty((len(rows), size, size, 3), np.uint8) if out is None else out
    if encoding == "raw":
        shards.read_pixels(rows, images)
    else:
        for image, data in zip(images, shards.read_images(rows), strict=True):
            image[...] = decode_image(data, encoding, size=size)
    return images


class Loader:
    """Loads batches into memory that is used again once TensorFlow lets go of it."""

    def __init__(
        self,
        shards: ShardDataset,
        rows: np.ndarray,
        classes: np.ndarray,
        *,
        on_corrupt: OnCorrupt,
    ) -> None:
        self._shards = shards
        self._rows = rows
        self._classes = classes
        self._on_corrupt = on_corrupt
        self._free: list[np.ndarray] = []
        # Raw images are read by threads that need no interpreter; others are decoded
        # by these, one part of a batch by the calling one.
        self._num_parts = 1 if shards.manifest.encoding == "raw" else count_workers(0)
        self._threads = ThreadPoolExecutor(max(self._num_parts - 1, 1))

    def __call__(
        self, examples: np.ndarray, num_images: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Load a batch, using all cores.

        Args:
            examples: int64 [B], positions in `rows`.
            num_images: of the array to return, where it is to have more than B.

        Returns:
            uint8 RGB [B, H, W, 3], and int64 [B] of the examples that it shows: others
            than asked for where damaged records were skipped.
        """
        count = len(examples)
        images = self._take(num_images or count)
        cuts = [count * x // self._num_parts for x in range(self._num_parts + 1)]
        parts = [slice(*ends) for ends in itertools.pairwise(cuts)]
        others = [
            self._threads.submit(self._load, examples[part], images[part])
            for part in parts[1:]
        ]
        try:
            shown = [self._load(examples[parts[0]], images[parts[0]])]
        finally:
            wait(others)  # nobody writes to memory that was let go
        return images, np.concatenate(shown + [other.result() for other in others])

    def _load(self, examples: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Fill `images`; return the examples that they show."""
        while True:
            if self._on_corrupt == "skip":
                examples = self._replace_damaged(examples)
            try:
                read_batch(self._shards, self._rows[examples], images)
            except DamagedRecordError as error:
                if self._on_corrupt == "error":
                    raise
                self._shards.damaged[error.row] = str(error)
                _log.warning("skipped: %s", error)
            else:
                return examples

    def _replace_damaged(self, examples: np.ndarray) -> np.ndarray:
        """Put the next photograph of its class in each damaged one's place."""
        damaged = self._shards.damaged
        if not damaged:
            return examples
        lost = np.isin(self._rows, list(damaged))
        examples = examples.copy()
        for place in np.flatnonzero(lost[examples]):
            example = examples[place]
            like = (self._classes == self._classes[example]) & ~lost
            whole = np.flatnonzero(like)
            if not len(whole):
                raise RecordError(
                    f"every record of a class is damaged; run drtf verify "
                    f"{self._shards.folder}"
                )
            after = np.searchsorted(whole, example)
            examples[place] = whole[after % len(whole)]
        return examples

    def _take(self, num_images: int) -> np.ndarray:
        """Lend an array [num_images, H, W, 3]; it is free again when it is let go."""
        size = self._shards.manifest.image_size
        shape = (num_images, size, size, 3)
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.size < math.prod(shape):
            # TensorFlow takes memory over as it is where it begins at a multiple of 64.
            room = np.empty(math.prod(shape) + ALIGNMENT, np.uint8)
            buffer = room[-room.ctypes.data % ALIGNMENT :][: math.prod(shape)]
        lent = buffer[: math.prod(shape)].reshape(shape)
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return lent

"""The loader: reads and decodes batches on all cores, into memory that is reused."""

import itertools
import logging
import math
import weakref
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from drtf.config import OnDamaged
from drtf.errors import DamagedRecordError, RecordError
from drtf.images.preprocess import decode_image
from drtf.records.reader import ShardDataset
from drtf.resources import count_cores

ALIGNMENT_BYTES = 64

_log = logging.getLogger(__name__)


def read_batch(
    shards: ShardDataset, rows: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Read and decode the images of some records.

    Args:
        shards: An open dataset.
        rows: int64 [B], rows of its index.
        out: uint8 [B, H, W, 3], contiguous, to write the images to.

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        DamagedRecordError: At a damaged record.
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
    """Loads batches of a split, and reuses their memory once TensorFlow releases it."""

    def __init__(
        self,
        shards: ShardDataset,
        rows: np.ndarray,
        classes: np.ndarray,
        *,
        on_damaged: OnDamaged,
    ) -> None:
        """Start the threads.

        Args:
            shards: An open dataset.
            rows: int64 [n], the index rows of the split.
            classes: int [n], the class of each row, or its group. With `skip`, a
                damaged record is replaced by one of the same class.
            on_damaged: Whether a damaged record is an error or is skipped.
        """
        self._shards = shards
        self._rows = rows
        self._classes = classes
        self._on_corrupt = on_damaged
        self._free_buffers: list[np.ndarray] = []
        # Raw images are read by threads of their own, in compiled code. Encoded images
        # are decoded in chunks: one by the calling thread, the others by these threads.
        self._num_chunks = 1 if shards.manifest.encoding == "raw" else count_cores()
        self._threads = ThreadPoolExecutor(max(self._num_chunks - 1, 1))

    def load(
        self, examples: np.ndarray, num_images: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Load a batch on all cores.

        Args:
            examples: int64 [B], positions within the split.
            num_images: Length of the returned array, if it is to be longer than B.

        Returns:
            uint8 RGB [B, H, W, 3], and int64 [B], the examples that were loaded. They
            differ from `examples` where a damaged record was skipped.
        """
        count = len(examples)
        images = self._lend_array(num_images or count)
        edges = [count * x // self._num_chunks for x in range(self._num_chunks + 1)]
        chunks = [slice(*ends) for ends in itertools.pairwise(edges)]
        futures = [
            self._threads.submit(self._load_chunk, examples[chunk], images[chunk])
            for chunk in chunks[1:]
        ]
        try:
            loaded = [self._load_chunk(examples[chunks[0]], images[chunks[0]])]
        finally:
            wait(futures)  # no thread may write to memory that was released
        return images, np.concatenate(loaded + [future.result() for future in futures])

    def _load_chunk(self, examples: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Fill `images`; return the examples that were loaded."""
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
        """Replace each damaged example by the next intact one of its class."""
        damaged_rows = self._shards.damaged
        if not damaged_rows:
            return examples
        is_damaged = np.isin(self._rows, list(damaged_rows))
        examples = examples.copy()
        for place in np.flatnonzero(is_damaged[examples]):
            example = examples[place]
            same_class = self._classes == self._classes[example]
            intact = np.flatnonzero(same_class & ~is_damaged)
            if not len(intact):
                raise RecordError(
                    f"all records of class {self._classes[example]} are damaged: run "
                    f"drtf verify {self._shards.folder}"
                )
            examples[place] = intact[np.searchsorted(intact, example) % len(intact)]
        return examples

    def _lend_array(self, num_images: int) -> np.ndarray:
        """Return an array [num_images, H, W, 3]; its buffer is reused after its end."""
        size = self._shards.manifest.image_size
        shape = (num_images, size, size, 3)
        num_bytes = math.prod(shape)
        try:
            buffer = self._free_buffers.pop()
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.size < num_bytes:
            # TensorFlow takes aligned memory without a copy.
            memory = np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8)
            buffer = memory[-memory.ctypes.data % ALIGNMENT_BYTES :][:num_bytes]
        lent = buffer[:num_bytes].reshape(shape)
        weakref.finalize(lent, self._free_buffers.append, buffer).atexit = False
        return lent

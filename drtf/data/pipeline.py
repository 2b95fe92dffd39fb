"""The tf.data pipeline: from the order of an epoch to batches, one element a batch."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from drtf.config import SamplingConfig, Task
from drtf.data.labels import find_classes
from drtf.data.sampling import plan_epoch
from drtf.errors import RecordError
from drtf.images.preprocess import decode_image
from drtf.records.reader import ShardSet


def read_batch(shards: ShardSet, rows: np.ndarray) -> np.ndarray:
    """Read and decode the images of some records.

    Args:
        shards: an open set.
        rows: int64 [B], rows of its index.

    Returns:
        uint8 RGB [B, H, W, 3].

    Raises:
        RecordError: at a damaged record.
    """
    size, encoding = shards.manifest.image_size, shards.manifest.encoding
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for image, data in zip(images, shards.read_images(rows), strict=True):
        image[...] = decode_image(data, encoding, size=size)
    return images


def count_steps(
    shards: ShardSet,
    *,
    split: str,
    task: Task,
    sampling: SamplingConfig,
    batch_size: int,
) -> int:
    """Return the number of batches of an epoch; the last one may be smaller."""
    _, classes = _find_examples(shards, split, task)
    order = plan_epoch(classes, sampling, seed=0, epoch=0)
    return math.ceil(len(order) / batch_size)


def train_dataset(
    shards: ShardSet,
    *,
    split: str,
    task: Task,
    sampling: SamplingConfig,
    batch_size: int,
    epochs: int,
    seed: int,
) -> tf.data.Dataset:
    """Stream epochs of globally shuffled, class-balanced batches.

    The batch of a step is a pure function of (seed, epoch, step).

    Args:
        shards: an open set; it must stay open while the dataset is read.
        split: of the set.
        task: what the labels say.
        sampling: the `sampling` section.
        batch_size: images in a batch; the last one of an epoch may have fewer.
        epochs: passes to stream.
        seed: of the order and of the augmentation.

    Returns:
        Batches as a dict: `image` uint8 [B, H, W, 3], `label` float32 [B], `row` int64
        [B] (in the set's index), `seed` int32 [B, 2] (for `drtf.data.augment`).
    """
    rows, classes = _find_examples(shards, split, task)
    steps = count_steps(
        shards, split=split, task=task, sampling=sampling, batch_size=batch_size
    )

    @functools.lru_cache(maxsize=2)  # around the end of an epoch two are in use
    def order_of(epoch: int) -> np.ndarray:
        return plan_epoch(classes, sampling, seed=seed, epoch=epoch)

    def gather(number: np.ndarray) -> tuple[np.ndarray, ...]:
        epoch, step = divmod(int(number), steps)
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        examples = order_of(epoch)[positions[0] : positions[-1] + 1]
        # A photograph that comes twice in an epoch is changed in two ways: it is the
        # place in the epoch that seeds, not the photograph.
        key = np.random.SeedSequence([seed, epoch]).generate_state(1).astype(np.int32)
        seeds = np.stack(
            [np.broadcast_to(key, len(examples)), positions[: len(examples)]], axis=1
        )
        return (
            read_batch(shards, rows[examples]),
            classes[examples].astype(np.float32),
            rows[examples],
            seeds.astype(np.int32),
        )

    size = shards.manifest.image_size
    return _dataset(
        gather,
        steps * epochs,
        {
            "image": tf.TensorSpec([None, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([None], tf.float32),
            "row": tf.TensorSpec([None], tf.int64),
            "seed": tf.TensorSpec([None, 2], tf.int32),
        },
    )


def eval_dataset(
    shards: ShardSet, *, split: str, task: Task, batch_size: int
) -> tf.data.Dataset:
    """Stream each photograph of a split exactly once, in the order of the index.

    Returns:
        Batches of `batch_size`, the last one padded with black: `image` uint8
        [B, H, W, 3], `label` float32 [B], `row` int64 [B] (-1 where padded) and `mask`
        float32 [B] (0 where padded).
    """
    rows, classes = _find_examples(shards, split, task)
    size = shards.manifest.image_size

    def gather(step: np.ndarray) -> tuple[np.ndarray, ...]:
        start = int(step) * batch_size
        chosen = slice(start, start + batch_size)
        num_padded = batch_size - len(rows[chosen])
        return (
            np.pad(read_batch(shards, rows[chosen]), [(0, num_padded), *[(0, 0)] * 3]),
            np.pad(classes[chosen].astype(np.float32), (0, num_padded)),
            np.pad(rows[chosen], (0, num_padded), constant_values=-1),
            np.arange(batch_size) < batch_size - num_padded,
        )

    return _dataset(
        gather,
        math.ceil(len(rows) / batch_size),
        {
            "image": tf.TensorSpec([batch_size, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([batch_size], tf.float32),
            "row": tf.TensorSpec([batch_size], tf.int64),
            "mask": tf.TensorSpec([batch_size], tf.bool),
        },
    )


@contextmanager
def record_errors() -> Iterator[None]:
    """Raise what a reader raised inside tf.data as itself, not as TensorFlow's error.

    Raises:
        RecordError: if a damaged record stopped the stream.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"RecordError: (.*)", str(error))
        if found is None:
            raise
        raise RecordError(found[1]) from error


def _find_examples(
    shards: ShardSet, split: str, task: Task
) -> tuple[np.ndarray, np.ndarray]:
    rows = shards.find_rows(split)
    return rows, find_classes(shards.index["grade"].iloc[rows], task).to_numpy()


def _dataset(
    gather: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    num_batches: int,
    specs: dict[str, tf.TensorSpec],
) -> tf.data.Dataset:
    def load(number: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(
            gather, [number], [spec.dtype for spec in specs.values()], stateful=False
        )
        return {
            name: tf.ensure_shape(value, spec.shape)
            for (name, spec), value in zip(specs.items(), values, strict=True)
        }

    # Numbers of batches first: they cost nothing to split, skip or resume.
    dataset = tf.data.Dataset.range(num_batches)
    # One call reads a whole batch, so Python is entered once a batch, not once an
    # image; reads, checksums and decoding leave the interpreter's lock to each other.
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # A few batches stand ready while the device works on the last one.
    return dataset.prefetch(tf.data.AUTOTUNE)

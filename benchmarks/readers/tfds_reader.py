"""TFDS on drtf's own shards, opened with builder_from_directory."""

from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from measurement import measure

BUFFER = 2048


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Filter by class, shuffle in a buffer, and join half a batch of each class."""
    size = arguments.batch_size
    builder = tfds.builder_from_directory(arguments.shards)
    records = builder.as_dataset(split="train", shuffle_files=True)
    halves = []
    for positive in (False, True):
        chosen = records.filter(
            lambda x, positive=positive: (x["image/class/label"] > 0) == positive
        )
        chosen = chosen.shuffle(BUFFER, seed=arguments.seed).repeat()
        halves.append(chosen.batch(size // 2, drop_remainder=True))

    def join(first: Any, second: Any) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.concat([first["image/encoded"], second["image/encoded"]], axis=0)
        return pixels, tf.cast(tf.range(size) >= size // 2, tf.int64)

    dataset = tf.data.Dataset.zip(tuple(halves))
    dataset = dataset.map(join, num_parallel_calls=tf.data.AUTOTUNE)
    for images, labels in dataset.prefetch(tf.data.AUTOTUNE):
        yield images, labels.numpy()


if __name__ == "__main__":
    measure(read, version=version("tensorflow-datasets"))

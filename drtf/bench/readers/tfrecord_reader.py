"""The fastest of several TFRecordDataset pipelines, on files sorted by class."""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow as tf
from class_files import images_by_class
from measurement import measure

NUM_FILES = 4
BUFFERS = (2048, 8192)
TRIAL_SECONDS = 2.0
FASTEST_FILE = "fastest.json"
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def prepare(arguments: SimpleNamespace) -> None:
    """Write each class to its own files, and choose the fastest settings."""
    for label, number, images in images_by_class(arguments, num_files=NUM_FILES):
        path = Path(arguments.work) / f"{label}-{number}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for pixels in images:
                image = tf.train.BytesList(value=[pixels])
                grade = tf.train.Int64List(value=[label])
                features = {
                    "image": tf.train.Feature(bytes_list=image),
                    "label": tf.train.Feature(int64_list=grade),
                }
                message = tf.train.Features(feature=features)
                example = tf.train.Example(features=message)
                writer.write(example.SerializeToString())
    choose_settings(arguments)


def build(
    arguments: SimpleNamespace, *, buffer: int, mixing: str, reads: int | None
) -> tf.data.Dataset:
    """Build one pipeline.

    Args:
        arguments: The arguments of the process (see `measurement.measure`).
        buffer: Number of records in the shuffle buffer.
        mixing: "by record" draws the class of each record at random; "by batch"
            concatenates half a batch of each class.
        reads: Number of files to read in parallel; None reads one after another.
    """
    size, shape = arguments.batch_size, arguments.shape

    def of_class(label: int) -> tf.data.Dataset:
        files = sorted(map(str, Path(arguments.work).glob(f"{label}-*.tfrecord")))
        dataset = tf.data.TFRecordDataset(files, num_parallel_reads=reads)
        return dataset.shuffle(buffer, seed=arguments.seed).repeat()

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(records, FEATURES)
        pixels = tf.io.decode_raw(parsed["image"], tf.uint8)
        return tf.reshape(pixels, [size, *shape]), parsed["label"]

    classes = [of_class(0), of_class(1)]
    if mixing == "by record":
        dataset = tf.data.Dataset.sample_from_datasets(classes, [0.5, 0.5])
        dataset = dataset.batch(size, drop_remainder=True)
    else:
        halves = tuple(x.batch(size // 2, drop_remainder=True) for x in classes)
        dataset = tf.data.Dataset.zip(halves)
        dataset = dataset.map(lambda *x: tf.concat(x, axis=0))
    options = tf.data.Options()
    options.deterministic = False
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def choose_settings(arguments: SimpleNamespace) -> None:
    """Try all settings for a short time, and save the fastest."""
    rates = {}
    seconds = min(TRIAL_SECONDS, arguments.seconds)
    for settings in itertools.product(
        BUFFERS, ("by record", "by batch"), (None, tf.data.AUTOTUNE)
    ):
        buffer, mixing, reads = settings
        batches = iter(build(arguments, buffer=buffer, mixing=mixing, reads=reads))
        next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += 1
        rates[settings] = count / (time.perf_counter() - start)
    path = Path(arguments.work) / FASTEST_FILE
    path.write_text(json.dumps(max(rates, key=rates.__getitem__)))


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Read with the fastest settings."""
    path = Path(arguments.work) / FASTEST_FILE
    buffer, mixing, reads = json.loads(path.read_text())
    for images, labels in build(arguments, buffer=buffer, mixing=mixing, reads=reads):
        yield images, labels.numpy()


if __name__ == "__main__":
    measure(read, prepare=prepare)

"""A tf.data stream of batches that Python loads, one call for each batch."""

import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from drtf.errors import DrtfError, RecordError, StorageError

# Batches that wait for the training step.
NUM_PREFETCHED = 1
# Batches that are loaded at a time. Each load uses all cores; the second one keeps the
# cores busy when the first one ends.
NUM_PARALLEL_LOADS = 2
# Much longer than TensorFlow takes from one refused call to the next.
QUIET_SECONDS = 0.01


def stream_batches(
    load_batch: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    numbers: tf.data.Dataset,
    specs: dict[str, tf.TensorSpec],
) -> tf.data.Dataset:
    """Return a dataset with one element for each batch.

    Args:
        load_batch: Takes a number and returns arrays in the order of `specs`.
        numbers: Of the batches, int64 [].
        specs: The elements' tensors, by name.
    """
    calls = _StoppableCalls(load_batch)

    # The default argument makes the dataset hold `load_batch`.
    def load(number: tf.Tensor, _function: object = load_batch) -> dict[str, tf.Tensor]:
        arrays = tf.numpy_function(
            calls, [number], [spec.dtype for spec in specs.values()], stateful=False
        )
        return {
            name: tf.ensure_shape(array, spec.shape)
            for (name, spec), array in zip(specs.items(), arrays, strict=True)
        }

    # Stage 1: load a whole batch per call, so that Python runs once per batch.
    dataset = numbers.map(
        load, num_parallel_calls=NUM_PARALLEL_LOADS, deterministic=True
    )
    # Stage 2: keep a batch ready while the device works on the one before.
    return dataset.prefetch(NUM_PREFETCHED)


def numbers_by_pass(
    begin_pass: Callable[[np.ndarray], tuple[np.ndarray, ...]], length: int
) -> tf.data.Dataset:
    """Return a dataset of consecutive numbers, which each pass chooses as it begins.

    Args:
        begin_pass: Returns the first number of the next pass, and the one after its
            last.
        length: How many numbers each pass has.
    """
    calls = _StoppableCalls(begin_pass)

    # The default argument makes the dataset hold `begin_pass`.
    def numbers(zero: tf.Tensor, _function: object = begin_pass) -> tf.data.Dataset:
        ends = tf.numpy_function(calls, [zero], [tf.int64, tf.int64])
        return tf.data.Dataset.range(*(tf.ensure_shape(end, []) for end in ends))

    dataset = tf.data.Dataset.range(1).flat_map(numbers)
    return dataset.apply(tf.data.experimental.assert_cardinality(length))


@contextmanager
def translate_record_errors() -> Iterator[None]:
    """Turn TensorFlow's error about reading back into drtf's own error.

    Raises:
        RecordError: If a damaged record stopped the stream.
        StorageError: If a store could not be read.
    """
    try:
        yield
    except tf.errors.OpError as error:
        match = re.search(r"(Record|Storage|Object|Drtf)Error: (.*)", str(error))
        if match is None:
            raise
        kinds = {"Record": RecordError, "Drtf": DrtfError}
        raise kinds.get(match[1], StorageError)(match[2]) from error


class _StoppableCalls:
    """Calls a function from TensorFlow's threads until the dataset or Python ends.

    At exit, Python kills a thread that returns to it too late, and the iterator would
    wait for that thread forever. So calls are refused from then on. TensorFlow keeps
    this object for as long as the process lives: it holds only a weak reference to the
    function, and the dataset holds the function.
    """

    def __init__(
        self, function: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    ) -> None:
        self._function = weakref.ref(function)
        self._lock = threading.Lock()
        self._num_begun = 0
        self._num_ended = 0
        self._is_stopped = False
        weakref.finalize(function, self._stop)  # at exit at the latest

    def __call__(self, number: np.ndarray) -> tuple[np.ndarray, ...]:
        """Call the function.

        Raises:
            RuntimeError: If the dataset was deleted or Python is about to exit.
        """
        with self._lock:
            self._num_begun += 1
        try:
            function = self._function()
            if self._is_stopped or function is None:
                raise RuntimeError("the dataset was deleted, or Python is exiting")
            return function(number)
        except DrtfError as error:
            # TensorFlow would copy the traceback into its error message.
            raise error.with_traceback(None) from None
        finally:
            with self._lock:
                self._num_ended += 1

    def _stop(self) -> None:
        """Refuse calls from now on, and wait until no more calls come."""
        self._is_stopped = True
        num_seen = -1
        while not self._num_begun == self._num_ended == num_seen:
            num_seen = self._num_begun
            time.sleep(QUIET_SECONDS)

"""The tf.data pipeline: from the order of an epoch to batches, one element a batch."""

import functools
import math
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from drtf.config import OnCorrupt, SamplingConfig
from drtf.data.loader import Loader
from drtf.data.sampling import count_draws, plan_epoch
from drtf.errors import DrtfError, RecordError
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS, TaskName

BATCHES_READY = 1
# Each call uses all cores; a second one has the next batch begun when it ends.
NUM_CALLS = 2
# Far longer than TensorFlow takes from one refused call to the next.
QUIET_SECONDS = 0.01
BALANCED = SamplingConfig()


def count_steps(
    shards: ShardDataset,
    *,
    split: str,
    task: TaskName,
    sampling: SamplingConfig,
    batch_size: int,
    num_parts: int = 1,
) -> int:
    """Return the number of batches of an epoch; the last one may be smaller.

    What would not do for all parts of a last batch belongs to the one before it.
    """
    num_drawn = sum(count_draws(count_examples(shards, split, task), sampling))
    num_whole, num_left = divmod(num_drawn, batch_size)
    return max(1, num_whole + (num_left >= num_parts))


@dataclass(frozen=True)
class State:
    """Where a stream of training batches stands; all batches to come follow from it.

    `State(**json.loads(json.dumps(asdict(state))))` is an equal state.

    Attributes:
        seed: of the order and of the augmentation.
        epoch: of the next batch, from 0.
        step: of the next batch in its epoch, from 0; or as many as an epoch has, where
            the next epoch's first batch is the next one.
    """

    seed: int = 42
    epoch: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        if min(self.seed, self.epoch, self.step) < 0:
            raise ValueError(f"seed, epoch and step must not be negative; got {self}")

    def advance(self, num_batches: int) -> "State":
        """Return where the stream stands some batches further in the same epoch."""
        return replace(self, step=self.step + num_batches)


def train_dataset(
    shards: ShardDataset,
    *,
    split: str = "train",
    task: TaskName = "binary",
    sampling: SamplingConfig = BALANCED,
    batch_size: int = 256,
    epochs: int = 1,
    state: State = State(),
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
) -> tf.data.Dataset:
    """Stream epochs of globally shuffled, class-balanced batches.

    The batch of a step is a pure function of (seed, epoch, step). Several devices or
    hosts each take parts of it, which in turn are the batch that one would get.

    Args:
        shards: an open set; it must stay open while the dataset is read.
        split: of the set.
        task: what the labels say.
        sampling: the `sampling` section.
        batch_size: images in a whole batch; the last one of an epoch may have fewer.
        epochs: at which to end, counted from the first one.
        state: where to begin.
        parts: of each batch, from 0; each is an element of the dataset.
        num_parts: that each batch is cut into, all of one size or one apart.

    Returns:
        Batches as a dict: `image` uint8 [B, H, W, 3], `label` int64 [B], `row` int64
        [B] (in the set's index), `seed` int32 [B, 2] (for `drtf.data.augment`).

    Raises:
        ValueError: if the epoch has no such step, or a batch no such part.
        RecordError: while it is read, inside TensorFlow's error, at a damaged record;
            see `record_errors`.
    """
    if batch_size < 1 or not parts or not 0 <= min(parts) <= max(parts) < num_parts:
        raise ValueError(
            f"batch_size must be positive and parts below num_parts; got "
            f"batch_size={batch_size}, parts={list(parts)}, num_parts={num_parts}"
        )
    rows, classes = split_examples(shards, split, task)
    steps = count_steps(
        shards,
        split=split,
        task=task,
        sampling=sampling,
        batch_size=batch_size,
        num_parts=num_parts,
    )
    if state.step > steps:
        raise ValueError(
            f"an epoch has {steps} steps of {batch_size} photographs; got {state}"
        )
    load = Loader(shards, rows, classes, on_corrupt=sampling.on_corrupt)

    # Always by one thread, since each keeps of the memory that it once took.
    planner = ThreadPoolExecutor(1)

    @functools.lru_cache(maxsize=3)  # an epoch's end, the next one, and the one after
    def begin_plan(epoch: int) -> Future[np.ndarray]:
        return planner.submit(
            plan_epoch, classes, sampling, seed=state.seed, epoch=epoch
        )

    def gather(number: np.ndarray) -> tuple[np.ndarray, ...]:
        batch, place = divmod(int(number), len(parts))
        epoch, step = divmod(batch, steps)
        order = begin_plan(epoch).result()
        begin_plan(epoch + 1)  # while this one is read
        first = step * batch_size
        last = step == steps - 1
        count = len(order) - first if last else batch_size
        mine = slice(
            first + count * parts[place] // num_parts,
            first + count * (parts[place] + 1) // num_parts,
        )
        images, examples = load(order[mine])
        # A photograph that comes twice in an epoch is changed in two ways: it is the
        # place in the epoch that seeds, not the photograph.
        seeds = np.empty((len(examples), 2), np.uint32)
        seeds[:, 0] = np.random.SeedSequence([state.seed, epoch]).generate_state(1)
        seeds[:, 1] = np.arange(mine.start, mine.stop)
        labels = classes[examples].astype(np.int64)
        return images, labels, rows[examples], seeds.view(np.int32)

    size = shards.manifest.image_size
    start = state.epoch * steps + state.step
    return _dataset(
        gather,
        range(len(parts) * start, len(parts) * epochs * steps),
        {
            "image": tf.TensorSpec([None, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([None], tf.int64),
            "row": tf.TensorSpec([None], tf.int64),
            "seed": tf.TensorSpec([None, 2], tf.int32),
        },
    )


def eval_dataset(
    shards: ShardDataset,
    *,
    split: str = "test",
    task: TaskName = "binary",
    batch_size: int = 256,
    on_corrupt: OnCorrupt = "error",
    num_parts: int = 1,
) -> tf.data.Dataset:
    """Stream each photograph of a split exactly once, in the order of the index.

    Args:
        shards: an open set; it must stay open while the dataset is read.
        split: of the set.
        task: what the labels say.
        batch_size: images in each batch.
        on_corrupt: what becomes of a damaged record.
        num_parts: devices that take batches in turn; the number of batches is a
            multiple of it.

    Returns:
        Batches of `batch_size`, the last one padded with black: `image` uint8
        [B, H, W, 3], `label` int64 [B], `row` int64 [B] (-1 where padded) and `mask`
        bool [B] (false where padded, and where a damaged record was skipped).
    """
    rows, classes = split_examples(shards, split, task)
    size = shards.manifest.image_size
    # What stands in for a damaged record is masked, so any other one will do.
    load = Loader(shards, rows, np.zeros_like(classes), on_corrupt=on_corrupt)

    def gather(step: np.ndarray) -> tuple[np.ndarray, ...]:
        start = int(step) * batch_size
        examples = np.arange(len(rows))[start : start + batch_size]
        images, shown = load(examples, batch_size)
        images[len(examples) :] = 0
        num_padded = batch_size - len(examples)
        return (
            images,
            np.pad(classes[examples].astype(np.int64), (0, num_padded)),
            np.pad(rows[examples], (0, num_padded), constant_values=-1),
            np.pad(shown == examples, (0, num_padded)),
        )

    return _dataset(
        gather,
        range(math.ceil(len(rows) / batch_size / num_parts) * num_parts),
        {
            "image": tf.TensorSpec([batch_size, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([batch_size], tf.int64),
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


def split_examples(
    shards: ShardDataset, split: str, task: TaskName
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a split, int64 [n], and their classes, int8 [n]."""
    rows = shards.split_rows(split)
    return rows, TASKS[task].classes(shards.grades[rows])


def count_examples(shards: ShardDataset, split: str, task: TaskName) -> np.ndarray:
    """Return how many photographs of each class a split has, int64 [c]."""
    _, classes = split_examples(shards, split, task)
    return np.bincount(classes, minlength=TASKS[task].num_classes)


def binary_labels(shards: ShardDataset, split: str, task: TaskName) -> np.ndarray:
    """Return which photographs of a split are positive, int64 [n], 1 for those.

    Raises:
        DrtfError: if all are, or none.
    """
    labels = TASKS[task].labels(shards.grades[shards.split_rows(split)])
    if labels.all() or not labels.any():
        first = TASKS[task].positive_from
        raise DrtfError(
            f"split {split!r} of {shards.folder} has photographs of one class only for "
            f"the task {task!r}: it needs grades below {first}, and from {first} on"
        )
    return labels


class _Calls:
    """Calls from TensorFlow's threads, none of which goes on when Python ends.

    Python kills a thread that comes back to it too late, and the iterator would wait
    for that thread without end. TensorFlow keeps what it calls for as long as the
    process lives, so this only refers to the function, which the dataset keeps.
    """

    def __init__(
        self, function: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    ) -> None:
        self._function = weakref.ref(function)
        self._lock = threading.Lock()
        self._num_begun = 0
        self._num_ended = 0
        self._stopped = False
        weakref.finalize(function, self._stop)  # at exit at the latest

    def __call__(self, number: np.ndarray) -> tuple[np.ndarray, ...]:
        """Call the function, or refuse to."""
        with self._lock:
            self._num_begun += 1
        try:
            function = self._function()
            if self._stopped or function is None:
                raise RuntimeError("the dataset is gone, or Python about to end")
            return function(number)
        finally:
            with self._lock:
                self._num_ended += 1

    def _stop(self) -> None:
        """Have all calls from now on refused, and wait until none comes."""
        self._stopped = True
        num_seen = -1
        while not self._num_begun == self._num_ended == num_seen:
            num_seen = self._num_begun
            time.sleep(QUIET_SECONDS)


def _dataset(
    gather: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    numbers: range,
    specs: dict[str, tf.TensorSpec],
) -> tf.data.Dataset:
    calls = _Calls(gather)

    # The dataset keeps this function, and that what it gathers by.
    def load(number: tf.Tensor, _gather: object = gather) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(
            calls, [number], [spec.dtype for spec in specs.values()], stateful=False
        )
        return {
            name: tf.ensure_shape(value, spec.shape)
            for (name, spec), value in zip(specs.items(), values, strict=True)
        }

    # Numbers of batches first: they cost nothing to split, skip or resume.
    dataset = tf.data.Dataset.range(numbers.start, numbers.stop)
    # One element a batch, so Python is entered once a batch, not once an image.
    dataset = dataset.map(load, num_parallel_calls=NUM_CALLS, deterministic=True)
    return dataset.prefetch(BATCHES_READY)

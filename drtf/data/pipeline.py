"""The tf.data pipeline: from the order of an epoch to batches of images."""

import functools
import itertools
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

from drtf.config import OnDamaged, SamplingConfig
from drtf.data.loader import Loader
from drtf.data.sampling import BALANCED, plan_epoch, plan_windows
from drtf.data.sampling_groups import group_photographs
from drtf.errors import DrtfError, RecordError, StorageError
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS, TaskName

# Batches that wait for the training step.
NUM_PREFETCHED = 1
# Batches that are loaded at a time. Each load uses all cores; the second one keeps the
# cores busy when the first one ends.
NUM_PARALLEL_LOADS = 2
# Shards of a store that an evaluation downloads ahead of the batch that it reads.
NUM_SHARDS_AHEAD = 4
# Much longer than TensorFlow takes from one refused call to the next.
QUIET_SECONDS = 0.01


def count_steps(
    shards: ShardDataset,
    *,
    split: str,
    task: TaskName,
    sampling: SamplingConfig,
    batch_size: int,
    num_parts: int = 1,
) -> int:
    """Return the number of batches in an epoch; the last one may be smaller.

    A final batch too small to give each part one image is merged into the batch before.
    """
    groups = group_photographs(shards, split, task=task, sampling=sampling)
    num_full, num_left = divmod(sum(groups.num_drawn), batch_size)
    return max(1, num_full + (num_left >= num_parts))


@dataclass(frozen=True)
class StreamPosition:
    """A position in the stream of training batches, which fixes all batches to come.

    It survives JSON: `StreamPosition(**json.loads(json.dumps(asdict(position))))`.

    Attributes:
        seed: Of the order and of the augmentation.
        epoch: Of the next batch, from 0.
        step: Of the next batch in its epoch, from 0. The number of steps in an epoch
            stands for the first batch of the next epoch.
    """

    seed: int = 42
    epoch: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        if min(self.seed, self.epoch, self.step) < 0:
            raise ValueError(f"seed, epoch and step must not be negative; got {self}")

    def advance(self, num_batches: int) -> "StreamPosition":
        """Return the position some batches later in the same epoch."""
        return replace(self, step=self.step + num_batches)


def train_dataset(
    shards: ShardDataset,
    *,
    split: str = "train",
    task: TaskName = "binary",
    sampling: SamplingConfig = BALANCED,
    batch_size: int = 256,
    epochs: int | None = None,
    start: StreamPosition = StreamPosition(),
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    partners: SamplingConfig | None = None,
    targets: np.ndarray | None = None,
    timed: bool = False,
) -> tf.data.Dataset:
    """Stream epochs of shuffled batches, which are class-balanced by default.

    The whole split is shuffled, or with `sampling.window_shards` a window of it.

    Each pass over the dataset continues where the pass before ended, so that
    `model.fit(dataset, epochs=5)` of Keras trains five different epochs. A pass begins
    when an iterator is asked for its first batch. A new dataset begins at `start`.

    The batch of a step is a pure function of (seed, epoch, step). Several devices or
    hosts each take some parts of it. Joined in their order, the parts are the batch
    that a single device would get.

    Args:
        shards: An open dataset. It must stay open while batches are read.
        split: Of the dataset.
        task: Defines the labels.
        sampling: The `sampling` section.
        batch_size: Images per batch; the last batch of an epoch may have fewer.
        epochs: Number of epochs at the end of the first pass, including those before
            `start`; all passes have the same length. By default, a pass has as many
            batches as one epoch.
        start: Position of the first batch.
        parts: Indices of the batch parts to yield, from 0, each as one element.
        num_parts: Number of near-equal parts that each batch is split into.
        partners: How the photographs are sampled that are to be mixed into others; see
            `partner_sampling`. Default: there are none.
        targets: float32 [n] in [0, 1], what is learned from each photograph of the
            split in place of its label; see `drtf.labels.soft_labels`.
        timed: Whether to add the time at which each batch was loaded.

    Returns:
        Batches as a dict: `image` uint8 [B, H, W, 3], `label` int64 [B], `row` int64
        [B] (of the dataset's index), `seed` int32 [B, 2] (for `drtf.data.augment`).
        With `targets` also `target` float32 [B]. With `partners` also `partner_image`,
        `partner_label` and so on, for `drtf.data.mixing`. With `timed` also `loaded`
        float64 [], in seconds, of `time.perf_counter`.

    Raises:
        ValueError: If an epoch has no such step, or a batch no such part.
        RecordError: At a damaged record, or if the dataset was closed, while batches
            are read. TensorFlow turns it into an UnknownError, whose first line ends
            with the message, followed by a traceback; inside a block of
            `translate_record_errors`, it is a RecordError again.
    """
    if batch_size < 1 or not parts or not 0 <= min(parts) <= max(parts) < num_parts:
        raise ValueError(
            f"batch_size must be positive and parts below num_parts; got "
            f"batch_size={batch_size}, parts={list(parts)}, num_parts={num_parts}"
        )
    rows, classes = rows_and_classes(shards, split, task)
    num_steps = count_steps(
        shards,
        split=split,
        task=task,
        sampling=sampling,
        batch_size=batch_size,
        num_parts=num_parts,
    )
    if start.step > num_steps:
        raise ValueError(
            f"an epoch has {num_steps} steps of {batch_size} photographs; got {start}"
        )
    shards.check_fits_cache(split, sampling.window_shards)
    groups = group_photographs(shards, split, task=task, sampling=sampling).numbers
    loader = Loader(shards, rows, groups, on_damaged=sampling.on_damaged)
    shard_numbers = shards.shard_numbers(rows) if sampling.window_shards else None

    # A single thread plans all epochs: each thread keeps the memory it has once used.
    planner = ThreadPoolExecutor(1)

    # The photographs, and those that are mixed into them.
    streams = [sampling, *([partners] if partners else [])]

    @functools.lru_cache(maxsize=3)  # the epochs that are ending, running and next
    def begin_plan(epoch: int) -> list[Future[np.ndarray]]:
        return [planner.submit(plan, epoch, stream) for stream in range(len(streams))]

    def plan(epoch: int, stream: int) -> np.ndarray:
        shards.check_unchanged()
        return plan_epoch(
            groups,
            streams[stream],
            seed=start.seed,
            epoch=epoch,
            stream=stream,
            shard_numbers=shard_numbers,
        )

    split_shards = np.unique(shards.shard_numbers(rows))

    @functools.lru_cache(maxsize=3)
    def windows(epoch: int) -> list[np.ndarray]:
        return plan_windows(
            split_shards, sampling.window_shards, seed=start.seed, epoch=epoch
        )

    def expect_shards(epoch: int, example: int) -> None:
        """Announce the window that an example is in, and the window after it."""
        shard = shards.shard_numbers(rows[example])
        upcoming = itertools.chain(windows(epoch), windows(epoch + 1))
        for window, following in itertools.pairwise(upcoming):
            if shard in window:
                shards.expect(list(dict.fromkeys([*window, *following])))
                return

    def load_part(number: np.ndarray) -> tuple[np.ndarray, ...]:
        # Which part of which batch, and which epoch's order it follows.
        batch, part_number = divmod(int(number), len(parts))
        epoch, step = divmod(batch, num_steps)
        order, *partner_orders = [plan.result() for plan in begin_plan(epoch)]
        begin_plan(epoch + 1)  # in the background, while this epoch is read

        # The part's stretch of the epoch's order.
        first = step * batch_size
        is_last = step == num_steps - 1
        size = len(order) - first if is_last else batch_size
        part = parts[part_number]
        stretch = slice(
            first + size * part // num_parts, first + size * (part + 1) // num_parts
        )

        if shards.is_remote:
            expect_shards(epoch, order[stretch.start])

        loaded = load_examples(order[stretch], stretch, [start.seed, epoch])
        for partner_order in partner_orders:
            # The orders of both streams have their classes at the same places. So the
            # partners are shuffled, as a whole batch, to be the same for any parts.
            begin = first * len(partner_order) // len(order)
            rng = np.random.default_rng([start.seed, epoch, step, 0, len(streams)])
            shuffled = rng.permutation(partner_order[begin : begin + size])
            own = shuffled[stretch.start - first : stretch.stop - first]
            loaded += load_examples(own, stretch, [start.seed, epoch, 1])
        return (*loaded, np.array(time.perf_counter())) if timed else loaded

    def load_examples(
        examples: np.ndarray, places: slice, seeds: list[int]
    ) -> tuple[np.ndarray, ...]:
        # A damaged record may be replaced by another example.
        images, loaded = loader.load(examples)

        # A seed for each place in the epoch, not for each photograph: one that comes
        # twice is augmented in two ways.
        image_seeds = np.empty((len(loaded), 2), np.uint32)
        image_seeds[:, 0] = np.random.SeedSequence(seeds).generate_state(1)
        image_seeds[:, 1] = np.arange(places.start, places.stop)
        labels = classes[loaded].astype(np.int64)
        arrays = images, labels, rows[loaded], image_seeds.view(np.int32)
        return arrays if targets is None else (*arrays, targets[loaded])

    # The batches of the first pass, counted from the first epoch on.
    first = start.epoch * num_steps + start.step
    length = num_steps if epochs is None else max(epochs * num_steps - first, 0)
    pass_numbers = itertools.count()

    def begin_pass(_: np.ndarray) -> tuple[np.ndarray, ...]:
        begin = first + next(pass_numbers) * length
        return tuple(np.array([begin, begin + length], np.int64) * len(parts))

    size = shards.manifest.image_size
    specs = {
        "image": tf.TensorSpec([None, size, size, 3], tf.uint8),
        "label": tf.TensorSpec([None], tf.int64),
        "row": tf.TensorSpec([None], tf.int64),
        "seed": tf.TensorSpec([None, 2], tf.int32),
    }
    if targets is not None:
        specs["target"] = tf.TensorSpec([None], tf.float32)
    if partners:
        specs |= {f"partner_{name}": spec for name, spec in specs.items()}
    if timed:
        specs["loaded"] = tf.TensorSpec([], tf.float64)
    return _stream(load_part, _numbers_by_pass(begin_pass, len(parts) * length), specs)


def eval_dataset(
    shards: ShardDataset,
    *,
    split: str = "test",
    task: TaskName = "binary",
    batch_size: int = 256,
    on_damaged: OnDamaged = "error",
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
) -> tf.data.Dataset:
    """Stream each photograph of a split exactly once, in the order of the index.

    Args:
        shards: An open dataset. It must stay open while batches are read.
        split: Of the dataset.
        task: Defines the labels.
        batch_size: Images per batch.
        on_damaged: Whether a damaged record is an error or is skipped.
        parts: Indices of the devices whose batches to yield, from 0.
        num_parts: Devices that take batches in turn. The number of batches is a
            multiple of it.

    Returns:
        Batches of `batch_size`, the last one padded with black: `image` uint8
        [B, H, W, 3], `label` int64 [B], `row` int64 [B] (-1 where padded) and `mask`
        bool [B] (false where padded, and where a damaged record was skipped).

    Raises:
        RecordError: As in `train_dataset`, while batches are read.
    """
    rows, classes = rows_and_classes(shards, split, task)
    size = shards.manifest.image_size
    split_shards = np.unique(shards.shard_numbers(rows))
    # A damaged record's replacement is masked, so it may be of any class.
    loader = Loader(shards, rows, np.zeros_like(classes), on_damaged=on_damaged)

    def load_batch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        first = int(step) * batch_size
        examples = np.arange(len(rows))[first : first + batch_size]
        if shards.is_remote and len(examples):
            upcoming = split_shards >= shards.shard_numbers(rows[first])
            shards.expect(split_shards[upcoming][:NUM_SHARDS_AHEAD].tolist())
        images, loaded = loader.load(examples, batch_size)
        images[len(examples) :] = 0
        padding = (0, batch_size - len(examples))
        return (
            images,
            np.pad(classes[examples].astype(np.int64), padding),
            np.pad(rows[examples], padding, constant_values=-1),
            np.pad(loaded == examples, padding),
        )

    num_turns = math.ceil(len(rows) / batch_size / num_parts)
    numbers = np.arange(num_turns * num_parts).reshape(num_turns, num_parts)
    return _stream(
        load_batch,
        tf.data.Dataset.from_tensor_slices(numbers[:, list(parts)].ravel()),
        {
            "image": tf.TensorSpec([batch_size, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([batch_size], tf.int64),
            "row": tf.TensorSpec([batch_size], tf.int64),
            "mask": tf.TensorSpec([batch_size], tf.bool),
        },
    )


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


def rows_and_classes(
    shards: ShardDataset, split: str, task: TaskName
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index rows of a split, int64 [n], and their classes, int8 [n]."""
    rows = shards.split_rows(split)
    return rows, TASKS[task].classes(shards.grades[rows])


def count_examples(shards: ShardDataset, split: str, task: TaskName) -> np.ndarray:
    """Return the number of photographs in each class of a split, int64 [c]."""
    _, classes = rows_and_classes(shards, split, task)
    return np.bincount(classes, minlength=TASKS[task].num_classes)


def binary_labels(shards: ShardDataset, split: str, task: TaskName) -> np.ndarray:
    """Return the binary labels of a split, int64 [n], 1 for positive photographs.

    Raises:
        DrtfError: If all photographs are positive, or none are.
    """
    labels = TASKS[task].labels(shards.grades[shards.split_rows(split)])
    if labels.all() or not labels.any():
        first = TASKS[task].positive_from
        raise DrtfError(
            f"all photographs of split {split!r} of {shards.folder} are of one class "
            f"of the task {task!r}: grades below {first} and grades of {first} or "
            "higher are both required"
        )
    return labels


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


def _numbers_by_pass(
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


def _stream(
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

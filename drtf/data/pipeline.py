"""The tf.data pipeline: from the order of an epoch to batches of images."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from drtf.config import OnDamaged, SamplingConfig
from drtf.data.examples import rows_and_classes
from drtf.data.loader import Loader
from drtf.data.sampling import BALANCED
from drtf.data.stream import numbers_by_pass, stream_batches
from drtf.data.training_batches import TrainingBatches
from drtf.records.reader import ShardDataset
from drtf.tasks import TaskName

# Shards of a store that an evaluation downloads ahead of the batch that it reads.
NUM_SHARDS_AHEAD = 4


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
    batches = TrainingBatches(
        shards,
        split=split,
        task=task,
        sampling=sampling,
        batch_size=batch_size,
        num_parts=num_parts,
        seed=start.seed,
        partners=partners,
        targets=targets,
    )
    num_steps = batches.num_steps
    if start.step > num_steps:
        raise ValueError(
            f"an epoch has {num_steps} steps of {batch_size} photographs; got {start}"
        )

    def load_part(number: np.ndarray) -> tuple[np.ndarray, ...]:
        # Which part of which batch, counted from the first epoch on.
        batch, part_number = divmod(int(number), len(parts))
        epoch, step = divmod(batch, num_steps)
        loaded = batches.load(epoch, step, part=parts[part_number])
        return (*loaded, np.array(time.perf_counter())) if timed else loaded

    first = start.epoch * num_steps + start.step
    length = num_steps if epochs is None else max(epochs * num_steps - first, 0)
    pass_numbers = itertools.count()

    def begin_pass(_: np.ndarray) -> tuple[np.ndarray, ...]:
        begin = first + next(pass_numbers) * length
        return tuple(np.array([begin, begin + length], np.int64) * len(parts))

    specs = batches.specs()
    if timed:
        specs["loaded"] = tf.TensorSpec([], tf.float64)
    numbers = numbers_by_pass(begin_pass, len(parts) * length)
    return stream_batches(load_part, numbers, specs)


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
    return stream_batches(
        load_batch,
        tf.data.Dataset.from_tensor_slices(numbers[:, list(parts)].ravel()),
        {
            "image": tf.TensorSpec([batch_size, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([batch_size], tf.int64),
            "row": tf.TensorSpec([batch_size], tf.int64),
            "mask": tf.TensorSpec([batch_size], tf.bool),
        },
    )

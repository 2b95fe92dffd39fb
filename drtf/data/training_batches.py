"""The batches of training: which photographs each one has, and how they are loaded."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from drtf.config import SamplingConfig
from drtf.data.examples import rows_and_classes
from drtf.data.loader import Loader
from drtf.data.sampling import plan_epoch, plan_windows
from drtf.data.sampling_groups import group_photographs
from drtf.records.reader import ShardDataset
from drtf.tasks import TaskName

# Planned epochs that are kept: the ones that are ending, running and next.
NUM_KEPT_EPOCHS = 3
# The photographs, and the partners that are mixed into them.
NUM_STREAMS = 2


class TrainingBatches:
    """Loads batches, each of which is a pure function of the seed, epoch and step.

    Attributes:
        num_steps: Batches of an epoch.
    """

    def __init__(
        self,
        shards: ShardDataset,
        *,
        split: str,
        task: TaskName,
        sampling: SamplingConfig,
        batch_size: int,
        num_parts: int,
        seed: int,
        partners: SamplingConfig | None,
        targets: np.ndarray | None,
    ) -> None:
        """Count the steps; `drtf.data.pipeline.train_dataset` explains the arguments.

        Raises:
            ConfigError: If a remote dataset does not fit into the cache.
        """
        shards.check_fits_cache(split, sampling.window_shards)
        self._shards = shards
        self._rows, self._classes = rows_and_classes(shards, split, task)
        self._batch_size = batch_size
        self._num_parts = num_parts
        self._seed = seed
        self._targets = targets
        groups = group_photographs(shards, split, task=task, sampling=sampling)
        self.num_steps = groups.count_steps(batch_size, num_parts=num_parts)
        self._loader = Loader(
            shards, self._rows, groups.numbers, on_damaged=sampling.on_damaged
        )
        streams = [sampling, *([partners] if partners else [])]
        self._has_partners = len(streams) > 1
        shard_numbers = shards.shard_numbers(self._rows)
        plan = functools.partial(
            _plan_orders,
            shards,
            groups.numbers,
            streams,
            seed=seed,
            shard_numbers=shard_numbers if sampling.window_shards else None,
        )
        # A single thread plans all epochs: each thread keeps the memory it has once
        # used.
        planner = ThreadPoolExecutor(1)
        self._begin_plan = functools.lru_cache(NUM_KEPT_EPOCHS)(
            functools.partial(planner.submit, plan)
        )
        self._windows = functools.lru_cache(NUM_KEPT_EPOCHS)(
            functools.partial(
                plan_windows,
                np.unique(shard_numbers),
                sampling.window_shards,
                seed=seed,
            )
        )

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Return the tensors of a part of a batch by name, in the order of `load`."""
        size = self._shards.manifest.image_size
        specs = {
            "image": tf.TensorSpec([None, size, size, 3], tf.uint8),
            "label": tf.TensorSpec([None], tf.int64),
            "row": tf.TensorSpec([None], tf.int64),
            "seed": tf.TensorSpec([None, 2], tf.int32),
        }
        if self._targets is not None:
            specs["target"] = tf.TensorSpec([None], tf.float32)
        if self._has_partners:
            specs |= {f"partner_{name}": spec for name, spec in specs.items()}
        return specs

    def load(self, epoch: int, step: int, *, part: int) -> tuple[np.ndarray, ...]:
        """Load a part of a batch.

        Args:
            epoch: From 0.
            step: Of the epoch, from 0.
            part: Of the batch, from 0.

        Raises:
            RecordError: At a damaged record, or if the dataset was closed or changed.
        """
        order, *partner_orders = self._begin_plan(epoch).result()
        self._begin_plan(epoch + 1)  # in the background, while this epoch is read

        # The part's stretch of the epoch's order.
        first = step * self._batch_size
        is_last = step == self.num_steps - 1
        size = len(order) - first if is_last else self._batch_size
        stretch = slice(
            first + size * part // self._num_parts,
            first + size * (part + 1) // self._num_parts,
        )

        if self._shards.is_remote:
            self._expect_shards(epoch, order[stretch.start])

        arrays = self._load_examples(order[stretch], stretch, [self._seed, epoch])
        for partner_order in partner_orders:
            # The orders of both streams have their classes at the same places. So the
            # partners are shuffled, as a whole batch, to be the same for any parts.
            begin = first * len(partner_order) // len(order)
            rng = np.random.default_rng([self._seed, epoch, step, 0, NUM_STREAMS])
            shuffled = rng.permutation(partner_order[begin : begin + size])
            own = shuffled[stretch.start - first : stretch.stop - first]
            arrays += self._load_examples(own, stretch, [self._seed, epoch, 1])
        return arrays

    def _load_examples(
        self, examples: np.ndarray, places: slice, seeds: list[int]
    ) -> tuple[np.ndarray, ...]:
        # A damaged record may be replaced by another example.
        images, loaded = self._loader.load(examples)

        # A seed for each place in the epoch, not for each photograph: one that comes
        # twice is augmented in two ways.
        image_seeds = np.empty((len(loaded), 2), np.uint32)
        image_seeds[:, 0] = np.random.SeedSequence(seeds).generate_state(1)
        image_seeds[:, 1] = np.arange(places.start, places.stop)
        labels = self._classes[loaded].astype(np.int64)
        arrays = images, labels, self._rows[loaded], image_seeds.view(np.int32)
        if self._targets is None:
            return arrays
        return (*arrays, self._targets[loaded])

    def _expect_shards(self, epoch: int, example: int) -> None:
        """Announce the window that an example is in, and the window after it."""
        shard = self._shards.shard_numbers(self._rows[example])
        own, next_epoch = (self._windows(epoch=x) for x in (epoch, epoch + 1))
        upcoming = [*own, *next_epoch]
        for window, following in itertools.pairwise(upcoming):
            if shard in window:
                self._shards.expect(list(dict.fromkeys([*window, *following])))
                return


def _plan_orders(
    shards: ShardDataset,
    groups: np.ndarray,
    streams: list[SamplingConfig],
    epoch: int,
    *,
    seed: int,
    shard_numbers: np.ndarray | None,
) -> list[np.ndarray]:
    """Plan the order of an epoch for each stream, if the dataset is still the same."""
    shards.check_unchanged()
    return [
        plan_epoch(
            groups,
            sampling,
            seed=seed,
            epoch=epoch,
            stream=stream,
            shard_numbers=shard_numbers,
        )
        for stream, sampling in enumerate(streams)
    ]

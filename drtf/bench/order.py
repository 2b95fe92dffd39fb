"""Measure how well an epoch is shuffled within windows of shards."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drtf.config import SamplingConfig
from drtf.data.sampling import plan_epoch
from drtf.errors import DrtfError

NUM_PLANS = 5
# The photographs of EyePACS, and the fraction of them with grade >= 1.
NUM_PHOTOGRAPHS = 35_126
POSITIVE_FRACTION = 0.265
PHOTOGRAPHS_PER_SHARD = 500


@dataclass(frozen=True)
class OrderResult:
    """How well the first epoch is shuffled, and how long its planning takes.

    Attributes:
        window_shards: Shards of a window; 0 for the whole dataset.
        positive_percent: Positive photographs of each batch, in percent.
        shards_per_batch: Number of shards that each batch has photographs of.
        neighbor_distance: Mean distance at which two neighbors of a shard are drawn,
            as a fraction of the epoch. 1/3 if the order is independent of the shards.
        plan_ms: Time of each planning of the epoch, in milliseconds.
    """

    window_shards: int
    positive_percent: list[float]
    shards_per_batch: list[int]
    neighbor_distance: float
    plan_ms: list[float]


def bench_order(
    classes: np.ndarray,
    shard_numbers: np.ndarray,
    *,
    windows: Sequence[int],
    batch_size: int,
) -> list[OrderResult]:
    """Plan a balanced epoch with windows of several sizes, without reading anything.

    Args:
        classes: int [n], 1 for each positive photograph and 0 for the others.
        shard_numbers: int [n], the shard of each photograph, ascending.
        windows: Values of `sampling.window_shards`.
        batch_size: Number of photographs in a batch; a last smaller one is left out.

    Raises:
        DrtfError: If an epoch is smaller than a batch.
    """
    results = []
    for window_shards in windows:
        sampling = SamplingConfig(mode="balanced", window_shards=window_shards)
        plan_ms = []
        for _ in range(NUM_PLANS):
            start = time.perf_counter()
            order = plan_epoch(
                classes, sampling, seed=0, epoch=0, shard_numbers=shard_numbers
            )
            plan_ms.append(1000 * (time.perf_counter() - start))
        if len(order) < batch_size:
            raise DrtfError(
                f"an epoch has {len(order)} photographs, fewer than a batch of "
                f"{batch_size}; choose a smaller batch size"
            )
        in_batches = len(order) // batch_size * batch_size
        batches = order[:in_batches].reshape(-1, batch_size)
        results.append(
            OrderResult(
                window_shards=window_shards,
                positive_percent=(100 * classes[batches].mean(axis=1)).tolist(),
                shards_per_batch=[len(np.unique(x)) for x in shard_numbers[batches]],
                neighbor_distance=_neighbor_distance(order, shard_numbers),
                plan_ms=plan_ms,
            )
        )
    return results


def simulate_eyepacs() -> tuple[np.ndarray, np.ndarray]:
    """Return the class and shard of as many photographs as EyePACS has."""
    rng = np.random.default_rng(0)
    classes = (rng.random(NUM_PHOTOGRAPHS) < POSITIVE_FRACTION).astype(np.int8)
    return classes, np.arange(NUM_PHOTOGRAPHS) // PHOTOGRAPHS_PER_SHARD


def _neighbor_distance(order: np.ndarray, shard_numbers: np.ndarray) -> float:
    """Return how far apart neighbors of a shard are first drawn."""
    first_draw = np.empty(len(shard_numbers))
    first_draw[order[::-1]] = np.arange(len(order))[::-1]
    are_neighbors = np.diff(shard_numbers) == 0
    return float(np.abs(np.diff(first_draw))[are_neighbors].mean() / len(order))

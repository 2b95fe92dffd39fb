"""The order of an epoch, a pure function of the classes, the seed and the epoch."""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from drtf.config import AugmentConfig, SamplingConfig
from drtf.errors import ConfigError

MAX_EPOCH_RATIO = 1000
MAX_CLASSES = 256  # a class is an int8
BALANCED = SamplingConfig()


def plan_epoch(
    classes: np.ndarray,
    config: SamplingConfig,
    *,
    seed: int,
    epoch: int,
    stream: int = 0,
    shard_numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Plan the order of one epoch, with the exact fraction of each class throughout.

    No photograph comes a second time before all photographs of its class have come
    once. A class that is drawn more often than it has photographs is repeated in whole
    reshuffled passes; no pass starts with the photograph that ended the one before. The
    classes are interleaved evenly, so any stretch of the order (a batch, or a part of
    one) has each class in its fraction to within one or two photographs.

    With `sampling.window_shards`, all this holds within each window of shards. The
    epoch has the same number of draws of each class as without, and each class's draws
    are divided among the windows in proportion to its photographs there.

    Args:
        classes: int [n], the class of each example, or its group of `sampling.by`,
            from 0.
        config: The `sampling` section.
        seed: Of the stream.
        epoch: From 0.
        stream: From 0. Streams have the same windows, but different orders in them.
        shard_numbers: int [n], the shard of each example. Required by
            `sampling.window_shards`.

    Returns:
        int64 [m], examples in the order in which they are drawn. `natural` gives a
        permutation; `balanced` has each example of the largest class exactly once.

    Raises:
        ConfigError: If `sampling.weights` is used and does not fit the classes.
    """
    counts = np.bincount(classes, minlength=len(config.weights)).tolist()
    draws = count_draws(np.array(counts), config)
    if not config.window_shards:
        all_members = (np.flatnonzero(classes == own) for own in range(len(counts)))
        return _plan_window(all_members, draws, [seed, epoch], window=0, stream=stream)
    if shard_numbers is None:
        raise ValueError("sampling.window_shards requires the shard of each example")
    stretches = []
    num_before = [0] * len(counts)  # members of each class in the windows before
    windows = plan_windows(
        np.unique(shard_numbers), config.window_shards, seed=seed, epoch=epoch
    )
    for number, examples in enumerate(_examples_by_window(shard_numbers, windows)):
        own_classes = classes[examples]
        members = [examples[own_classes == own] for own in range(len(counts))]
        num_after = [n + len(own) for n, own in zip(num_before, members, strict=True)]
        own_draws = [
            _draws_until(after, total, count) - _draws_until(before, total, count)
            for before, after, total, count in zip(
                num_before, num_after, draws, counts, strict=True
            )
        ]
        stretch = _plan_window(
            members, own_draws, [seed, epoch], window=number, stream=stream
        )
        stretches.append(stretch)
        num_before = num_after
    return np.concatenate(stretches)


def partner_sampling(
    config: SamplingConfig, augment: AugmentConfig
) -> SamplingConfig | None:
    """Return how the photographs are sampled that are mixed into others.

    Args:
        config: The `sampling` section.
        augment: The `augment` section.

    Returns:
        None if no photographs are mixed.
    """
    if augment.balanced_mixup:
        return config.model_copy(update={"mode": "balanced"})
    return config if augment.mixup or augment.cutmix else None


def plan_windows(
    shard_numbers: np.ndarray, window_shards: int, *, seed: int, epoch: int
) -> list[np.ndarray]:
    """Plan which shards of a split are shuffled together, in the order of the windows.

    The windows are as equal as possible, so that no short one shuffles badly.

    Args:
        shard_numbers: int [s], the numbers of the split's shards.
        window_shards: Shards of a window, at most. 0 makes one window of all shards.
        seed: Of the stream.
        epoch: From 0.
    """
    if not 0 < window_shards < len(shard_numbers):
        return [shard_numbers]
    # The number follows those of the classes, so that no other draws are equal.
    rng = np.random.default_rng([seed, epoch, MAX_CLASSES])
    return np.array_split(
        rng.permutation(shard_numbers), -(-len(shard_numbers) // window_shards)
    )


def _examples_by_window(
    shard_numbers: np.ndarray, windows: list[np.ndarray]
) -> list[np.ndarray]:
    """Return the examples of each window, ascending."""
    window_of = np.empty(shard_numbers.max() + 1, np.int32)
    for number, window in enumerate(windows):
        window_of[window] = number
    numbers = window_of[shard_numbers]
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers))[:-1])


def _draws_until(num_members: int, draws: int, count: int) -> int:
    """Return how many of a class's draws belong to the first of its members."""
    return (2 * draws * num_members + count) // (2 * count) if count else 0


def _plan_window(
    members: Iterable[np.ndarray],
    draws: list[int],
    seeds: list[int],
    *,
    window: int,
    stream: int,
) -> np.ndarray:
    """Plan the order of one window.

    Args:
        members: The examples of each class.
        draws: How often each class is drawn.
        seeds: Seed and epoch.
        window: Number of the window.
        stream: Number of the stream.
    """
    own_seeds = [stream] if stream else []
    # Each class spreads its draws evenly over the window, which lasts from 0 to 1.
    times = [(np.arange(num_draws) + 0.5) / num_draws for num_draws in draws]
    order = np.empty(sum(draws), np.int64)
    for number, (own, num_draws) in enumerate(zip(members, draws, strict=True)):
        if num_draws:
            rng = np.random.default_rng([*seeds, number, window, *own_seeds])
            order[_merged_places(times, number)] = _draw(own, num_draws, rng)
    return order


def _merged_places(times: list[np.ndarray], number: int) -> np.ndarray:
    """Return the places of a class's draws after sorting all by time, then by class."""
    places = np.arange(len(times[number]))
    for other, other_times in enumerate(times):
        if other != number:
            side: Literal["left", "right"] = "right" if other < number else "left"
            places += np.searchsorted(other_times, times[number], side)
    return places


def count_draws(counts: np.ndarray, config: SamplingConfig) -> list[int]:
    """Return how often each class is drawn in an epoch.

    An epoch is as short as the classes' fractions allow if each photograph of a class
    with a weight above 0 comes at least once.

    Args:
        counts: int64 [c], photographs of each class.
        config: The `sampling` section.

    Raises:
        ConfigError: If `sampling.weights` is used and does not fit the classes.
    """
    present = counts > 0
    if config.mode == "natural":
        return counts.tolist()
    if config.mode == "balanced":
        weights = present.astype(float)
    else:
        weights = np.asarray(config.weights)
        if len(weights) != len(counts) or not weights[present].any():
            raise ConfigError(
                f"sampling.weights requires one number for each of the {len(counts)} "
                "classes, and one above 0 for a class with photographs; got "
                f"{list(config.weights)}"
            )
        weights = np.where(present, weights, 0.0)
    drawn = weights > 0
    scale = max(counts[drawn] / weights[drawn])
    length = scale * weights.sum()
    if length > MAX_EPOCH_RATIO * counts.sum():
        raise ConfigError(
            f"sampling.weights={list(config.weights)} turn {counts.sum()} photographs "
            f"into an epoch of {length:.3g}, more than {MAX_EPOCH_RATIO} times as "
            "many: choose weights that are closer together"
        )
    return [math.floor(weight * scale + 0.5) for weight in weights]


def _draw(members: np.ndarray, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from the members in whole passes, each shuffled."""
    passes = []
    last = -1
    for _ in range(math.ceil(num_draws / len(members))):
        shuffled = rng.permutation(members)
        if shuffled[0] == last and len(shuffled) > 1:
            shuffled[[0, -1]] = shuffled[[-1, 0]]
        last = shuffled[-1]
        passes.append(shuffled)
    return np.concatenate(passes)[:num_draws]

"""The order of an epoch, a pure function of the classes, the seed and the epoch."""

import math
from typing import Literal

import numpy as np

from drtf.config import SamplingConfig
from drtf.errors import ConfigError

MAX_EPOCH_RATIO = 1000


def plan_epoch(
    classes: np.ndarray, config: SamplingConfig, *, seed: int, epoch: int
) -> np.ndarray:
    """Plan the order of one epoch, with the exact fraction of each class throughout.

    No photograph comes a second time before all photographs of its class have come
    once. A class that is drawn more often than it has photographs is repeated in whole
    reshuffled passes; no pass starts with the photograph that ended the one before. The
    classes are interleaved evenly, so any stretch of the order (a batch, or a part of
    one) has each class in its fraction to within one or two photographs.

    Args:
        classes: int [n], the class of each example, from 0.
        config: The `sampling` section.
        seed: Of the stream.
        epoch: From 0.

    Returns:
        int64 [m], examples in the order in which they are drawn. `natural` gives a
        permutation; `balanced` has each example of the largest class exactly once.

    Raises:
        ConfigError: If `sampling.weights` is used and does not fit the classes.
    """
    draws = count_draws(np.bincount(classes, minlength=len(config.weights)), config)
    # Each class spreads its draws evenly over the epoch, which lasts from 0 to 1.
    times = [(np.arange(num_draws) + 0.5) / num_draws for num_draws in draws]
    order = np.empty(sum(draws), np.int64)
    for number, num_draws in enumerate(draws):
        if num_draws:
            rng = np.random.default_rng([seed, epoch, number])
            members = np.flatnonzero(classes == number)
            order[_merged_places(times, number)] = _draw(members, num_draws, rng)
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

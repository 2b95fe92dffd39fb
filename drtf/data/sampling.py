"""The order of an epoch: a pure function of the classes, the seed and the epoch."""

import math
from typing import Literal

import numpy as np

from drtf.config import SamplingConfig
from drtf.errors import ConfigError

MAX_EPOCH_RATIO = 1000


def plan_epoch(
    classes: np.ndarray, config: SamplingConfig, *, seed: int, epoch: int
) -> np.ndarray:
    """Order one epoch so that each class has its exact share, everywhere in it.

    No photograph of a class comes a second time before all of the class have come
    once: a class that is drawn more often than it has photographs is gone through in
    whole reshuffled passes, each beginning with another photograph than the last one
    ended with. The classes are interleaved evenly, so any stretch of the order (a
    batch, or a reader's part of one) holds them in their shares to within one or two.

    Args:
        classes: int64 [n], each photograph's class, from 0.
        config: the `sampling` section.
        seed: of the run.
        epoch: from 0.

    Returns:
        int64 [m], positions in `classes`; `natural` gives a permutation, `balanced`
        every photograph of the largest class exactly once.

    Raises:
        ConfigError: if weights are asked for and don't fit the classes.
    """
    draws = count_draws(np.bincount(classes, minlength=len(config.weights)), config)
    times = [(np.arange(count) + 0.5) / count for count in draws]
    order = np.empty(sum(draws), np.int64)
    for number, count in enumerate(draws):
        if count:
            rng = np.random.default_rng([seed, epoch, number])
            members = np.flatnonzero(classes == number)
            order[_find_places(times, number)] = _draw(members, count, rng)
    return order


def _find_places(times: list[np.ndarray], number: int) -> np.ndarray:
    """Return where a class's draws stand among all, sorted by time, then by class."""
    places = np.arange(len(times[number]))
    for other, theirs in enumerate(times):
        if other != number:
            side: Literal["left", "right"] = "right" if other < number else "left"
            places += np.searchsorted(theirs, times[number], side)
    return places


def count_draws(counts: np.ndarray, config: SamplingConfig) -> list[int]:
    """Return how often each class is drawn in an epoch.

    An epoch is the shortest in which the shares are kept and every photograph of a
    class with a weight comes at least once.

    Args:
        counts: int64 [c], photographs by class.
        config: the `sampling` section.
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
                f"sampling.weights needs one number for each of the {len(counts)} "
                f"classes, not all zero; got {list(config.weights)}"
            )
        weights = np.where(present, weights, 0.0)
    drawn = weights > 0
    scale = max(counts[drawn] / weights[drawn])
    length = scale * weights.sum()
    if length > MAX_EPOCH_RATIO * counts.sum():
        raise ConfigError(
            f"sampling.weights {list(config.weights)} make an epoch of {length:.3g} "
            f"photographs from {counts.sum()}: bring the weights closer together"
        )
    return [math.floor(weight * scale + 0.5) for weight in weights]


def _draw(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    passes = []
    last = -1
    for _ in range(math.ceil(count / len(members))):
        order = rng.permutation(members)
        if order[0] == last and len(order) > 1:
            order[[0, -1]] = order[[-1, 0]]
        last = order[-1]
        passes.append(order)
    return np.concatenate(passes)[:count]

"""All images as float32 arrays in memory, as the notebook keeps them."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from measurement import measure


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Oversample the positive class, shuffle, and index the arrays."""
    images = np.fromfile(arguments.images, np.uint8).reshape(-1, *arguments.shape)
    pixels = images.astype(np.float32)
    pixels /= 255
    del images
    labels = np.fromfile(arguments.labels, np.int64)
    rng = np.random.default_rng(arguments.seed)
    size = arguments.batch_size
    members = [np.flatnonzero(labels == label) for label in (0, 1)]
    while True:
        drawn = rng.choice(members[1], len(members[0]))
        order = rng.permutation(np.concatenate([members[0], drawn]))
        for start in range(0, len(order) - size, size):
            chosen = order[start : start + size]
            yield pixels[chosen], labels[chosen]


if __name__ == "__main__":
    measure(read)

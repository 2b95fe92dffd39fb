"""Copying the same bytes from memory to memory: an upper bound for all readers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from measurement import measure


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Copy batches from a large array, in order."""
    size = arguments.batch_size
    images = np.fromfile(arguments.images, np.uint8).reshape(-1, *arguments.shape)
    labels = np.zeros(size)
    labels[::2] = 1
    out = np.zeros((size, *arguments.shape), np.uint8)
    while True:
        for start in range(0, len(images) - size, size):
            np.copyto(out, images[start : start + size])
            yield out, labels


if __name__ == "__main__":
    measure(read)

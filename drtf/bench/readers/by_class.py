"""The images that the other ways write in their own formats, a class at a time."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

SEED = 0


def images_by_class(
    arguments: SimpleNamespace, *, num_files: int
) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    """Yield each file to write: its label, its number, and the pixels of its images.

    Files sorted by class spare a pipeline the filter that balancing else needs; within
    a class the images come shuffled.
    """
    images = np.memmap(arguments.images, np.uint8, "r").reshape(-1, *arguments.shape)
    labels = np.fromfile(arguments.labels, np.int64)
    order = np.random.default_rng(SEED).permutation(len(labels))
    for label in (0, 1):
        rows = order[labels[order] == label]
        for number, part in enumerate(np.array_split(rows, num_files)):
            yield label, number, (images[row].tobytes() for row in part)

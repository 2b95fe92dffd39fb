"""Images sorted by class, for readers that write files in their own format."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

SEED = 0


def images_by_class(
    arguments: SimpleNamespace, *, num_files: int
) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    """Yield the contents of each file: its label, its number and its images' pixels.

    With files sorted by class, a pipeline can balance the classes without a filter.
    Within a class the images are shuffled.

    Args:
        arguments: The arguments of the process (see `measurement.measure`).
        num_files: Number of files of each class.
    """
    images = np.memmap(arguments.images, np.uint8, "r").reshape(-1, *arguments.shape)
    labels = np.fromfile(arguments.labels, np.int64)
    order = np.random.default_rng(SEED).permutation(len(labels))
    for label in (0, 1):
        rows = order[labels[order] == label]
        for number, part in enumerate(np.array_split(rows, num_files)):
            yield label, number, (images[row].tobytes() for row in part)

"""drtf's reader without tf.data: an upper bound for the pipeline."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from measurement import measure

from drtf.config import SamplingConfig
from drtf.data.sampling import plan_epoch
from drtf.records.reader import ShardDataset

NUM_BUFFERS = 2


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Read batches on all cores, into buffers that are used again and again."""
    shards = ShardDataset(Path(arguments.shards))
    rows = shards.split_rows("train")
    labels = (shards.grades[rows] > 0).astype(np.int64)
    size = arguments.batch_size
    shape = (size, *arguments.shape)
    buffers = itertools.cycle([np.zeros(shape, np.uint8) for _ in range(NUM_BUFFERS)])
    for epoch in itertools.count():
        order = plan_epoch(labels, SamplingConfig(), seed=arguments.seed, epoch=epoch)
        for start in range(0, len(order) - size, size):
            examples = order[start : start + size]
            images = next(buffers)
            shards.read_pixels(rows[examples], images)
            yield images, labels[examples]


if __name__ == "__main__":
    measure(read)

"""drtf's reader in threads, without tf.data: what the pipeline can reach at best."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from measuring import measure

from drtf.config import SamplingConfig
from drtf.data.sampling import plan_epoch
from drtf.records.reader import ShardSet


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Have each thread read whole batches into memory of its own."""
    shards = ShardSet(Path(arguments.shards))
    rows = shards.find_rows("train")
    labels = (shards.grades[rows] > 0).astype(np.int64)
    num_threads = len(os.sched_getaffinity(0))
    shape = (arguments.batch_size, *arguments.shape)
    memory = itertools.cycle([np.zeros(shape, np.uint8) for _ in range(num_threads)])

    def load(examples: np.ndarray, images: np.ndarray) -> tuple[Any, Any]:
        shards.read_pixels(rows[examples], images)
        return images, labels[examples]

    with ThreadPoolExecutor(num_threads) as threads:
        pending: list[Future[tuple[Any, Any]]] = []
        for epoch in itertools.count():
            order = plan_epoch(
                labels, SamplingConfig(), seed=arguments.seed, epoch=epoch
            )
            size = arguments.batch_size
            for start in range(0, len(order) - size, size):
                if len(pending) == num_threads:
                    yield pending.pop(0).result()
                examples = order[start : start + size]
                pending.append(threads.submit(load, examples, next(memory)))


if __name__ == "__main__":
    measure(lambda arguments: None, read)

"""Only the image decoder, on all cores, from bytes that are already in memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from measurement import measure

from drtf.images.preprocess import decode_image, limit_threads
from drtf.records.reader import ShardDataset
from drtf.resources import count_cores


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Decode each batch with all threads, into the same memory."""
    limit_threads()
    size, encoding = arguments.shape[0], arguments.encoding
    with ShardDataset(Path(arguments.shards)) as shards:
        stored = shards.read_images(shards.split_rows("train"))
    out = np.zeros((arguments.batch_size, *arguments.shape), np.uint8)
    labels = np.arange(arguments.batch_size) % 2
    rng = np.random.default_rng(arguments.seed)

    def decode(chosen: np.ndarray, images: np.ndarray) -> None:
        for number, image in zip(chosen, images, strict=True):
            image[...] = decode_image(stored[number], encoding, size=size)

    num_threads = count_cores()
    parts = np.array_split(out, num_threads)
    with ThreadPoolExecutor(num_threads) as threads:
        while True:
            chosen = rng.integers(0, len(stored), len(out))
            for _ in threads.map(decode, np.array_split(chosen, num_threads), parts):
                pass
            yield out, labels


if __name__ == "__main__":
    measure(read)

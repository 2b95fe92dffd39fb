"""webdataset: tar files, shuffled in a buffer, read by the workers of a loader."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import webdataset
from class_files import images_by_class
from measurement import measure

NUM_FILES = 4
BUFFER = 2048


def prepare(arguments: SimpleNamespace) -> None:
    """Write each class to its own tar files."""
    for label, number, images in images_by_class(arguments, num_files=NUM_FILES):
        path = Path(arguments.work) / f"{label}-{number}.tar"
        with webdataset.TarWriter(str(path)) as writer:
            for key, pixels in enumerate(images):
                writer.write({"__key__": f"{key:08d}", "raw": pixels})


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Mix the two classes by record; the workers make the batches."""
    size, shape = arguments.batch_size, arguments.shape

    def of_class(label: int) -> Any:
        urls = sorted(map(str, Path(arguments.work).glob(f"{label}-*.tar")))
        dataset = webdataset.WebDataset(urls, resampled=True, seed=arguments.seed)
        return dataset.shuffle(BUFFER).map(
            lambda sample: (
                np.frombuffer(sample["raw"], np.uint8).reshape(shape),
                label,
            )
        )

    mix = webdataset.RandomMix([of_class(0), of_class(1)], [0.5, 0.5])
    pipeline = webdataset.DataPipeline(mix, webdataset.batched(size, partial=False))
    workers = len(os.sched_getaffinity(0))
    yield from webdataset.WebLoader(pipeline, batch_size=None, num_workers=workers)


if __name__ == "__main__":
    measure(read, prepare=prepare, version=version("webdataset"))

"""MosaicML streaming: MDS shards, shuffled by the library."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from class_files import images_by_class
from measurement import measure
from streaming import MDSWriter, Stream, StreamingDataset


class Pixels(StreamingDataset):
    """Raw pixels and labels."""

    shape: tuple[int, int, int]

    def __getitem__(self, at: Any) -> tuple[np.ndarray, int]:
        record = super().__getitem__(at)
        pixels = np.frombuffer(record["image"], np.uint8)
        return pixels.reshape(self.shape), record["label"]


def prepare(arguments: SimpleNamespace) -> None:
    """Write each class to its own stream."""
    for label, _, images in images_by_class(arguments, num_files=1):
        out = str(Path(arguments.work) / str(label))
        with MDSWriter(out=out, columns={"image": "bytes", "label": "int"}) as writer:
            for pixels in images:
                writer.write({"image": pixels, "label": label})


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Draw both classes equally often, with the workers of a DataLoader."""
    streams = [
        Stream(local=str(Path(arguments.work) / str(label)), proportion=0.5)
        for label in (0, 1)
    ]
    dataset = Pixels(
        streams=streams,
        shuffle=True,
        shuffle_seed=arguments.seed,
        batch_size=arguments.batch_size,
        epoch_size=10_000_000,
    )
    dataset.shape = tuple(arguments.shape)
    yield from torch.utils.data.DataLoader(
        dataset,
        batch_size=arguments.batch_size,
        num_workers=len(os.sched_getaffinity(0)),
    )


if __name__ == "__main__":
    measure(read, prepare=prepare, version=version("mosaicml-streaming"))

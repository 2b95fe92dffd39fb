"""FFCV: one file, mapped into memory and read by compiled code; no checksums."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter
from measurement import measure

FILE = "images.beton"


class Images:
    """Pixels and labels by index."""

    def __init__(self, arguments: SimpleNamespace) -> None:
        pixels = np.memmap(arguments.images, np.uint8, "r")
        self.images = pixels.reshape(-1, *arguments.shape)
        self.labels = np.fromfile(arguments.labels, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.array(self.images[index]), int(self.labels[index])


def prepare(arguments: SimpleNamespace) -> None:
    """Write the raw pixels."""
    path = str(Path(arguments.work) / FILE)
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(path, fields, num_workers=1).from_indexed_dataset(Images(arguments))


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Shuffle all indices; those of the positive class are oversampled."""
    labels = np.fromfile(arguments.labels, np.int64)
    rng = np.random.default_rng(arguments.seed)
    members = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = rng.choice(members[1], len(members[0]))
    loader = Loader(
        str(Path(arguments.work) / FILE),
        batch_size=arguments.batch_size,
        num_workers=len(os.sched_getaffinity(0)),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        seed=arguments.seed,
        indices=np.concatenate([members[0], drawn]),
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    while True:
        yield from loader


if __name__ == "__main__":
    measure(read, prepare=prepare, version=version("ffcv"))

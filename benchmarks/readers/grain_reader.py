"""grain on ArrayRecord files, with a global shuffle by index."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from class_files import images_by_class
from measurement import measure


def prepare(arguments: SimpleNamespace) -> None:
    """Write each class to its own file, with one record per group for random access."""
    for label, _, images in images_by_class(arguments, num_files=1):
        path = str(Path(arguments.work) / f"{label}.array_record")
        writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
        for pixels in images:
            writer.write(pixels)
        writer.close()


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Mix two shuffled classes; threads read the records."""

    def of_class(label: int) -> Any:
        path = str(Path(arguments.work) / f"{label}.array_record")
        source = grain.sources.ArrayRecordDataSource([path])
        dataset = grain.MapDataset.source(source).shuffle(seed=arguments.seed).repeat()

        def decode(record: bytes) -> tuple[np.ndarray, np.int64]:
            pixels = np.frombuffer(record, np.uint8)
            return pixels.reshape(arguments.shape), np.int64(label)

        return dataset.map(decode)

    mix = grain.MapDataset.mix([of_class(0), of_class(1)], weights=[0.5, 0.5])
    yield from mix.batch(arguments.batch_size).to_iter_dataset()


if __name__ == "__main__":
    measure(read, prepare=prepare, version=version("grain"))

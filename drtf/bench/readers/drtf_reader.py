"""drtf's own pipeline."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from measurement import measure

from drtf.data.pipeline import StreamPosition, train_dataset
from drtf.records.reader import ShardDataset

NUM_EPOCHS = 1_000_000  # more than are ever read


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Stream epochs without end."""
    shards = ShardDataset(
        Path(arguments.shards), verify_checksums=arguments.verify_checksums
    )
    dataset = train_dataset(
        shards,
        batch_size=arguments.batch_size,
        epochs=NUM_EPOCHS,
        start=StreamPosition(arguments.seed),
    )
    for batch in dataset:
        if len(batch["label"]) == arguments.batch_size:
            yield batch["image"], batch["label"].numpy()


if __name__ == "__main__":
    measure(read)

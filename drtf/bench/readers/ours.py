"""drtf's own pipeline."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from measuring import measure

from drtf.data.pipeline import State, train_dataset
from drtf.records import reader

_read_checked = reader.read_frames


def _read_unchecked(*arguments: Any) -> int:
    return _read_checked(*arguments, False)  # type: ignore[call-arg]


def read(arguments: SimpleNamespace) -> Iterator[tuple[Any, Any]]:
    """Stream epochs without end."""
    if not arguments.check:
        reader.read_frames = _read_unchecked
    shards = reader.ShardDataset(Path(arguments.shards))
    dataset = train_dataset(
        shards,
        batch_size=arguments.batch_size,
        epochs=1_000_000,
        state=State(arguments.seed),
    )
    for batch in dataset:
        if len(batch["label"]) == arguments.batch_size:
            yield batch["image"], batch["label"].numpy()


if __name__ == "__main__":
    measure(lambda arguments: None, read)

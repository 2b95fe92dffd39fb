"""The photographs that a model was trained and chosen on, known by their hashes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drtf.files import write_atomic
from drtf.records.index import iterate_index
from drtf.records.manifest import INDEX_FILE
from drtf.records.reader import ShardDataset

PHOTOGRAPHS_FILE = "photographs.bin"
# The first 64 bits of a SHA-256, which is 16 hexadecimal digits.
PREFIX = np.dtype(">u8")
PREFIX_DIGITS = 2 * PREFIX.itemsize


def save_training_photographs(
    folder: Path,
    shards: ShardDataset,
    *,
    validation_split: str,
    parent: Path | None = None,
) -> None:
    """Write the start of each training and validation photograph's SHA-256.

    Args:
        folder: The run folder.
        shards: The dataset that the run was trained on, open.
        validation_split: The split on which the best epoch and the threshold are
            chosen.
        parent: Folder of the run that the training starts from, whose photographs count
            too.
    """
    splits = ["train", validation_split]
    prefixes = [load_training_photographs(parent)] if parent else []
    # In batches, because the hashes of many millions of photographs are large as text.
    for batch in iterate_index(shards.folder / INDEX_FILE, ["split", "sha256"]):
        used = batch["sha256"][batch["split"].isin(splits)]
        prefixes.append(np.array([_prefix(sha256) for sha256 in used], np.uint64))
    _save_prefixes(folder, prefixes)


def merge_training_photographs(folder: Path, runs: Sequence[Path]) -> None:
    """Write the photographs that any of several runs was trained or chosen on."""
    _save_prefixes(folder, [load_training_photographs(run) for run in runs])


def _save_prefixes(folder: Path, prefixes: Sequence[np.ndarray]) -> None:
    unique = np.unique(np.concatenate(prefixes))
    write_atomic(folder / PHOTOGRAPHS_FILE, unique.astype(PREFIX).tobytes())


def load_training_photographs(folder: Path) -> np.ndarray:
    """Load what `save_training_photographs` wrote: big-endian uint64 [n], ascending."""
    return np.fromfile(folder / PHOTOGRAPHS_FILE, PREFIX)


def is_training_photograph(sha256: str, prefixes: np.ndarray) -> bool:
    """Return whether a photograph's file is one that a model was trained or chosen on.

    Args:
        sha256: Its hash in hexadecimal.
        prefixes: From `load_training_photographs`.
    """
    prefix = _prefix(sha256)
    position = np.searchsorted(prefixes, prefix)
    return bool(position < len(prefixes) and prefixes[position] == prefix)


def count_training_photographs(folder: Path, shards: ShardDataset, split: str) -> int:
    """Count the photographs of a split that a run was trained or chosen on.

    Args:
        folder: The run folder.
        shards: A dataset, open.
        split: One of its splits.
    """
    prefixes = load_training_photographs(folder)
    hashes = shards.load_index(["sha256"], shards.split_rows(split))["sha256"]
    return sum(is_training_photograph(sha256, prefixes) for sha256 in hashes)


def _prefix(sha256: str) -> np.uint64:
    return np.uint64(int(sha256[:PREFIX_DIGITS], 16))

"""How each photograph was used for a model, known by the hash of its file."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
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
RECORD = np.dtype([("prefix", PREFIX), ("use", np.uint8)])


class Use(IntEnum):
    """The use of a photograph, in the order of its influence on the model."""

    TRAINING = 0
    VALIDATION = 1  # the best epoch, the threshold and the calibration
    TESTING = 2


def save_training_photographs(
    folder: Path,
    shards: ShardDataset,
    *,
    validation_split: str,
    parent: Path | None = None,
) -> None:
    """Write the start of each photograph's SHA-256, and its use.

    Args:
        folder: The run folder.
        shards: The dataset that the run was trained on, open.
        validation_split: The split on which the best epoch and the threshold are
            chosen.
        parent: Folder of the run that the training starts from. The photographs that
            it was trained or chosen on count too.
    """
    parts = []
    if parent:
        inherited = load_photographs(parent)
        parts.append(inherited[inherited["use"] != Use.TESTING])
    uses = {"train": Use.TRAINING, validation_split: Use.VALIDATION}
    # In batches, because the hashes of many millions of photographs are large as text.
    for batch in iterate_index(shards.folder / INDEX_FILE, ["split", "sha256"]):
        part = np.empty(len(batch), RECORD)
        part["prefix"] = _prefixes(batch["sha256"])
        part["use"] = [uses.get(split, Use.TESTING) for split in batch["split"]]
        parts.append(part)
    _save_photographs(folder, parts)


def merge_training_photographs(folder: Path, runs: Sequence[Path]) -> None:
    """Write the photographs of several runs; the use with most influence counts."""
    _save_photographs(folder, [load_photographs(run) for run in runs])


def _save_photographs(folder: Path, parts: Sequence[np.ndarray]) -> None:
    photographs = np.concatenate(parts)
    photographs.sort(order=["prefix", "use"])
    is_first = np.ones(len(photographs), bool)
    is_first[1:] = photographs["prefix"][1:] != photographs["prefix"][:-1]
    contents = photographs[is_first].astype(RECORD).tobytes()
    write_atomic(folder / PHOTOGRAPHS_FILE, contents)


def load_photographs(folder: Path) -> np.ndarray:
    """Load the photographs of a run: `RECORD` [n], prefixes ascending."""
    return np.fromfile(folder / PHOTOGRAPHS_FILE, RECORD)


def load_training_photographs(folder: Path) -> np.ndarray:
    """Load the photographs that a model was trained or chosen on.

    Returns:
        The prefixes of their hashes, uint64 [n], ascending.
    """
    photographs = load_photographs(folder)
    is_used = photographs["use"] != Use.TESTING
    # In the byte order of this machine: each search would convert all of them.
    return photographs["prefix"][is_used].astype(np.uint64)


def is_training_photograph(sha256: str, prefixes: np.ndarray) -> bool:
    """Return whether a photograph's file is one that a model was trained or chosen on.

    Args:
        sha256: Its hash in hexadecimal.
        prefixes: From `load_training_photographs`.
    """
    return count_known_photographs([sha256], prefixes) > 0


def count_known_photographs(hashes: Iterable[str], prefixes: np.ndarray) -> int:
    """Count the files that a model was trained or chosen on.

    Args:
        hashes: Their hashes in hexadecimal.
        prefixes: From `load_training_photographs`.
    """
    own = _prefixes(hashes)
    if not len(prefixes):
        return 0
    positions = np.searchsorted(prefixes, own).clip(max=len(prefixes) - 1)
    return int((prefixes[positions] == own).sum())


def count_training_photographs(folder: Path, shards: ShardDataset, split: str) -> int:
    """Count the photographs of a split that a run was trained or chosen on.

    Args:
        folder: The run folder.
        shards: A dataset, open.
        split: One of its splits.
    """
    prefixes = load_training_photographs(folder)
    batches = iterate_index(shards.folder / INDEX_FILE, ["split", "sha256"])
    return sum(
        count_known_photographs(batch["sha256"][batch["split"] == split], prefixes)
        for batch in batches
    )


def count_shared_photographs(one: Path, other: Path) -> tuple[int, int]:
    """Compare how two runs used the same photographs.

    Args:
        one: A run folder.
        other: Another run folder.

    Returns:
        How many photographs both runs know, and how many of these they used
        differently, such as one for training and the other for testing.
    """
    here, there = load_photographs(one), load_photographs(other)
    _, i, j = np.intersect1d(
        here["prefix"], there["prefix"], assume_unique=True, return_indices=True
    )
    return len(i), int((here["use"][i] != there["use"][j]).sum())


def _prefixes(hashes: Iterable[str]) -> np.ndarray:
    return np.array([int(sha256[:PREFIX_DIGITS], 16) for sha256 in hashes], np.uint64)

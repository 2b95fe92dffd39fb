"""The indexed reader: exactly the records asked for, each one checked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from drtf.errors import RecordError
from drtf.files import hash_file
from drtf.records.framing import FRAME_BYTES, HEADER, find_frame_fault
from drtf.records.index import load_index
from drtf.records.manifest import INDEX_FILE, Manifest, load_manifest
from drtf.records.schema import Record, parse_record


class ShardSet:
    """A set of shards, open for reading in any order and from any thread.

    Attributes:
        folder: where the set lies.
        manifest: its manifest.
        index: one row a record; a record is named by its row number.
    """

    def __init__(self, folder: Path) -> None:
        """Open a set.

        Raises:
            RecordError: if the folder is not a set, a shard is missing or has another
                size than the manifest says, or the index is not the manifest's.
        """
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder)
        if _hash_index(folder / INDEX_FILE) != self.manifest.files.get(INDEX_FILE):
            raise RecordError(
                f"{folder / INDEX_FILE} is not the index that the manifest names; "
                f"run drtf verify {folder}"
            )
        self.index: pd.DataFrame = load_index(folder / INDEX_FILE)
        self._shard = self.index["shard"].to_numpy()
        self._offset = self.index["offset"].to_numpy()
        self._length = self.index["length"].to_numpy()
        self._image_offset = self.index["image_offset"].to_numpy()
        self._image_length = self.index["image_length"].to_numpy()
        self._frame_bytes = int(self._length.max(initial=0)) + FRAME_BYTES
        self._files: list[int] = []
        try:
            for shard in self.manifest.shards:
                self._files.append(_open_shard(folder / shard.file, shard.size_bytes))
        except RecordError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.pop())

    def find_rows(self, split: str) -> np.ndarray:
        """List the records of a split as int64 row numbers, in their order.

        Raises:
            RecordError: if the set has no such split.
        """
        rows = np.flatnonzero(self.index["split"].to_numpy() == split)
        if not len(rows):
            splits = ", ".join(self.manifest.num_records)
            raise RecordError(
                f"{self.folder} has no photographs in split {split!r}; it has {splits}"
            )
        return rows

    def read_images(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the stored bytes of each record's image.

        Args:
            rows: int64 [n], row numbers of the index.

        Yields:
            uint8 [image_length]: a view that is overwritten by the next one.

        Raises:
            RecordError: at a damaged record; names its shard, number and offset.
        """
        frame = np.empty(self._frame_bytes, np.uint8)
        starts = self._image_offset[rows] + HEADER.size
        stops = starts + self._image_length[rows]
        for row, start, stop in zip(
            rows.tolist(), starts.tolist(), stops.tolist(), strict=True
        ):
            self._read_frame(row, frame)
            yield frame[start:stop]

    def read_record(self, row: int) -> Record:
        """Read one whole record.

        Raises:
            RecordError: if it is damaged.
        """
        frame = np.empty(self._frame_bytes, np.uint8)
        length = self._read_frame(row, frame)
        return parse_record(frame[HEADER.size : HEADER.size + length].tobytes())

    def _read_frame(self, row: int, frame: np.ndarray) -> int:
        length = int(self._length[row])
        view = frame[: length + FRAME_BYTES]
        file = self._files[self._shard[row]]
        # pread and not mmap: a shard cut under us is an error, not a SIGBUS.
        num_read = os.preadv(file, [view], int(self._offset[row]))
        fault = find_frame_fault(view[:num_read], length=length)
        if fault:
            shard = int(self._shard[row])
            number = row - int(np.searchsorted(self._shard, shard))
            raise RecordError(
                f"shard {self.folder / self.manifest.shards[shard].file}, record "
                f"{number} at offset {self._offset[row]}: {fault}; "
                f"run drtf verify {self.folder}"
            )
        return length


def _open_shard(path: Path, size_bytes: int) -> int:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise RecordError(f"can't open shard {path}: {error.strerror}") from error
    found = os.fstat(file).st_size
    if found != size_bytes:
        os.close(file)
        raise RecordError(
            f"shard {path} has {found} bytes, the manifest says {size_bytes}; "
            f"run drtf verify {path.parent}"
        )
    return file


def _hash_index(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise RecordError(f"can't read {path}: {error.strerror}") from error

"""The indexed reader: exactly the records asked for, each one checked."""

import functools
import math
import os
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from drtf.errors import DamagedRecordError, RecordError
from drtf.files import hash_file
from drtf.records.framing import (
    FOOTER,
    FRAME_BYTES,
    HEADER,
    OTHER_RECORD,
    find_frame_fault,
    read_footer,
)
from drtf.records.gather import read_frames
from drtf.records.index import load_index
from drtf.records.manifest import INDEX_FILE, Manifest, load_manifest
from drtf.records.schema import Record, parse_record

POSITIONS = (
    "split",
    "shard",
    "offset",
    "length",
    "image_offset",
    "image_length",
    "crc32c",
)


class ShardSet:
    """A set of shards, open for reading in any order and from any thread.

    Attributes:
        folder: where the set lies.
        manifest: its manifest.
        grades: int8 [n], of each record; a record is named by its row in the index.
        damaged: of each row that a reader skipped, what is wrong with it.
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
        index = load_index(folder / INDEX_FILE, [*POSITIONS, "grade"])
        splits = index["split"].astype("category")
        self._split_names = splits.cat.categories.to_list()
        self._split = splits.cat.codes.to_numpy()
        self.grades: np.ndarray = index["grade"].to_numpy()
        self.damaged: dict[int, str] = {}
        self._shard = index["shard"].to_numpy()
        self._offset = index["offset"].to_numpy()
        self._length = index["length"].to_numpy(np.int32)
        self._image_offset = index["image_offset"].to_numpy(np.int32)
        self._image_length = index["image_length"].to_numpy(np.int32)
        self._crc = index["crc32c"].to_numpy()
        self._files: list[int] = []
        try:
            for shard in self.manifest.shards:
                self._files.append(_open_shard(folder / shard.file, shard.size_bytes))
        except RecordError:
            self.close()
            raise
        self._descriptors = np.asarray(self._files, np.int32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.pop())
        self._descriptors = np.empty(0, np.int32)

    @functools.cached_property
    def index(self) -> pd.DataFrame:
        """The whole index, one row a record; read when it is first asked for."""
        return load_index(self.folder / INDEX_FILE)

    def find_rows(self, split: str) -> np.ndarray:
        """List the records of a split as int64 row numbers, in their order.

        Raises:
            RecordError: if the set has no such split.
        """
        if split not in self._split_names:
            splits = ", ".join(self.manifest.num_records)
            raise RecordError(
                f"{self.folder} has no photographs in split {split!r}; it has {splits}"
            )
        return np.flatnonzero(self._split == self._split_names.index(split))

    def read_images(self, rows: np.ndarray) -> list[np.ndarray]:
        """Read the stored bytes of each record's image.

        Args:
            rows: int64 [n], row numbers of the index.

        Returns:
            uint8 [image_length] for each row.

        Raises:
            DamagedRecordError: at the first damaged record; names its shard, number
                and offset.
        """
        stops = np.cumsum(self._image_length[rows], dtype=np.int64)
        data = np.empty(self._image_length[rows].sum(), np.uint8)
        self._read(rows, data)
        return np.split(data, stops[:-1])

    def read_pixels(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the images of a set whose encoding is `raw` into an array.

        Args:
            rows: int64 [n], row numbers of the index.
            out: uint8 [n, H, W, 3], contiguous, to fill.

        Raises:
            DamagedRecordError: at the first damaged record; names its shard, number
                and offset.
            RecordError: if an image has another size.
        """
        if (self._image_length[rows] != math.prod(out.shape[1:])).any():
            raise RecordError(
                f"an image of {self.folder} has not the size that its manifest says; "
                f"run drtf verify {self.folder}"
            )
        self._read(rows, out.reshape(-1))

    def _read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read images one after the other into `out`, uint8 [all their bytes]."""
        lengths = self._image_length[rows]
        num_whole = read_frames(
            self._descriptors[self._shard[rows]],
            self._offset[rows],
            self._length[rows],
            self._image_offset[rows],
            lengths,
            self._crc[rows],
            np.cumsum(lengths, dtype=np.int64) - lengths,
            out,
        )
        if num_whole < len(rows):
            row = int(rows[num_whole])
            _, fault = self._read_frame(row)
            raise self._damaged(
                row, fault or "it failed its checksums, though not when read again"
            )

    def read_record(self, row: int) -> Record:
        """Read one whole record.

        Raises:
            DamagedRecordError: if it is damaged.
        """
        frame, fault = self._read_frame(row)
        if fault:
            raise self._damaged(row, fault)
        return parse_record(frame[HEADER.size : -FOOTER.size].tobytes())

    def _read_frame(self, row: int) -> tuple[np.ndarray, str]:
        """Read a frame, and tell what is wrong with it, or nothing."""
        length = int(self._length[row])
        try:
            file = self._files[self._shard[row]]
            data = os.pread(file, length + FRAME_BYTES, int(self._offset[row]))
        except OSError as error:
            return np.empty(0, np.uint8), f"can't be read: {error.strerror}"
        frame = np.frombuffer(data, np.uint8)
        fault = find_frame_fault(frame, length=length)
        if not fault and read_footer(frame) != self._crc[row]:
            fault = OTHER_RECORD
        return frame, fault

    def _damaged(self, row: int, fault: str) -> DamagedRecordError:
        shard = int(self._shard[row])
        number = row - int(np.searchsorted(self._shard, shard))
        return DamagedRecordError(
            row,
            f"shard {self.folder / self.manifest.shards[shard].file}, record "
            f"{number} at offset {self._offset[row]}: {fault}; "
            f"run drtf verify {self.folder}",
        )


def _open_shard(path: Path, size_bytes: int) -> int:
    try:
        # A pipe in a shard's place would be waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
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

"""The indexed reader: exactly the records asked for, each one checked."""

import contextlib
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
    FRAME_BYTES,
    OTHER_RECORD,
    find_frame_fault,
    read_footer,
)
from drtf.records.gather import Frames, read_frames
from drtf.records.index import load_index
from drtf.records.manifest import INDEX_FILE, Manifest, load_manifest
from drtf.workers import count_workers

POSITIONS = (
    "split",
    "shard",
    "offset",
    "length",
    "image_offset",
    "image_length",
    "crc32c",
)


class ShardDataset:
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
        self._files = _open_shards(folder, self.manifest)

        def column(name: str, dtype: type[np.generic]) -> np.ndarray:
            return np.ascontiguousarray(index[name], dtype)

        self._frames = Frames(
            files=np.asarray(self._files, np.int32)[self._shard],
            offsets=column("offset", np.int64),
            lengths=column("length", np.int32),
            image_offsets=column("image_offset", np.int32),
            image_lengths=column("image_length", np.int32),
            crcs=column("crc32c", np.uint32),
        )
        self._num_threads = count_workers(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.pop())
        # The numbers may soon be those of other files.
        self._frames.files.fill(-1)

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
        lengths = self._frames.image_lengths[rows]
        stops = np.cumsum(lengths, dtype=np.int64)
        data = np.empty(lengths.sum(dtype=np.int64), np.uint8)
        self._read(rows, data, num_threads=1)
        return [
            data[stop - length : stop]
            for stop, length in zip(stops, lengths, strict=True)
        ]

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
        if (self._frames.image_lengths[rows] != math.prod(out.shape[1:])).any():
            raise RecordError(
                f"an image of {self.folder} has not the size that its manifest says; "
                f"run drtf verify {self.folder}"
            )
        self._read(rows, out.reshape(-1), num_threads=self._num_threads)

    def _read(self, rows: np.ndarray, out: np.ndarray, *, num_threads: int) -> None:
        """Read images one after the other into `out`, uint8 [all their bytes]."""
        num_whole = read_frames(self._frames, rows, out, num_threads)
        if num_whole < len(rows):
            row = int(rows[num_whole])
            _, fault = self._read_frame(row)
            raise self._damaged(
                row, fault or "it failed its checksums, though not when read again"
            )

    def _read_frame(self, row: int) -> tuple[np.ndarray, str]:
        """Read a frame, and tell what is wrong with it, or nothing."""
        if not self._files:
            raise RecordError(
                f"{self.folder} was closed: read from it, and from datasets made of "
                "it, before the end of its with block"
            )
        length = int(self._frames.lengths[row])
        try:
            file = self._files[self._shard[row]]
            data = os.pread(file, length + FRAME_BYTES, int(self._frames.offsets[row]))
        except OSError as error:
            return np.empty(0, np.uint8), f"can't be read: {error.strerror}"
        frame = np.frombuffer(data, np.uint8)
        fault = find_frame_fault(frame, length=length)
        if not fault and read_footer(frame) != self._frames.crcs[row]:
            fault = OTHER_RECORD
        return frame, fault

    def _damaged(self, row: int, fault: str) -> DamagedRecordError:
        shard = int(self._shard[row])
        number = row - int(np.searchsorted(self._shard, shard))
        return DamagedRecordError(
            row,
            f"shard {self.folder / self.manifest.shards[shard].file}, record "
            f"{number} at offset {self._frames.offsets[row]}: {fault}; "
            f"run drtf verify {self.folder}",
        )


def _open_shards(folder: Path, manifest: Manifest) -> list[int]:
    with contextlib.ExitStack() as opened:
        files = []
        for shard in manifest.shards:
            files.append(_open_shard(folder / shard.file, shard.size_bytes))
            opened.callback(os.close, files[-1])
        opened.pop_all()
    return files


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

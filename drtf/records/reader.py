"""The indexed reader: reads any records by row number and checks each one."""

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
    """A dataset of shards, open for reading in any order and from any thread.

    Records are addressed by their row in the index.

    Attributes:
        folder: Folder of the dataset.
        manifest: Its manifest.
        grades: int8 [n], the grade of each record.
        damaged: Rows that were skipped while reading, with the fault of each.
    """

    def __init__(self, folder: Path, *, verify_checksums: bool = True) -> None:
        """Open a dataset.

        Args:
            folder: Folder of the dataset.
            verify_checksums: Whether to verify the checksum of each record that is
                read. Reading is a little faster without, but a damaged record gives a
                wrong image and no error. The index is verified in any case.

        Raises:
            RecordError: If the folder is not a dataset, or if a shard or the index is
                missing or does not match the manifest.
        """
        self.folder = folder
        self._verify_checksums = verify_checksums
        self.manifest: Manifest = load_manifest(folder)
        if _hash_index(folder / INDEX_FILE) != self.manifest.files.get(INDEX_FILE):
            raise RecordError(
                f"{folder / INDEX_FILE} does not match the manifest; run drtf verify "
                f"{folder}"
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

    def _repr_html_(self) -> str:
        """Show the counts in a notebook: photographs by split and grade."""
        return self.manifest._repr_html_()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.pop())
        # The system may reuse these descriptors for other files.
        self._frames.files.fill(-1)

    @functools.cached_property
    def index(self) -> pd.DataFrame:
        """The whole index, one row per record; loaded on first use."""
        return load_index(self.folder / INDEX_FILE)

    def split_rows(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64 [n], in the order of the index.

        Raises:
            RecordError: If the dataset has no such split.
        """
        if split not in self._split_names:
            splits = ", ".join(self.manifest.num_records)
            raise RecordError(f"{self.folder} has no split {split!r}; it has {splits}")
        return np.flatnonzero(self._split == self._split_names.index(split))

    def read_images(self, rows: np.ndarray) -> list[np.ndarray]:
        """Read the stored bytes of each record's image.

        Args:
            rows: int64 [n], rows of the index.

        Returns:
            uint8 [image_length] for each row.

        Raises:
            DamagedRecordError: At the first damaged record.
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
        """Read images into an array, from a dataset with encoding `raw`.

        Args:
            rows: int64 [n], rows of the index.
            out: uint8 [n, H, W, 3], contiguous; filled with the images.

        Raises:
            DamagedRecordError: At the first damaged record.
            RecordError: If an image has another size.
        """
        if (self._frames.image_lengths[rows] != math.prod(out.shape[1:])).any():
            raise RecordError(
                f"an image in {self.folder} has another size than its manifest says; "
                f"run drtf verify {self.folder}"
            )
        self._read(rows, out.reshape(-1), num_threads=self._num_threads)

    def _read(self, rows: np.ndarray, out: np.ndarray, *, num_threads: int) -> None:
        """Read images into `out`, uint8 [sum of lengths], one directly after another.

        Raises:
            DamagedRecordError: At the first damaged record.
        """
        num_intact = read_frames(
            self._frames, rows, out, num_threads, self._verify_checksums
        )
        if num_intact < len(rows):
            row = int(rows[num_intact])
            _, fault = self._read_frame(row)
            raise self._damaged_record_error(
                row, fault or "its checksum failed once, but not when it was read again"
            )

    def _read_frame(self, row: int) -> tuple[np.ndarray, str]:
        """Read a frame; return it with its fault, which is empty if there is none."""
        if not self._files:
            raise RecordError(
                f"{self.folder} is closed; read from it, and from pipelines built on "
                "it, inside its with block"
            )
        length = int(self._frames.lengths[row])
        try:
            file = self._files[self._shard[row]]
            data = os.pread(file, length + FRAME_BYTES, int(self._frames.offsets[row]))
        except OSError as error:
            return np.empty(0, np.uint8), f"cannot be read: {error.strerror}"
        frame = np.frombuffer(data, np.uint8)
        fault = find_frame_fault(frame, length=length)
        if not fault and read_footer(frame) != self._frames.crcs[row]:
            fault = OTHER_RECORD
        return frame, fault

    def _damaged_record_error(self, row: int, fault: str) -> DamagedRecordError:
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
        # Without O_NONBLOCK, a pipe in place of a shard would block.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise RecordError(f"cannot open shard {path}: {error.strerror}") from error
    actual_bytes = os.fstat(file).st_size
    if actual_bytes != size_bytes:
        os.close(file)
        raise RecordError(
            f"shard {path} has {actual_bytes} bytes; the manifest says {size_bytes}; "
            f"run drtf verify {path.parent}"
        )
    return file


def _hash_index(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error

"""The indexed reader: exactly the records asked for, each one checked."""

import functools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    crc_of_parts,
    find_frame_fault,
    mask_crc,
    masked_crc,
)
from drtf.records.gather import Gather, find_addresses
from drtf.records.index import load_index
from drtf.records.manifest import INDEX_FILE, Manifest, load_manifest
from drtf.records.schema import Record, parse_record

# Read by one call, then checked while they are still in the processor's cache.
GROUP = 64
POSITIONS = ("split", "shard", "offset", "length", "image_offset", "image_length")


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
        self._length_crc = _crc_lengths(self._length)
        # The bytes of a frame's three parts: before its image, the image, and after.
        self._before = index["image_offset"].to_numpy(np.int32) + HEADER.size
        self._image = index["image_length"].to_numpy(np.int32)
        self._before_bytes = int(self._before.max(initial=0))
        after = self._length + FRAME_BYTES - self._before - self._image
        self._after_bytes = int(after.max(initial=0))
        self._readers: list[_Reader] = []
        self._files: list[int] = []
        try:
            for shard in self.manifest.shards:
                self._files.append(_open_shard(folder / shard.file, shard.size_bytes))
        except RecordError:
            self.close()
            raise
        self._descriptors = np.asarray(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.pop())
        while self._readers:
            self._readers.pop().gather.close()

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

    def read_images(
        self, rows: np.ndarray, out: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Read the stored bytes of each record's image.

        Args:
            rows: int64 [n], row numbers of the index.
            out: uint8 [n, ...], contiguous, to read into where all images are equally
                long; without it memory of its own is taken.

        Returns:
            uint8 [image_length] for each row, of `out` or new.

        Raises:
            DamagedRecordError: at the first damaged record; names its shard, number
                and offset.
            RecordError: if the images don't fit `out`.
        """
        lengths = self._image[rows]
        stops = np.cumsum(lengths, dtype=np.int64)
        starts = stops - lengths
        if out is None:
            flat = np.empty(lengths.sum(), np.uint8)
            images = [flat[x:y] for x, y in zip(starts, stops, strict=True)]
        else:
            flat = out.reshape(-1)
            images = list(out.reshape(len(rows), math.prod(out.shape[1:])))
            if (lengths * len(rows) != out.size).any():
                raise RecordError(
                    f"an image of {self.folder} has not the size that its manifest "
                    f"says; run drtf verify {self.folder}"
                )
        addresses = (flat.ctypes.data + starts).astype(np.uint64)
        for start in range(0, len(rows), GROUP):
            group = slice(start, start + GROUP)
            self._read_group(rows[group], images[group], addresses[group])
        return images

    def read_record(self, row: int) -> Record:
        """Read one whole record.

        Raises:
            DamagedRecordError: if it is damaged.
        """
        length = int(self._length[row])
        file = self._files[self._shard[row]]
        data = os.pread(file, length + FRAME_BYTES, int(self._offset[row]))
        fault = find_frame_fault(np.frombuffer(data, np.uint8), length=length)
        if fault:
            raise self._damaged(row, fault)
        return parse_record(data[HEADER.size : HEADER.size + length])

    def _read_group(
        self, rows: np.ndarray, images: list[np.ndarray], addresses: np.ndarray
    ) -> None:
        lengths, before = self._length[rows], self._before[rows]
        after = lengths + FRAME_BYTES - before - self._image[rows]
        with self._borrow_reader() as reader:
            iovecs = reader.gather.iovecs[: len(rows)]
            iovecs["base"][:, 1] = addresses
            iovecs["length"] = np.stack([before, self._image[rows], after], axis=1)
            files = self._descriptors[self._shard[rows]]
            num_read = reader.gather.read(files, self._offset[rows])
            heads = [
                head[:stop]
                for head, stop in zip(reader.heads, before.tolist(), strict=False)
            ]
            tails = [
                tail[:stop]
                for tail, stop in zip(reader.tails, after.tolist(), strict=False)
            ]
            crcs = [
                crc_of_parts(head[HEADER.size :], image, tail[: -FOOTER.size])
                for head, image, tail in zip(heads, images, tails, strict=True)
            ]
            found = np.stack([head[: HEADER.size] for head in heads])
            footers = np.stack([tail[-FOOTER.size :] for tail in tails])
            whole = (
                (num_read == lengths + FRAME_BYTES)
                & (found[:, :8].copy().view("<u8")[:, 0] == lengths)
                & (found[:, 8:].copy().view("<u4")[:, 0] == self._length_crc[rows])
                & (footers.view("<u4")[:, 0] == mask_crc(np.asarray(crcs, np.uint64)))
            )
            if whole.all():
                return
            first = int(np.argmin(whole))
            if num_read[first] < 0:
                fault = f"can't be read: {os.strerror(-int(num_read[first]))}"
            else:
                frame = np.concatenate([heads[first], images[first], tails[first]])
                fault = find_frame_fault(
                    frame[: num_read[first]], length=int(lengths[first])
                )
            raise self._damaged(int(rows[first]), fault)

    @contextmanager
    def _borrow_reader(self) -> Iterator["_Reader"]:
        """Lend a reader that no other thread has; one that failed is not used again."""
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = _Reader(self._before_bytes, self._after_bytes)
        try:
            yield reader
        except BaseException:
            reader.gather.close()
            raise
        self._readers.append(reader)

    def _damaged(self, row: int, fault: str) -> DamagedRecordError:
        shard = int(self._shard[row])
        number = row - int(np.searchsorted(self._shard, shard))
        return DamagedRecordError(
            row,
            f"shard {self.folder / self.manifest.shards[shard].file}, record "
            f"{number} at offset {self._offset[row]}: {fault}; "
            f"run drtf verify {self.folder}",
        )


class _Reader:
    """What one thread reads with: room for what stands around a group's images."""

    def __init__(self, before_bytes: int, after_bytes: int) -> None:
        self.gather = Gather(GROUP, num_parts=3)
        self.heads = np.zeros((GROUP, before_bytes), np.uint8)
        self.tails = np.zeros((GROUP, after_bytes), np.uint8)
        for part, array in ((0, self.heads), (2, self.tails)):
            self.gather.iovecs["base"][:, part] = find_addresses(array)


def _crc_lengths(lengths: np.ndarray) -> np.ndarray:
    """Return what each frame's header should have for its length's checksum."""
    distinct, places = np.unique(lengths, return_inverse=True)
    crcs = [masked_crc(length.tobytes()) for length in distinct.astype("<u8")]
    return np.asarray(crcs, np.uint32)[places]


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

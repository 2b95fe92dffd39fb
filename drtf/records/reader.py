"""The indexed reader: reads any records by row number and checks each one."""

import contextlib
import functools
import itertools
import math
import os
import resource
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from drtf.errors import ConfigError, DamagedRecordError, RecordError
from drtf.files import MAX_OPEN_FILES, hash_file, raise_descriptor_limit
from drtf.locations import is_remote
from drtf.locks import share
from drtf.records.cache import CACHE_VARIABLE, SIZE_VARIABLE
from drtf.records.framing import (
    FRAME_BYTES,
    HEADER,
    OTHER_RECORD,
    find_frame_fault,
    read_footer,
)
from drtf.records.gather import Frames, read_frames
from drtf.records.index import iterate_index, load_index
from drtf.records.manifest import INDEX_FILE, Manifest, load_manifest
from drtf.records.open_shards import OpenShards
from drtf.records.remote import RemoteShards, fetch_dataset, open_shards
from drtf.resources import count_cores

# Shards of a store that are read at once; a request takes long but little of a CPU.
NUM_PARALLEL_READS = 32
# The columns that reading needs, as they are kept in memory.
POSITIONS = {
    "offset": np.int64,
    "length": np.int32,
    "image_offset": np.int32,
    "image_length": np.int32,
    "crc32c": np.uint32,
    "grade": np.int8,
}


class ShardDataset:
    """A dataset of shards, open for reading in any order and from any thread.

    Records are addressed by their row in the index.

    Attributes:
        folder: Folder of the manifest and the index; for a remote dataset, in the
            cache.
        location: Where the dataset is: the folder, or its location in a store.
        manifest: Its manifest.
        grades: int8 [n], the grade of each record.
        damaged: Rows that were skipped while reading, with the fault of each.
    """

    def __init__(self, folder: Path | str, *, verify_checksums: bool = True) -> None:
        """Open a dataset.

        Args:
            folder: Folder of the dataset, or its location in a store. Of a remote one,
                only the manifest and the index are downloaded.
            verify_checksums: Whether to verify the checksum of each record that is
                read. Reading is a little faster without, but a damaged record gives a
                wrong image and no error. The index is verified in any case.

        Raises:
            RecordError: If the folder is not a dataset, or if a shard or the index is
                missing or does not match the manifest.
        """
        if is_remote(folder):
            folder = fetch_dataset(str(folder))
        self.folder = folder = Path(folder)
        self._verify_checksums = verify_checksums
        self.manifest: Manifest = load_manifest(folder)
        if _hash_index(folder / INDEX_FILE) != self.manifest.files.get(INDEX_FILE):
            raise RecordError(
                f"{folder / INDEX_FILE} does not match the manifest; run drtf verify "
                f"{folder}"
            )
        positions = _load_positions(folder / INDEX_FILE, self.manifest)
        self.grades: np.ndarray = positions["grade"]
        self.damaged: dict[int, str] = {}
        self._remote = open_shards(folder, self.manifest)
        self.location: Path | str = self._remote.location if self._remote else folder
        self._starts = _first_rows(self.manifest)
        num_shards = len(self.manifest.shards)
        if num_shards > _max_open_shards():
            raise_descriptor_limit()
        self._open_shards = OpenShards(
            self._starts,
            self._remote.open_shard if self._remote else self._open_local,
            max_open=_max_open_shards(),
        )
        self._frames = Frames(
            files=self._open_shards.descriptors,
            offsets=positions["offset"],
            lengths=positions["length"],
            image_offsets=positions["image_offset"],
            image_lengths=positions["image_length"],
            crcs=positions["crc32c"],
        )
        self._num_threads = count_cores()
        # Then no thread has to open or close shards.
        self._has_all_open = (
            self._remote is None and num_shards <= self._open_shards.max_open
        )
        if self._remote is None:
            try:
                for shard in range(num_shards):
                    self._open_shards.open(shard)
            except RecordError:
                self._open_shards.close()
                raise
        else:
            self._connections = ThreadPoolExecutor(NUM_PARALLEL_READS)
            weakref.finalize(self, self._remote.stop)
        # While it is open, the cache does not remove the index.
        self._index_file: int | None = os.open(folder / INDEX_FILE, os.O_RDONLY)
        share(self._index_file)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.grades)

    def __repr__(self) -> str:
        """Return the folder, and how many photographs of which size it has."""
        manifest = self.manifest
        return (
            f"<ShardDataset {self.folder}: {len(self):,} photographs of "
            f"{manifest.image_size} px, {manifest.encoding}>"
        )

    def _repr_html_(self) -> str:
        """Show the counts in a notebook: photographs by split and grade."""
        return self.manifest._repr_html_()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards."""
        if self._index_file is not None:
            os.close(self._index_file)
            self._index_file = None
        self._open_shards.close()
        if self._remote:
            self._remote.stop()
            self._connections.shutdown(wait=False)

    def load_index(
        self, columns: Sequence[str] | None = None, rows: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Load the index, or only some of its columns or rows.

        Args:
            columns: Names of the columns, by default all.
            rows: int64 [n], the rows to load, in any order; by default all.

        Raises:
            RecordError: If it cannot be read, or has an impossible value.
        """
        return load_index(self.folder / INDEX_FILE, columns, rows)

    def split_rows(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64 [n], in the order of the index.

        Raises:
            RecordError: If the dataset has no such split.
        """
        if split not in self.manifest.num_records:
            splits = ", ".join(self.manifest.num_records)
            raise RecordError(f"{self.folder} has no split {split!r}; it has {splits}")
        shards = zip(
            self.manifest.shards, self._starts[:-1], self._starts[1:], strict=True
        )
        return np.concatenate(
            [
                np.arange(start, stop)
                for shard, start, stop in shards
                if shard.split == split
            ]
        )

    def shard_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the shard that each row is in, int64 [n]."""
        return np.searchsorted(self._starts, rows, side="right") - 1

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

    @property
    def is_remote(self) -> bool:
        """Whether the shards are in a store."""
        return self._remote is not None

    def expect(self, shard_numbers: Sequence[int]) -> None:
        """Announce which shards are read next, in the order of their first records.

        Those of a remote dataset are downloaded in the background. Others, which were
        announced before, may be removed from the cache. A local dataset ignores it.
        """
        if self._remote is not None and list(shard_numbers) != self._remote.expected:
            self._open_shards.keep(shard_numbers)
            self._remote.expect(shard_numbers, self._open_shards.open)

    def check_unchanged(self) -> None:
        """Check that a remote dataset was not replaced since it was opened.

        Raises:
            RecordError: If it was.
            StorageError: If the store cannot be read.
        """
        if self._remote is not None:
            self._remote.check_unchanged()

    def check_fits_cache(self, split: str, window_shards: int) -> None:
        """Check that the cache has room for the shards that an epoch reads at a time.

        This is the whole split, or a window of shards and the one after it.

        Args:
            split: Of the dataset.
            window_shards: Shards of a window; 0 for the whole split.

        Raises:
            ConfigError: If a remote dataset does not fit.
        """
        if self._remote is None:
            return
        own = [x.size_bytes for x in self.manifest.shards if x.split == split]
        sizes = np.cumsum(sorted(own, reverse=True))
        limit = self._remote.limit_bytes
        needed = 2 * window_shards or len(sizes)
        if sizes[min(needed, len(sizes)) - 1] <= limit:
            return
        largest = int((sizes <= limit).sum()) // 2
        advice = (
            f"set it to at most {largest}, or raise {SIZE_VARIABLE}"
            if largest
            else f"raise {SIZE_VARIABLE} to {math.ceil(sizes[:2][-1] / 1e8) / 10} or "
            "more, for two shards"
        )
        raise ConfigError(
            f"split {split!r} of {self.location} has {sizes[-1] / 1e9:.3g} GB, and "
            f"the cache has room for {limit / 1e9:.3g} GB; with "
            f"sampling.window_shards={window_shards}, it does not fit: {advice} (if "
            f"its disk is full, set {CACHE_VARIABLE} to a folder on a larger one)"
        )

    def _read(self, rows: np.ndarray, out: np.ndarray, *, num_threads: int) -> None:
        """Read images into `out`, uint8 [sum of lengths], one directly after another.

        Raises:
            DamagedRecordError: At the first damaged record.
        """
        start = 0
        for part in self._split_by_shards(rows):
            stop = start + int(self._frames.image_lengths[part].sum(dtype=np.int64))
            with self._opened(part):
                self._read_part(part, out[start:stop], num_threads)
            start = stop

    def _read_part(self, rows: np.ndarray, out: np.ndarray, num_threads: int) -> None:
        """Read images of open shards from their files, others from the store."""
        is_open = self._frames.files[rows] >= 0
        if self._remote is None or is_open.all():
            self._read_files(rows, out, num_threads)
            return
        self._check_open()
        from_store = np.repeat(~is_open, self._frames.image_lengths[rows])
        out[from_store] = self._read_store(self._remote, rows[~is_open])
        data = np.empty(len(out) - np.count_nonzero(from_store), np.uint8)
        self._read_files(rows[is_open], data, num_threads)
        out[~from_store] = data

    def _read_files(self, rows: np.ndarray, out: np.ndarray, num_threads: int) -> None:
        num_intact = read_frames(
            self._frames, rows, out, num_threads, self._verify_checksums
        )
        if num_intact == len(rows):
            return
        row = int(rows[num_intact])
        _, fault = self._read_frame(row)
        if self._remote is None:
            raise self._damaged_record_error(
                row, fault or "its checksum failed once, but not when it was read again"
            )
        # The copy in the cache is damaged.
        shard = int(self.shard_numbers(np.array(row)))
        self._open_shards.forget(shard)
        self._remote.remove_shard(shard)
        self._read_part(rows, out, num_threads)

    def _read_store(self, remote: RemoteShards, rows: np.ndarray) -> np.ndarray:
        """Read images from the store, uint8 [sum of lengths].

        Raises:
            DamagedRecordError: At a damaged record.
            StorageError: If the store cannot be read, or a shard was replaced.
        """
        unique = np.unique(rows)
        edges = np.flatnonzero(np.diff(self.shard_numbers(unique))) + 1
        read = functools.partial(self._read_shard, remote)
        groups = self._connections.map(read, np.split(unique, edges))
        images = dict(zip(unique.tolist(), itertools.chain(*groups), strict=True))
        return np.concatenate([images[row] for row in rows.tolist()])

    def _read_shard(self, remote: RemoteShards, rows: np.ndarray) -> list[np.ndarray]:
        """Read images of one shard from the store, in few requests."""
        frames = self._frames
        starts = frames.offsets[rows]
        stops = starts + frames.lengths[rows] + FRAME_BYTES
        # Neighbors are one range.
        first = np.flatnonzero(np.append(True, starts[1:] != stops[:-1]))
        last = np.append(first[1:], len(rows)) - 1
        ranges = remote.read_ranges(
            int(self.shard_numbers(rows[0])),
            starts[first].tolist(),
            (stops[last] - starts[first]).tolist(),
        )
        images = []
        data = np.frombuffer(b"".join(ranges), np.uint8)
        for row, size in zip(rows.tolist(), (stops - starts).tolist(), strict=True):
            frame, data = data[:size], data[size:]
            fault = self._find_fault(frame, row)
            if fault and self._verify_checksums:
                raise self._damaged_record_error(row, fault)
            image = frame[HEADER.size + frames.image_offsets[row] :]
            images.append(image[: frames.image_lengths[row]])
        return images

    def _split_by_shards(self, rows: np.ndarray) -> list[np.ndarray]:
        """Split rows into runs whose shards can all be open at once."""
        if self._has_all_open:
            return [rows]
        parts, used, start = [], set[int](), 0
        for number, shard in enumerate(self.shard_numbers(rows).tolist()):
            if len(used | {shard}) > self._open_shards.max_open:
                parts.append(rows[start:number])
                used, start = set(), number
            used.add(shard)
        return [*parts, rows[start:]]

    def _opened(self, rows: np.ndarray) -> AbstractContextManager[None]:
        """Keep the shards of some rows open, as far as their files are there."""
        if self._has_all_open:
            return contextlib.nullcontext()
        return self._open_shards.using(np.unique(self.shard_numbers(rows)).tolist())

    def _open_local(self, shard: int) -> int:
        entry = self.manifest.shards[shard]
        return _open_file(self.folder / entry.file, entry.size_bytes)

    def _check_open(self) -> None:
        if self._open_shards.is_closed:
            raise RecordError(
                f"the dataset {self.location} was closed: read its batches inside its "
                "with block, or open it without one"
            )

    def _read_frame(self, row: int) -> tuple[np.ndarray, str]:
        """Read a frame; return it with its fault, which is empty if there is none."""
        self._check_open()
        length = int(self._frames.lengths[row])
        try:
            file = int(self._frames.files[row])
            data = os.pread(file, length + FRAME_BYTES, int(self._frames.offsets[row]))
        except OSError as error:
            return np.empty(0, np.uint8), f"cannot be read: {error.strerror}"
        frame = np.frombuffer(data, np.uint8)
        return frame, self._find_fault(frame, row)

    def _find_fault(self, frame: np.ndarray, row: int) -> str:
        """Return the fault of a record's frame; empty if it has none."""
        fault = find_frame_fault(frame, length=int(self._frames.lengths[row]))
        if not fault and read_footer(frame) != self._frames.crcs[row]:
            return OTHER_RECORD
        return fault

    def _damaged_record_error(self, row: int, fault: str) -> DamagedRecordError:
        shard = int(self.shard_numbers(np.array(row)))
        number = row - self._starts[shard]
        return DamagedRecordError(
            row,
            f"shard {self.location}/{self.manifest.shards[shard].file}, record "
            f"{number} at offset {self._frames.offsets[row]}: {fault}; "
            f"run drtf verify {self.location}",
        )


def _first_rows(manifest: Manifest) -> np.ndarray:
    """Return the first row of each shard, and the number of all rows, int64 [n + 1]."""
    counts = [shard.num_records for shard in manifest.shards]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _load_positions(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Load where each record is, and check that every record lies in its shard.

    Raises:
        RecordError: If the index cannot be read, or does not fit the manifest.
    """
    starts = _first_rows(manifest)
    sizes = np.array([shard.size_bytes for shard in manifest.shards], np.int64)
    positions = {name: np.empty(starts[-1], dtype) for name, dtype in POSITIONS.items()}
    start = 0
    for batch in iterate_index(path, ["shard", *POSITIONS]):
        rows = np.arange(start, start + len(batch))
        shards = np.searchsorted(starts, rows, side="right") - 1
        fits = rows < starts[-1]
        if fits.all():
            fits = _lie_in_shards(batch, shards, sizes[shards])
        if not fits.all():
            raise RecordError(
                f"row {rows[np.argmin(fits)]} of {path} does not fit the manifest; "
                f"run drtf verify {path.parent}"
            )
        for name, values in positions.items():
            values[rows] = batch[name]
        start += len(batch)
    if start < starts[-1]:
        raise RecordError(
            f"{path} has {start} rows; the manifest says {starts[-1]}; run drtf verify "
            f"{path.parent}"
        )
    return positions


def _lie_in_shards(
    batch: pd.DataFrame, shards: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Return whether each record lies in its shard, and its image in the record.

    Args:
        batch: Rows of the index, [n], whose numbers are all >= 0.
        shards: int64 [n], the number of the shard of each row by the manifest.
        sizes: int64 [n], the size of this shard in bytes.

    Returns:
        bool [n].
    """
    offset, length = batch["offset"].to_numpy(), batch["length"].to_numpy()
    image_offset = batch["image_offset"].to_numpy()
    image_length = batch["image_length"].to_numpy()
    # No sum of two values is compared, because it could exceed 64 bits.
    return (
        (batch["shard"].to_numpy() == shards)
        & (length <= np.minimum(sizes - FRAME_BYTES, np.iinfo(np.int32).max))
        & (offset <= sizes - FRAME_BYTES - length)
        & (image_length <= length)
        & (image_offset <= length - image_length)
    )


def _max_open_shards() -> int:
    """Return how many shards may be open; the other descriptors are for the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, limit // 4)


def _open_file(path: Path, size_bytes: int) -> int:
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

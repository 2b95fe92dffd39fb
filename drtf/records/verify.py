"""Verification: checks every byte of a dataset against its manifest and index."""

import contextlib
import errno
import functools
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from drtf.errors import RecordError
from drtf.files import hash_file
from drtf.locations import is_remote, is_web, join_location
from drtf.progress import progress
from drtf.records.framing import (
    FRAME_BYTES,
    HEADER,
    OTHER_RECORD,
    find_frame_fault,
    read_footer,
)
from drtf.records.index import count_records, iterate_index
from drtf.records.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    Manifest,
    ShardEntry,
    load_manifest,
    parse_manifest,
)
from drtf.records.remote import read_manifest
from drtf.records.schema import encode_around_image, encode_record, parse_record
from drtf.storage import MissingObjectError, download_object, list_objects, read_object
from drtf.temporary_folders import temporary_folder
from drtf.workers import count_workers, map_in_order

ImageCheck = Callable[[np.ndarray, str, int], str]

MAX_RECORDS_NAMED = 100  # of each shard
HASH_DIFFERS = "its hash differs from the manifest"
# Starting a process takes as long as checking this many bytes.
MIN_BYTES_PER_WORKER = 250_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """One fault of a dataset.

    Attributes:
        file: Path of the file, relative to the dataset.
        problem: What is wrong.
        record: Number of the record in its shard; -1 if the whole file is affected.
        offset: Offset of the record in bytes; -1 if the whole file is affected.
    """

    file: str
    problem: str
    record: int = -1
    offset: int = -1


class _IndexRow(NamedTuple):
    """The part of an index row that a record must match."""

    split: str
    offset: int
    length: int
    image_offset: int
    image_length: int
    crc32c: int
    id: str
    patient: str
    grade: int


def find_faults(
    shards: Path | str, *, find_image_fault: ImageCheck | None = None
) -> list[Fault]:
    """Find the faults of a dataset, in its files and in each record.

    Of each shard, the first 100 damaged records are named, and the others counted.

    A remote dataset is read from its store, one shard at a time for each worker.

    Args:
        shards: Folder of the dataset, or its location in a store.
        find_image_fault: Called with each record's image bytes (uint8 [n]), the
            encoding and the image size. Returns a description of the fault, empty if
            there is none. None skips this check.

    Raises:
        RecordError: If there is no readable manifest to check against.
        StorageError: If the store cannot be read.
    """
    if not is_remote(shards):
        return _find_faults(Path(shards), Path(shards), find_image_fault)
    with temporary_folder() as folder:
        index = folder / INDEX_FILE
        with contextlib.suppress(MissingObjectError):  # which is a fault
            download_object(join_location(str(shards), INDEX_FILE), index)
        return _find_faults(str(shards).rstrip("/"), folder, find_image_fault)


def load_any_manifest(shards: Path | str) -> Manifest:
    """Load the manifest of a local or remote dataset.

    Raises:
        RecordError: If there is none, or it is damaged.
        StorageError: If the store cannot be read.
    """
    if not is_remote(shards):
        return load_manifest(Path(shards))
    path = join_location(str(shards), MANIFEST_FILE)
    return parse_manifest(read_manifest(str(shards)), path=path)


def _find_faults(
    shards: Path | str, index_folder: Path, find_image_fault: ImageCheck | None
) -> list[Fault]:
    manifest = load_any_manifest(shards)
    faults = [*_find_extra_shards(shards, manifest)]
    for file, sha256 in manifest.files.items():
        try:
            if _hash_file(shards, file, index_folder) != sha256:
                faults.append(Fault(file, HASH_DIFFERS))
        except OSError as error:
            faults.append(Fault(file, f"cannot be read: {error.strerror}"))
    # With a damaged index, records cannot be checked, only the hashes of their shards.
    has_index = INDEX_FILE not in {fault.file for fault in faults}
    if has_index:
        index_faults, has_index = _find_index_faults(
            index_folder / INDEX_FILE, manifest
        )
        faults += index_faults
    entries = (
        _index_rows(index_folder / INDEX_FILE, manifest)
        if has_index
        else ((entry, None) for entry in manifest.shards)
    )
    check = functools.partial(
        _find_shard_faults,
        shards,
        encoding=manifest.encoding,
        image_size=manifest.image_size,
        find_image_fault=find_image_fault,
    )
    num_workers = min(
        count_workers(0), max(1, manifest.size_bytes // MIN_BYTES_PER_WORKER)
    )
    with progress("Checking shards", len(manifest.shards)) as advance:
        for entry, shard_faults in zip(
            manifest.shards,
            map_in_order(
                check, entries, num_workers=num_workers, initializer=_do_nothing
            ),
            strict=True,
        ):
            faults += shard_faults
            advance(entry.file)
    return faults


def _do_nothing() -> None:
    pass


def _read_file(shards: Path | str, file: str) -> np.ndarray:
    """Read a file of a dataset, uint8 [n].

    Raises:
        OSError: If it is missing, cannot be read, or is not a regular file.
        StorageError: If the store cannot be read.
    """
    if isinstance(shards, Path):
        path = shards / file
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise OSError(errno.EINVAL, "it is not a regular file")
        return np.fromfile(path, np.uint8)
    try:
        return np.frombuffer(read_object(join_location(shards, file)), np.uint8)
    except MissingObjectError as error:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error


def _hash_file(shards: Path | str, file: str, index_folder: Path) -> str:
    """Hash a file of a dataset; of a remote one, the index is here already.

    Raises:
        OSError: If it is missing, cannot be read, or is not a regular file.
        StorageError: If the store cannot be read.
    """
    if file == INDEX_FILE or isinstance(shards, Path):
        return hash_file(index_folder / file)  # which may be larger than memory
    return hashlib.sha256(_read_file(shards, file)).hexdigest()


def _find_extra_shards(shards: Path | str, manifest: Manifest) -> Iterator[Fault]:
    known = {shard.file for shard in manifest.shards} | set(manifest.files)
    if isinstance(shards, Path):
        files = [
            path.relative_to(shards).as_posix() for path in shards.rglob("*tfrecord*")
        ]
    elif is_web(shards):
        _log.warning(
            "http cannot list files, so shards in %s that are not in its manifest are "
            "not found",
            shards,
        )
        files = []
    else:
        names = [item.name for item in list_objects(shards)]
        files = [name for name in names if "tfrecord" in PurePosixPath(name).name]
    for file in sorted(files):
        if file not in known:
            yield Fault(file, "not in the manifest, so not part of this dataset")


def _find_index_faults(path: Path, manifest: Manifest) -> tuple[list[Fault], bool]:
    """Return the faults of the index, and whether its rows can be used."""
    try:
        counts = count_records(iterate_index(path))
    except RecordError as error:
        return [Fault(path.name, str(error))], False
    if counts == manifest.num_records:
        return [], True
    num_rows = sum(sum(by_grade.values()) for by_grade in counts.values())
    fault = Fault(path.name, "its counts by grade differ from the manifest")
    return [fault], num_rows == sum(shard.num_records for shard in manifest.shards)


def _index_rows(
    path: Path, manifest: Manifest
) -> Iterator[tuple[ShardEntry, pd.DataFrame]]:
    """Yield each shard with its rows of the index."""
    batches = iterate_index(path, _IndexRow._fields)
    rows = next(batches)
    for entry in manifest.shards:
        while len(rows) < entry.num_records:
            rows = pd.concat([rows, next(batches)], ignore_index=True)
        yield entry, rows[: entry.num_records]
        rows = rows[entry.num_records :]


def _find_shard_faults(
    shards: Path | str,
    shard: tuple[ShardEntry, pd.DataFrame | None],
    *,
    encoding: str,
    image_size: int,
    find_image_fault: ImageCheck | None,
) -> list[Fault]:
    """Find the faults of one shard.

    Args:
        shards: Folder of the dataset, or its location in a store.
        shard: The shard, and its rows of the index if the index is intact.
        encoding: Encoding of its images.
        image_size: Height and width of its images, in px.
        find_image_fault: As in `find_faults`.
    """
    entry, rows = shard
    try:
        data = _read_file(shards, entry.file)
    except OSError as error:
        return [Fault(entry.file, f"cannot be read: {error.strerror}")]
    faults = []
    if len(data) != entry.size_bytes:
        faults.append(
            Fault(
                entry.file, f"{len(data)} bytes; the manifest says {entry.size_bytes}"
            )
        )
    if rows is not None:
        expected_offset = num_damaged = 0
        columns = (rows[name].tolist() for name in _IndexRow._fields)
        for number, row in enumerate(map(_IndexRow._make, zip(*columns, strict=True))):
            problem = _find_record_problem(
                data,
                row,
                split=entry.split,
                expected_offset=expected_offset,
                encoding=encoding,
                image_size=image_size,
            )
            if not problem and find_image_fault is not None:
                start = row.offset + HEADER.size + row.image_offset
                image = data[start : start + row.image_length]
                problem = find_image_fault(image, encoding, image_size)
            if problem:
                num_damaged += 1
                if num_damaged <= MAX_RECORDS_NAMED:
                    faults.append(Fault(entry.file, problem, number, row.offset))
            expected_offset += row.length + FRAME_BYTES
        if num_damaged > MAX_RECORDS_NAMED:
            more = num_damaged - MAX_RECORDS_NAMED
            faults.append(Fault(entry.file, f"{more:,} more records are damaged"))
        if expected_offset < len(data):
            extra = len(data) - expected_offset
            faults.append(Fault(entry.file, f"{extra} bytes after the last record"))
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        faults.append(Fault(entry.file, HASH_DIFFERS))
        if rows is None:
            faults += _find_first_damaged(data, entry.file)
    return faults


def _find_first_damaged(data: np.ndarray, file: str) -> Iterator[Fault]:
    """Walk through the frames without an index, up to the first damaged one."""
    offset = number = 0
    while offset < len(data):
        frame = data[offset:]
        length = HEADER.unpack_from(frame)[0] if len(frame) >= HEADER.size else 0
        problem = find_frame_fault(frame, length=length)
        if problem:
            yield Fault(file, problem, number, offset)
            return
        offset += length + FRAME_BYTES
        number += 1


def _find_record_problem(
    data: np.ndarray,
    row: _IndexRow,
    *,
    split: str,
    expected_offset: int,
    encoding: str,
    image_size: int,
) -> str:
    """Compare a record with its row of the index, and with the manifest."""
    if (row.offset, row.split) != (expected_offset, split):
        return (
            f"the index says offset {row.offset} of split {row.split}; expected "
            f"offset {expected_offset} of split {split}"
        )
    frame = data[row.offset : row.offset + row.length + FRAME_BYTES]
    problem = find_frame_fault(frame, length=row.length)
    if problem:
        return problem
    if read_footer(frame) != row.crc32c:
        return OTHER_RECORD
    # Equal records have equal bytes, so comparing bytes is enough, and fast.
    before, after = encode_around_image(
        image_length=row.image_length,
        encoding=encoding,
        height=image_size,
        width=image_size,
        grade=row.grade,
        id=row.id,
        patient=row.patient,
    )
    record = frame[HEADER.size : HEADER.size + row.length]
    image_stop = row.image_offset + row.image_length
    if (
        row.image_offset == len(before)
        and record[: row.image_offset].tobytes() == before
        and record[image_stop:].tobytes() == after
    ):
        return ""
    return _find_difference(record.tobytes(), row, encoding, image_size)


def _find_difference(
    data: bytes, row: _IndexRow, encoding: str, image_size: int
) -> str:
    """Name the first value of a record that differs from the index or manifest."""
    try:
        record = parse_record(data)
    except RecordError as error:
        return str(error)
    for name, stored, expected, source in (
        ("id", record.id, row.id, "index"),
        ("patient", record.patient, row.patient, "index"),
        ("grade", record.grade, row.grade, "index"),
        ("image_length", len(record.image), row.image_length, "index"),
        ("format", record.format, encoding, "manifest"),
        ("height", record.height, image_size, "manifest"),
        ("width", record.width, image_size, "manifest"),
        ("image_offset", encode_record(record).image_offset, row.image_offset, "index"),
    ):
        if stored != expected:
            return f"{name} is {stored!r}; the {source} says {expected!r}"
    return "its bytes are not those of its values in drtf's encoding"

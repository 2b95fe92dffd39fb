"""Verification: checks every byte of a dataset against its manifest and index."""

import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drtf.errors import RecordError
from drtf.files import hash_file
from drtf.progress import progress
from drtf.records.framing import (
    FRAME_BYTES,
    HEADER,
    OTHER_RECORD,
    find_frame_fault,
    read_footer,
)
from drtf.records.index import count_records, load_index
from drtf.records.manifest import (
    INDEX_FILE,
    ShardEntry,
    load_manifest,
)
from drtf.records.schema import Record, encode_record, parse_record

ImageCheck = Callable[[np.ndarray, str, int], str]

HASH_DIFFERS = "its hash differs from the manifest"


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


def find_faults(
    folder: Path, *, find_image_fault: ImageCheck | None = None
) -> list[Fault]:
    """Find the faults of a dataset, in its files and in each record.

    Args:
        folder: Folder of the dataset.
        find_image_fault: Called with each record's image bytes (uint8 [n]), the
            encoding and the image size. Returns a description of the fault, empty if
            there is none. None skips this check.

    Raises:
        RecordError: If the folder has no readable manifest to check against.
    """
    manifest = load_manifest(folder)
    known = {shard.file for shard in manifest.shards} | set(manifest.files)
    present = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*tfrecord*")
    )
    faults = [
        Fault(file, "not in the manifest, so not part of this dataset")
        for file in sorted(present)
        if file not in known
    ]
    for file, sha256 in manifest.files.items():
        try:
            if hash_file(folder / file) != sha256:
                faults.append(Fault(file, HASH_DIFFERS))
        except OSError as error:
            faults.append(Fault(file, f"cannot be read: {error.strerror}"))
    # With a damaged index, records cannot be checked, only the hashes of their shards.
    intact = INDEX_FILE not in {fault.file for fault in faults}
    index = load_index(folder / INDEX_FILE) if intact else None
    if index is not None and count_records(index) != manifest.num_records:
        faults.append(Fault(INDEX_FILE, "its counts by grade differ from the manifest"))

    def check(record: Record) -> str:
        for name, expected in (
            ("format", manifest.encoding),
            ("height", manifest.image_size),
            ("width", manifest.image_size),
        ):
            stored = getattr(record, name)
            if stored != expected:
                return f"{name} is {stored!r}; the manifest says {expected!r}"
        if find_image_fault is None:
            return ""
        data = np.frombuffer(record.image, np.uint8)
        return find_image_fault(data, manifest.encoding, manifest.image_size)

    with progress("Checking shards", len(manifest.shards)) as advance:
        for number, shard in enumerate(manifest.shards):
            rows = index[index["shard"] == number] if index is not None else None
            faults += _find_shard_faults(folder / shard.file, shard, rows, check)
            advance(shard.file)
    return faults


def _find_shard_faults(
    path: Path,
    shard: ShardEntry,
    rows: pd.DataFrame | None,
    check: Callable[[Record], str],
) -> Iterator[Fault]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            yield Fault(shard.file, "not a regular file")
            return
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        yield Fault(shard.file, f"cannot be read: {error.strerror}")
        return
    if len(data) != shard.size_bytes:
        yield Fault(
            shard.file, f"{len(data)} bytes; the manifest says {shard.size_bytes}"
        )
    if rows is not None:
        if len(rows) != shard.num_records:
            yield Fault(
                shard.file,
                f"{len(rows)} records in the index; the manifest says "
                f"{shard.num_records}",
            )
        offset = 0
        for number, row in enumerate(rows.itertuples()):
            problem = _find_record_problem(data, row, shard.split, offset, check)
            if problem:
                yield Fault(shard.file, problem, number, int(row.offset))  # type: ignore[arg-type]
            offset += int(row.length) + FRAME_BYTES  # type: ignore[arg-type]
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        yield Fault(shard.file, HASH_DIFFERS)
        if rows is None:
            yield from _find_first_damaged(data, shard.file)


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
    row: Any,
    split: str,
    offset: int,
    check: Callable[[Record], str],
) -> str:
    """Compare a record with its index row; `offset` is where the record should be."""
    if (row.offset, row.split) != (offset, split) or row.length < 0:
        return (
            f"the index says offset {row.offset} of split {row.split}; expected "
            f"offset {offset} of split {split}"
        )
    length = int(row.length)
    frame = data[offset : offset + length + FRAME_BYTES]
    problem = find_frame_fault(frame, length=length)
    if problem:
        return problem
    if read_footer(frame) != row.crc32c:
        return OTHER_RECORD
    try:
        record = parse_record(frame[HEADER.size : HEADER.size + length].tobytes())
    except RecordError as error:
        return str(error)
    image_offset = encode_record(record).image_offset
    for name, stored in (
        ("id", record.id),
        ("patient", record.patient),
        ("grade", record.grade),
        ("image_offset", image_offset),
        ("image_length", len(record.image)),
    ):
        expected = getattr(row, name)
        if stored != expected:
            return f"{name} is {stored!r}; the index says {expected!r}"
    return check(record)

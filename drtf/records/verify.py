"""The check of a whole set: every byte against manifest and index."""

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

HASH_DIFFERS = "its hash is not the manifest's"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; `record` and `offset` are -1 for a whole file."""

    file: str
    problem: str
    record: int = -1
    offset: int = -1


def find_faults(
    folder: Path, *, find_image_fault: ImageCheck | None = None
) -> list[Fault]:
    """Check each file of a set, and each record's frame, checksum and labels.

    Args:
        folder: the set.
        find_image_fault: if given, called with each record's image bytes (uint8 [n]),
            the set's encoding and image size; tells what is wrong, or nothing.

    Raises:
        RecordError: if the folder has no readable manifest to check against.
    """
    manifest = load_manifest(folder)
    known = {shard.file for shard in manifest.shards} | set(manifest.files)
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*tfrecord*"))
    faults = [
        Fault(file, "not in the manifest: no part of this set")
        for file in sorted(found)
        if file not in known
    ]
    for file, sha256 in manifest.files.items():
        try:
            if hash_file(folder / file) != sha256:
                faults.append(Fault(file, HASH_DIFFERS))
        except OSError as error:
            faults.append(Fault(file, f"can't be read: {error.strerror}"))
    # A damaged index says nothing about the records; their shards' hashes still do.
    whole = INDEX_FILE not in {fault.file for fault in faults}
    index = load_index(folder / INDEX_FILE) if whole else None
    if index is not None and count_records(index) != manifest.num_records:
        faults.append(Fault(INDEX_FILE, "its counts by grade are not the manifest's"))

    def check(record: Record) -> str:
        for name, expected in (
            ("format", manifest.encoding),
            ("height", manifest.image_size),
            ("width", manifest.image_size),
        ):
            found = getattr(record, name)
            if found != expected:
                return f"{name} is {found!r}, the manifest says {expected!r}"
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
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            yield Fault(shard.file, "not a regular file")
            return
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        yield Fault(shard.file, f"can't be read: {error.strerror}")
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
            yield from _find_first_broken(data, shard.file)


def _find_first_broken(data: np.ndarray, file: str) -> Iterator[Fault]:
    """Walk the frames without an index, up to the first that is broken."""
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
    """Compare a record with its row of the index; `offset` is where it should be."""
    if (row.offset, row.split) != (offset, split) or row.length < 0:
        return (
            f"the index puts it at offset {row.offset} of {row.split}, "
            f"it should be at {offset} of {split}"
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
    for name, found in (
        ("id", record.id),
        ("patient", record.patient),
        ("grade", record.grade),
        ("image_offset", image_offset),
        ("image_length", len(record.image)),
    ):
        expected = getattr(row, name)
        if found != expected:
            return f"{name} is {found!r}, the index says {expected!r}"
    return check(record)

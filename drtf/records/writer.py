"""The writer of one shard: written aside, synced, then renamed into place."""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from drtf.records.framing import frame_record
from drtf.records.schema import Record, encode_record


class Location(NamedTuple):
    """Where a record stands in its shard, in bytes.

    `offset` is that of the frame in the file, `image_offset` that of the image in the
    record's data.
    """

    offset: int
    length: int
    image_offset: int
    image_length: int


class ShardWriter:
    """Write records to a shard that appears under its name only when whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.partial")
        self._file = self._aside.open("wb")
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self.num_records = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if kind is None:
            self._aside.replace(self._path)

    @property
    def sha256(self) -> str:
        """The hexadecimal hash of all that was appended."""
        return self._hash.hexdigest()

    def append(self, record: Record) -> Location:
        """Append one record and tell where it stands."""
        data, image_offset = encode_record(record)
        frame = frame_record(data)
        self._file.write(frame)
        self._hash.update(frame)
        location = Location(self.size_bytes, len(data), image_offset, len(record.image))
        self.size_bytes += len(frame)
        self.num_records += 1
        return location

"""The writer of one shard: written aside, synced, then renamed into place."""

import os
from pathlib import Path
from typing import NamedTuple, Self

from drtf.files import partial_path, write_unbuffered
from drtf.records.framing import frame_record, read_footer
from drtf.records.schema import Record, encode_record


class Location(NamedTuple):
    """Where a record stands in its shard, in bytes.

    `offset` is that of the frame in the file, `image_offset` that of the image in the
    record's data, `crc32c` the masked checksum of the data.
    """

    offset: int
    length: int
    image_offset: int
    image_length: int
    crc32c: int


class ShardWriter:
    """Write records to a shard that appears under its name only when whole.

    What a killed writer left aside is gone on with: its first `keep_bytes` stay.
    """

    def __init__(self, path: Path, *, keep_bytes: int = 0) -> None:
        self._path = path
        aside = partial_path(path)
        aside.touch()
        self._file = aside.open("r+b", buffering=0)
        self._file.truncate(keep_bytes)
        self.size_bytes = self._file.seek(keep_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if kind is None:
            partial_path(self._path).replace(self._path)

    def append(self, record: Record) -> Location:
        """Append one record and tell where it stands.

        Raises:
            OSError: if the disk is full.
        """
        data, image_offset = encode_record(record)
        frame = frame_record(data)
        write_unbuffered(self._file, frame)
        location = Location(
            offset=self.size_bytes,
            length=len(data),
            image_offset=image_offset,
            image_length=len(record.image),
            crc32c=read_footer(frame),
        )
        self.size_bytes += len(frame)
        return location

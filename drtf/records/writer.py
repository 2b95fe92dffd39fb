"""The shard writer: writes a partial file, syncs it, and renames it when complete."""

from pathlib import Path
from typing import NamedTuple, Self

from drtf.files import move_into_place, partial_path, sync_file, write_unbuffered
from drtf.records.framing import frame_record, read_footer
from drtf.records.schema import Record, encode_record


class Location(NamedTuple):
    """Location of a record in its shard.

    Attributes:
        offset: Offset of the frame in the file, in bytes.
        length: Length of the record's data, in bytes.
        image_offset: Offset of the image in the data, in bytes.
        image_length: Length of the image, in bytes.
        crc32c: Masked checksum of the data.
    """

    offset: int
    length: int
    image_offset: int
    image_length: int
    crc32c: int


class ShardWriter:
    """Writes records to a shard, which appears under its name once it is complete.

    Continues the partial file of a killed writer after its first `keep_bytes`.
    """

    def __init__(self, path: Path, *, keep_bytes: int = 0) -> None:
        self._path = path
        partial = partial_path(path)
        partial.touch()
        self._file = partial.open("r+b", buffering=0)
        self._file.truncate(keep_bytes)
        self.size_bytes = self._file.seek(keep_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                sync_file(self._file)
        finally:
            self._file.close()
        if kind is None:
            move_into_place(partial_path(self._path), self._path)

    def append(self, record: Record) -> Location:
        """Append one record and return its location.

        Raises:
            OSError: If the disk is full.
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

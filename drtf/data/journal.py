"""The journal of a build, with which a killed build can resume."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from drtf.data.prepare import Rejected
from drtf.errors import DrtfError
from drtf.files import append_regular, lock, sync_file, write_unbuffered
from drtf.images.quality import Quality
from drtf.records.writer import Location

JOURNAL_FILE = ".journal.jsonl"


@dataclass(frozen=True, slots=True)
class Written:
    """A photograph whose record was written.

    Attributes:
        shard: The shard's position in the plan.
        location: Where the record is in the shard.
        size_bytes: Size of the photograph's file.
        sha256: Hash of the photograph's file.
        has_field: Whether the retina's field was found.
        quality: The photograph's quality before equalization.
    """

    shard: int
    location: Location
    size_bytes: int
    sha256: str
    has_field: bool
    quality: Quality


Entry = Written | Rejected


def encode_entry(entry: Entry) -> bytes:
    """Encode an entry as one line of JSON."""
    kind = "rejected" if isinstance(entry, Rejected) else "written"
    return _encode({kind: dataclasses.asdict(entry)})


def parse_entry(line: bytes) -> Entry:
    """Parse an entry; the inverse of `encode_entry`.

    Raises:
        ValueError: If the line is incomplete or damaged.
    """
    if not line.endswith(b"\n"):
        raise ValueError("the line has no end")
    try:
        ((kind, fields),) = json.loads(line).items()
        if kind == "rejected":
            return Rejected(**fields)
        location, quality = Location(*fields["location"]), Quality(*fields["quality"])
        return Written(**fields | {"location": location, "quality": quality})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a journal entry: {error}") from error


class Journal:
    """The photographs that a build has finished, in the order of its plan.

    The first line is the hash of the plan. An entry is appended after its record was
    handed to the operating system. If a kill cuts the last line short, that line is
    dropped.

    Attributes:
        entries: One entry per finished photograph.
        last_written: When an earlier process wrote the last entry, in seconds since
            the epoch; infinity for a new journal.
    """

    def __init__(self, path: Path, *, plan_sha256: str) -> None:
        """Open a journal, or start a new one.

        Raises:
            DrtfError: If another process has it open, or it belongs to another plan.
        """
        self._path = path
        self.last_written = path.stat().st_mtime if path.exists() else math.inf
        self._file = append_regular(path)
        self.entries: list[Entry] = []
        self._ends: list[int] = []  # of the header and of each entry, in bytes
        try:
            lock(self._file)
            self._load(_encode({"plan_sha256": plan_sha256}))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, entry: Entry) -> None:
        """Append an entry.

        Raises:
            OSError: If the disk is full.
        """
        line = encode_entry(entry)
        write_unbuffered(self._file, line)
        self._add(entry, line)

    def truncate(self, num_entries: int) -> None:
        """Drop all entries after the first `num_entries`."""
        del self.entries[num_entries:]
        del self._ends[num_entries + 1 :]
        self._file.truncate(self._ends[-1])

    def sync(self) -> None:
        """Make sure that the entries survive a loss of power."""
        sync_file(self._file)

    def _load(self, header: bytes) -> None:
        """Load the entries up to the first damaged line, and drop the rest."""
        self._file.seek(0)
        lines = self._file.readall().splitlines(keepends=True)
        if not lines or not _is_complete(lines[0]):
            self._file.truncate(0)
            write_unbuffered(self._file, header)
            lines = [header]
        if lines[0] != header:
            raise DrtfError(
                f"{self._path.parent} holds an unfinished build of other photographs, "
                "labels, settings or versions: repeat the command that started it, "
                "remove that folder to start again, or choose another --out"
            )
        self._ends.append(len(header))
        for line in lines[1:]:
            try:
                self._add(parse_entry(line), line)
            except ValueError:
                break
        self._file.truncate(self._ends[-1])

    def _add(self, entry: Entry, line: bytes) -> None:
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + len(line))


def _encode(content: dict[str, object]) -> bytes:
    return (json.dumps(content) + "\n").encode()


def _is_complete(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")

"""The journals of a build, one per shard, with which a killed build can resume."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import google_crc32c

from drtf.building.plan import BuildPlan, ShardRange, describe_differences
from drtf.errors import DrtfError
from drtf.files import append_regular, sync_file, write_unbuffered
from drtf.images.quality import Quality
from drtf.locks import lock
from drtf.photographs.prepare import Rejected
from drtf.records.writer import Location
from drtf.seals import dump_sealed, is_intact

JOURNALS_FOLDER = ".journals"  # a name that no user gives a folder of a dataset
PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Written:
    """A photograph whose record was written.

    Attributes:
        shard: The shard's position in the plan.
        location: Where the record is in the shard.
        sha256: Hash of the photograph's file.
        has_field: Whether the retina's field was found.
        quality: The photograph's quality before equalization.
    """

    shard: int
    location: Location
    sha256: str
    has_field: bool
    quality: Quality


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of a photograph.

    Attributes:
        size_bytes: Size of the photograph's file when the build was planned.
        changed_ns: When the file had last been changed then; see `FileStatus`.
        result: The written or rejected photograph.
    """

    size_bytes: int
    changed_ns: int
    result: Written | Rejected


def encode_entry(entry: Entry) -> bytes:
    """Encode an entry as JSON, on one line."""
    kind = "rejected" if isinstance(entry.result, Rejected) else "written"
    return json.dumps(
        {
            "size_bytes": entry.size_bytes,
            "changed_ns": entry.changed_ns,
            kind: dataclasses.asdict(entry.result),
        }
    ).encode()


def parse_entry(data: bytes) -> Entry:
    """Parse an entry; the inverse of `encode_entry`.

    Raises:
        ValueError: If it is something else.
    """
    try:
        fields = json.loads(data)
        if "rejected" in fields:
            result: Written | Rejected = Rejected(**fields["rejected"])
        else:
            written = fields["written"]
            location = Location(*written["location"])
            quality = Quality(*written["quality"])
            result = Written(**written | {"location": location, "quality": quality})
        return Entry(int(fields["size_bytes"]), int(fields["changed_ns"]), result)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a journal entry: {error}") from error


class _Mark(NamedTuple):
    """The end of a line of a journal.

    Attributes:
        offset: Its offset in the file, in bytes.
        checksum: CRC32C of the contents of all lines up to this one.
    """

    offset: int
    checksum: int


@contextmanager
def hold_build(partial: Path, plan: BuildPlan) -> Iterator[None]:
    """Keep other processes from writing to an unfinished dataset.

    Args:
        partial: Folder of the unfinished dataset.
        plan: The plan of the build.

    Raises:
        DrtfError: If another process builds there, or another build has started there.
        OSError: If the disk is full.
    """
    path = partial / JOURNALS_FOLDER / PLAN_FILE
    path.parent.mkdir(exist_ok=True)
    wanted = {"plan_sha256": plan.resume_sha256, "settings": plan.flat_settings}
    text = dump_sealed(wanted)
    with append_regular(path) as file:
        lock(file)
        file.seek(0)
        found = _parse_sealed(file.readall())
        if found and found["plan_sha256"] != plan.resume_sha256:
            differences = describe_differences(found["settings"], plan.flat_settings)
            raise DrtfError(
                f"{partial} holds an unfinished build that differs from this one: "
                f"{differences}. Repeat the command that started it, remove that "
                "folder to start again, or choose another --out"
            )
        if not found:
            file.truncate(0)
            write_unbuffered(file, text.encode())
        yield


def journal_path(partial: Path, shard: ShardRange) -> Path:
    """Return the file of a shard's journal."""
    return partial / JOURNALS_FOLDER / f"{shard.number}.jsonl"


def _parse_sealed(data: bytes) -> dict[str, Any]:
    """Parse a sealed file; empty if it is damaged."""
    with contextlib.suppress(ValueError):
        text = data.decode()
        contents = json.loads(text)
        if isinstance(contents, dict) and is_intact(text, contents):
            return contents
    return {}


class Journal:
    """The photographs of a shard that a build has finished, in the order of its plan.

    The first line names the plan and the shard. An entry is appended after its record
    was handed to the operating system. Each line begins with a checksum of the contents
    of all lines up to its end. The entries before the first line that does not match
    its checksum count; that line and all that follow are dropped.

    Attributes:
        entries: One entry per finished photograph.
    """

    def __init__(self, partial: Path, plan: BuildPlan, shard: ShardRange) -> None:
        """Open the journal of a shard, or start a new one.

        Args:
            partial: Folder of the unfinished dataset.
            plan: The plan of the build.
            shard: The shard.

        Raises:
            OSError: If the disk is full.
        """
        self._file = append_regular(journal_path(partial, shard))
        self.entries: list[Entry] = []
        self._marks = [_Mark(0, 0)]  # of the start, the header and each entry
        try:
            self._load({"plan_sha256": plan.resume_sha256, "shard": shard.number})
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
        self._write_line(encode_entry(entry))
        self.entries.append(entry)

    def truncate(self, num_entries: int) -> None:
        """Drop all entries after the first `num_entries`."""
        del self.entries[num_entries:]
        del self._marks[num_entries + 2 :]
        self._file.truncate(self._marks[-1].offset)

    def sync(self) -> None:
        """Make sure that the entries survive a loss of power."""
        sync_file(self._file)

    def _load(self, header: Mapping[str, Any]) -> None:
        """Load the entries up to the first damaged line, and drop the rest."""
        self._file.seek(0)
        contents = list(self._read_lines(self._file.readall()))
        if not contents or json.loads(contents[0]) != header:
            del self._marks[1:]
            self._file.truncate(0)
            self._write_line(json.dumps(header).encode())
            return
        with contextlib.suppress(ValueError):  # not an entry
            for content in contents[1:]:
                self.entries.append(parse_entry(content))
        self.truncate(len(self.entries))

    def _read_lines(self, data: bytes) -> Iterator[bytes]:
        """Yield the contents of the leading lines that match their checksums."""
        for line in data.splitlines(keepends=True):
            content = line.removesuffix(b"\n").partition(b" ")[2]
            mark = self._next_mark(content)
            if line != _format_line(mark.checksum, content):
                return
            self._marks.append(mark)
            yield content

    def _write_line(self, content: bytes) -> None:
        mark = self._next_mark(content)
        write_unbuffered(self._file, _format_line(mark.checksum, content))
        self._marks.append(mark)

    def _next_mark(self, content: bytes) -> _Mark:
        """Return the mark after a line with this content."""
        offset, checksum = self._marks[-1]
        checksum = google_crc32c.extend(checksum, content)
        return _Mark(offset + len(_format_line(checksum, content)), checksum)


def _format_line(checksum: int, content: bytes) -> bytes:
    return b"%08x %s\n" % (checksum, content)

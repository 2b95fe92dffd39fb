"""Zip archives of photographs, which are read in place."""

import contextlib
import functools
import lzma
import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, ZipInfo

from drtf.errors import LabelError, PhotographError

SUFFIX = ".zip"
UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 0x1


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        archive: Path of the archive.
        name: Its POSIX path in the archive.
    """

    archive: Path
    name: str


def find_member(path: Path) -> Member | None:
    """Return the archive and the member that a path such as `a.zip/b.png` names."""
    for parent in reversed(path.parents):
        if parent.suffix.lower() == SUFFIX and parent.is_file():
            return Member(parent, path.relative_to(parent).as_posix())
    return None


def list_members(archive: Path) -> list[str]:
    """List the files of an archive, whose names may lead outside of it.

    Raises:
        LabelError: If it is not a zip archive or is damaged.
    """
    try:
        members = _load_members(archive)[1]
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise LabelError(
            f"cannot read the zip archive {archive}: {error}. Join the parts of an "
            "archive in several parts, or unpack it"
        ) from error
    return sorted(members)


def find_member_info(member: Member) -> ZipInfo | None:
    """Return what an archive declares about a member; None if it does not exist."""
    try:
        return _load_members(member.archive)[1].get(member.name)
    except (zipfile.BadZipFile, NotImplementedError):
        return None


def read_member(member: Member, *, max_bytes: int) -> bytes:
    """Read a member of an archive.

    Raises:
        PhotographError: With reason `unreadable` or `too_large`.
        OSError: If the archive cannot be read.
    """
    try:
        archive, members = _load_members(member.archive)
        info = members.get(member.name)
        if info is None:
            raise PhotographError("unreadable", "No such file in the archive")
        if info.flag_bits & ENCRYPTED_FLAG:
            raise PhotographError("unreadable", "encrypted; unpack the archive first")
        if info.file_size > max_bytes:
            raise PhotographError(
                "too_large",
                f"the file has {info.file_size} bytes; the limit is {max_bytes}",
            )
        with archive.open(info) as file:
            return file.read(info.file_size)  # a bomb holds more than it declares
    except (
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise PhotographError("unreadable", f"in a zip archive: {error}") from error


def _load_members(archive: Path) -> tuple[ZipFile, dict[str, ZipInfo]]:
    """Open an archive and index it; once per process, since it may have many files."""
    status = archive.stat()
    return _open_archive(archive, status.st_mtime_ns, status.st_size, os.getpid())


@functools.lru_cache(maxsize=16)
def _open_archive(
    path: Path, changed: int, size_bytes: int, process: int
) -> tuple[ZipFile, dict[str, ZipInfo]]:
    archive = ZipFile(path)
    members: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        name = _decode_name(info)
        if not info.is_dir():
            members.setdefault(name, info)
    return archive, members


def _decode_name(info: ZipInfo) -> str:
    """Return a member's name; archivers on a Mac write UTF-8 without declaring it."""
    name = info.filename
    if not info.flag_bits & UTF8_FLAG:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")

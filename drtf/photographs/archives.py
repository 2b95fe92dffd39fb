"""Zip archives of photographs, which are read in place."""

import contextlib
import functools
import lzma
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, ZipInfo

from drtf.errors import LabelError, PhotographError

SUFFIX = ".zip"
UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 0x1
MEMBER_SIGNATURE = b"PK\3\4"
# A Hangul syllable in cp949. In cp437 its first byte is a line or a block, which names
# do not contain, unlike accented letters.
HANGUL = re.compile(rb"[\xb0-\xc8][\xa1-\xfe]")


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
    """List the files of an archive, whose names may repeat or lead outside of it.

    Raises:
        LabelError: If it is not a zip archive, is incomplete or is damaged.
    """
    try:
        opened = _load_members(archive)[0]
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise LabelError(
            f"cannot read the zip archive {archive}: {error}. Copy it again if a copy "
            "or a download ended early; if it is one of several parts, join them or "
            "unpack all of them"
        ) from error
    return sorted(_decode_name(x) for x in opened.infolist() if not x.is_dir())


def find_member_info(member: Member) -> ZipInfo | None:
    """Return an archive's entry of a member; None if it does not exist."""
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
            raise PhotographError(
                "unreadable",
                "encrypted in the archive, which requires a password; unpack it first",
            )
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
    _check_is_whole(archive)
    # Of members with the same name, the last one remains, as after unpacking.
    members = {_decode_name(x): x for x in archive.infolist() if not x.is_dir()}
    return archive, members


def _check_is_whole(archive: ZipFile) -> None:
    """Check that the file has the members that its directory lists.

    Raises:
        BadZipFile: If it is one part of an archive, or its start is missing.
    """
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if any(info.volume for info in infos):
        raise zipfile.BadZipFile("it is one of several parts")
    for info in infos[:1] + infos[-1:]:
        signature = b""
        if info.header_offset >= 0 and archive.fp:
            archive.fp.seek(info.header_offset)
            signature = archive.fp.read(len(MEMBER_SIGNATURE))
        if signature != MEMBER_SIGNATURE:
            raise zipfile.BadZipFile(
                f"its directory lists {info.filename}, which is not where it should be"
            )


def _decode_name(info: ZipInfo) -> str:
    """Return a member's name, which may be in UTF-8 or cp949 without declaring it.

    Archivers on a Mac write UTF-8, and those on Korean Windows cp949.
    """
    name = info.filename
    if not info.flag_bits & UTF8_FLAG:
        with contextlib.suppress(UnicodeError):  # of a Unicode name in an extra field
            name = _decode_undeclared(name.encode("cp437"))
    return name.replace("\\", "/")


def _decode_undeclared(name: bytes) -> str:
    for encoding in ("utf-8", "cp949") if HANGUL.search(name) else ("utf-8",):
        with contextlib.suppress(UnicodeError):
            return name.decode(encoding)
    return name.decode("cp437")

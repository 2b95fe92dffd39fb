"""Safe reads and atomic writes, and checks that nothing is overwritten."""

import codecs
import contextlib
import csv
import errno
import hashlib
import io
import json
import logging
import math
import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, Any, BinaryIO

from drtf.errors import DrtfError

# Far above any file of text or JSON that drtf reads.
MAX_TEXT_BYTES = 1 << 26
# More than a workbook has, or a zip file with the labels of 30 million photographs.
MAX_TABLE_BYTES = 1 << 30
# More are never needed, and some libraries loop over all possible descriptors.
MAX_OPEN_FILES = 1 << 16
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# What file systems return that have no hard links: exFAT and some network mounts.
NO_LINKS = {errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
# The only errors of fsync that mean lost data. Others mean that the file system cannot
# sync such a file or folder.
LOST_WRITES = {errno.EIO, errno.ENOSPC, errno.EDQUOT}
# Spreadsheets run cells that start with these as formulas: owasp.org, "CSV Injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Matches a cell that `escape_formula` changed; group 1 is the original cell.
ESCAPED_FORMULA = r"^'('*[=+\-@\t\r])"

_log = logging.getLogger(__name__)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Reading a pipe, a device or a socket could block or never end.

    Raises:
        OSError: If the file cannot be opened or is not a regular file.
    """
    return open(path, "rb", opener=_open_descriptor)


def append_regular(path: Path) -> FileIO:
    """Open a regular file for reading and appending, unbuffered; create a new one.

    Raises:
        OSError: If the file cannot be opened or is not a regular file.
    """
    return open(path, "a+b", buffering=0, opener=_open_descriptor)


def read_regular(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: If it cannot be read, is not a regular file or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= max_bytes else b""
        if len(data) > size:  # the file grew, or is in /proc, where each has size 0
            data += file.read(max_bytes + 1 - len(data))
    if max(size, len(data)) > max_bytes:
        raise OSError(
            errno.EFBIG,
            f"the file has {max(size, len(data))} bytes; the limit is {max_bytes}",
            str(path),
        )
    return data


def decode_text(data: bytes) -> str:
    """Decode text in UTF-8, or in UTF-16 if it begins with a byte order mark.

    Raises:
        UnicodeDecodeError: If it is in another encoding.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def parse_json(data: bytes | str) -> Any:
    """Parse JSON from a file that may be damaged.

    Raises:
        ValueError: If it is not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def encode_json(contents: Any) -> str:
    """Return the text of a JSON file.

    JSON has no number that is not finite: it becomes null, see `with_nan`.
    """
    return json.dumps(_without_nan(contents), indent=2, allow_nan=False) + "\n"


def with_nan(contents: Any) -> Any:
    """Replace each None in the contents of a JSON file by NaN."""
    if isinstance(contents, dict):
        return {key: with_nan(x) for key, x in contents.items()}
    if isinstance(contents, list):
        return [with_nan(x) for x in contents]
    return math.nan if contents is None else contents


def _without_nan(contents: Any) -> Any:
    if isinstance(contents, dict):
        return {key: _without_nan(x) for key, x in contents.items()}
    if isinstance(contents, list | tuple):
        return [_without_nan(x) for x in contents]
    is_undefined = isinstance(contents, float) and not math.isfinite(contents)
    return None if is_undefined else contents


def _open_descriptor(path: str | Path, flags: int) -> int:
    """Open a regular file; used as an `opener` of `open`."""
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, Path(path).stat())
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    try:
        _check_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(path: str | Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
    code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    raise OSError(code, f"expected a regular file, but this is {kind}", str(path))


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it appears complete or not at all."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing_atomic(path) as file:
        file.write(data)


@contextmanager
def writing_atomic(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which appears complete at the end or not at all."""
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            sync_file(file)
    except OSError:
        partial.unlink(missing_ok=True)  # frees its space on a full disk
        raise
    move_into_place(partial, path)


def partial_path(path: Path) -> Path:
    """Return the hidden path next to `path` where it is written until complete."""
    return path.with_name(f".{path.name}.partial")


def move_into_place(partial: Path, path: Path) -> None:
    """Rename a complete file or folder to its final path, over an existing file.

    Some network and FUSE file systems refuse to rename over an existing file. There,
    the old file is renamed first and removed last, so that an error keeps one of them.
    """
    try:
        partial.replace(path)
    except (FileExistsError, PermissionError):
        if not path.is_file():
            raise
        old = path.with_name(f".{path.name}.old")
        old.unlink(missing_ok=True)
        path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            old.rename(path)
            raise
        old.unlink()


def create_link(partial: Path, path: Path) -> bool:
    """Give a complete file its final path, unless there is a file already.

    Of several processes or hosts that try, one succeeds. On a file system without hard
    links, two that try at the same moment may both succeed.

    Returns:
        False if there is a file already.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            return False
        partial.rename(path)
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, and move it to `path` at the end.

    Removes what an earlier, killed call left at the temporary path, and cleans up if
    the block fails.
    """
    partial = partial_path(path)

    def remove() -> None:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)

    remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        move_into_place(partial, path)
    except BaseException:
        remove()
        raise


def write_unbuffered(file: FileIO, data: bytes) -> None:
    """Write all data in one system call, so that a kill loses nothing written before.

    Raises:
        OSError: If the disk is full.
    """
    if file.write(data) != len(data):
        raise OSError(f"cannot write to {file.name}: the disk is full")


def escape_formula(cell: str) -> str:
    """Return a CSV cell that no spreadsheet runs as a formula.

    Puts an apostrophe in front, which `ESCAPED_FORMULA` matches.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(FORMULA_STARTS) else cell


def save_rows(
    path: Path, columns: Iterable[str], rows: Iterable[Iterable[str]]
) -> None:
    """Write a table of text that is safe to open, whatever names are in it.

    Formulas are escaped. Quotes and line breaks stay within their cell, and names that
    are not UTF-8 are written with backslashes.
    """
    with writing_atomic(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(escape_formula, row) for row in rows)
        text.detach()  # which flushes it, and leaves the file open


def sync_file(file: IO[bytes]) -> None:
    """Flush an open file to disk, so that it survives a power failure."""
    _sync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that they survive a power failure."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to but not listed
        return
    try:
        _sync(folder)
    finally:
        os.close(folder)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in LOST_WRITES:
            raise


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a regular file in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def raise_descriptor_limit() -> None:
    """Allow this process as many open files as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else hard
    wanted = min(wanted, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower, hidden limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder or, if it is missing, its parent.

    A file is created, because the permissions of a network or container mount do not
    always tell.
    """
    existing = next(x for x in (folder, *folder.absolute().parents) if x.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def check_absent(*paths: Path, overwrite: bool | None = None) -> None:
    """Refuse to overwrite existing files.

    Args:
        paths: Files or folders about to be written.
        overwrite: Whether they may exist. None if the command has no --overwrite.

    Raises:
        DrtfError: If a path exists and `overwrite` is not true.
    """
    for path in paths:
        if path.exists() and not overwrite:
            hint = "" if overwrite is None else ", or pass --overwrite"
            raise DrtfError(
                f"{path} already exists; move it away or choose another name{hint}"
            )

"""Atomic writes, locks, and checks that nothing is overwritten."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from drtf.errors import DrtfError

# Spreadsheets run cells that start with these as formulas: owasp.org, "CSV Injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Matches a cell that `escape_formula` changed; group 1 is the original cell.
ESCAPED_FORMULA = r"^'('*[=+\-@\t\r])"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it appears complete or not at all."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)  # frees its space on a full disk
        raise
    partial.replace(path)


def partial_path(path: Path) -> Path:
    """Return the hidden path next to `path` where it is written until complete."""
    return path.with_name(f".{path.name}.partial")


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
        partial.replace(path)
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


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that they survive a power failure."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def lock_or_fail(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file.

    Raises:
        DrtfError: If another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DrtfError(
                f"another process is writing here and holds the lock {path}; wait "
                "until it ends"
            ) from error
        yield


@contextmanager
def lock_when_free(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, after waiting for other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

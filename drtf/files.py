"""Files that appear whole or not at all, and folders that are not written over."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from drtf.errors import DrtfError

# What makes a spreadsheet take a cell for a formula: owasp.org, "CSV Injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
GUARD = r"^'('*[=+\-@\t\r])"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file aside, sync it, and rename it into place."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    aside = partial_path(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)  # on a full disk its room is wanted
        raise
    aside.replace(path)


def partial_path(path: Path) -> Path:
    """Return where a file or a folder stands until it is whole: hidden, beside."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file or a folder that comes into place once it is whole.

    What a call before, killed, left there is removed, and so is what this one leaves if
    it fails.
    """
    aside = partial_path(path)

    def remove() -> None:
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)

    remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        remove()
        raise


def write_unbuffered(file: FileIO, data: bytes) -> None:
    """Write all of the data in one call, so that a kill loses none that was written.

    Raises:
        OSError: if the disk is full.
    """
    if file.write(data) != len(data):
        raise OSError(f"can't write to {file.name}: the disk is full")


def neutralize(cell: str) -> str:
    """Return a cell of a CSV such that no spreadsheet takes it for a formula.

    It begins with one apostrophe more, which `GUARD` finds.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(FORMULA_STARTS) else cell


def sync_folder(path: Path) -> None:
    """Make sure that a folder's names survive a loss of power."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def lock_alone(path: Path) -> Iterator[None]:
    """Hold a lock that no other process has.

    Raises:
        DrtfError: if one has it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DrtfError(
                f"another process writes there: it holds {path}; wait for its end"
            ) from error
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time; others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_absent(*paths: Path, overwrite: bool | None = None) -> None:
    """Refuse to write where something stands already.

    Args:
        paths: to be written.
        overwrite: whether they may stand; None where no caller can allow it.

    Raises:
        DrtfError: if a path exists and `overwrite` is False.
    """
    for path in paths:
        if path.exists() and not overwrite:
            otherwise = "" if overwrite is None else ", or give --overwrite"
            raise DrtfError(
                f"{path} exists already and is not overwritten: move it away or "
                f"choose another name{otherwise}"
            )

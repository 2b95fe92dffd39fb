"""Files of tables of scores, each in a local folder or in an object store."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from drtf.errors import DrtfError, StorageError
from drtf.files import check_absent, open_regular, replacing
from drtf.locations import is_remote
from drtf.records.cache import cache_folder
from drtf.storage import (
    create_object,
    delete_object,
    find_object,
    find_version,
    read_object,
    replace_object,
    write_object,
)
from drtf.temporary_folders import temporary_folder

Location = Path | str


def file_name(location: Location) -> PurePosixPath:
    """Return the name of a file, with its stem and suffix."""
    return PurePosixPath(PurePosixPath(location).name)


def sibling(location: Location, name: str) -> Location:
    """Return the location of another file in the same folder."""
    if is_remote(location):
        return f"{str(location).rpartition('/')[0]}/{name}"
    return Path(location).with_name(name)


def has_file(location: Location) -> bool:
    """Return whether there is a file.

    Raises:
        StorageError: If the object store fails.
    """
    if is_remote(location):
        return find_object(str(location)) is not None
    return Path(location).exists()


def open_file(location: Location) -> BinaryIO:
    """Open a file for reading; one in a store is read whole.

    Raises:
        OSError: If a local file cannot be opened or is not a regular file.
        StorageError: If the object store fails.
    """
    if is_remote(location):
        return io.BytesIO(read_object(str(location)))
    return open_regular(Path(location))


def file_version(location: Location) -> dict[str, str] | None:
    """Return the version of a file in a store, for `updating_file`; None without one.

    Raises:
        StorageError: If the object store fails.
    """
    return find_version(str(location)) if is_remote(location) else None


@contextmanager
def updating_file(location: Location, version: dict[str, str] | None) -> Iterator[Path]:
    """Yield a temporary local path for the next version of a file, and publish it.

    Args:
        location: The file. A local one is replaced: who writes it holds a lock.
        version: Of the file in a store that this one shall replace; None if there
            shall be none.

    Raises:
        StorageError: If the object store fails, or another host has written the file
            meanwhile.
    """
    if version is None:
        with writing_file(location, overwrite=False) as partial:
            yield partial
        return
    with temporary_folder() as folder:
        partial = folder / file_name(location)
        yield partial
        if not replace_object(str(location), partial, version):
            raise _written_meanwhile(location)


@contextmanager
def writing_file(location: Location, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary local path for a file, and publish the file at the end.

    Args:
        location: The file.
        overwrite: Whether a file in a store may exist. A local one is replaced: who
            writes it holds a lock.

    Raises:
        StorageError: If the object store fails, or another host has written the file
            meanwhile.
    """
    if not is_remote(location):
        with replacing(Path(location)) as partial:
            yield partial
        return
    with temporary_folder() as folder:
        partial = folder / file_name(location)
        yield partial
        if overwrite:
            write_object(str(location), partial)
        elif not create_object(str(location), partial):
            raise _written_meanwhile(location)


def _written_meanwhile(location: Location) -> StorageError:
    return StorageError(
        f"{location} was written by another host meanwhile; what this one scored is "
        "kept: run the same command again"
    )


def remove_file(location: Location) -> None:
    """Remove a file."""
    if is_remote(location):
        delete_object(str(location))
    else:
        Path(location).unlink(missing_ok=True)


def check_no_file(location: Location, *, overwrite: bool) -> None:
    """Refuse to overwrite a file, unless asked.

    Raises:
        DrtfError: If there is a file, and `overwrite` is False.
        StorageError: If the object store fails.
    """
    if not is_remote(location):
        check_absent(Path(location), overwrite=overwrite)
    elif not overwrite and has_file(location):
        raise DrtfError(
            f"{location} already exists; choose another name, or pass --overwrite"
        )


def work_path(location: Location, name: str) -> Path:
    """Return the local path of an unfinished file that belongs to a table.

    It is next to a local table, and in the cache for one in a store.
    """
    if is_remote(location):
        key = hashlib.sha256(str(location).encode()).hexdigest()[:32]
        return cache_folder() / "scores" / key / name
    return Path(location).with_name(name)

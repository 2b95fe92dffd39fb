"""Files that several hosts share, in a folder or in an object store.

A file appears complete or not at all.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path

from drtf.files import (
    create_link,
    hash_file,
    move_into_place,
    open_regular,
    read_regular,
    sync_file,
    sync_folder,
    write_atomic,
)
from drtf.locations import is_remote, join_location
from drtf.storage import (
    MissingObjectError,
    create_object,
    delete_object,
    download_object,
    list_objects,
    read_object,
    write_object,
)
from drtf.temporary_folders import temporary_folder

NUM_PARALLEL_REQUESTS = 16
# A plan of 100 million photographs has about a fifth of it.
MAX_SHARED_BYTES = 16 << 30

Location = Path | str


def join(folder: Location, *names: str) -> Location:
    """Return the location of a file below a folder."""
    if is_remote(folder):
        return join_location(str(folder), *names)
    return Path(folder, *names)


def create_file(location: Location, data: bytes | Path) -> bool:
    """Create a file, unless it exists. Of several hosts that try, one succeeds.

    Args:
        location: The file.
        data: Its contents, or a complete file; for a folder, one on the same disk.

    Returns:
        False if it exists.

    Raises:
        StorageError: If the object store fails.
        OSError: If the disk is full.
    """
    if is_remote(location):
        return create_object(str(location), data)
    path = Path(location)
    if isinstance(data, Path):
        is_created = create_link(data, path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                sync_file(file)
            is_created = create_link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)
    return is_created


def replace_file(location: Location, data: bytes | Path) -> None:
    """Write a file, over an earlier one if there is one.

    Args:
        location: The file.
        data: As for `create_file`.

    Raises:
        StorageError: If an object store fails.
        OSError: If the disk is full.
    """
    if is_remote(location):
        write_object(str(location), data)
    elif isinstance(data, Path):
        move_into_place(data, Path(location))
        sync_folder(Path(location).parent)
    else:
        write_atomic(Path(location), data)


@contextlib.contextmanager
def open_file(location: Location) -> Iterator[BufferedReader]:
    """Yield an open file to read; an object is first copied to a temporary file.

    Raises:
        StorageError: If an object store fails.
        FileNotFoundError: If the file does not exist.
        OSError: If it cannot be read.
    """
    if not is_remote(location):
        with open_regular(Path(location)) as file:
            yield file
        return
    with temporary_folder() as folder:
        path = folder / "object"
        try:
            download_object(str(location), path)
        except MissingObjectError as error:
            raise FileNotFoundError(str(location)) from error
        with path.open("rb") as file:
            yield file


def read_file(location: Location) -> bytes | None:
    """Read a file, or return None if it does not exist.

    Raises:
        StorageError: If the object store fails.
        OSError: If the file cannot be read.
    """
    try:
        if is_remote(location):
            return read_object(str(location))
        return read_regular(Path(location), MAX_SHARED_BYTES)
    except (MissingObjectError, FileNotFoundError):
        return None


def hash_shared_file(location: Location) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        StorageError: If the object store fails.
        OSError: If the file cannot be read.
    """
    if is_remote(location):
        return hashlib.sha256(read_object(str(location))).hexdigest()
    return hash_file(Path(location))


def file_sizes(folder: Location) -> dict[str, int]:
    """Return the size in bytes of each file of a folder, by its name.

    Raises:
        StorageError: If the object store fails.
        OSError: If the folder cannot be read.
    """
    if is_remote(folder):
        return {file.name: file.size_bytes for file in list_objects(str(folder))}
    if not Path(folder).exists():
        return {}
    sizes = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another host removed it
                if entry.is_file():
                    sizes[entry.name] = entry.stat().st_size
    return sizes


def remove_file(location: Location) -> None:
    """Remove a file, if it exists.

    Raises:
        StorageError: If the object store fails.
        OSError: If the file cannot be removed.
    """
    if is_remote(location):
        delete_object(str(location))
    else:
        Path(location).unlink(missing_ok=True)


def remove_folder(folder: Location) -> None:
    """Remove a folder with all its files, if it exists.

    Raises:
        StorageError: If the object store fails.
    """
    if is_remote(folder):
        locations = [
            join_location(str(folder), file.name) for file in list_objects(str(folder))
        ]
        with ThreadPoolExecutor(NUM_PARALLEL_REQUESTS) as pool:
            for _ in pool.map(delete_object, locations):
                pass
    else:
        shutil.rmtree(folder, ignore_errors=True)

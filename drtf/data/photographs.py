"""Photographs: which there are, and the bytes of each."""

import csv
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drtf.errors import LabelError, PhotographError
from drtf.images.decode import SUFFIXES
from drtf.storage import (
    MissingObjectError,
    is_remote,
    list_files,
    object_size,
    read_object,
)

PATH_COLUMN = "path"
MAX_FILE_BYTES = 1_000_000_000
FETCHED_AT_ONCE = 16


@dataclass(frozen=True)
class Photographs:
    """Photographs that were found.

    Attributes:
        folder: what their paths start from: a local folder, or s3://.
        paths: POSIX paths, sorted.
    """

    folder: Path | str
    paths: list[str]


# What a worker is given to have a photograph's bytes: the folder and the path below it,
# or the bytes themselves where they come from a store, or why there are none.
Handle = tuple[Path | str, str] | bytes | PhotographError


def find_photographs(images: Path | str) -> Photographs:
    """List photographs: those below a folder, or those that a CSV lists.

    Args:
        images: a folder, local or s3://, searched in depth, or a local CSV with a
            column `path`, whose relative paths start from the CSV's own folder.

    Raises:
        LabelError: if there is no such folder or CSV, or no photograph in it.
        StorageError: if the store can't be asked.
    """
    if is_remote(images):
        folder = str(images).rstrip("/")
        files = list_files(folder, is_file=_is_photograph)
        return Photographs(folder, _choose_photographs(files, images))
    images = Path(images)
    if images.suffix.lower() == ".csv" and not images.is_dir():
        return Photographs(images.parent, _read_list(images))
    if not images.is_dir():
        found = "not a folder:" if images.exists() else "no folder"
        raise LabelError(
            f"{found} {images}: --images takes a folder of photographs, or a .csv "
            f"with a column {PATH_COLUMN!r}"
        )
    paths = []
    walked = set()
    for parent, folders, files in os.walk(images, onerror=_fail, followlinks=True):
        folders.sort()  # of two links to one folder the first counts, everywhere
        real = Path(parent).resolve()
        if real in walked:  # a link that leads round in a circle
            folders.clear()
            continue
        walked.add(real)
        below = Path(parent).relative_to(images)
        paths += [(below / name).as_posix() for name in files]
    return Photographs(images, _choose_photographs(paths, images))


def load_photograph(handle: Handle) -> bytes:
    """Return a photograph's bytes.

    Raises:
        PhotographError: if they can't be had.
    """
    if isinstance(handle, PhotographError):
        raise handle
    return handle if isinstance(handle, bytes) else read_photograph(*handle)


def prefetch_photographs(places: Iterable[tuple[Path | str, str]]) -> Iterator[Handle]:
    """Yield what workers have the photographs by: those of a store are fetched ahead.

    Args:
        places: the folder, and the path below it, of each.

    Raises:
        StorageError: if the store fails.
    """

    def fetch(place: tuple[Path | str, str]) -> Handle:
        try:
            return read_photograph(*place)
        except PhotographError as error:
            return error

    pending: deque[Future[Handle]] = deque()
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        for place in places:
            if not is_remote(place[0]):
                while pending:
                    yield pending.popleft().result()
                yield place
                continue
            pending.append(pool.submit(fetch, place))
            if len(pending) > FETCHED_AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def read_photograph(folder: Path | str, path: str) -> bytes:
    """Read a photograph's file.

    Raises:
        PhotographError: with reason `unreadable` or `too_large`.
        StorageError: if its store fails.
    """
    if is_remote(folder):
        try:
            return read_object(f"{folder}/{path}")
        except MissingObjectError as error:
            raise PhotographError("unreadable", "No such file or directory") from error
    try:
        found = (Path(folder) / path).stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise PhotographError("unreadable", "not a regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise PhotographError(
                "too_large",
                f"{found.st_size} bytes; at most {MAX_FILE_BYTES} are read",
            )
        return (Path(folder) / path).read_bytes()
    except OSError as error:
        raise PhotographError("unreadable", str(error.strerror)) from error
    except ValueError as error:  # a name that no file can have
        raise PhotographError("unreadable", str(error)) from error


def strip_suffix(name: str) -> str:
    """Take the ending of an image file off a name; other dots stay."""
    name = name.strip()
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SUFFIXES else name


def file_size(folder: Path | str, path: str) -> int:
    """Return the size of a photograph's file in bytes, or -1 if it can't be had."""
    if is_remote(folder):
        return object_size(f"{folder}/{path}")
    try:
        return (Path(folder) / path).stat().st_size
    except (OSError, ValueError):
        return -1


def change_time(folder: Path | str, path: str) -> float:
    """Return when a file was last put in its place or written, in seconds.

    It is that of its inode's last change, which no copy takes over; 0 in a store.
    """
    if is_remote(folder):
        return 0
    try:
        return (Path(folder) / path).stat().st_ctime
    except (OSError, ValueError):
        return 0


def _fail(error: OSError) -> None:
    raise LabelError(
        f"can't read the folder {error.filename}: {error.strerror}"
    ) from error


def _choose_photographs(paths: Iterable[str], images: Path | str) -> list[str]:
    chosen = [path for path in paths if _is_photograph(PurePosixPath(path).name)]
    if not chosen:
        raise LabelError(
            f"no photograph in {images}: looked for names ending in "
            f"{', '.join(SUFFIXES)}, in subfolders too"
        )
    return sorted(chosen)


def _is_photograph(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _read_list(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            rows = csv.DictReader(file, delimiter=separator)
            if PATH_COLUMN not in (rows.fieldnames or ()):
                raise LabelError(
                    f"{path} has no column {PATH_COLUMN!r}: --images takes a CSV that "
                    f"lists photographs by it; it has {rows.fieldnames or []}"
                )
            paths = {(row[PATH_COLUMN] or "").strip() for row in rows} - {""}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"can't read the list {path}: {error}") from error
    if not paths:
        raise LabelError(f"{path} lists no photograph")
    return sorted(paths)

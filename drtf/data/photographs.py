"""Photographs: which there are, and the bytes of each."""

import csv
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drtf.errors import LabelError, PhotographError
from drtf.images.decode import SUFFIXES

PATH_COLUMN = "path"
MAX_FILE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Photographs:
    """Photographs that were found.

    Attributes:
        folder: what their paths start from.
        paths: POSIX paths, sorted.
    """

    folder: Path
    paths: list[str]


def find_photographs(images: Path) -> Photographs:
    """List photographs: those below a folder, or those that a CSV lists.

    Args:
        images: a folder, searched in depth, or a CSV with a column `path`, whose
            relative paths start from the CSV's own folder.

    Raises:
        LabelError: if there is no such folder or CSV, or no photograph in it.
    """
    if images.suffix.lower() == ".csv" and not images.is_dir():
        return Photographs(images.parent, _read_list(images))
    if not images.is_dir():
        raise LabelError(
            f"no folder {images}: --images takes a folder of photographs, or a .csv "
            f"with a column {PATH_COLUMN!r}"
        )
    paths = []
    walked = set()
    for parent, folders, files in os.walk(images, followlinks=True):
        real = Path(parent).resolve()
        if real in walked:  # a link that leads round in a circle
            folders.clear()
            continue
        walked.add(real)
        paths += [
            (Path(parent) / name).relative_to(images).as_posix()
            for name in files
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    if not paths:
        raise LabelError(
            f"no photograph in {images}: looked for names ending in "
            f"{', '.join(SUFFIXES)}, in subfolders too"
        )
    return Photographs(images, sorted(paths))


def read_photograph(folder: Path, path: str) -> bytes:
    """Read a photograph's file.

    Raises:
        PhotographError: with reason `unreadable` or `too_large`.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise PhotographError("unreadable", "its path is not UTF-8") from error
    try:
        found = (folder / path).stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise PhotographError("unreadable", "not a regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise PhotographError(
                "too_large",
                f"{found.st_size} bytes; at most {MAX_FILE_BYTES} are read",
            )
        return (folder / path).read_bytes()
    except OSError as error:
        raise PhotographError("unreadable", str(error.strerror)) from error


def strip_suffix(name: str) -> str:
    """Take the ending of an image file off a name; other dots stay."""
    name = name.strip()
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SUFFIXES else name


def _read_list(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if PATH_COLUMN not in (rows.fieldnames or ()):
                raise LabelError(
                    f"{path} has no column {PATH_COLUMN!r}: --images takes a CSV that "
                    f"lists photographs by it; it has {rows.fieldnames or []}"
                )
            paths = {row[PATH_COLUMN] for row in rows} - {"", None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"can't read the list {path}: {error}") from error
    if not paths:
        raise LabelError(f"{path} lists no photograph")
    return sorted(paths)

"""Listing photographs: which files of a folder or an archive are photographs."""

import csv
import heapq
import importlib.util
import io
import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import pandas as pd

from drtf.errors import LabelError, NoPhotographsError
from drtf.files import (
    MAX_TABLE_BYTES,
    read_regular,
)
from drtf.images.dicom_tags import DicomTags
from drtf.images.signatures import DICOM, HEAD_BYTES, SUFFIXES, picture_name
from drtf.photographs import archives
from drtf.photographs.dicom_headers import find_tags, state_frames
from drtf.photographs.frames import split_frame
from drtf.photographs.patient_columns import (
    EYE_COLUMNS,
    PATIENT_COLUMNS,
    PatientEye,
    first_column,
    names_patient,
    parse_eye,
)
from drtf.photographs.references import (
    FileStatus,
    PhotographRef,
    map_in_threads,
    object_status,
)
from drtf.storage import (
    check_location,
    fetch_file,
    find_object,
    has_query,
    is_remote,
    list_objects,
    object_name,
    shown_location,
)
from drtf.texts import divide_texts, iterate_texts

_log = logging.getLogger(__name__)

PATH_COLUMN = "path"
UNSTATED = PatientEye("", "")
SKIPPED_FILE = "skipped.csv"
DICOM_SUFFIXES = (".dcm", ".dicom")
# Index of a DICOM medium, which is a DICOM file without a photograph.
DICOM_INDEX = "DICOMDIR"
# Trash, thumbnails and bookkeeping of operating systems and NAS devices, besides all
# names that begin with a dot.
SYSTEM_FOLDERS = (
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "@tmp",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "found.000",
    "lost+found",
    "system volume information",
)
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
THUMBNAIL_PREFIX = "synophoto_"


class SkippedFile(NamedTuple):
    """A file that is not a photograph.

    Attributes:
        path: Its path relative to the image folder.
        kind: Why it was skipped: `in FOLDER`, an extension or a file's name.
    """

    path: str
    kind: str


@dataclass(frozen=True)
class Listing:
    """The photographs of a folder, at least one, and its other files.

    Attributes:
        folder: The image folder, local or in a store, or a zip archive.
        paths: The paths of the photographs, relative to the folder and sorted, as a
            text column.
        unnamed: The paths of photographs that are not UTF-8, sorted.
        skipped: The other files, sorted by path.
        statuses: What the list of an object store had about a photograph, by path.
        stated: The patient and the eye of a photograph, by path, if a table or the file
            itself states them.
        tags: The tags of the file of a photograph in DICOM, by path.
    """

    folder: Path | str
    paths: pd.Series
    unnamed: list[str]
    skipped: list[SkippedFile]
    statuses: Mapping[str, FileStatus] = field(default_factory=dict)
    stated: Mapping[str, PatientEye] = field(default_factory=dict)
    tags: Mapping[str, DicomTags] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.paths) + len(self.unnamed)

    def __iter__(self) -> Iterator[PhotographRef]:
        """Yield a reference to each photograph, sorted by path."""
        paths = heapq.merge(iterate_texts(self.paths), self.unnamed)
        return map(self.photograph, paths)

    @property
    def photographs(self) -> list[PhotographRef]:
        """A reference to each photograph."""
        return list(self)

    def photograph(self, path: str) -> PhotographRef:
        """Return a reference to the photograph at a path."""
        patient, eye = self.stated.get(path, UNSTATED)
        return PhotographRef(
            self.folder,
            path,
            listed=self.statuses.get(path),
            patient=patient,
            eye=eye,
        )


def list_photographs(images: Path | str) -> Listing:
    """List the photographs of a folder, or those that a CSV file lists.

    A file with the extension of a picture is a photograph. Any other file is one if
    its first bytes are those of a picture, a video or a DICOM file. Each frame of a
    DICOM file is a photograph, and its tags state the patient and the eye.

    Args:
        images: A folder, local or in a store, searched recursively; a zip archive, or a
            folder of zip archives only; a single photograph; or a CSV file with a
            column `path`, local or in a store. Its relative paths start at the CSV's
            folder. Columns such as `patient` and `eye` state the patient and the eye.
            Also the URL of such a file with a query, as stores presign them.

    Raises:
        LabelError: If there is no photograph, or pydicom is required but missing.
        StorageError: If the object store fails.
    """
    if has_query(images):
        images = fetch_file(str(images))
    is_list = _is_list(images)
    files = _list_named_files(images) if is_list else _list_files(images)
    skipped = files.skipped.copy()
    statuses, stated = dict(files.statuses), dict(files.stated)
    tags: dict[str, DicomTags] = {}
    num_dicom = 0

    def keep_photographs() -> Iterator[str]:
        nonlocal num_dicom
        unclear = []
        for file in files:
            if _is_clear(file):
                yield file.path
            else:
                unclear.append(file)
        contents = map_in_threads(_identify, unclear)
        for file, content in zip(unclear, contents, strict=True):
            num_dicom += content.kind == DICOM
            if not (is_list or content.is_photograph):
                skipped.append(SkippedFile(file.path, content.describe(file.path)))
            elif content.tags:
                for path, patient_eye in state_frames(file, content.tags):
                    tags[path] = content.tags
                    if any(patient_eye):
                        stated[path] = patient_eye
                    if file.listed:
                        statuses[path] = file.listed
                    yield path
            else:
                yield file.path

    listing = _make_listing(files.folder, keep_photographs(), skipped, statuses)
    if not len(listing):
        raise NoPhotographsError(
            f"no photographs in {images} or its subfolders{_found(skipped)}; files "
            f"with these extensions are photographs: {', '.join(SUFFIXES)}"
        )
    if num_dicom and importlib.util.find_spec("pydicom") is None:
        raise LabelError(
            f"{num_dicom:,} of {len(listing):,} photographs in {images} are DICOM "
            "files, which require pydicom: pip install 'drtf[dicom]'"
        )
    return replace(listing, stated=stated, tags=tags)


def _make_listing(
    folder: Path | str,
    paths: Iterable[str],
    skipped: list[SkippedFile],
    statuses: Mapping[str, FileStatus] | None = None,
) -> Listing:
    """Return a listing of paths in any order, which are iterated before `skipped`."""
    column, unnamed = divide_texts(paths)
    column = column.sort_values(ignore_index=True)
    return Listing(folder, column, sorted(unnamed), sorted(skipped), statuses or {})


def check_exists(images: Path | str) -> None:
    """Check that there is something at a local path, without listing it.

    Raises:
        LabelError: If there is nothing.
    """
    if not (is_remote(images) or Path(images).exists()):
        raise _wrong_images(images, "does not exist")


def describe_skipped(skipped: Iterable[SkippedFile]) -> str:
    """Return one line with the number of skipped files of each kind."""
    counts = Counter(file.kind for file in skipped)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    return f"Skipped files that are not photographs: {counts.total():,} ({kinds})"


def _found(skipped: list[SkippedFile]) -> str:
    return f" ({describe_skipped(skipped)})" if skipped else ""


def _list_files(images: Path | str) -> Listing:
    """List the files of an image folder that may be photographs, and the others."""
    if is_remote(images):
        return _list_stored_files(str(images).rstrip("/"))
    images = Path(images)
    skipped: list[SkippedFile] = []
    if images.is_dir():
        listing = _make_listing(images, _walk(images, skipped), skipped)
        if archived := _only_archives(listing):
            members = (
                f"{name}/{member}"
                for name in archived
                for member in archives.list_members(images / name)
            )
            others = (file.path for file in listing if file.path not in archived)
            files = _skip_system_files(itertools.chain(members, others), skipped)
            listing = _make_listing(images, files, skipped)
        return listing
    if images.suffix.lower() == archives.SUFFIX and images.is_file():
        files = _skip_system_files(archives.list_members(images), skipped)
        return _make_listing(images, files, skipped)
    single = PhotographRef(images.parent, images.name)
    if images.is_file() and (_is_clear(single) or _identify(single).is_photograph):
        return _make_listing(images.parent, [images.name], [])
    check_exists(images)
    raise _wrong_images(images, "is not a photograph")


def _list_stored_files(location: str) -> Listing:
    """List the files of a folder in a store, as `_list_files`."""
    parent, _, name = location.rpartition("/")
    is_archive = name.lower().endswith(archives.SUFFIX)
    if (is_archive or _has_suffix(name)) and (found := find_object(location)):
        if is_archive:
            raise _wrong_images(
                location, "is an archive in a store, which must be downloaded first"
            )
        name = object_name(location)
        return _make_listing(parent, [name], [], {name: object_status(found)})
    statuses = {item.name: object_status(item) for item in list_objects(location)}
    skipped: list[SkippedFile] = []
    files = _skip_system_files(statuses, skipped)
    return _make_listing(location, files, skipped, statuses)


def _wrong_images(images: Path | str, problem: str) -> LabelError:
    return LabelError(
        f"{images} {problem}: --images takes a folder of photographs, a zip archive, a "
        f"photograph, or a .csv file with a column {PATH_COLUMN!r}"
    )


def _walk(images: Path, skipped: list[SkippedFile]) -> Iterator[str]:
    """Yield the path of each file that may be a photograph; append the others."""
    visited = set()
    for parent, folders, files in os.walk(images, onerror=_fail, followlinks=True):
        # If two links lead to one folder, the first one counts on every machine.
        folders.sort()
        real = Path(parent).resolve()
        if real in visited:  # a link that leads back to a parent folder
            folders.clear()
            continue
        visited.add(real)
        relative = Path(parent).relative_to(images)
        paths = ((relative / name).as_posix() for name in files)
        yield from _skip_system_files(paths, skipped)
        for name in filter(_is_system_folder, folders):
            for below, _, others in os.walk(Path(parent, name)):
                place = Path(below).relative_to(images)
                skipped += [
                    SkippedFile((place / other).as_posix(), f"in {name}")
                    for other in others
                ]
        folders[:] = [name for name in folders if not _is_system_folder(name)]


def _fail(error: OSError) -> None:
    raise LabelError(
        f"cannot read the folder {error.filename}: {error.strerror}"
    ) from error


def _skip_system_files(
    paths: Iterable[str], skipped: list[SkippedFile]
) -> Iterator[str]:
    """Yield the paths of some files; append those that accompany photographs.

    An operating system, a NAS or an archive stores such files next to photographs.
    """
    previous = None
    for path in paths:
        if path == previous:  # of an archive, whose members are sorted
            skipped.append(SkippedFile(path, "with the name of another file"))
            continue
        previous = path
        if not {"", ".", ".."}.isdisjoint(path.split("/")):  # of an archive
            skipped.append(SkippedFile(path, "with a name that leads elsewhere"))
            continue
        *parents, name = PurePosixPath(path).parts
        system = next(filter(_is_system_folder, parents), None)
        if system:
            skipped.append(SkippedFile(path, f"in {system}"))
        elif name == DICOM_INDEX:
            skipped.append(SkippedFile(path, name))
        elif name.lower().startswith((".", THUMBNAIL_PREFIX, *SYSTEM_FILES)):
            skipped.append(SkippedFile(path, "of the operating system"))
        else:
            yield path


def _is_system_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _only_archives(files: Listing) -> list[str]:
    """Return the zip archives of a folder that has no other pictures."""
    if any(_has_suffix(file.path) for file in files):
        return []
    return [file.path for file in files if file.path.lower().endswith(archives.SUFFIX)]


def _has_suffix(name: str) -> bool:
    return _suffix(name) in SUFFIXES


class _Content(NamedTuple):
    """What a file holds.

    Attributes:
        kind: The name of its format; empty if it is no picture.
        tags: The tags of a DICOM file; None for another file or if they are damaged.
    """

    kind: str
    tags: DicomTags | None = None

    @property
    def is_photograph(self) -> bool:
        """Whether it may be a photograph; so may be a file that cannot be read."""
        return bool(self.kind) and not (self.tags and self.tags.kind)

    def describe(self, path: str) -> str:
        """Return what a file that is no photograph is instead."""
        if self.tags:
            return f"{DICOM} {self.tags.kind}"
        name = PurePosixPath(path)
        return name.suffix.lower() or name.name


def _is_clear(photograph: PhotographRef) -> bool:
    """Return whether a file's extension says that it is one photograph."""
    suffix = _suffix(photograph.path)
    return suffix in SUFFIXES and suffix not in DICOM_SUFFIXES


def _identify(photograph: PhotographRef) -> _Content:
    """Return what a file holds whose extension does not say it.

    A file that cannot be read may be a picture, so that it is not lost.
    """
    suffix = _suffix(photograph.path)
    if suffix in DICOM_SUFFIXES:
        kind = DICOM
    elif photograph.is_remote and suffix.removeprefix(".").isalpha():
        kind = ""  # a request per file is worth it only for a name without extension
    else:
        head = photograph.read_head(HEAD_BYTES)
        kind = "unreadable" if head is None else picture_name(head)
    tags = find_tags(photograph) if kind == DICOM else None
    return _Content(kind, tags)


def _suffix(path: str) -> str:
    return PurePosixPath(split_frame(path)[0]).suffix.lower()


def _is_list(images: Path | str) -> bool:
    if not str(images).lower().endswith(".csv"):
        return False
    return is_remote(images) or not Path(images).is_dir()


def _parent(images: Path | str) -> Path | str:
    if is_remote(images):
        return str(images).rpartition("/")[0]
    return Path(images).parent


def _list_named_files(images: Path | str) -> Listing:
    """List the files that a CSV file names."""
    listed = _load_list(images)
    stated = {path: x for path, x in listed.items() if x is not UNSTATED}
    return replace(_make_listing(_parent(images), listed, []), stated=stated)


def _load_list(images: Path | str) -> dict[str, PatientEye]:
    """Return the patient and the eye of each photograph of a list, by path."""
    path = fetch_file(str(images)) if is_remote(images) else Path(images)
    try:
        text = read_regular(path, MAX_TABLE_BYTES).decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        columns = rows.fieldnames or []
        if PATH_COLUMN not in columns:
            raise LabelError(
                f"{path} has no column {PATH_COLUMN!r}, which --images requires of "
                f"a CSV file; its columns are {columns}"
            )
        listed = _read_patients(path, rows, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"cannot read the list {path}: {error}") from error
    if not listed:
        raise LabelError(f"{path} lists no photographs")
    for name in listed:
        check_location(name)
        if has_query(name):
            raise LabelError(
                f"{path} lists {shown_location(name)} with a query; such URLs expire, "
                "so download the photographs first"
            )
    return listed


def _read_patients(
    path: Path, rows: "csv.DictReader[str]", columns: Sequence[str]
) -> dict[str, PatientEye]:
    """Return what the rows of a list state, by path.

    Raises:
        LabelError: If two rows of a photograph state different things.
    """
    patient_column = first_column(columns, PATIENT_COLUMNS)
    eye_column = first_column(columns, EYE_COLUMNS)
    listed: dict[str, PatientEye] = {}
    unknown_eyes = []
    for row in rows:
        name, patient, side = (
            ((column and row[column]) or "").strip()
            for column in (PATH_COLUMN, patient_column, eye_column)
        )
        if not name:
            continue
        eye = parse_eye(side)
        if side and not eye:
            unknown_eyes.append(side)
        stated = PatientEye(patient if names_patient(patient) else "", eye)
        first = listed.setdefault(
            _posix_path(name, path.parent), stated if any(stated) else UNSTATED
        )
        if first != stated:
            raise LabelError(
                f"line {rows.line_num:,} of {path} states {stated.describe()} for "
                f"{name}, but an earlier line states {first.describe()}: keep one"
            )
    if unknown_eyes:
        _log.warning(
            "%s: column %r names neither the left nor the right eye in %s rows, for "
            "example %r; the eyes of these photographs are taken from their names",
            path,
            eye_column,
            f"{len(unknown_eyes):,}",
            unknown_eyes[0],
        )
    return listed


def _posix_path(name: str, folder: Path) -> str:
    """Return a path with the separators of Windows replaced."""
    if "\\" not in name or os.path.lexists(folder / name):
        return name
    return PureWindowsPath(name).as_posix()

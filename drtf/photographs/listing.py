"""Listing photographs: which files of a folder or an archive are photographs."""

import csv
import heapq
import importlib.util
import io
import itertools
import logging
import operator
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa

from drtf.errors import LabelError, NoPhotographsError
from drtf.files import open_regular
from drtf.images.dicom_tags import DicomTags
from drtf.images.signatures import DICOM, HEAD_BYTES, SUFFIXES, picture_name
from drtf.locations import (
    check_location,
    has_query,
    is_remote,
    object_name,
    shown_location,
)
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
)
from drtf.storage import (
    StoredObject,
    fetch_file,
    find_object,
    find_parents,
    iterate_objects,
)
from drtf.texts import (
    TEXT,
    TextRows,
    are_repeated_texts,
    divide_into_batches,
    is_utf8,
    iterate_texts,
)

_log = logging.getLogger(__name__)

PATH_COLUMN = "path"
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


class ListedFile(NamedTuple):
    """A file that may be a photograph, and its values from a list.

    Attributes:
        path: Its path relative to the image folder.
        size_bytes: Its size, if the list of an object store had it.
        version: The version, as in `FileStatus`, if the list of a store had it.
        patient: The patient, if a table or the file itself states it.
        eye: `left` or `right`, if a table or the file itself states it.
        camera: The camera, as in `DicomTags`.
        acquired: The day on which it was acquired, as in `DicomTags`.
    """

    path: str
    size_bytes: int | None = None
    version: str = ""
    patient: str = ""
    eye: str = ""
    camera: str = ""
    acquired: str = ""


@dataclass(frozen=True)
class Listing:
    """The photographs of a folder, at least one, and its other files.

    Attributes:
        folder: The image folder, local or in a store, or a zip archive.
        table: The photographs, sorted by path: the columns of `ListedFile`, without
            those that are empty.
        unnamed: The photographs whose path is not UTF-8, sorted by path.
        skipped: The other files, sorted by path.
    """

    folder: Path | str
    table: pd.DataFrame
    unnamed: list[PhotographRef]
    skipped: TextRows[SkippedFile]

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.table) + len(self.unnamed)

    def __iter__(self) -> Iterator[PhotographRef]:
        """Yield a reference to each photograph, sorted by path."""
        by_path = operator.attrgetter("path")
        return heapq.merge(self.photographs_at(), self.unnamed, key=by_path)

    @property
    def photographs(self) -> list[PhotographRef]:
        """A reference to each photograph."""
        return list(self)

    @property
    def paths(self) -> pd.Series:
        """The paths of the photographs in `table`."""
        return self.table["path"]

    def photographs_at(self, rows: np.ndarray | None = None) -> Iterator[PhotographRef]:
        """Yield a reference to each photograph of `table`, or only of some rows.

        Args:
            rows: int64 [n], the positions of the rows, in any order; by default all.
        """
        for file in iterate_table(self.table, rows):
            yield _reference(self.folder, file)


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
    skipped = files.skipped
    num_dicom = 0

    def unclear() -> Iterator[PhotographRef]:
        return itertools.filterfalse(_is_clear, files)

    def keep_photographs() -> Iterator[ListedFile]:
        nonlocal num_dicom
        num_clear = 0
        for file in filter(_is_clear, files):
            num_clear += 1
            yield _listed_file(file)
        if num_clear == len(files):
            return
        contents = map_in_threads(_identify, unclear())
        for file, content in zip(unclear(), contents, strict=True):
            num_dicom += content.kind == DICOM
            if not (is_list or content.is_photograph):
                skipped.append(SkippedFile(file.path, content.describe(file.path)))
            elif tags := content.tags:
                for path, (patient, eye) in state_frames(file, tags):
                    yield _listed_file(file)._replace(
                        path=path,
                        patient=patient,
                        eye=eye,
                        camera=tags.camera,
                        acquired=tags.acquired,
                    )
            else:
                yield _listed_file(file)

    listing = _make_listing(files.folder, keep_photographs(), skipped)
    if is_list and num_dicom:  # it may have a file and one of its frames
        table = listing.table.drop_duplicates("path", ignore_index=True)
        listing = replace(listing, table=table)
    if not len(listing):
        raise NoPhotographsError(
            f"no photographs in {shown_location(str(images))} or its subfolders"
            f"{_found(skipped)}; files with these extensions are photographs: "
            f"{', '.join(SUFFIXES)}"
        )
    if num_dicom and importlib.util.find_spec("pydicom") is None:
        raise LabelError(
            f"{num_dicom:,} of {len(listing):,} photographs in "
            f"{shown_location(str(images))} are DICOM "
            "files, which require pydicom: pip install 'drtf[dicom]'"
        )
    return listing


def _listed_file(photograph: PhotographRef) -> ListedFile:
    size_bytes, version = None, ""
    if photograph.listed:
        size_bytes, version = photograph.listed.size_bytes, photograph.listed.version
    return ListedFile(
        photograph.path, size_bytes, version, photograph.patient, photograph.eye
    )


def _reference(folder: Path | str, file: ListedFile) -> PhotographRef:
    listed = None
    if file.size_bytes is not None:
        listed = FileStatus(file.size_bytes, 0, file.version)
    return PhotographRef(
        folder, file.path, listed=listed, patient=file.patient, eye=file.eye
    )


def _make_listing(
    folder: Path | str, files: Iterable[ListedFile], skipped: TextRows[SkippedFile]
) -> Listing:
    """Return a listing of files in any order, which are iterated before `skipped`."""
    unnamed = []

    def keep_named() -> Iterator[ListedFile]:
        for file in files:
            if is_utf8(file.path):
                yield file
            else:
                unnamed.append(_reference(folder, file))

    table = make_table(keep_named()).sort_values("path", ignore_index=True)
    skipped.sort()
    return Listing(
        folder, table, sorted(unnamed, key=operator.attrgetter("path")), skipped
    )


def iterate_table(
    table: pd.DataFrame, rows: np.ndarray | None = None
) -> Iterator[ListedFile]:
    """Yield each file of the table of a `Listing`, or only some rows."""
    columns = (
        iterate_texts(table[name], rows)
        if name in table
        else itertools.repeat(ListedFile._field_defaults[name])
        for name in ListedFile._fields
    )
    return map(ListedFile._make, zip(*columns, strict=False))


def make_table(files: Iterable[ListedFile]) -> pd.DataFrame:
    """Return files as the table of a `Listing`, in the same order."""
    int64, text = pa.int64(), pa.large_string()
    parts = [pa.table({"path": pa.array([], text)})]
    for batch in divide_into_batches(files):
        columns = zip(ListedFile._fields, zip(*batch, strict=True), strict=True)
        parts.append(
            pa.table(
                {
                    name: pa.array(cells, int64 if name == "size_bytes" else text)
                    for name, cells in columns
                    if any(cell not in (None, "") for cell in cells)
                }
            )
        )
    table = pa.concat_tables(parts, promote_options="default").combine_chunks()
    del parts
    for number, column in enumerate(table.columns):
        if column.null_count:  # a part had nothing in this column
            table = table.set_column(number, table.field(number), column.fill_null(""))
    pa.default_memory_pool().release_unused()
    return table.to_pandas(
        types_mapper={text: TEXT}.get,
        split_blocks=True,
        self_destruct=True,
    )


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


def _found(skipped: TextRows[SkippedFile]) -> str:
    return f" ({describe_skipped(skipped)})" if skipped else ""


def _list_files(images: Path | str) -> Listing:
    """List the files of an image folder that may be photographs, and the others."""
    if is_remote(images):
        return _list_stored_files(str(images).rstrip("/"))
    images = Path(images)
    skipped = TextRows(SkippedFile)
    if images.is_dir():
        listing = _make_listing(images, _walk(images, skipped), skipped)
        if archived := _only_archives(listing):
            members = (
                f"{name}/{member}"
                for name in archived
                for member in archives.list_members(images / name)
            )
            others = (file.path for file in listing if file.path not in archived)
            found = map(ListedFile, itertools.chain(members, others))
            files = _skip_system_files(found, skipped)
            listing = _make_listing(images, files, skipped)
        return listing
    if images.suffix.lower() == archives.SUFFIX and images.is_file():
        found = map(ListedFile, archives.list_members(images))
        return _make_listing(images, _skip_system_files(found, skipped), skipped)
    single = PhotographRef(images.parent, images.name)
    if images.is_file() and (_is_clear(single) or _identify(single).is_photograph):
        return _make_listing(images.parent, [ListedFile(images.name)], skipped)
    check_exists(images)
    raise _wrong_images(images, "is not a photograph")


def _list_stored_files(location: str) -> Listing:
    """List the files of a folder in a store, as `_list_files`."""
    skipped = TextRows(SkippedFile)
    parent, _, name = location.rpartition("/")
    is_archive = name.lower().endswith(archives.SUFFIX)
    if (is_archive or _has_suffix(name)) and (found := find_object(location)):
        if is_archive:
            raise _wrong_images(
                location, "is an archive in a store, which must be downloaded first"
            )
        found = found._replace(name=object_name(location))
        return _make_listing(parent, [_stored_file(found)], skipped)
    objects = make_table(map(_stored_file, iterate_objects(location)))
    if not len(objects):
        return _make_listing(location, [], skipped)
    names, is_empty = objects["path"], objects["size_bytes"] == 0
    empty = set(iterate_texts(names, np.flatnonzero(is_empty)))
    folders = find_parents(iterate_texts(names), among=empty)
    files = (
        file
        for file in iterate_table(objects)
        if file.size_bytes or file.path not in folders
    )
    return _make_listing(location, _skip_system_files(files, skipped), skipped)


def _stored_file(found: StoredObject) -> ListedFile:
    return ListedFile(found.name, found.size_bytes, found.etag or "")


def _wrong_images(images: Path | str, problem: str) -> LabelError:
    return LabelError(
        f"{shown_location(str(images))} {problem}: --images takes a folder of "
        f"photographs, a zip archive, a photograph, or a .csv file with a column "
        f"{PATH_COLUMN!r}"
    )


def _walk(images: Path, skipped: TextRows[SkippedFile]) -> Iterator[ListedFile]:
    """Yield each file that may be a photograph; append the others."""
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
        found = (ListedFile((relative / name).as_posix()) for name in files)
        yield from _skip_system_files(found, skipped)
        for name in filter(_is_system_folder, folders):
            for below, _, others in os.walk(Path(parent, name)):
                place = Path(below).relative_to(images)
                skipped.extend(
                    SkippedFile((place / other).as_posix(), f"in {name}")
                    for other in others
                )
        folders[:] = [name for name in folders if not _is_system_folder(name)]


def _fail(error: OSError) -> None:
    raise LabelError(
        f"cannot read the folder {error.filename}: {error.strerror}"
    ) from error


def _skip_system_files(
    files: Iterable[ListedFile], skipped: TextRows[SkippedFile]
) -> Iterator[ListedFile]:
    """Yield some files; append those that accompany photographs.

    An operating system, a NAS or an archive stores such files next to photographs.
    """
    previous = None
    for file in files:
        path = file.path
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
            yield file


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
    """The contents of a file.

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
        """Return the kind of a file that is not a photograph."""
        if self.tags:
            return f"{DICOM} {self.tags.kind}"
        name = PurePosixPath(path)
        return name.suffix.lower() or name.name


def _is_clear(photograph: PhotographRef) -> bool:
    """Return whether a file's extension says that it is one photograph."""
    suffix = _suffix(photograph.path)
    return suffix in SUFFIXES and suffix not in DICOM_SUFFIXES


def _identify(photograph: PhotographRef) -> _Content:
    """Return the contents of a file whose extension does not name them.

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
    path = fetch_file(str(images)) if is_remote(images) else Path(images)
    read = array("q")
    try:
        with (
            open_regular(path) as file,
            io.TextIOWrapper(file, "utf-8-sig", newline="") as text,
        ):
            table = make_table(_read_list(path, text, read))
    except UnicodeDecodeError as error:
        raise LabelError(
            f"the list {path} is not in UTF-8: save the table as 'CSV UTF-8'"
        ) from error
    except (OSError, csv.Error) as error:
        raise LabelError(f"cannot read the list {path}: {error}") from error
    if not len(table):
        raise LabelError(f"{path} lists no photographs")
    repeated = are_repeated_texts(table["path"])
    if repeated.any():
        lines = np.frombuffer(read, np.int64)[repeated]
        is_first = np.ones(len(table), bool)
        is_first[repeated] = ~_are_later(path, table[repeated], lines)
        table = table[is_first]
    table = table.sort_values("path", ignore_index=True)
    return Listing(_parent(images), table, [], TextRows(SkippedFile))


def _are_later(path: Path, table: pd.DataFrame, lines: np.ndarray) -> np.ndarray:
    """Return for each row of a list whether it repeats an earlier one, bool [n].

    Args:
        path: The list, for the error message.
        table: Rows whose file other rows have too.
        lines: The lines of these rows, from 1.

    Raises:
        LabelError: If two rows of a file state different things.
    """
    table = table.reindex(columns=["path", "patient", "eye"], fill_value="")
    is_later = table.duplicated("path").to_numpy()
    first = table[~is_later].set_index("path").loc[table["path"]]
    differs = (first.to_numpy() != table[["patient", "eye"]].to_numpy()).any(axis=1)
    for row in np.flatnonzero(differs)[:1]:
        stated, earlier = (
            PatientEye(*x.iloc[row]).describe()
            for x in (table[["patient", "eye"]], first)
        )
        raise LabelError(
            f"line {lines[row]:,} of {path} states {stated} for "
            f"{table['path'].iloc[row]}, but an earlier line states {earlier}: keep one"
        )
    return is_later


def _read_list(path: Path, text: TextIO, lines: "array[int]") -> Iterator[ListedFile]:
    """Yield the values of each row of a list, and append its line, from 1."""
    separator = max(",;\t|", key=text.readline().count)
    text.seek(0)
    rows = csv.reader(text, delimiter=separator)
    columns = next(rows, [])
    path_column = first_column(columns, [PATH_COLUMN])
    if path_column is None:
        raise LabelError(
            f"{path} has no column {PATH_COLUMN!r}, which --images requires of "
            f"a CSV file; its columns are {columns}"
        )
    patient_column = first_column(columns, PATIENT_COLUMNS)
    eye_column = first_column(columns, EYE_COLUMNS)
    unknown_eye, num_unknown = "", 0
    for cells in rows:
        row = dict(zip(columns, cells, strict=False))
        name, patient, side = (
            (row.get(column, "") if column else "").strip()
            for column in (path_column, patient_column, eye_column)
        )
        if not name:
            continue
        check_location(name)
        if has_query(name):
            raise LabelError(
                f"{path} lists {shown_location(name)} with a query; such URLs expire, "
                "so download the photographs first"
            )
        eye = parse_eye(side)
        if side and not eye:
            unknown_eye, num_unknown = unknown_eye or side, num_unknown + 1
        lines.append(rows.line_num)
        yield ListedFile(
            _posix_path(name, path.parent),
            patient=patient if names_patient(patient) else "",
            eye=eye,
        )
    if num_unknown:
        _log.warning(
            "%s: column %r names neither the left nor the right eye in %s rows, for "
            "example %r; the eyes of these photographs are taken from their names",
            path,
            eye_column,
            f"{num_unknown:,}",
            unknown_eye,
        )


def _posix_path(name: str, folder: Path) -> str:
    """Return a path with the separators of Windows replaced."""
    if "\\" not in name or os.path.lexists(folder / name):
        return name
    return PureWindowsPath(name).as_posix()

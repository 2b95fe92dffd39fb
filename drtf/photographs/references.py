"""References to photographs: reading, hashing and describing a single one."""

import errno
import hashlib
import io
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from drtf.errors import DrtfError, PhotographError
from drtf.files import open_regular, read_regular
from drtf.images.dicom_files import extract_frame
from drtf.images.signatures import SUFFIXES
from drtf.locations import is_remote, object_name, resolve_location
from drtf.photographs.archives import find_member, find_member_info, read_member
from drtf.photographs.frames import frame_path, split_frame
from drtf.retries import retry
from drtf.storage import (
    MissingObjectError,
    StoredObject,
    find_object,
    read_object,
    read_start,
)
from drtf.texts import iterate_texts

MAX_FILE_BYTES = 1_000_000_000
NUM_FETCHED_AHEAD = 16
NUM_PER_BATCH = 1024
NUM_PER_PART = 16
PART_BYTES = 4096
# Errors that a file itself can be the cause of. Any other is the machine's: a disk that
# fails (EIO), an unreachable server (ESTALE), too few resources (EMFILE, ENOMEM).
FILE_ERRORS = {
    errno.EACCES,
    errno.EFBIG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EOVERFLOW,
    errno.EPERM,
}

Item = TypeVar("Item")
Result = TypeVar("Result")


class FileStatus(NamedTuple):
    """The state of a photograph's file: its size, times and version.

    Attributes:
        size_bytes: Its size, or -1 if it is unknown.
        changed_ns: When it was last written or moved here, in ns since the epoch. This
            is the inode's change time, which a copy cannot preserve. It is 0 for a file
            that does not exist or is in an object store.
        version: What is the same on every host that sees the file, or a copy that kept
            its times, and differs if the file was replaced: when it was last written,
            the checksum of a member of an archive, or the etag of an object. It is
            empty for a file that does not exist.
    """

    size_bytes: int
    changed_ns: int
    version: str = ""


@dataclass(frozen=True, slots=True)
class PhotographRef:
    """A reference to a photograph's file, which may be missing or damaged.

    Attributes:
        folder: The image folder, local or in a store, or a zip archive.
        path: POSIX path relative to the folder, or an absolute path or a location. It
            may name a frame of a file, see `split_frame`.
        listed: Its status, if the list of an object store had it.
        patient: The patient, if a table or the file itself states it.
        eye: `left` or `right`, if a table or the file itself states it.
    """

    folder: Path | str
    path: str
    listed: FileStatus | None = field(
        default=None, kw_only=True, compare=False, repr=False
    )
    patient: str = field(default="", kw_only=True, compare=False, repr=False)
    eye: str = field(default="", kw_only=True, compare=False, repr=False)

    def __str__(self) -> str:
        """Return the photograph's path or location."""
        if self.is_remote:
            return resolve_location(str(self.folder), self.path)
        return str(Path(self.folder, self.path))

    @property
    def id(self) -> str:
        """The file's name without its extension."""
        return photograph_id(self.path)

    @property
    def is_remote(self) -> bool:
        """Whether the photograph is in an object store."""
        return is_remote(self.folder) or is_remote(self.path)

    def read(self) -> bytes:
        """Read the photograph's file; a frame is returned as a separate file.

        Raises:
            PhotographError: With reason `unreadable` or `too_large`, or as
                `extract_frame`.
            StorageError: If the object store fails.
            DrtfError: If the machine is at fault.
        """
        frame = split_frame(self.path)[1]
        if not frame:
            return self._read_whole()
        if self.is_remote or find_member(self._file):
            return extract_frame(io.BytesIO(self._read_whole()), frame)

        def read_frame() -> bytes:
            with open_regular(self._file) as file:
                return extract_frame(file, frame)

        return self._access(read_frame)

    def read_head(self, num_bytes: int) -> bytes | None:
        """Read the first bytes of the file, or return None if it cannot be read.

        Raises:
            StorageError: If the object store fails.
            DrtfError: If the machine is at fault.
        """

        def read() -> bytes:
            if find_member(self._file):
                return self._read_file()[:num_bytes]
            with open_regular(self._file) as file:
                return file.read(num_bytes)

        try:
            if self.is_remote:
                return read_start(self._location, num_bytes)
            return self._access(read)
        except (MissingObjectError, PhotographError):
            return None

    def hash_parts(self) -> int:
        """Return a hash of the file's first, middle and last bytes, int64.

        Of a file in an object store, it is of the first bytes only: each part takes a
        request.

        Returns:
            The hash, or 0 if the file cannot be read.

        Raises:
            StorageError: If the object store fails.
            DrtfError: If the machine is at fault.
        """

        def read() -> bytes:
            if find_member(self._file):
                return self._read_file()
            with open_regular(self._file) as file:
                size_bytes = file.seek(0, os.SEEK_END)
                parts = b""
                for start in (0, size_bytes // 2, max(0, size_bytes - PART_BYTES)):
                    file.seek(start)
                    parts += file.read(PART_BYTES)
                return parts

        try:
            if self.is_remote:
                data = read_start(self._location, PART_BYTES)
            else:
                data = self._access(read)
        except (MissingObjectError, PhotographError):
            return 0
        digest = hashlib.blake2b(data, digest_size=8).digest()
        return int.from_bytes(digest, signed=True)

    def sha256(self) -> str | None:
        """Return the file's SHA-256 in hexadecimal, or None if it cannot be read.

        Raises:
            DrtfError: If the machine is at fault.
        """
        try:
            return hashlib.sha256(self.read()).hexdigest()
        except PhotographError:
            return None

    def status(self) -> FileStatus:
        """Return the size of the file, and when it was last changed.

        Raises:
            DrtfError: If the machine is at fault.
        """
        if self.listed:
            return self.listed
        if self.is_remote:
            found = find_object(self._location)
            return object_status(found) if found else FileStatus(-1, 0)
        try:
            return self._access(self._file_status)
        except PhotographError:
            return FileStatus(-1, 0)

    def _read_whole(self) -> bytes:
        if self.is_remote:
            try:
                return read_object(self._location, max_bytes=MAX_FILE_BYTES)
            except MissingObjectError as error:
                raise PhotographError(
                    "unreadable", "No such file or directory"
                ) from error
        return self._access(self._read_file)

    def _read_file(self) -> bytes:
        if member := find_member(self._file):
            return read_member(member, max_bytes=MAX_FILE_BYTES)
        return read_regular(self._file, MAX_FILE_BYTES)

    def _file_status(self) -> FileStatus:
        if member := find_member(self._file):
            changed_ns = member.archive.stat().st_ctime_ns
            info = find_member_info(member)
            if info is None:
                return FileStatus(-1, changed_ns)
            return FileStatus(info.file_size, changed_ns, f"{info.CRC:08x}")
        status = self._file.stat()
        return FileStatus(status.st_size, status.st_ctime_ns, str(status.st_mtime_ns))

    def _access(self, call: Callable[[], Result]) -> Result:
        """Call a function that uses the file, again while the machine is at fault.

        Raises:
            PhotographError: If the file is at fault.
            DrtfError: If the machine still is.
        """

        def access() -> Result:
            try:
                return call()
            except ValueError as error:  # a name that no file can have
                raise PhotographError("unreadable", str(error)) from error
            except OSError as error:
                if error.errno in FILE_ERRORS:
                    self._check_folder()
                    reason = "too_large" if error.errno == errno.EFBIG else "unreadable"
                    raise PhotographError(reason, str(error.strerror)) from error
                raise

        try:
            return retry(access, is_temporary=lambda error: isinstance(error, OSError))
        except OSError as error:
            raise DrtfError(
                f"cannot read {error.filename or self._file}: {error.strerror}. The "
                "disk, the network or the machine is at fault, not the photograph: run "
                "the same command again to resume"
            ) from error

    def _check_folder(self) -> None:
        """Check that the image folder can be listed and is not empty.

        Without its disk or the user's credentials, every file seems to be at fault.
        """
        if Path(self.folder).is_file():  # an archive
            return
        with os.scandir(self.folder) as entries:
            if not any(entries):
                raise OSError(errno.ENODEV, "the folder is empty now", str(self.folder))

    @property
    def _location(self) -> str:
        return resolve_location(str(self.folder), split_frame(self.path)[0])

    @property
    def _file(self) -> Path:
        return Path(self.folder) / split_frame(self.path)[0]


@dataclass(frozen=True, slots=True)
class PrefetchedPhotograph(PhotographRef):
    """A reference to a remote photograph that was read ahead of its use.

    Attributes:
        data: The file's bytes; empty if it could not be read.
        error: Why it could not be read, or None.
    """

    data: bytes
    error: PhotographError | None

    def read(self) -> bytes:
        """Return the bytes that were read.

        Raises:
            PhotographError: If the photograph could not be read.
        """
        if self.error is not None:
            raise self.error
        return self.data

    def read_head(self, num_bytes: int) -> bytes | None:
        """Return the first bytes that were read, or None if there are none."""
        return None if self.error else self.data[:num_bytes]


def prefetch_photographs(
    photographs: Iterable[PhotographRef],
) -> Iterator[PhotographRef]:
    """Read remote photographs ahead with several threads, and yield all in order.

    Local photographs are yielded as they are: the worker that gets one reads it.

    Raises:
        StorageError: If the object store fails.
    """
    pending: deque[Future[PhotographRef]] = deque()
    with ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool:
        for photograph in photographs:
            if not photograph.is_remote:
                while pending:
                    yield pending.popleft().result()
                yield photograph
                continue
            pending.append(pool.submit(_prefetch, photograph))
            if len(pending) > NUM_FETCHED_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def photographs_of(
    table: pd.DataFrame,
    folders: Mapping[str, Path | str],
    rows: np.ndarray | None = None,
) -> Iterator[PhotographRef]:
    """Yield a reference to each photograph of a table.

    Args:
        table: Columns `source` and `path`.
        folders: The image folder of each source.
        rows: int64 [n], the positions of the rows, by default all.
    """
    sources, paths = (iterate_texts(table[x], rows) for x in ("source", "path"))
    for source, path in zip(sources, paths, strict=True):
        yield PhotographRef(folders[source], path)


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """Apply a function that waits for a disk or a store; yield the results in order.

    Only some items are read ahead, however many there are.
    """
    items = iter(items)

    def apply(part: list[Item]) -> list[Result]:
        return list(map(function, part))

    with ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool:
        while batch := list(itertools.islice(items, NUM_PER_BATCH)):
            # A thread takes several items, because handing one over takes longer than
            # asking a local disk.
            starts = range(0, len(batch), NUM_PER_PART)
            parts = [batch[start : start + NUM_PER_PART] for start in starts]
            for results in pool.map(apply, parts):
                yield from results


def hash_statuses(photographs: Iterable[PhotographRef]) -> str:
    """Return the hash of the paths, sizes and versions of photographs.

    Raises:
        StorageError: If the object store fails.
        DrtfError: If the machine is at fault.
    """

    def describe(photograph: PhotographRef) -> tuple[str, int, str]:
        status = photograph.status()
        return photograph.path, status.size_bytes, status.version

    rows = list(map_in_threads(describe, photographs))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def object_status(found: StoredObject) -> FileStatus:
    """Return the status of a photograph in a store."""
    return FileStatus(found.size_bytes, 0, found.etag or "")


def photograph_id(path: str) -> str:
    """Return the id of the photograph at a path: its name without the extension."""
    return strip_suffix(
        object_name(path) if is_remote(path) else PurePosixPath(path).name
    )


def strip_suffix(name: str) -> str:
    """Remove the extension of an image file from a name; other dots stay."""
    name, frame = split_frame(name.strip())
    stem, dot, suffix = name.rpartition(".")
    is_image = stem and not stem.endswith("/") and (dot + suffix).lower() in SUFFIXES
    stem = stem if is_image else name
    return frame_path(stem, frame) if frame else stem


def _prefetch(photograph: PhotographRef) -> PrefetchedPhotograph:
    data, error = b"", None
    try:
        data = photograph.read()
    except PhotographError as caught:
        error = caught
    return PrefetchedPhotograph(photograph.folder, photograph.path, data, error)

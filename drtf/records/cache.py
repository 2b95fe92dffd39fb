"""The cache: verified files from object stores, in a local folder of limited size.

A shard in the cache is named after its SHA-256 and appears there only after its hash
was checked, so it is right whichever dataset needs it. The manifest and index of each
dataset are in a folder of their own. All processes of a machine share the cache:

- A short lock on the whole cache is held while files are opened, counted or removed,
  never while data is transferred.
- An open file has a shared lock, and is not removed.
- A download has a reservation, a locked file with the number of bytes to come, so that
  the downloads of all processes together stay within the limit. What a killed process
  leaves has no lock, and the next download removes it.

On a file system without locks, a file may be downloaded twice at the same time, or
removed while another host reads it. Each download writes to files that no other one
uses.
"""

import contextlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from drtf.errors import DrtfError, RecordError
from drtf.files import append_regular, move_into_place, partial_path
from drtf.locks import lock, lock_when_free, share
from drtf.records.manifest import INDEX_FILE

CACHE_VARIABLE = "DRTF_CACHE"
SIZE_VARIABLE = "DRTF_CACHE_GB"
DEFAULT_SIZE_GB = 20.0
FILES_FOLDER = "shards"
DATASETS_FOLDER = "datasets"
LOCK_FILE = ".lock"
RESERVED_SUFFIX = ".reserved"
ARRIVING_SUFFIX = ".arriving"
# Without locks, a download that wrote nothing for this time is taken for dead.
MAX_SILENT_SECONDS = 600.0

HASH = re.compile(r"[0-9a-f]{64}")

Fetched = Literal["present", "busy", "full"]


def cache_folder() -> Path:
    """Return the cache folder: $DRTF_CACHE, by default ~/.cache/drtf."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/drtf").expanduser()


def cache_limit_bytes() -> int:
    """Return the size limit of the cache: $DRTF_CACHE_GB, by default 20 GB.

    Raises:
        DrtfError: If the variable is not a positive number.
    """
    text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_SIZE_GB)
    try:
        limit = float(text) * 1e9
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise DrtfError(f"{SIZE_VARIABLE} must be a number of GB above 0; got {text!r}")
    return int(limit)


@dataclass(frozen=True)
class _CachedFile:
    """A complete file in the cache."""

    path: Path
    size_bytes: int
    used_at: float


class Cache:
    """The cache of this machine.

    Attributes:
        limit_bytes: The most that its files and running downloads may take: its limit,
            or less on a disk that has less room.
    """

    def __init__(self) -> None:
        """Open the cache; its folder is created if it does not exist.

        Raises:
            DrtfError: If its folder or its limit is invalid.
        """
        limit_bytes = cache_limit_bytes()
        self._folder = cache_folder() / FILES_FOLDER
        self._datasets = cache_folder() / DATASETS_FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DrtfError(
                f"cannot create the cache {self._folder}: {error.strerror}; set "
                f"{CACHE_VARIABLE} to another folder"
            ) from error
        used_bytes = sum(file.size_bytes for file in self._list_files())
        free_bytes = shutil.disk_usage(self._folder).free
        self.limit_bytes = min(limit_bytes, used_bytes + free_bytes)
        # Needed on file systems without locks.
        self._mutex = threading.Lock()
        self._downloading: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Return where a file is, or would be.

        Raises:
            RecordError: If this is no SHA-256, but for example a path.
        """
        if not HASH.fullmatch(sha256):
            raise RecordError(f"{sha256!r} is not a SHA-256; the manifest is damaged")
        return self._folder / sha256

    def present(self) -> set[str]:
        """Return the SHA-256 of each file that is in the cache now."""
        return {file.path.name for file in self._list_files()} - {INDEX_FILE}

    def dataset_folder(self, sha256: str) -> Path:
        """Return the folder for a dataset's manifest and index; create it.

        Args:
            sha256: Hash of the dataset's location and manifest.
        """
        folder = self._datasets / sha256[:32]
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write files of a dataset while no other process writes or removes any.

        Raises:
            DrtfError: If the cache cannot be written to.
        """
        with self._explained_errors(), self._locked():
            yield

    def open_file(self, sha256: str, size_bytes: int | None = None) -> int | None:
        """Open a file, which then is not removed until it is closed.

        Args:
            sha256: Its SHA-256.
            size_bytes: A file of another size is removed.

        Returns:
            A descriptor, or None if the file is not in the cache.

        Raises:
            DrtfError: If the cache cannot be used.
        """
        path = self.path(sha256)
        with self._explained_errors(), self._locked():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            if size_bytes not in (None, os.fstat(descriptor).st_size):
                os.close(descriptor)
                path.unlink()
                return None
            share(descriptor)
            with contextlib.suppress(OSError):  # another user's file
                os.utime(path)
        return descriptor

    def remove(self, sha256: str) -> None:
        """Remove a damaged file; processes that have it open can still read it.

        Raises:
            DrtfError: If the cache cannot be written to.
        """
        with self._explained_errors(), self._locked():
            self.path(sha256).unlink(missing_ok=True)

    def fetch(
        self,
        sha256: str,
        size_bytes: int,
        *,
        download: Callable[[Path], object],
        path: Path | None = None,
        needed: Collection[str] = (),
    ) -> Fetched:
        """Download a file into the cache, unless it is there.

        The least recently used files that no process has open make room for it.

        Args:
            sha256: Its SHA-256.
            size_bytes: Its size.
            download: Writes the file to a path, and checks its hash.
            path: Where it belongs, if it is not a shard.
            needed: Files that must not be removed to make room.

        Returns:
            `present`, or `busy` if another process or thread is downloading it, or
            `full` if the cache has no room for it now.

        Raises:
            DrtfError: If the cache cannot be written to, or by `download`.
        """
        place = self.path(sha256)
        path = path or place
        with self._explained_errors():
            with self._locked():
                if path.exists():
                    return "present"
                if sha256 in self._downloading or self._is_reserved(sha256):
                    return "busy"
                reservation = self._reserve(sha256, size_bytes)
                if not self._make_room(needed):
                    self._withdraw(sha256, reservation)
                    return "full"
            arriving = Path(reservation.name).with_suffix(ARRIVING_SUFFIX)
            try:
                download(arriving)
                with self._locked():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    move_into_place(arriving, path)
            except FileNotFoundError:
                # Without locks, another host may have taken the download for dead.
                return "busy"
            finally:
                with self._locked():
                    self._withdraw(sha256, reservation)
        return "present"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex, lock_when_free(self._folder / LOCK_FILE):
            yield

    @contextlib.contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DrtfError(
                f"cannot write to the cache {self._folder}: {error.strerror}; free "
                f"space, lower {SIZE_VARIABLE}, or set {CACHE_VARIABLE} to another "
                "folder"
            ) from error

    def _is_reserved(self, sha256: str) -> bool:
        """Return whether another process is downloading a file."""
        return any(map(_is_running, self._folder.glob(f"{sha256}-*{RESERVED_SUFFIX}")))

    def _reserve(self, sha256: str, size_bytes: int) -> IO[bytes]:
        """Reserve room for a download."""
        name = f"{sha256}-{uuid.uuid4().hex[:8]}{RESERVED_SUFFIX}"
        reservation = append_regular(self._folder / name)
        lock(reservation)
        reservation.write(str(size_bytes).encode())
        self._downloading.add(sha256)
        return reservation

    def _withdraw(self, sha256: str, reservation: IO[bytes]) -> None:
        """Remove a reservation and the bytes that arrived so far."""
        _remove_download(Path(reservation.name))
        reservation.close()
        self._downloading.remove(sha256)

    def _make_room(self, needed: Collection[str]) -> bool:
        """Remove files until all files and reservations are within the limit."""
        files = sorted(self._list_files(), key=lambda file: file.used_at)
        used = self._reserved_bytes() + sum(file.size_bytes for file in files)
        for file in files:
            if used <= self.limit_bytes:
                break
            if file.path.name not in needed and _remove_unless_open(file.path):
                used -= file.size_bytes
        return used <= self.limit_bytes

    def _reserved_bytes(self) -> int:
        """Return the bytes that running downloads have reserved; remove dead ones."""
        num_bytes = 0
        for path in self._folder.glob(f"*{RESERVED_SUFFIX}"):
            if path.name.partition("-")[0] in self._downloading or _is_running(path):
                with contextlib.suppress(FileNotFoundError):  # it has just ended
                    num_bytes += int(path.read_bytes() or 0)
            else:
                _remove_download(path)
        return num_bytes

    def _list_files(self) -> list[_CachedFile]:
        files = []
        shards = (x for x in self._folder.iterdir() if HASH.fullmatch(x.name))
        for path in (*shards, *self._datasets.glob(f"*/{INDEX_FILE}")):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = path.stat()
                files.append(_CachedFile(path, status.st_size, status.st_mtime))
        return files


def _is_running(reservation: Path) -> bool:
    """Return whether the process that made a reservation is still alive."""
    partial = partial_path(reservation.with_suffix(ARRIVING_SUFFIX))
    try:
        with reservation.open("r+b") as file:
            if lock(file):
                return False
        written = [x.stat().st_mtime for x in (reservation, partial) if x.exists()]
    except DrtfError:
        return True
    except FileNotFoundError:  # it has just ended
        return False
    return time.time() - max(written, default=0.0) < MAX_SILENT_SECONDS


def _remove_download(reservation: Path) -> None:
    """Remove a download's files, and then its reservation."""
    arriving = reservation.with_suffix(ARRIVING_SUFFIX)
    for path in (partial_path(arriving), arriving, reservation):
        path.unlink(missing_ok=True)


def _remove_unless_open(path: Path) -> bool:
    """Remove a file, unless a process has it open."""
    try:
        # Writable, because NFS has no exclusive locks on other files.
        with append_regular(path) as file:
            lock(file)  # an open file has a shared lock
            path.unlink()
    except (DrtfError, OSError):
        return False
    return True

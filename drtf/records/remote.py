"""Datasets in an object store: reading them through the cache, and uploading them."""

import contextlib
import functools
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from drtf.errors import DrtfError, RecordError, StorageError
from drtf.files import MAX_TEXT_BYTES, hash_file, read_regular, sync_file, write_atomic
from drtf.locations import is_web, join_location
from drtf.progress import progress
from drtf.records.cache import SIZE_VARIABLE, Cache, cache_folder
from drtf.records.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    Manifest,
    ShardEntry,
    parse_manifest,
)
from drtf.storage import (
    MissingObjectError,
    OpenObject,
    StoredObject,
    check_bucket,
    download_object,
    find_object,
    list_objects,
    open_object,
    read_object,
    read_ranges,
    write_object,
)
from drtf.terminal import show_as

LOCATION_FILE = "location.txt"
POLL_SECONDS = 0.2
# Each download uses several connections itself.
NUM_DOWNLOADS = 3
NUM_UPLOADS = 4
# Before a download is tried again that had no room or failed.
RETRY_SECONDS = 1.0
NO_DATASET = (
    f"is not a dataset: it has no {MANIFEST_FILE}; build one with drtf build-shards"
)

_log = logging.getLogger(__name__)


class NoDatasetError(RecordError):
    """There is no dataset at a location."""


def load_remote_manifest(location: str) -> Manifest | None:
    """Load the manifest of a dataset in a store; None if there is no dataset.

    Raises:
        RecordError: If it is damaged.
        StorageError: If the store cannot be read.
    """
    try:
        data = read_manifest(location)
    except NoDatasetError:
        return None
    return parse_manifest(data, path=join_location(location, MANIFEST_FILE))


def read_manifest(location: str) -> bytes:
    """Read the manifest of a dataset in a store.

    Raises:
        NoDatasetError: If there is no dataset.
        StorageError: If the store cannot be read.
    """
    path = join_location(location, MANIFEST_FILE)
    try:
        return read_object(path, max_bytes=MAX_TEXT_BYTES)
    except MissingObjectError as error:
        raise NoDatasetError(f"{location} {NO_DATASET}") from error


def fetch_dataset(location: str) -> Path:
    """Return a local folder that stands for a dataset in a store.

    It has the manifest, the index and the location of the dataset. `ShardDataset` reads
    the shards from there when it needs them.

    Raises:
        RecordError: If there is no dataset, or its index does not match its manifest.
        DrtfError: If the cache cannot be used.
        StorageError: If the store cannot be read.
    """
    location = location.rstrip("/")
    data = read_manifest(location)
    manifest = parse_manifest(data, path=join_location(location, MANIFEST_FILE))
    cache = Cache()
    folder = cache.dataset_folder(hashlib.sha256(location.encode() + data).hexdigest())
    index = folder / INDEX_FILE
    sha256 = manifest.files.get(INDEX_FILE, "")
    with contextlib.suppress(FileNotFoundError):
        if hash_file(index) != sha256:
            with cache.writing():
                index.unlink(missing_ok=True)
    _fetch_index(cache, join_location(location, INDEX_FILE), sha256, index)
    with cache.writing():
        with contextlib.suppress(PermissionError):  # another user's file
            os.utime(index)
        _keep_file(folder / LOCATION_FILE, location.encode())
        _keep_file(folder / MANIFEST_FILE, data)
    show_as(folder, location)
    return folder


def _keep_file(path: Path, data: bytes) -> None:
    """Write a file, unless it is there already."""
    # Without locks, another host may write it at the same time.
    with contextlib.suppress(FileNotFoundError):
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)


def _fetch_index(cache: Cache, location: str, sha256: str, path: Path) -> None:
    """Download the index of a dataset into the cache, unless it is there.

    Raises:
        RecordError: If it is missing, or does not match the manifest.
        DrtfError: If the cache cannot be used, or has no room for it.
        StorageError: If the store cannot be read.
    """
    while not path.exists():
        with _explained_absence():
            opened = open_object(location)

        def download(arriving: Path, opened: OpenObject = opened) -> None:
            opened.save(arriving)
            _check_hash(arriving, sha256, location)

        result = cache.fetch(sha256, opened.size_bytes, download=download, path=path)
        if result == "full":
            raise DrtfError(
                f"{location} has {opened.size_bytes / 1e9:.3g} GB, for which the cache "
                f"{cache_folder()} has no room now: it has room for "
                f"{cache.limit_bytes / 1e9:.3g} GB in total; raise {SIZE_VARIABLE}, "
                "free space on its disk, or wait until other processes end"
            )
        if result == "busy":
            time.sleep(POLL_SECONDS)


@contextmanager
def _explained_absence() -> Iterator[None]:
    """Turn a missing object into an error that its dataset is incomplete.

    Raises:
        RecordError: Instead of a MissingObjectError.
    """
    try:
        yield
    except MissingObjectError as error:
        raise RecordError(f"the dataset is incomplete: {error}") from error


def _check_hash(path: Path, sha256: str, location: str) -> None:
    """Check the hash of a downloaded file, and write it to disk.

    Raises:
        RecordError: If it is another one.
    """
    if hash_file(path) != sha256:
        raise RecordError(
            f"{location} does not match the hash in its manifest: it is damaged, or "
            "was replaced while the dataset was read; run drtf verify"
        )
    with path.open("rb") as file:
        sync_file(file)


def open_shards(folder: Path, manifest: Manifest) -> "RemoteShards | None":
    """Open the shards of a folder that `fetch_dataset` made; None for any other."""
    try:
        location = read_regular(folder / LOCATION_FILE).decode()
    except OSError:
        return None
    return RemoteShards(location, manifest)


def upload_dataset(folder: Path, location: str) -> None:
    """Upload a dataset to a store; the manifest comes last and completes it.

    Raises:
        StorageError: If the store cannot be written to.
    """
    check_bucket(location)
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST_FILE
    )

    def upload(file: str) -> str:
        write_object(join_location(location, file), folder / file)
        return file

    with progress(f"Uploading to {location}", len(files) + 1) as advance:
        pool = ThreadPoolExecutor(NUM_UPLOADS)
        try:
            for file in pool.map(upload, files):
                advance(file)
        finally:
            pool.shutdown(cancel_futures=True)
        advance(upload(MANIFEST_FILE))


class RemoteShards:
    """The shards of a dataset in a store.

    Shards that `expect` announces are downloaded into the cache by background threads.

    Attributes:
        location: Location of the dataset.
        manifest: Its manifest.
        limit_bytes: Limit of the cache.
        expected: Numbers of the shards that `expect` announced.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        """Compare the sizes in the store with the manifest; download nothing.

        Raises:
            RecordError: If a shard is missing or has the wrong size.
            StorageError: If the store cannot be read.
            DrtfError: If the cache cannot be used.
        """
        self.location = location
        self.manifest = manifest
        self._cache = Cache()
        self.limit_bytes = self._cache.limit_bytes
        self._objects = self._list_files()
        self._check_shards()
        present = self._cache.present()
        self._cached = {
            number
            for number, shard in enumerate(self.manifest.shards)
            if shard.sha256 in present
        }
        self._is_done: Callable[[int], object] = lambda shard: None
        self.expected: list[int] = []
        self._running: set[int] = set()
        self._retry_at: dict[int, float] = {}
        self._failure: DrtfError | None = None
        self._is_stopped = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def open_shard(self, shard: int) -> int | None:
        """Open a shard in the cache; None if it is not there.

        Raises:
            DrtfError: If downloading failed in a way that trying again cannot fix.
        """
        if self._failure is not None:
            raise self._failure
        if shard not in self._cached:
            return None
        entry = self.manifest.shards[shard]
        descriptor = self._cache.open_file(entry.sha256, entry.size_bytes)
        if descriptor is None:
            self._download_again(shard)
        return descriptor

    def remove_shard(self, shard: int) -> None:
        """Remove a shard that is damaged in the cache."""
        entry = self.manifest.shards[shard]
        _log.warning(
            "%s is damaged in the cache and is read from the store again",
            join_location(self.location, entry.file),
        )
        self._cache.remove(entry.sha256)
        self._download_again(shard)

    def read_ranges(
        self, shard: int, starts: Sequence[int], lengths: Sequence[int]
    ) -> list[bytes]:
        """Read several ranges of a shard from the store.

        Raises:
            StorageError: If the store cannot be read, or the shard was replaced since
                the dataset was opened.
        """
        file = self.manifest.shards[shard].file
        return read_ranges(
            join_location(self.location, file),
            starts,
            lengths,
            etag=self._find(file).etag,
        )

    def expect(self, shards: Sequence[int], is_done: Callable[[int], object]) -> None:
        """Download these shards in the background, and no others any more.

        Args:
            shards: Numbers of shards, in the order in which they are needed.
            is_done: Called with the number of each shard that is in the cache.
        """
        with self._changed:
            self.expected = list(shards)
            self._is_done = is_done
            self._retry_at.clear()
            self._changed.notify_all()
            while len(self._threads) < NUM_DOWNLOADS:
                # At exit, Python does not wait for a download to end.
                thread = threading.Thread(target=self._download_shards, daemon=True)
                self._threads.append(thread)
                thread.start()

    def check_unchanged(self) -> None:
        """Check that the dataset was not replaced since it was opened.

        Raises:
            RecordError: If its manifest differs or is missing.
            StorageError: If the store cannot be read.
        """
        data = read_manifest(self.location)
        path = join_location(self.location, MANIFEST_FILE)
        if parse_manifest(data, path=path) != self.manifest:
            raise RecordError(
                f"{path} was replaced while the dataset was read; run the command again"
            )

    def stop(self) -> None:
        """Start no more downloads."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _download_again(self, shard: int) -> None:
        with self._changed:
            self._cached.discard(shard)
            self._changed.notify_all()

    def _list_files(self) -> dict[str, StoredObject]:
        """Return the store's entry of each file; empty for http."""
        if is_web(self.location):  # which has no listing
            return {}
        return {item.name: item for item in list_objects(self.location)}

    def _check_shards(self) -> None:
        if not self._objects:
            return
        for entry in self.manifest.shards:
            found = self._objects.get(entry.file)
            path = join_location(self.location, entry.file)
            if found is None:
                raise RecordError(f"the dataset is incomplete: {path} does not exist")
            if found.size_bytes != entry.size_bytes:
                raise RecordError(
                    f"shard {path} has {found.size_bytes} bytes; the manifest says "
                    f"{entry.size_bytes}; run drtf verify {self.location}"
                )

    def _find(self, file: str) -> StoredObject:
        """Return a file's size and etag."""
        path = join_location(self.location, file)
        found = self._objects.get(file) or find_object(path)
        if found is None:
            raise RecordError(f"the dataset is incomplete: {path} does not exist")
        self._objects[file] = found
        return found

    def _download_shards(self) -> None:
        """Download expected shards until `stop`."""
        while (shard := self._wait_for_shard()) is not None:
            wait_seconds = 0.0
            try:
                entry = self.manifest.shards[shard]
                expected = [self.manifest.shards[x].sha256 for x in self.expected]
                result = self._cache.fetch(
                    entry.sha256,
                    entry.size_bytes,
                    download=functools.partial(self._download, entry),
                    needed=set(expected),
                )
                if result == "present":
                    self._cached.add(shard)
                    self._is_done(shard)
                else:
                    wait_seconds = RETRY_SECONDS
            except StorageError as error:  # reading its records fails too, if it lasts
                _log.warning("trying the download again: %s", error)
                wait_seconds = 10 * RETRY_SECONDS
            except DrtfError as error:
                self._failure = error
                wait_seconds = float("inf")
            with self._changed:
                self._running.discard(shard)
                if wait_seconds:
                    self._retry_at[shard] = time.monotonic() + wait_seconds

    def _download(self, entry: ShardEntry, path: Path) -> None:
        location = join_location(self.location, entry.file)
        with _explained_absence():
            download_object(location, path)
        _check_hash(path, entry.sha256, location)

    def _wait_for_shard(self) -> int | None:
        """Return the next shard to download, or None after `stop`."""
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                missing = [
                    shard
                    for shard in self.expected
                    if shard not in self._cached and shard not in self._running
                ]
                for shard in missing:
                    if self._retry_at.get(shard, 0.0) <= now:
                        self._running.add(shard)
                        return shard
                self._changed.wait(RETRY_SECONDS if missing else None)
        return None

"""Datasets in an object store: uploads, and downloads into a local cache."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from drtf.errors import DrtfError, RecordError
from drtf.files import append_regular, hash_file, lock, lock_when_free, write_atomic
from drtf.progress import progress
from drtf.records.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    Manifest,
    parse_manifest,
)
from drtf.storage import (
    MissingObjectError,
    check_bucket,
    download_object,
    join_location,
    list_objects,
    read_object,
    write_object,
)

CACHE_VARIABLE = "DRTF_CACHE"
SIZE_VARIABLE = "DRTF_CACHE_GB"
DEFAULT_SIZE_GB = 20.0
NO_DATASET = (
    f"is not a dataset: it has no {MANIFEST_FILE}; make one with drtf build-shards"
)


def cache_folder() -> Path:
    """Return the cache folder: $DRTF_CACHE, by default ~/.cache/drtf."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/drtf").expanduser()


def load_remote_manifest(location: str) -> Manifest | None:
    """Load the manifest of a dataset in a store; None if there is no dataset.

    Raises:
        RecordError: If it is damaged.
        StorageError: If the store cannot be read.
    """
    data = _read_manifest(location)
    return None if data is None else parse_manifest(data, path=location)


def fetch_dataset(location: str) -> Path:
    """Download a dataset into the cache, unless it is there, and return its folder.

    Each file's hash is checked on arrival. The least recently used datasets are removed
    to keep the cache within $DRTF_CACHE_GB, by default 20 GB.

    Raises:
        RecordError: If there is no dataset, or a file does not match its manifest.
        DrtfError: If the dataset is larger than the whole cache.
        StorageError: If the store cannot be read.
    """
    location = location.rstrip("/")
    data = _read_manifest(location)
    if data is None:
        raise RecordError(f"{location} {NO_DATASET}")
    manifest = parse_manifest(data, path=location)
    folder = cache_folder() / "sets" / hashlib.sha256(data).hexdigest()[:32]
    with lock_when_free(folder.with_name(f".{folder.name}.lock")):
        if (folder / MANIFEST_FILE).exists() and _is_complete(folder, manifest):
            os.utime(folder)
        else:
            _fetch_files(location, manifest, folder)
            write_atomic(folder / MANIFEST_FILE, data)
    return folder


def _is_complete(folder: Path, manifest: Manifest) -> bool:
    """Return True if a downloaded dataset still has all its files."""
    sizes = {shard.file: shard.size_bytes for shard in manifest.shards}
    return all((folder / file).exists() for file in manifest.files) and all(
        (folder / file).exists() and (folder / file).stat().st_size == size
        for file, size in sizes.items()
    )


def _fetch_files(location: str, manifest: Manifest, folder: Path) -> None:
    """Download all files but the manifest, except those that are already complete."""
    folder.mkdir(exist_ok=True)
    _make_room(manifest, folder)
    hashes = {shard.file: shard.sha256 for shard in manifest.shards} | manifest.files
    with progress(f"Fetching {location}", len(hashes)) as advance:
        for file, sha256 in hashes.items():
            path = folder / file
            if not (path.exists() and hash_file(path) == sha256):
                _fetch_file(f"{location}/{file}", path, sha256)
            advance(file)


def copy_dataset(location: str, folder: Path) -> None:
    """Download every file below a location unchecked, so that it can be verified.

    Raises:
        RecordError: If there is no dataset.
        StorageError: If the store cannot be read.
    """
    location = location.rstrip("/")
    files = [item.name for item in list_objects(location)]
    if MANIFEST_FILE not in files:
        raise RecordError(f"{location} {NO_DATASET}")
    with progress(f"Fetching {location}", len(files)) as advance:
        for file in files:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            download_object(join_location(location, file), path)
            advance(file)


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
    with progress(f"Writing {location}", len(files) + 1) as advance:
        for file in (*files, MANIFEST_FILE):
            write_object(join_location(location, file), folder / file)
            advance(file)


def _read_manifest(location: str) -> bytes | None:
    try:
        return read_object(join_location(location, MANIFEST_FILE))
    except MissingObjectError:
        return None


def _fetch_file(location: str, path: Path, sha256: str) -> None:
    path.parent.mkdir(exist_ok=True)
    arrived = path.with_name(f"{path.name}.arrived")
    try:
        download_object(location, arrived)
    except MissingObjectError as error:
        raise RecordError(f"the dataset is incomplete: {error}") from error
    if hash_file(arrived) != sha256:
        arrived.unlink()
        raise RecordError(
            f"{location} does not match the hash in its manifest; run drtf verify"
        )
    arrived.replace(path)


def _make_room(manifest: Manifest, folder: Path) -> None:
    text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_SIZE_GB)
    try:
        limit = float(text) * 1e9
    except ValueError as error:
        raise DrtfError(f"{SIZE_VARIABLE} must be a number of GB; got {text!r}") from (
            error
        )
    needed = manifest.size_bytes
    if needed > limit:
        raise DrtfError(
            f"the dataset has {needed / 1e9:.1f} GB, but the cache {cache_folder()} is "
            f"limited to {limit / 1e9:.1f} GB; raise {SIZE_VARIABLE}"
        )
    # Complete datasets only: a download by another process has no manifest yet.
    others = [path.parent for path in folder.parent.glob(f"*/{MANIFEST_FILE}")]
    others.sort(key=lambda path: path.stat().st_mtime)
    used = sum(sum(_file_sizes(path)) for path in others)
    for other in others:
        if needed + used <= limit:
            return
        size = sum(_file_sizes(other))
        if _remove_unused(other):
            used -= size
    if needed + used > limit:
        raise DrtfError(
            f"the dataset has {needed / 1e9:.1f} GB, but the cache {cache_folder()} is "
            f"limited to {limit / 1e9:.1f} GB, of which other processes are reading "
            f"{used / 1e9:.1f} GB; raise {SIZE_VARIABLE}, or wait until they end"
        )


def _remove_unused(folder: Path) -> bool:
    """Remove a dataset from the cache, unless a process is reading it."""
    # Writable, because NFS has no exclusive locks on other files.
    with append_regular(folder / INDEX_FILE) as index:
        try:
            lock(index)  # an open ShardDataset holds a shared lock
        except DrtfError:
            return False
        (folder / MANIFEST_FILE).unlink()  # first: the rest is then no dataset
        shutil.rmtree(folder)
    return True


def _file_sizes(folder: Path) -> Iterator[int]:
    return (path.stat().st_size for path in folder.rglob("*") if path.is_file())

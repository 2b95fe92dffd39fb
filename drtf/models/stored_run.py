"""Run folders in an object store: local copies, and the upload of their changes.

The functions that write to a run folder call `upload_changes` where its files are
complete, so that a killed command can be repeated from the store as from a folder.
It has no effect on other folders.
"""

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from drtf.errors import RunError, StorageError
from drtf.files import parse_json, read_regular, write_atomic
from drtf.locations import check_location, is_remote, is_web, join_location
from drtf.locks import lock_or_fail
from drtf.models.history import HISTORY_FIGURE, HISTORY_FILE
from drtf.models.run_files import (
    CONFIG_FILE,
    DECISION_RULE_FILE,
    IDENTITY_FILE,
    INFO_FILE,
    METRICS_FILE,
    MODEL_FILE,
    QUALITY_GATE_FILE,
)
from drtf.models.training_photographs import PHOTOGRAPHS_FILE
from drtf.records.cache import cache_folder
from drtf.storage import (
    StoredObject,
    delete_object,
    download_object,
    find_object,
    list_objects,
    write_object,
)
from drtf.temporary_folders import folder_until_exit
from drtf.terminal import show_as

RUNS_FOLDER = "runs"
STATE_FILE = "state.json"
LOCK_FILE = ".lock"
NUM_DOWNLOADS = 4
# Only training needs them.
TRAINING_FOLDERS = ("checkpoints/", "logs/")
RUN_FILES = (
    INFO_FILE,
    CONFIG_FILE,
    IDENTITY_FILE,
    MODEL_FILE,
    PHOTOGRAPHS_FILE,
    HISTORY_FILE,
    HISTORY_FIGURE,
    DECISION_RULE_FILE,
    QUALITY_GATE_FILE,
)

_log = logging.getLogger(__name__)


class _StoredFile(NamedTuple):
    """A file that is equal in the store and in the copy.

    Attributes:
        size_bytes: Its size in the store.
        etag: Its etag in the store.
        time_ns: When the local file was last changed.
    """

    size_bytes: int
    etag: str | None
    time_ns: int


@dataclass(frozen=True)
class _Copy:
    """The copy of a run folder.

    Attributes:
        location: Location of the run folder in the store.
        folder: The copy.
        state: The file that keeps `files` for later calls.
        files: What is in the store, by name. None is a file that is being uploaded or
            deleted, or whose upload was interrupted.
    """

    location: str
    folder: Path
    state: Path
    files: dict[str, _StoredFile | None]


# The copies that this process made, by folder.
_copies: dict[Path, _Copy] = {}


def fetch_run(location: str) -> Path:
    """Copy a run from a store to a temporary folder, which is removed at exit.

    What only training needs, such as checkpoints, is left out. From a web server, which
    has no listing, only the files of the run itself are copied.

    Args:
        location: A run folder, or the folder of an evaluation.

    Raises:
        RunError: If there is no complete one.
        StorageError: If the store cannot be read.
    """
    location = location.rstrip("/")
    if is_web(location):
        names = {name: find_object(join_location(location, name)) for name in RUN_FILES}
        found = {name: item for name, item in names.items() if item}
    else:
        found = {
            name: item
            for name, item in _list_files(location).items()
            if not name.startswith(TRAINING_FOLDERS)
        }
    if found.keys().isdisjoint((INFO_FILE, METRICS_FILE)):
        raise RunError(
            f"{location} is not a finished run: {INFO_FILE} is missing; drtf train "
            "writes it"
        )
    root = folder_until_exit()
    folder = _copy_folder(location, root)
    return _download(_Copy(location, folder, root / STATE_FILE, {}), found)


def local_run(run: Path | str) -> Path:
    """Return the folder of a run, after `fetch_run` if it is in a store."""
    check_location(run)
    return fetch_run(str(run)) if is_remote(run) else Path(run)


@contextmanager
def writable_run(out: Path | str) -> Iterator[Path]:
    """Yield a local folder to write a run to; upload it at the end.

    A run in a store has its copy in the cache of this machine, where an interrupted or
    failed upload loses nothing.

    Args:
        out: A local folder, which is yielded as it is, or a location in a store.

    Raises:
        DrtfError: If the location has something else than a run, or another process
            on this machine is writing to it.
        StorageError: If the store cannot be read or written to.
    """
    if not is_remote(out):
        yield Path(out)
        return
    location = str(out).rstrip("/")
    key = hashlib.sha256(location.encode()).hexdigest()[:32]
    root = cache_folder() / RUNS_FOLDER / key
    root.mkdir(parents=True, exist_ok=True)
    with lock_or_fail(root / LOCK_FILE):
        folder = _open_copy(location, root)
        try:
            yield folder
        except BaseException:
            try_to_upload(folder)
            raise
        try:
            upload_changes(folder)
        except StorageError as error:
            raise StorageError(
                f"{error}. The run is complete in the cache of this machine: the same "
                "command uploads it (drtf train: with --resume)"
            ) from error


def upload_changes(folder: Path) -> None:
    """Upload the files of a run's copy that changed since the last upload.

    Args:
        folder: A run folder. If it is no copy, nothing is done.

    Raises:
        RunError: If something else changed the run in the store.
        StorageError: If the store cannot be written to.
    """
    copy = _copies.get(folder.resolve())
    if copy is None:
        return
    here = {
        path.relative_to(copy.folder).as_posix(): path
        for path in copy.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")  # a partial file
    }
    times = {name: path.stat().st_mtime_ns for name, path in here.items()}
    changed = [
        name
        for name in sorted(here, key=_upload_order)
        if not (file := copy.files.get(name)) or file.time_ns != times[name]
    ]
    removed = copy.files.keys() - here.keys()
    if not changed and not removed:
        return
    check_can_upload(folder)
    _check_unchanged(copy, _list_files(copy.location))
    copy.files.update(dict.fromkeys([*changed, *removed]))
    _save_state(copy)
    for name in changed:
        write_object(join_location(copy.location, name), here[name])
    for name in removed:  # such as checkpoints that newer ones replace
        delete_object(join_location(copy.location, name))
        del copy.files[name]
    found = _list_files(copy.location)
    for name in changed:
        if name in found:
            _, size_bytes, etag = found[name]
            copy.files[name] = _StoredFile(size_bytes, etag, times[name])
    _save_state(copy)


def try_to_upload(folder: Path) -> None:
    """Call `upload_changes`, and warn if the store fails; a later call uploads more.

    Raises:
        RunError: If something else changed the run in the store.
    """
    try:
        upload_changes(folder)
    except StorageError as error:
        _log.warning("not uploaded yet: %s", error)


def check_can_upload(folder: Path) -> None:
    """Refuse a folder that is the copy of one on a web server.

    Raises:
        StorageError: If it is.
    """
    location = location_of(folder)
    if is_web(location):
        raise StorageError(
            f"cannot write to {location}, because it is on a web server: copy the run "
            "to a folder or an object store first"
        )


def location_of(folder: Path) -> str:
    """Return the location that a folder is the copy of, or the path of another one."""
    copy = _copies.get(folder.resolve())
    return copy.location if copy else str(folder)


def _open_copy(location: str, root: Path) -> Path:
    """Return the copy of a run in the cache, after a download if it is not current.

    A current copy has everything that the store has, and may have more, which a killed
    process did not upload.
    """
    folder, state = _copy_folder(location, root), root / STATE_FILE
    found = _list_files(location)
    files = _load_state(state)
    if not _is_current(files, found):
        if found.keys().isdisjoint((INFO_FILE, IDENTITY_FILE)):
            _check_only_run_files(location, found)
            found = {}
        shutil.rmtree(folder, ignore_errors=True)
        files = {}
    copy = _Copy(location, folder, state, files)
    missing = {name: x for name, x in found.items() if not (folder / name).exists()}
    return _download(copy, missing)


def _is_current(
    files: Mapping[str, _StoredFile | None], found: Mapping[str, StoredObject]
) -> bool:
    """Return whether a copy's files are in the store as when they were uploaded."""
    return found.keys() <= files.keys() and not _changed_in_store(files, found)


def _changed_in_store(
    files: Mapping[str, _StoredFile | None], found: Mapping[str, StoredObject]
) -> list[str]:
    """Return the names of a copy's files that are missing or others in the store."""
    return [
        name
        for name, file in files.items()
        if file and (name not in found or file[:2] != found[name][1:])
    ]


def _check_only_run_files(location: str, found: Mapping[str, StoredObject]) -> None:
    """Refuse files that an interrupted first upload does not leave."""
    others = sorted(found.keys() - set(RUN_FILES))
    if others:
        raise RunError(
            f"{join_location(location, others[0])} does not belong to a run: choose "
            "another --out"
        )


def _check_unchanged(copy: _Copy, found: Mapping[str, StoredObject]) -> None:
    for name in _changed_in_store(copy.files, found):
        raise RunError(
            f"{join_location(copy.location, name)} was changed while this command was "
            "running: something else writes to the same run. Nothing more was uploaded"
        )


def _download(copy: _Copy, found: Mapping[str, StoredObject]) -> Path:
    """Download files into a copy, and remember the copy."""

    def download(name: str) -> None:
        path = copy.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        download_object(join_location(copy.location, name), path)
        _, size_bytes, etag = found[name]
        copy.files[name] = _StoredFile(size_bytes, etag, path.stat().st_mtime_ns)

    with ThreadPoolExecutor(NUM_DOWNLOADS) as pool:
        deque(pool.map(download, found), maxlen=0)  # raises the first error
    _save_state(copy)
    _copies[copy.folder.resolve()] = copy
    show_as(copy.folder, copy.location)
    return copy.folder


def _list_files(location: str) -> dict[str, StoredObject]:
    return {item.name: item for item in list_objects(location)}


def _copy_folder(location: str, root: Path) -> Path:
    """Return a path below `root` that ends with the last two names of a location."""
    names = location.partition("://")[2].split("/")[-2:]
    return root.joinpath(*(name.strip(".") or "_" for name in names))


def _upload_order(name: str) -> tuple[bool, bool, str]:
    """Sort names: first the identity, last run.json, which completes a run."""
    return (name == INFO_FILE, name != IDENTITY_FILE, name)


def _load_state(path: Path) -> dict[str, _StoredFile | None]:
    """Load the saved state; empty if it is missing or damaged."""
    try:
        contents = parse_json(read_regular(path))
        return {name: file and _StoredFile(*file) for name, file in contents.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save_state(copy: _Copy) -> None:
    write_atomic(copy.state, json.dumps(copy.files))

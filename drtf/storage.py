"""Objects in stores: s3://, gs://, az://, http:// and https://, through obstore."""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import obstore
from obstore import exceptions

from drtf.errors import StorageError
from drtf.files import move_into_place, partial_path
from drtf.locations import check_can_write, is_web, object_name, shown_location
from drtf.stores import open_place
from drtf.temporary_folders import folder_until_exit
from drtf.terminal import show_as

# Objects are read in parts of this size, several at a time.
PART_BYTES = 8 << 20
PIECE_BYTES = 1 << 20
NUM_PARALLEL_PARTS = 8
# After an upload whose last answer was lost, the store has this time to complete it.
COMPLETION_SECONDS = 60.0
SECONDS_BETWEEN_LOOKS = 2.0
# What an error says if the last request of an upload in parts failed (S3's and
# Google's, or Azure's), or if the store has already forgotten the upload.
COMPLETION = re.compile(
    r"performing POST \S*[?&]uploadId=|performing PUT \S*[?&]comp=blocklist"
    "|NoSuchUpload"
)
RERUN = "run the same command again to resume"
# What to do, by the code in a store's answer.
ADVICE = {
    "ExpiredToken": "the credentials have expired; log in again",
    "TokenRefreshRequired": "the credentials have expired; log in again",
    "InvalidAccessKeyId": "the store does not know this access key",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "AuthenticationFailed": "the credentials are wrong or have expired",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION",
    "IllegalLocationConstraintException": (
        "the bucket is in another region; set AWS_REGION"
    ),
    "SlowDown": f"the store is overloaded; {RERUN}",
    "QuotaExceeded": "the store is full",
    "NoSuchUpload": f"the store has lost an unfinished upload; {RERUN}",
}
MISSING_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
CREDENTIALS = {
    "s3": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; a public "
    "bucket needs AWS_SKIP_SIGNATURE=true",
    "gs": "check GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth "
    "application-default login",
    "az": "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
REFUSED = ("401 Unauthorized", "403 Forbidden")
NO_CREDENTIALS = ("169.254.", "TokenRequest", "MissingAccount", "metadata.google")


class MissingObjectError(StorageError):
    """The object does not exist, although its bucket can be reached."""


class ChangedObjectError(StorageError):
    """The object was replaced while it was read."""


class StoredObject(NamedTuple):
    """An object in a store.

    Attributes:
        name: Its name; in a list, relative to the location that was listed.
        size_bytes: Its size.
        etag: A text that changes with its content; None if the store has none.
    """

    name: str
    size_bytes: int
    etag: str | None


class OpenObject(NamedTuple):
    """An object whose size is known, and whose content can be read once.

    Attributes:
        location: The object.
        size_bytes: Its size.
        etag: As in `StoredObject`.
        answer: The store's answer with the content; None if it is read in parts.
    """

    location: str
    size_bytes: int
    etag: str | None
    answer: "obstore.GetResult | None"

    def read(self) -> bytes:
        """Read the content.

        Raises:
            ChangedObjectError: If the object was replaced meanwhile.
            StorageError: If the store cannot be read.
        """
        data = bytearray(self.size_bytes)

        def keep(start: int, part: memoryview) -> None:
            data[start : start + len(part)] = part

        self._read_parts(keep)
        return bytes(data)

    def save(self, path: Path) -> None:
        """Write the content to a file, which appears complete or not at all.

        Raises:
            ChangedObjectError: If the object was replaced meanwhile.
            StorageError: If the store cannot be read.
            OSError: If the disk is full.
        """
        partial = partial_path(path)
        with partial.open("wb") as file:

            def keep(start: int, part: memoryview) -> None:
                while part:  # a full disk takes only some of the bytes
                    num_written = os.pwrite(file.fileno(), part, start)
                    start, part = start + num_written, part[num_written:]

            self._read_parts(keep)
        move_into_place(partial, path)

    def _read_parts(self, keep: Callable[[int, memoryview], None]) -> None:
        """Read all parts, several at a time; pass each with the number of its start."""
        if self.answer is not None:
            with _translated_errors(self.location):
                content = self.answer.bytes()
            keep(0, memoryview(content))
            return
        store, key = open_place(self.location)

        def read(start: int) -> None:
            stop = min(start + PART_BYTES, self.size_bytes)
            options = _range_options(start, stop, self.etag)
            with _translated_errors(self.location):
                answer = obstore.get(store, key, options=options)
                # Each piece is kept while the next one arrives.
                for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                    keep(start, memoryview(piece))
                    start += len(piece)

        with ThreadPoolExecutor(NUM_PARALLEL_PARTS) as pool:
            # Raises the first error of a part.
            deque(pool.map(read, range(0, self.size_bytes, PART_BYTES)), maxlen=0)


def list_objects(location: str) -> list[StoredObject]:
    """List the objects below a location, sorted by name.

    Empty objects whose name ends with `/`, which consoles create as folders, are left
    out.

    Raises:
        StorageError: As `iterate_objects`.
    """
    found = list(iterate_objects(location))
    names = [item.name for item in found]
    empty = {item.name for item in found if not item.size_bytes}
    folders = find_parents(names, among=empty)
    return sorted(x for x in found if x.size_bytes or x.name not in folders)


def iterate_objects(location: str) -> Iterator[StoredObject]:
    """Yield the objects below a location, in the order of the store.

    They include the empty objects that consoles create as folders.

    Raises:
        StorageError: If the store cannot be listed, or the name of an object would
            lead outside the folder that it is copied to.
    """
    if is_web(location):
        raise StorageError(
            f"{shown_location(location)} cannot be listed, because http has no "
            "folders; use the path of a dataset, or the s3://, gs:// or az:// location "
            "of the same files"
        )
    store, key = open_place(location)
    with _translated_errors(location):
        for chunk in obstore.list(store, key or None, chunk_size=1000):
            for entry in chunk:
                name = entry["path"][len(key) :].lstrip("/")
                etag = entry["e_tag"]
                if etag and not etag.endswith('"'):  # Azure has no quotes in lists
                    etag = f'"{etag}"'
                if name:
                    yield StoredObject(name, entry["size"], etag)


def find_parents(names: Iterable[str], *, among: Set[str]) -> set[str]:
    """Find the folders that names lead through; for `a/b/c`, these are `a` and `a/b`.

    Args:
        names: The names.
        among: The folders to look for.
    """
    found: set[str] = set()
    for name in names if among else ():
        folder = name.rpartition("/")[0]
        while folder and folder not in found:
            if folder in among:
                found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def find_object(location: str) -> StoredObject | None:
    """Return an object's size and etag, or None if it does not exist.

    Raises:
        StorageError: If the store or the bucket cannot be used.
    """
    entry = _find_entry(location)
    return entry and StoredObject(entry["path"], entry["size"], entry["e_tag"])


def _find_entry(location: str) -> Any:
    """Return a store's entry of an object, or None if it does not exist."""
    store, key = open_place(location)
    try:
        with _translated_errors(location):
            return obstore.head(store, key)
    except MissingObjectError:
        check_bucket(location)  # the answer is the same where the bucket is missing
        return None


def check_bucket(location: str) -> None:
    """Check that a location's bucket exists and may be read.

    Raises:
        StorageError: If it is missing, unreachable or forbidden.
    """
    store, key = open_place(location)
    if not is_web(location):
        with _translated_errors(location):
            next(iter(obstore.list(store, key or None, chunk_size=1)), None)


def open_object(location: str) -> "OpenObject":
    """Open an object for reading its content once.

    Raises:
        MissingObjectError: If it does not exist.
        StorageError: If the store cannot be read.
    """
    store, key = open_place(location)
    with _translated_errors(location):
        result = obstore.get(store, key)
    size, etag = result.meta["size"], result.meta["e_tag"]
    # A larger object is read in parts, so its connection is closed.
    return OpenObject(location, size, etag, result if size <= PART_BYTES else None)


def read_object(location: str, *, max_bytes: int | None = None) -> bytes:
    """Read an object.

    Args:
        location: The object.
        max_bytes: Refuse a larger one.

    Raises:
        MissingObjectError: If it does not exist.
        StorageError: If the store cannot be read, or the object is too large.
    """
    opened = open_object(location)
    if max_bytes is not None and opened.size_bytes > max_bytes:
        raise StorageError(
            f"{shown_location(location)} has {opened.size_bytes:,} bytes; at most "
            f"{max_bytes:,} are allowed"
        )
    return opened.read()


def read_start(location: str, num_bytes: int) -> bytes:
    """Read the first bytes of an object, or all of a shorter one.

    Raises:
        MissingObjectError: If it does not exist.
        StorageError: If the store cannot be read.
    """
    store, key = open_place(location)
    with _translated_errors(location):
        chunks = obstore.get(store, key).stream(min_chunk_size=num_bytes)
        first = next(iter(chunks), None)
    return bytes(first)[:num_bytes] if first else b""


def read_ranges(
    location: str,
    starts: Sequence[int],
    lengths: Sequence[int],
    *,
    etag: str | None = None,
) -> list[bytes]:
    """Read several ranges of an object, in parallel.

    Args:
        location: The object.
        starts: First byte of each range.
        lengths: Number of bytes of each range.
        etag: What the object must still have; None if that is unknown.

    Raises:
        MissingObjectError: If the object does not exist.
        ChangedObjectError: If it has another etag.
        StorageError: If the store cannot be read, or the object is too short.
    """
    store, key = open_place(location)

    def read(start: int, length: int) -> bytes:
        options = _range_options(start, start + length, etag)
        with _translated_errors(location):
            return obstore.get(store, key, options=options).bytes().to_bytes()

    with ThreadPoolExecutor(NUM_PARALLEL_PARTS) as pool:
        parts = list(pool.map(read, starts, lengths))
    if [len(part) for part in parts] != list(lengths):
        raise StorageError(f"{location} is shorter than expected")
    return parts


def download_object(location: str, path: Path) -> None:
    """Download an object to a file, which appears complete or not at all.

    Raises:
        MissingObjectError: If the object does not exist.
        ChangedObjectError: If the object was replaced meanwhile.
        StorageError: If the store cannot be read.
    """
    open_object(location).save(path)


def fetch_file(location: str) -> Path:
    """Download an object to a temporary folder, which is removed at exit.

    Raises:
        MissingObjectError: If the object does not exist.
        StorageError: If the store cannot be read.
    """
    path = folder_until_exit() / object_name(location)
    download_object(location, path)
    show_as(path, shown_location(location))
    return path


def write_object(location: str, data: bytes | Path) -> None:
    """Write an object, which appears complete or not at all.

    Args:
        location: The object; an earlier one is replaced.
        data: Its content, or a local file with its content.

    Raises:
        StorageError: If the store cannot be written to.
    """
    check_can_write(location)
    store, key = open_place(location, for_uploads=True)
    try:
        with _translated_errors(location, verb="write"):
            obstore.put(
                store,
                key,
                data,
                chunk_size=PART_BYTES,
                max_concurrency=NUM_PARALLEL_PARTS,
            )
    except StorageError as error:
        # A store may complete an upload although its answer is lost or late.
        if not COMPLETION.search(str(error.__cause__)) or not _appears(location, data):
            raise


def create_object(location: str, data: bytes | Path) -> bool:
    """Write an object unless there is another one already.

    Returns:
        False if there is one with other content, which is left as it is.

    Raises:
        StorageError: If the store cannot be written to.
    """
    check_can_write(location)
    store, key = open_place(location, for_uploads=True)
    try:
        with _translated_errors(location, verb="write"):
            obstore.put(store, key, data, mode="create", use_multipart=False)
    except FileExistsError:
        # It may be this one: obstore tries again if an answer is lost.
        return _has_content(location, data)
    return True


def find_version(location: str) -> dict[str, str] | None:
    """Return the version of an object, for `replace_object`; None if it does not exist.

    Raises:
        StorageError: If the store or the bucket cannot be used.
    """
    entry = _find_entry(location)
    values = entry and {"e_tag": entry["e_tag"], "version": entry["version"]}
    return values and {name: value for name, value in values.items() if value}


def replace_object(location: str, data: bytes | Path, version: dict[str, str]) -> bool:
    """Replace an object, unless somebody else has replaced it meanwhile.

    Args:
        location: The object.
        data: Its new content, or a local file with its content.
        version: From `find_version`.

    Returns:
        False if it has been replaced by another content, which is left as it is.

    Raises:
        StorageError: If the store cannot be written to.
    """
    check_can_write(location)
    store, key = open_place(location, for_uploads=True)
    mode: Any = version
    try:
        with _translated_errors(location, verb="write"):
            obstore.put(store, key, data, mode=mode, use_multipart=False)
    except ChangedObjectError:
        # It may be this one: obstore tries again if an answer is lost.
        return _has_content(location, data)
    return True


def _appears(location: str, data: bytes | Path) -> bool:
    """Wait for an upload to be completed; return whether it was."""
    deadline = time.monotonic() + COMPLETION_SECONDS
    seen = None
    try:
        while True:
            found = find_object(location)
            if found != seen and _has_content(location, data):
                return True
            seen = found
            if time.monotonic() > deadline:
                return False
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except StorageError:  # the upload's own error says more
        return False


def _has_content(location: str, data: bytes | Path) -> bool:
    """Return whether an object exists and has this content."""
    try:
        opened = open_object(location)
    except MissingObjectError:
        return False
    if isinstance(data, bytes):
        return opened.size_bytes == len(data) and opened.read() == data
    if opened.size_bytes != data.stat().st_size:
        return False
    equal = []
    with data.open("rb") as file:
        opened._read_parts(
            lambda start, part: equal.append(
                os.pread(file.fileno(), len(part), start) == part
            )
        )
    return all(equal)


def delete_object(location: str) -> None:
    """Delete an object, if it exists.

    Raises:
        StorageError: If the store cannot be written to.
    """
    store, key = open_place(location)
    try:
        with _translated_errors(location, verb="delete"):
            obstore.delete(store, key)
    except MissingObjectError:
        pass


def _range_options(start: int, stop: int, etag: str | None) -> Any:
    """Return the options of a request for a part of an object."""
    options: dict[str, Any] = {"range": (start, stop)}
    # A weak etag never matches, by the rules of HTTP; web servers have such etags.
    if etag and not etag.startswith("W/"):
        options["if_match"] = etag
    return options


@contextmanager
def _translated_errors(location: str, *, verb: str = "read") -> Iterator[None]:
    """Translate the errors of a store into one clear line.

    Raises:
        MissingObjectError: If the object does not exist.
        ChangedObjectError: If the object was replaced while it was read.
        FileExistsError: If an object that should be created exists.
        StorageError: On any other failure.
    """
    try:
        yield
    except (FileNotFoundError, exceptions.BaseError) as error:
        text, location = str(error), shown_location(location)
        if isinstance(error, exceptions.AlreadyExistsError):
            raise FileExistsError(location) from error
        is_missing = isinstance(error, FileNotFoundError) and verb != "write"
        if is_missing and not _is_bucket_missing(text):
            raise MissingObjectError(f"{location} does not exist") from error
        if isinstance(error, exceptions.PreconditionError):
            raise ChangedObjectError(
                f"{location} was replaced while it was read; {RERUN}"
            ) from error
        raise StorageError(_describe(text, error, location, verb)) from error
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        location = shown_location(location)
        raise StorageError(f"{location} is not a valid location: {reason}") from error


def _is_bucket_missing(text: str) -> bool:
    return any(sign in text for sign in MISSING_BUCKET)


def _describe(text: str, error: Exception, location: str, verb: str) -> str:
    """Describe a store's error in one line: the failure, its cause and advice."""
    scheme, _, rest = location.partition("://")
    root = f"{scheme}://{rest.partition('/')[0]}/"
    if _is_bucket_missing(text):
        return f"{root} does not exist; check the name and the account"
    if isinstance(error, exceptions.InvalidPathError):
        name = re.search(r'[Pp]ath "(.*?)"', text)
        return (
            f"{location} has an object whose name could lead outside its folder: "
            f"{name[1] if name else ''!r}; rename or delete it"
        )
    if isinstance(error, exceptions.NotSupportedError) and "Range" in text:
        return (
            f"the server of {location} cannot send parts of a file (range requests), "
            "which reading a dataset or a large file requires; download it first, or "
            "use another server"
        )
    code = re.search(r"<Code>(\w+)</Code>", text)
    reason = re.search(r"<Message>([^<\n]+)", text)
    quoted = f" ({reason[1]})" if reason else ""
    if code and code[1] in ADVICE:
        return f"cannot {verb} {location}: {ADVICE[code[1]]}{quoted}"
    if "incorrectly configured region" in text:
        return f"cannot {verb} {location}: {ADVICE['PermanentRedirect']}"
    if any(sign in text for sign in NO_CREDENTIALS):
        return f"no credentials for {root} were found; {CREDENTIALS.get(scheme, '')}"
    if any(sign in text for sign in REFUSED):
        advice = CREDENTIALS.get(scheme, "the server does not allow it")
        return f"no permission to {verb} {location}{quoted}; {advice}"
    system = re.search(r'message: "(.*?)"', text)
    if system or "error sending request" in text:
        why = f": {system[1]}" if system else ""
        return f"cannot reach the store of {location}{why}; {RERUN}"
    first = re.sub(r"(?<=://)[^/\s]*@|\?\S*", "", text.partition("\n")[0])
    return f"the store failed at {location}{quoted or f' ({first})'}; {RERUN}"

"""Object stores: reads and writes whole s3:// objects through tensorflow-io.

tensorflow-io reports most store errors as "not found" (in `exists`, `stat`, `glob`,
`walk` and a `GFile.read` of everything), and its rename, its copy to a local file and
`read_file` are unreliable. This module uses only the calls whose errors are correct,
and checks the bucket before it reports an object as missing.
"""

import functools
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from drtf.errors import StorageError

SCHEME = "s3://"
CONNECT_SECONDS = 5
# Without these, a refused connection is retried for 100 seconds.
DEFAULTS = {
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "3",
    "S3_CONNECT_TIMEOUT_MSEC": str(1000 * CONNECT_SECONDS),
    "S3_REQUEST_TIMEOUT_MSEC": "30000",
    # After a cut connection, half of its multipart downloads returned wrong bytes of
    # the right length.
    "S3_DISABLE_MULTI_PART_DOWNLOAD": "1",
}
PART_BYTES = 1 << 24


class MissingObjectError(StorageError):
    """The object does not exist, although its bucket can be reached."""


def is_remote(location: Path | str) -> bool:
    """Return True for an s3:// location, False for a local path."""
    return str(location).startswith(SCHEME)


def has_used_store() -> bool:
    """Return True if this process accessed a store.

    tensorflow-io then aborts the process at exit, so leave it with `os._exit`:
    https://github.com/tensorflow/io/issues/2039.
    """
    return _load_s3_filesystem.cache_info().currsize > 0


def list_files(location: str, *, is_file: Callable[[str], bool]) -> list[str]:
    """List the objects below a prefix: their paths relative to it, sorted.

    Args:
        location: The prefix.
        is_file: Returns True for names that are certainly objects. Any other name is
            checked in the store, which costs two requests.

    Raises:
        StorageError: If the store cannot be listed, or an object's name would lead
            outside a folder that it is copied to.
    """
    gfile = _load_s3_filesystem().io.gfile
    check_bucket(location)
    names: list[str] = []

    def walk(below: str) -> None:
        with _translated_errors(f"{location}/{below}"):
            entries = gfile.listdir(f"{location}/{below}")
        for entry in entries:
            path = f"{below}{entry}"
            _check_inside(path, location)
            if not is_file(entry) and gfile.isdir(f"{location}/{path}"):
                walk(f"{path}/")
            else:
                names.append(path)

    try:
        walk("")
    except MissingObjectError:
        check_bucket(location)
    return sorted(names)


def read_object(location: str) -> bytes:
    """Read an object.

    Raises:
        MissingObjectError: If it does not exist.
        StorageError: If the store cannot be read.
    """
    gfile = _load_s3_filesystem().io.gfile
    with _translated_errors(location), gfile.GFile(location, "rb") as file:
        parts = []
        while part := file.read(PART_BYTES):
            parts.append(part)
        return b"".join(parts)


def write_object(location: str, data: bytes) -> None:
    """Write an object, which appears complete or not at all.

    Raises:
        StorageError: If the store cannot be written to.
    """
    gfile = _load_s3_filesystem().io.gfile
    with _translated_errors(location), gfile.GFile(location, "wb") as file:
        file.write(data)


def object_size(location: str) -> int:
    """Return an object's size in bytes, or -1 if it is unknown."""
    tf = _load_s3_filesystem()
    try:
        return int(tf.io.gfile.stat(location).length)
    except tf.errors.OpError:
        return -1


def check_bucket(location: str) -> None:
    """Check that a location's bucket exists and may be used.

    This is the only call of tensorflow-io that reports such errors correctly.

    Raises:
        StorageError: If it is missing, unreachable or forbidden.
    """
    gfile = _load_s3_filesystem().io.gfile
    bucket = location.removeprefix(SCHEME).partition("/")[0]
    if not bucket:
        raise StorageError(f"{location} names no bucket; expected s3://BUCKET/FOLDER")
    _check_endpoint()
    with _translated_errors(f"{SCHEME}{bucket}/"):
        gfile.stat(f"{SCHEME}{bucket}/")


def _check_inside(path: str, location: str) -> None:
    """Refuse a name that leads outside the folder that holds it.

    Whoever can write to a bucket could otherwise write any file of whoever copies it.

    Raises:
        StorageError: If a part of the name is empty, `.` or `..`.
    """
    parts = path.rstrip("/").split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in path:
        raise StorageError(
            f"{location} has an object whose name leads outside its folder: {path!r}; "
            "rename or delete it"
        )


def _check_endpoint() -> None:
    endpoint = os.environ.get("S3_ENDPOINT", "")
    if not endpoint:
        return
    try:
        parts = urlsplit(endpoint)
        default = {"http": 80, "https": 443}[parts.scheme]
        host, port = parts.hostname or "", parts.port or default
    except (ValueError, KeyError):
        host, port = "", 0
    if not host:
        raise StorageError(
            f"S3_ENDPOINT must be http://HOST:PORT or https://HOST:PORT; got "
            f"{endpoint!r}"
        )
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise StorageError(
            f"cannot reach S3_ENDPOINT {endpoint}: {error.strerror or error}"
        ) from error


@functools.cache
def _load_s3_filesystem() -> ModuleType:
    """Import TensorFlow, register the s3 file system and set its client's defaults.

    Changes `os.environ`, from which the client reads its settings.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        os.environ.setdefault("S3_ENDPOINT", endpoint)
    if "S3_ENDPOINT" in os.environ:  # not AWS: skip the slow instance-role lookup
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    import tensorflow as tf

    try:
        with warnings.catch_warnings(action="ignore"):
            import tensorflow_io  # noqa: F401
        works = "s3" in tf.io.gfile.get_registered_schemes()
    except (ImportError, NotImplementedError):
        works = False
    if not works:
        raise StorageError(
            "s3:// requires tensorflow-io 0.37.1 and TensorFlow 2.16 or 2.17 (found "
            f"TensorFlow {tf.__version__}); install one of these, or copy the files to "
            "a local folder"
        )
    return tf


@contextmanager
def _translated_errors(location: str) -> Iterator[None]:
    """Translate TensorFlow's errors of a store into one clear line.

    Raises:
        MissingObjectError: If the object or bucket does not exist.
        StorageError: On any other failure.
    """
    tf = _load_s3_filesystem()
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise MissingObjectError(f"{location} does not exist") from error
    except tf.errors.PermissionDeniedError as error:
        raise StorageError(
            f"access to {location} was denied; check AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY{_quote(error)}"
        ) from error
    except tf.errors.OpError as error:
        raise StorageError(
            f"the store failed at {location}{_quote(error)}; run the same command "
            "again to resume"
        ) from error


def _quote(error: Exception) -> str:
    """Return the store's own message, without TensorFlow's wrapping."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]|No response body\.?", "", str(error))
    text = text.strip(" :\n").partition("\n")[0]
    return f" ({text})" if text else ""

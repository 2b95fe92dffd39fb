"""Object stores: s3:// by way of tensorflow-io, a whole object at a time.

tensorflow-io hides most errors of a store behind "not found" (of `exists`, `stat`,
`glob`, `walk` and a `GFile.read` of all), and its rename, its copy to a local file and
`read_file` are not to be trusted. So only those of its calls are used here that tell
the truth, and before a missing object is believed to be missing its bucket is asked
for.
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
# A refused connection would otherwise be tried for 100 seconds.
DEFAULTS = {
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "3",
    "S3_CONNECT_TIMEOUT_MSEC": str(1000 * CONNECT_SECONDS),
    "S3_REQUEST_TIMEOUT_MSEC": "30000",
    # Its download in parts returned wrong bytes of the right length, in half of the
    # cases, after a connection was cut and tried again.
    "S3_DISABLE_MULTI_PART_DOWNLOAD": "1",
}
PART_BYTES = 1 << 24


class MissingObjectError(StorageError):
    """There is no such object, and its bucket answers."""


def is_remote(location: Path | str) -> bool:
    """Tell s3:// from a local path."""
    return str(location).startswith(SCHEME)


def was_used() -> bool:
    """Tell whether a store was asked for anything: this process then aborts at exit.

    See https://github.com/tensorflow/io/issues/2039; leave by `os._exit`.
    """
    return _load_tensorflow.cache_info().currsize > 0


def list_files(location: str, *, is_file: Callable[[str], bool]) -> list[str]:
    """List the objects below a prefix by what follows it, sorted.

    Args:
        location: the prefix.
        is_file: tells by a name alone that it is an object; any other is asked for,
            which costs two requests.

    Raises:
        StorageError: if the store can't be asked.
    """
    gfile = _load_tensorflow().io.gfile
    check_bucket(location)
    names: list[str] = []

    def walk(below: str) -> None:
        with _errors(f"{location}/{below}"):
            entries = gfile.listdir(f"{location}/{below}")
        for entry in entries:
            path = f"{below}{entry}"
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
        MissingObjectError: if there is none.
        StorageError: if the store can't be asked.
    """
    gfile = _load_tensorflow().io.gfile
    with _errors(location), gfile.GFile(location, "rb") as file:
        parts = []
        while part := file.read(PART_BYTES):
            parts.append(part)
        return b"".join(parts)


def write_object(location: str, data: bytes) -> None:
    """Write an object, which appears whole or not at all.

    Raises:
        StorageError: if the store can't be written to.
    """
    gfile = _load_tensorflow().io.gfile
    with _errors(location), gfile.GFile(location, "wb") as file:
        file.write(data)


def object_size(location: str) -> int:
    """Return an object's size in bytes, or -1 where it can't be asked for."""
    tf = _load_tensorflow()
    try:
        return int(tf.io.gfile.stat(location).length)
    except tf.errors.OpError:
        return -1


def check_bucket(location: str) -> None:
    """Ask for a location's bucket: the one call whose errors are true.

    Raises:
        StorageError: if it isn't there, can't be reached or may not be used.
    """
    gfile = _load_tensorflow().io.gfile
    bucket = location.removeprefix(SCHEME).partition("/")[0]
    if not bucket:
        raise StorageError(f"{location} names no bucket: s3://BUCKET/FOLDER")
    _check_endpoint()
    with _errors(f"{SCHEME}{bucket}/"):
        gfile.stat(f"{SCHEME}{bucket}/")


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
            f"S3_ENDPOINT is {endpoint!r}; it must be http://HOST:PORT or "
            "https://HOST:PORT"
        )
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise StorageError(
            f"can't reach S3_ENDPOINT {endpoint}: {error.strerror or error}"
        ) from error


@functools.cache
def _load_tensorflow() -> ModuleType:
    """Import TensorFlow with the s3 file system, whose client reads these settings."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        os.environ.setdefault("S3_ENDPOINT", endpoint)
    if "S3_ENDPOINT" in os.environ:  # no machine of Amazon's, so it has no role there
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
            "s3:// needs tensorflow-io 0.37.1, which works with TensorFlow 2.16 and "
            f"2.17 only (here it is {tf.__version__}): install one of these, or copy "
            "the files to a local folder"
        )
    return tf


@contextmanager
def _errors(location: str) -> Iterator[None]:
    """Say in one line what TensorFlow's errors of a store mean.

    Raises:
        MissingObjectError: if there is no such object or bucket.
        StorageError: at any other failure.
    """
    tf = _load_tensorflow()
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise MissingObjectError(f"there is no {location}") from error
    except tf.errors.PermissionDeniedError as error:
        raise StorageError(
            f"no permission for {location}: check AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY{_quote(error)}"
        ) from error
    except tf.errors.OpError as error:
        raise StorageError(
            f"{location}: the store failed{_quote(error)}; when it works again, the "
            "same command goes on"
        ) from error


def _quote(error: Exception) -> str:
    """Return what the store said, without TensorFlow's wrapping."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]|No response body\.?", "", str(error))
    text = text.strip(" :\n").partition("\n")[0]
    return f" ({text})" if text else ""

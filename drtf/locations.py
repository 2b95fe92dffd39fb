"""Locations of files: local paths, objects in stores, and URLs."""

import contextlib
import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from drtf.errors import StorageError
from drtf.stores import OPENERS

SCHEMES = tuple(OPENERS)
WEB = ("http://", "https://")
ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


def is_remote(location: Path | str) -> bool:
    """Return True for a location in a store, False for a local path."""
    scheme, separator, _ = str(location).partition("://")
    return bool(separator) and scheme in SCHEMES


def check_location(location: Path | str) -> None:
    """Check a path or location that a person wrote, or pasted from a browser.

    Raises:
        StorageError: If its scheme is not supported, or it is the location of an object
            in a store with the escapes or the query of a URL.
    """
    location = str(location)
    scheme, separator, place = location.partition("://")
    if not separator or location.startswith(WEB) or os.path.lexists(location):
        return
    if scheme not in SCHEMES:
        raise StorageError(
            f"{location} cannot be read or written: {scheme}:// is not supported; use "
            "a local path, s3://, gs://, az:// or https://"
        )
    place, mark, _ = place.partition("?")
    if mark or ESCAPE.search(place):
        raise StorageError(
            f"{scheme}://{place}{mark} is written like a URL, with escapes such as %20 "
            f"or a query after '?'; write '{scheme}://{unquote(place)}'. drtf reads "
            "the newest version of an object"
        )


def expand_home(path: str) -> str:
    """Replace `~` at the start of a path by the user's home folder, if there is one."""
    if path == "~" or path.startswith("~/"):
        with contextlib.suppress(RuntimeError):
            return str(Path(path).expanduser())
    return path


def check_can_write(location: str) -> None:
    """Check that a location in a store is not on a web server.

    Raises:
        StorageError: If it is.
    """
    if is_web(location):
        raise StorageError(
            f"{shown_location(location)} can only be read; write to a local path, "
            "s3://, gs:// or az://"
        )


def is_web(location: Path | str) -> bool:
    """Return True for a location on a web server."""
    return str(location).startswith(WEB)


def has_query(location: Path | str) -> bool:
    """Return True for a URL with a query, such as a presigned one, of a single file."""
    return is_web(location) and "?" in str(location)


def shown_location(location: str) -> str:
    """Return a location without the password or the signature that a URL may have."""
    if not is_web(location):
        return location
    return re.sub(r"(?<=://)[^/]*@", "", location.partition("?")[0])


def object_name(location: str) -> str:
    """Return the name of the file at a location."""
    path = unquote(location.partition("?")[0]) if is_web(location) else location
    return path.rpartition("/")[2]


def join_location(location: str, *names: str) -> str:
    """Return the location of an object below another location.

    Raises:
        StorageError: If it is the URL of a single file.
    """
    if has_query(location):
        raise StorageError(
            f"{shown_location(location)}?… is the URL of one file, because it has a "
            "query; give the folder of a dataset or a run without one, or as s3://, "
            "gs:// or az://"
        )
    return "/".join((location.rstrip("/"), *names))


def resolve_location(folder: str, path: str) -> str:
    """Return the location of a path that is relative to a folder, or a location."""
    if is_remote(path):
        return path
    scheme, _, place = folder.partition("://")
    bucket, _, key = place.partition("/")
    return join_location(f"{scheme}://{bucket}", posixpath.normpath(f"{key}/{path}"))

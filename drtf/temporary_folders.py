"""Temporary folders that are removed even if their process is killed."""

import atexit
import contextlib
import fcntl
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".temporary"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder in $TMPDIR, and remove it at the end.

    If this process is killed, the next one that needs such a folder removes it: the
    system has then released its lock.
    """
    _remove_dead_folders()
    folder, descriptor = _create_locked_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def folder_until_exit() -> Path:
    """Create a folder in $TMPDIR that is removed at exit, and return its path."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary_folder())


def _temporary_prefix() -> str:
    # Some file systems that several hosts share have locks only within a host.
    return f"drtf-{re.sub(r'[^A-Za-z0-9.-]', '-', platform.node())}-"


def _create_locked_folder() -> tuple[Path, int]:
    """Create a temporary folder; return also the descriptor that holds its lock."""
    while True:
        folder = Path(
            tempfile.mkdtemp(prefix=_temporary_prefix(), suffix=TEMPORARY_SUFFIX)
        )
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            # Another process removed it before it was locked.
            os.close(descriptor)


def _remove_dead_folders() -> None:
    """Remove the temporary folders of this host whose process was killed."""
    pattern = f"{_temporary_prefix()}????????{TEMPORARY_SUFFIX}"
    for folder in Path(tempfile.gettempdir()).glob(pattern):
        # Another user's, or removed meanwhile, or locked: its process is alive.
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            descriptor = os.open(folder, flags)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)

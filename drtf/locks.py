"""Locks on files, which other processes see."""

import contextlib
import errno
import fcntl
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from drtf.errors import DrtfError
from drtf.files import append_regular

# What file systems return that have no locks: some of NFS, FUSE and HPC clusters.
NO_LOCKS = {
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOLCK,
    errno.EINVAL,
}

_log = logging.getLogger(__name__)


def lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Hold an exclusive lock on an open file until it is closed.

    Warns and continues on a file system without locks.

    Args:
        file: The file.
        wait: Whether to wait for another process that holds the lock.

    Returns:
        Whether the file system has locks.

    Raises:
        DrtfError: If another process holds it.
        OSError: If locking fails for another reason.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DrtfError(
            f"another process is writing here and holds the lock {file.name}; wait "
            "until it ends, or choose another --out"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn_without_locks(Path(file.name).parent)
        return False
    return True


def share(descriptor: int) -> None:
    """Hold a shared lock on an open file until it is closed.

    No process can then get an exclusive one. On a file system without locks it has no
    effect.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


@functools.cache
def _warn_without_locks(folder: Path) -> None:
    _log.warning(
        "the file system of %s has no file locks, so drtf cannot notice a second "
        "command that writes there: run only one at a time",
        folder,
    )


@contextmanager
def lock_or_fail(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file.

    Raises:
        DrtfError: If another process holds it.
    """
    with append_regular(path) as file:
        lock(file)
        yield


@contextmanager
def lock_when_free(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, after waiting for other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with append_regular(path) as file:
        lock(file, wait=True)
        yield

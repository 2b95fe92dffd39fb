"""Many pieces of files, read by one system call."""

import ctypes
import errno
import platform
import sys

import numpy as np

# struct iovec of <sys/uio.h>; struct iocb and io_event of <linux/aio_abi.h>.
IOVEC = np.dtype([("base", np.uint64), ("length", np.uint64)])
IOCB = np.dtype(
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("rw_flags", "<i4"),
        ("opcode", "<u2"),
        ("priority", "<i2"),
        ("file", "<u4"),
        ("buffer", "<u8"),
        ("length", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("flags", "<u4"),
        ("eventfd", "<u4"),
    ]
)
EVENT = np.dtype([("data", "<u8"), ("iocb", "<u8"), ("result", "<i8"), ("more", "<i8")])
PREADV = 7
# io_setup, io_destroy, io_submit and io_getevents, which libc doesn't wrap.
SYSCALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.preadv.restype = ctypes.c_ssize_t
libc.preadv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)


class Gather:
    """Reads scattered pieces of files; for one thread at a time.

    Linux takes all of them in one call (io_submit), which returns when they are read
    as they are not asked for past the page cache; the interpreter's lock is free
    meanwhile. Elsewhere, and where a sandbox forbids it, it is a call a piece.

    Attributes:
        iovecs: [capacity, parts] of address and length: where the parts of each piece
            go, to be filled in before `read`.
    """

    def __init__(self, capacity: int, num_parts: int) -> None:
        self.iovecs = np.zeros((capacity, num_parts), IOVEC)
        self._requests = np.zeros(capacity, IOCB)
        self._requests["opcode"] = PREADV
        self._requests["data"] = np.arange(capacity)
        self._requests["buffer"] = find_addresses(self.iovecs)
        self._requests["length"] = num_parts
        self._pointers = find_addresses(self._requests)
        self._events = np.zeros(capacity, EVENT)
        self._context = ctypes.c_ulong(0)
        numbers = SYSCALLS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers:
            setup, self._destroy, self._submit, self._get_events = numbers
            # Where this fails, the context stays 0.
            _syscall(setup, capacity, ctypes.byref(self._context))

    @property
    def in_one_call(self) -> bool:
        """Whether the system takes all pieces at once."""
        return bool(self._context)

    def close(self) -> None:
        """Give the kernel's part back."""
        if self.in_one_call:
            _syscall(self._destroy, self._context)
            self._context.value = 0

    def read(self, files: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Read one piece for each file and offset, to where `iovecs` says.

        Args:
            files: int [n], descriptors; n is at most the capacity.
            offsets: int64 [n], in bytes.

        Returns:
            int64 [n]: the bytes read, fewer at the end of a file; -errno where a piece
            can't be read.
        """
        if not self.in_one_call:
            return self._read_each(files, offsets)
        count = len(files)
        self._requests["file"][:count] = files
        self._requests["offset"][:count] = offsets
        results = np.empty(count, np.int64)
        submitted = pending = 0
        while submitted < count:
            pointers = self._pointers[submitted:].ctypes.data
            taken = _syscall(
                self._submit,
                self._context,
                count - submitted,
                ctypes.c_void_p(pointers),
            )
            if taken < 0:  # the first of them can't be read
                results[submitted] = -ctypes.get_errno()
            submitted += max(taken, 1)
            pending += max(taken, 0)
        while pending:
            num_events = _syscall(
                self._get_events,
                self._context,
                pending,
                pending,
                ctypes.c_void_p(self._events.ctypes.data),
                None,
            )
            if num_events < 0 and ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), "io_getevents failed")
            events = self._events[: max(num_events, 0)]
            results[events["data"]] = events["result"]
            pending -= len(events)
        return results

    def _read_each(self, files: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        addresses = find_addresses(self.iovecs).tolist()
        num_parts = self.iovecs.shape[1]
        results = []
        for file, offset, address in zip(
            files.tolist(), offsets.tolist(), addresses, strict=False
        ):
            found = libc.preadv(file, address, num_parts, offset)
            results.append(found if found >= 0 else -ctypes.get_errno())
        return np.asarray(results, np.int64)


def _syscall(number: int, *arguments: object) -> int:
    values = (ctypes.c_long(x) if isinstance(x, int) else x for x in arguments)
    return libc.syscall(ctypes.c_long(number), *values)


def find_addresses(array: np.ndarray) -> np.ndarray:
    """Return where each element along the first axis lies, as uint64."""
    steps = np.arange(len(array), dtype=np.uint64) * np.uint64(array.strides[0])
    return steps + np.uint64(array.ctypes.data)

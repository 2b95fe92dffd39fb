"""The open files of a dataset's shards, of which only some can be open at once."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np

OpenShard = Callable[[int], int | None]


class OpenShards:
    """Opens and closes shards for any number of threads.

    Attributes:
        descriptors: int32 [n], the open file of each record's shard, or -1.
        max_open: How many shards may be open at once.
    """

    def __init__(
        self, first_rows: np.ndarray, open_shard: OpenShard, *, max_open: int
    ) -> None:
        """Open no shard yet.

        Args:
            first_rows: int64 [s + 1], the first row of each shard, and the number of
                rows.
            open_shard: Returns the descriptor of a shard, or None if its file is not
                there.
            max_open: How many shards may be open at once.
        """
        self.descriptors = np.full(first_rows[-1], -1, np.int32)
        self.max_open = max_open
        self._first_rows = first_rows
        self._open_shard = open_shard
        self._files: dict[int, int] = {}  # the last used at the end
        self._forgotten: list[int] = []
        self._num_users: Counter[int] = Counter()
        self._kept: Collection[int] | None = None
        self._changed = threading.Condition()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def open(self, shard: int) -> bool:
        """Open a shard, and close the one that was used least recently if necessary.

        Returns:
            Whether it is open now.

        Raises:
            RecordError: As `open_shard` raises it.
        """
        with self._changed:
            return not self._is_closed and self._open(shard)

    @contextmanager
    def using(self, shards: Collection[int]) -> Iterator[None]:
        """Open shards whose files are there, and keep them open within the block.

        Args:
            shards: At most `max_open` shards.
        """
        needed = set(shards)
        with self._changed:
            # All at once, so that no thread waits while it keeps shards open.
            self._changed.wait_for(
                lambda: len(self._num_users.keys() | needed) <= self.max_open
            )
            self._num_users.update(needed)
        try:
            with self._changed:
                if not self._is_closed:
                    for shard in needed:
                        self._open(shard)
            yield
        finally:
            with self._changed:
                self._num_users.subtract(needed)
                self._num_users += Counter()  # forgets those without users
                self._close_others()
                self._changed.notify_all()

    def keep(self, shards: Collection[int]) -> None:
        """Close all shards but these, now or when they are no longer used."""
        with self._changed:
            self._kept = set(shards)
            self._close_others()

    def forget(self, shard: int) -> None:
        """Stop reading a shard's file; the next `open` opens it again."""
        with self._changed:
            if shard in self._files:
                # Other threads may be reading it, so it is closed at the end.
                self._forgotten.append(self._files.pop(shard))
                self._set_descriptor(shard, -1)

    def close(self) -> None:
        """Close all shards."""
        with self._changed:
            self._is_closed = True
            for shard in list(self._files):
                self._close(shard)
            while self._forgotten:
                os.close(self._forgotten.pop())

    def _open(self, shard: int) -> bool:
        if shard in self._files:
            self._files[shard] = self._files.pop(shard)
            return True
        if len(self._files) >= self.max_open:
            unused = next((x for x in self._files if x not in self._num_users), None)
            if unused is None:
                return False
            self._close(unused)
        descriptor = self._open_shard(shard)
        if descriptor is None:
            return False
        self._files[shard] = descriptor
        self._set_descriptor(shard, descriptor)
        return True

    def _close_others(self) -> None:
        if self._kept is not None:
            others = self._files.keys() - self._kept - self._num_users.keys()
            for shard in others:
                self._close(shard)

    def _close(self, shard: int) -> None:
        self._set_descriptor(shard, -1)  # the system may reuse the descriptor
        os.close(self._files.pop(shard))

    def _set_descriptor(self, shard: int, descriptor: int) -> None:
        first, stop = self._first_rows[shard : shard + 2]
        self.descriptors[first:stop] = descriptor

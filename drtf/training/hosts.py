"""Exchange between hosts that train one model: decisions, state and stop signals."""

import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from drtf.cluster import Cluster
from drtf.errors import DrtfError

WORD_BYTES = 8
# Limits the memory that sharing takes.
MAX_WORDS_PER_CALL = 1 << 20
# TensorFlow's errors when another host, or the connection to it, has gone.
LOST_HOST_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
LOST_HOST = r"Collective ops is aborted|heartbeat|task:\d+|Connection re|GRPC"


class Hosts:
    """The place of this host among all hosts, and its exchanges with them.

    All hosts must call the same methods in the same order: each call waits for all.
    Everything that depends on a clock is decided by host 0.

    Attributes:
        index: This host's number.
        num_hosts: The number of hosts.
        device_numbers: Numbers of this host's devices among those of all hosts.
    """

    def __init__(self, cluster: Cluster | None) -> None:
        """Prepare the exchange. Call it in the scope of the strategy.

        Args:
            cluster: The hosts; None if there is only this one.
        """
        self.index = cluster.index if cluster else 0
        self.num_hosts = cluster.num_hosts if cluster else 1
        self._strategy = tf.distribute.get_strategy()
        num_devices = self._strategy.num_replicas_in_sync // self.num_hosts
        first = num_devices * self.index
        self.device_numbers = range(first, first + num_devices)
        self._gather_words = tf.function(self._run_gather, reduce_retracing=True)

    @property
    def is_first(self) -> bool:
        """Whether this host writes the run folder."""
        return self.index == 0

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return the arrays of all hosts, [num_hosts, *shape].

        Args:
            array: With the same shape and dtype on all hosts.
        """
        if self.num_hosts == 1:
            return array[None]
        data = array.tobytes()
        words = np.frombuffer(data + bytes(-len(data) % WORD_BYTES), np.int64)
        num_devices = len(self.device_numbers)
        values = self._gather_words(tf.constant(words))
        all_words = self._strategy.experimental_local_results(values)[0].numpy()
        return np.stack(
            [
                np.frombuffer(row.tobytes()[: len(data)], array.dtype).reshape(
                    array.shape
                )
                for row in all_words[::num_devices]
            ]
        )

    def gather_values(self, value: Any) -> list[Any]:
        """Return the JSON values of all hosts."""
        if self.num_hosts == 1:
            return [value]
        data = json.dumps(value).encode()
        size = self.gather(np.array(len(data))).max()
        padded = np.frombuffer(data.ljust(size), np.uint8)
        return [json.loads(row.tobytes()) for row in self.gather(padded)]

    def share(self, value: Any) -> Any:
        """Return the JSON value of host 0 on all hosts."""
        return self.gather_values(value if self.is_first else None)[0]

    def share_bytes(self, data: bytes) -> bytes:
        """Return the bytes of host 0 on all hosts."""
        if self.num_hosts == 1:
            return data
        size = self.share(len(data))
        step = MAX_WORDS_PER_CALL * WORD_BYTES
        chunks = []
        for start in range(0, size, step):
            length = min(step, size - start)
            chunk = data[start : start + length] if self.is_first else bytes(length)
            chunks.append(self.gather(np.frombuffer(chunk, np.uint8))[0].tobytes())
        return b"".join(chunks)

    def first_signal(self, signals: Sequence[signal.Signals]) -> int:
        """Return the first signal that stops a host; 0 if there is none."""
        numbers = self.gather(np.array(signals[0] if signals else 0))
        return int(numbers[np.flatnonzero(numbers)[:1]].sum())

    def _run_gather(self, words: tf.Tensor) -> Any:
        def gather(row: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_gather(row[None], axis=0)

        return self._strategy.run(gather, (words,))


@contextmanager
def translate_lost_hosts(cluster: Cluster | None) -> Iterator[None]:
    """Turn TensorFlow's error about another host into a DrtfError.

    Raises:
        DrtfError: If another host ended, or cannot be reached any more.
    """
    try:
        yield
    except LOST_HOST_ERRORS as error:
        if cluster is None or not re.search(LOST_HOST, str(error)):
            raise
        others = set(range(cluster.num_hosts)) - {cluster.index}
        named = {int(n) for n in re.findall(r"task:(\d+)", str(error))} & others
        names = " or ".join(map(cluster.name, sorted(named or others)))
        # Its frames hold TensorFlow's thread pools, which complain if they live until
        # Python exits.
        error.with_traceback(None)
        raise DrtfError(
            f"{names} has ended or cannot be reached, so that this host cannot "
            "continue: see the messages there, and run the same command with --resume "
            "on all hosts"
        ) from error

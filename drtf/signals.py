"""Signals that ask a command to end, and waiting for them."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SECONDS_BETWEEN_LOOKS = 0.5


@contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
    """Record Ctrl-C, SIGTERM and SIGHUP instead of ending the process.

    SIGHUP comes when a terminal or its connection closes; `nohup` ignores it.

    A second signal of the same kind acts at once.

    Yields:
        The signals so far, a list that grows.
    """
    signals: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def record(number: int, frame: object) -> None:
        signals.append(signal.Signals(number))
        signal.signal(number, handlers[signals[-1]])

    handlers = {
        number: signal.signal(number, record)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def wait_for_signal(signals: Sequence[signal.Signals], seconds: float) -> None:
    """Wait for some seconds, or until a signal was caught.

    Args:
        signals: From `catch_signals`.
        seconds: The longest time to wait.
    """
    deadline = time.monotonic() + seconds
    while not signals and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, SECONDS_BETWEEN_LOOKS))

"""Output to the terminal: no control characters, no library logs, no closed pipe."""

import contextlib
import errno
import io
import logging
import os
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

# Control characters, direction marks, lone surrogates, line and paragraph separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Longer than Python takes to leave a callback.
CALLBACK_SECONDS = 0.1
# Lines that TensorFlow's C++ code logs below the level FATAL; it has no switch for
# those that it logs while it is loaded.
LIBRARY_LOGS = (
    r"^(WARNING: All log messages before absl::InitializeLog|[IWE][0-9]{4} [0-9]{2}:)"
)


# What is shown in place of a path.
_shown_as: dict[str, str] = {}


def show_as(path: Path, text: str) -> None:
    """Show a text wherever a path would be shown: the location of a remote folder."""
    _shown_as[str(path)] = _shown_as[str(path.resolve())] = text


def printable(text: str, *, keep: str = "") -> str:
    """Return text with its control characters escaped, as in a string literal.

    The name of a file could otherwise change the terminal's colors, or reorder or
    forge lines.

    Args:
        text: The text.
        keep: Control characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNPRINTABLE and character not in keep
        else character
        for character in text
    )


def show_line(text: str, *, err: bool = False) -> None:
    """Print text as one line, even if a name in it has a line break.

    Args:
        text: The text.
        err: Whether to print to stderr instead of stdout.
    """
    print(printable(text), file=sys.stderr if err else sys.stdout, flush=True)


class SafeOutput(io.TextIOBase):
    """A text stream to a terminal, a file or a pipe.

    Control characters other than line breaks and tabs are escaped. When the reader of a
    pipe ends early, as `head` does, or the terminal was closed, the rest of the output
    is dropped.

    Attributes:
        stream: The stream that is written to.
    """

    def __init__(self, stream: IO[str], *, escape: bool = True) -> None:
        self.stream = stream
        self._escape = escape

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return getattr(self.stream, "encoding", "utf-8")

    def write(self, text: str) -> int:
        """Write text, escaping characters that the stream's encoding cannot write."""
        num_characters = len(text)
        for path, shown in _shown_as.items():
            text = text.replace(path, shown)
        safe = printable(text, keep="\n\t") if self._escape else text
        safe = safe.encode(self.encoding, "backslashreplace").decode(self.encoding)
        with self._ignore_closed():
            self.stream.write(safe)
        return num_characters

    def flush(self) -> None:
        """Flush the stream."""
        with self._ignore_closed():
            self.stream.flush()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self.stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    @contextlib.contextmanager
    def _ignore_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            # Python flushes the stream again when it ends.
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.stream.fileno())
            os.close(devnull)


def keep_interrupts() -> None:
    """Make Ctrl-C stop the command even if Python ignores it.

    Python ignores every exception in a callback of a weak reference and in `__del__`,
    and passes it to `sys.unraisablehook`. Then the signal is sent again.
    """
    default = sys.unraisablehook

    def hook(ignored: "sys.UnraisableHookArgs") -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            default(ignored)
            return
        # Not at once, because exceptions in this hook are ignored too.
        main = threading.main_thread().ident
        again = threading.Timer(
            CALLBACK_SECONDS, signal.pthread_kill, (main, signal.SIGINT)
        )
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


def unfiltered(stream: IO[str]) -> IO[str]:
    """Return a stream for code that draws on the terminal with control characters."""
    if isinstance(stream, SafeOutput):
        return cast(IO[str], SafeOutput(stream.stream, escape=False))
    return stream


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Make stdout and stderr safe, and drop library logs, while a block runs."""
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            stdout = SafeOutput(sys.stdout)
            stack.enter_context(contextlib.redirect_stdout(stdout))
            stack.callback(stdout.flush)
        if sys.stderr is not None:
            stream = stack.enter_context(_without_library_logs())
            stack.enter_context(contextlib.redirect_stderr(SafeOutput(stream)))
            stack.enter_context(_safe_logs())
        yield


@contextlib.contextmanager
def _without_library_logs() -> Iterator[IO[str]]:
    """Filter the output of C++ code to stderr, and yield a stream for Python's output.

    The filter is a separate process, so that the message of a crash is not lost.
    """
    grep = shutil.which("grep")
    if grep is None or not _is_standard(sys.stderr):
        yield sys.stderr
        return
    sys.stderr.flush()
    stderr, (source, sink) = os.dup(2), os.pipe()
    # In a process group of its own, Ctrl-C does not end it. It is not awaited, because
    # it ends only when all processes that this one started have ended.
    os.posix_spawn(
        grep,
        [grep, "--line-buffered", "-av", "-E", LIBRARY_LOGS],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 1),
        ],
        setpgroup=0,
    )
    os.dup2(sink, 2)
    os.close(source)
    os.close(sink)
    with os.fdopen(stderr, "w", buffering=1, errors="backslashreplace") as stream:
        try:
            yield stream
        finally:
            stream.flush()
            os.dup2(stderr, 2)


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"Warning: {record.getMessage()}")


@contextlib.contextmanager
def _safe_logs() -> Iterator[None]:
    """Show warnings of drtf through a bar of progress too, which replaces stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter())
    log = logging.getLogger("drtf")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _is_standard(stream: IO[str]) -> bool:
    """Return whether a stream writes to the process's own stderr."""
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a notebook's or a test's
        return False

import io
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from drtf.progress import progress
from drtf.terminal import SafeOutput, keep_interrupts, printable, show_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("안저 사진 é.png", "안저 사진 é.png"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nNo faults", r"a\nNo faults"),
        ("\x07\x9b\u202egnp\udcff", r"\x07\x9b\u202egnp\udcff"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_output_escapes_control_characters_and_what_its_encoding_does_not_have():
    raw = io.BytesIO()
    stream = SafeOutput(io.TextIOWrapper(raw, encoding="ascii"))
    print("a\x1b[0m\tb\n\uc548", file=stream, flush=True)
    assert raw.getvalue() == b"a\\x1b[0m\tb\n\\uc548\n"


@pytest.mark.parametrize("err", [False, True])
def test_a_name_with_line_breaks_stays_on_its_line(capsys, err):
    show_line("scores of a\n0 faults\r.png", err=err)
    shown = "scores of a\\n0 faults\\r.png\n"
    assert capsys.readouterr() == (("", shown) if err else (shown, ""))


def test_output_to_a_closed_pipe_is_dropped():
    source, sink = os.pipe()
    os.close(source)
    with os.fdopen(sink, "w") as pipe:
        stream = SafeOutput(pipe)
        for _ in range(2):
            print("x" * 100_000, file=stream, flush=True)


@pytest.mark.parametrize("terminal", ["", "1"])
def test_progress_escapes_names(terminal, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", terminal)
    with progress("Reading \x9b1m", 1) as advance:
        advance("[bold]\x9b31m")
    err = capsys.readouterr().err
    assert r"[bold]\x9b31m" in err
    assert "\x9b" not in err


CODE = """
import os, sys
from drtf.terminal import safe_output
with safe_output():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\\n")
    os.write(2, b"I0000 00:00:1795745939.879323   10588 port.cc:153] oneDNN\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"terminate called after throwing\\n")
    os._exit(1)
"""


def test_library_logs_are_dropped_but_not_the_message_of_a_crash():
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert sorted(ended.stderr.splitlines()) == [
        "from Python",
        "terminate called after throwing",
    ]


def test_ctrl_c_in_a_callback_stops_the_command(monkeypatch, foreground):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    keep_interrupts()
    target = type("Target", (), {})()
    interrupt = weakref.finalize(target, signal.raise_signal, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        del target
        assert not interrupt.alive
        time.sleep(60)


def test_other_exceptions_in_callbacks_are_still_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    keep_interrupts()
    target = type("Target", (), {})()
    weakref.finalize(target, int, "not a number")
    del target
    assert [ignored.exc_type for ignored in reported] == [ValueError]

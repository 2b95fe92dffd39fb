import errno
import fcntl
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from drtf.errors import DrtfError
from drtf.files import (
    ESCAPED_FORMULA,
    append_regular,
    check_absent,
    encode_json,
    escape_formula,
    hash_file,
    move_into_place,
    open_regular,
    parse_json,
    partial_path,
    read_regular,
    replacing,
    sync_folder,
    with_nan,
    write_atomic,
)
from drtf.locks import lock_or_fail, lock_when_free
from drtf.temporary_folders import temporary_folder
from naming import assert_names, raises_naming


def test_write_atomic_leaves_no_other_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "first"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_escape_formula_guards_every_formula(cell):
    assert escape_formula(cell) == f"'{cell}"
    assert escape_formula(f"a{cell}") == f"a{cell}"
    assert escape_formula("") == ""
    for guarded in (f"'{cell}", f"''{cell}"):  # so that the guard can be told
        assert escape_formula(guarded) == f"'{guarded}"
        assert re.sub(ESCAPED_FORMULA, r"\1", escape_formula(guarded)) == guarded
    assert re.sub(ESCAPED_FORMULA, r"\1", escape_formula(cell)) == cell
    assert re.sub(ESCAPED_FORMULA, r"\1", "'a") == escape_formula("'a") == "'a"


def test_hash_file_is_sha256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert hash_file(path).startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


def test_json_has_no_number_that_is_not_finite():
    text = encode_json({"auc": float("nan"), "rates": (1.5, float("-inf"))})
    assert parse_json(text) == {"auc": None, "rates": [1.5, None]}
    assert "NaN" not in text and "Infinity" not in text
    assert with_nan({"a": [None, 1]})["a"][0] != 0


def test_check_absent_names_the_existing_path(tmp_path):
    (tmp_path / "here").touch()
    check_absent(tmp_path / "free")
    check_absent(tmp_path / "here", overwrite=True)
    with raises_naming(DrtfError, tmp_path / "here"):
        check_absent(tmp_path / "free", tmp_path / "here")


def test_replacing_moves_a_folder_into_place_only_when_complete(tmp_path):
    out = tmp_path / "new" / "out"
    with raises_naming(OSError, "disk full"), replacing(out) as folder:
        folder.mkdir()
        (folder / "half").touch()
        raise OSError("disk full")
    assert list(out.parent.iterdir()) == []
    partial_path(out).mkdir()  # a call that was killed
    with replacing(out) as folder:
        folder.mkdir()
        (folder / "whole").touch()
        assert not out.exists()
    assert [path.name for path in out.parent.rglob("*")] == ["out", "whole"]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


SPECIAL_FILES = {
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", SPECIAL_FILES)
@pytest.mark.parametrize(
    "read", [read_regular, open_regular, append_regular, hash_file]
)
def test_a_special_file_is_refused_without_waiting(kind, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    SPECIAL_FILES[kind](Path("input"))
    with pytest.raises(OSError, match=kind) as error:
        read(Path("input"))
    assert error.value.filename == "input"


def test_read_regular_follows_links_and_refuses_what_exceeds_the_limit(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_regular(link, 3) == b"abc"
    with pytest.raises(OSError) as error:
        read_regular(path, 2)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert read_regular(Path("/proc/self/status"))  # its size is reported as 0


def test_json_that_is_nested_too_deeply_is_invalid():
    with pytest.raises(ValueError):
        parse_json("[" * 100_000)


@pytest.mark.parametrize("lock", [lock_or_fail, lock_when_free])
@pytest.mark.parametrize("code", ["ENOSYS", "ENOTSUP", "ENOLCK", "EINVAL"])
def test_a_file_system_without_locks_gives_one_warning(
    lock, code, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(fcntl, "flock", failing(getattr(errno, code)))
    for _ in range(2):
        with lock(tmp_path / "lock"):
            pass
    (record,) = caplog.records
    assert_names(record.getMessage(), tmp_path)


def test_a_lock_is_refused_only_if_another_process_holds_it(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    with lock_or_fail(path), raises_naming(DrtfError, path), lock_or_fail(path):
        pass
    with lock_or_fail(path):
        pass
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError) as error, lock_or_fail(path):
        pass
    assert error.value.errno == errno.EIO


def test_a_file_system_that_cannot_sync_is_used_without(tmp_path, monkeypatch):
    for code in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
        monkeypatch.setattr(os, "fsync", failing(code))
        write_atomic(tmp_path / "a.txt", "kept")
        sync_folder(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "kept"
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a.txt", "lost")
    with pytest.raises(OSError):
        sync_folder(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "kept"


@pytest.mark.parametrize("error_type", [FileExistsError, PermissionError])
def test_a_file_is_replaced_where_rename_never_replaces(
    error_type, tmp_path, monkeypatch
):
    rename = os.rename

    def refuse(source, target):
        if Path(target).exists():
            raise error_type(errno.EPERM, "refused", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    for text in ("first", "second"):
        write_atomic(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text() == "second"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_refused_replacement_keeps_the_old_file(tmp_path, monkeypatch):
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("new")
    old.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing(errno.EPERM))
        patched.setattr(os, "rename", failing(errno.EPERM))
        with pytest.raises(PermissionError):
            move_into_place(new, old)
    assert (new.read_text(), old.read_text()) == ("new", "old")


def failing(code: int):
    """Return a function that fails with an error number."""

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_temporary_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    code = """
import sys
from drtf.temporary_folders import temporary_folder
with temporary_folder() as folder:
    (folder / "shard").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, living = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    )
    dead = Path(killed.stdout.readline().strip())
    used = Path(living.stdout.readline().strip())
    others = [tmp_path / "drtf-data", tmp_path / "drtf-another.host-12345678.temporary"]
    for folder in others:
        folder.mkdir()
    killed.kill()
    killed.communicate()
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
        assert not dead.exists()
        assert [path.name for path in used.iterdir()] == ["shard"]
    living.communicate()
    assert (living.returncode, sorted(tmp_path.iterdir())) == (0, sorted(others))


def test_a_temporary_folder_works_on_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    with temporary_folder() as first, temporary_folder() as second:
        assert first.exists()
        assert second.exists()
    assert list(tmp_path.iterdir()) == []

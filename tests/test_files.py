import re

import pytest

from drtf.errors import DrtfError
from drtf.files import (
    ESCAPED_FORMULA,
    check_absent,
    escape_formula,
    hash_file,
    partial_path,
    replacing,
    write_atomic,
)
from naming import raises_naming


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

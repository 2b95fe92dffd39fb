import errno
import os
from pathlib import Path

import pytest

from drtf.errors import DrtfError, PhotographError
from drtf.photographs.references import FileStatus, PhotographRef, strip_suffix
from naming import raises_naming


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpeg", "a"),
        ("a.b.PNG", "a.b"),
        ("a.b", "a.b"),
        (" a ", "a"),
        ("x/a.tif", "x/a"),
    ],
)
def test_only_extensions_of_images_are_stripped(name, expected):
    assert strip_suffix(name) == expected


def test_id_is_the_file_name_without_extension():
    assert PhotographRef("s3://bucket", "sub/10_left.jpeg").id == "10_left"


def test_photograph_that_is_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotographError) as error:
        PhotographRef(tmp_path, "pipe.jpg").read()
    assert error.value.reason == "unreadable"


def test_photograph_with_an_impossible_name_is_unreadable(tmp_path):
    photograph = PhotographRef(tmp_path, "a\0b.png")
    with pytest.raises(PhotographError) as error:
        photograph.read()
    assert error.value.reason == "unreadable"
    assert photograph.status() == FileStatus(-1, 0)
    assert photograph.sha256() is None


def test_huge_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "large.tif").open("wb") as file:
        file.truncate(2_000_000_000)
    with raises_naming(PhotographError, 2_000_000_000, 1_000_000_000) as error:
        PhotographRef(tmp_path, "large.tif").read()
    assert error.value.reason == "too_large"


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT]
)
def test_photograph_is_not_to_blame_when_the_machine_fails(tmp_path, monkeypatch, code):
    (tmp_path / "a.png").write_bytes(b"picture")
    photograph = PhotographRef(tmp_path, "a.png")
    failures = []

    def fail(*_):
        failures.append(1)
        raise OSError(code, os.strerror(code), str(tmp_path / "a.png"))

    def fail_once(*_):
        return b"picture" if failures else fail()

    monkeypatch.setattr("drtf.photographs.references.read_regular", fail_once)
    assert photograph.read() == b"picture"
    monkeypatch.setattr("drtf.photographs.references.read_regular", fail)
    for call in (photograph.read, photograph.sha256):
        with raises_naming(DrtfError, tmp_path / "a.png", os.strerror(code)) as error:
            call()
        assert not isinstance(error.value, PhotographError)
    monkeypatch.setattr(Path, "stat", fail)
    with raises_naming(DrtfError, os.strerror(code)):
        photograph.status()


@pytest.mark.parametrize("is_empty", [True, False])
def test_photographs_are_not_to_blame_when_their_disk_is_gone(tmp_path, is_empty):
    images = tmp_path / "images"
    if is_empty:  # as a mount point is
        images.mkdir()
    with raises_naming(DrtfError, images) as error:
        PhotographRef(images, "a.png").read()
    assert not isinstance(error.value, PhotographError)


@pytest.mark.parametrize("make", ["missing", "folder", "loop", "long", "below a file"])
def test_photograph_is_unreadable_when_it_is_to_blame(tmp_path, make):
    (tmp_path / "file").touch()
    name = {"long": "a" * 300, "below a file": "file/a.png"}.get(make, "a.png")
    if make == "folder":
        (tmp_path / name).mkdir()
    if make == "loop":
        (tmp_path / name).symlink_to(name)
    with pytest.raises(PhotographError) as error:
        PhotographRef(tmp_path, name).read()
    assert error.value.reason == "unreadable"

import errno
import os
from pathlib import Path

import pytest

from drtf.data.photographs import (
    PATH_COLUMN,
    FileStatus,
    PhotographRef,
    list_photographs,
    strip_suffix,
)
from drtf.errors import DrtfError, LabelError, PhotographError
from naming import raises_naming


def paths_of(images):
    return [photograph.path for photograph in list_photographs(images)]


def test_photographs_are_listed_recursively_and_sorted(tmp_path):
    for name in ("b.JPG", "sub/deep/a.tif", "notes.txt", ".hidden.png", "c d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert paths_of(tmp_path) == ["b.JPG", "c d.jpeg", "sub/deep/a.tif"]


def test_linked_folders_are_listed_once_when_links_form_a_circle(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").touch()
    images = tmp_path / "images"
    images.mkdir()
    (images / "link").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(images)
    (images / "folder.png").mkdir()
    assert paths_of(images) == ["link/a.png"]


def test_missing_folder_is_named(tmp_path):
    with raises_naming(LabelError, tmp_path / "nowhere", "--images"):
        list_photographs(tmp_path / "nowhere")


def test_empty_folder_is_named_with_the_extensions(tmp_path):
    with raises_naming(LabelError, tmp_path, ".jpeg"):
        list_photographs(tmp_path)


def test_single_photograph_is_refused_as_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    messages = []
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        with raises_naming(LabelError, path, "--images") as error:
            list_photographs(path)
        messages.append(str(error.value).replace(path.name, ""))
    assert messages[0] != messages[1]  # b.png does not exist


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


def test_csv_lists_photographs_by_path(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("\ufeffid;path\r\n1;sub/b.png \r\n2;/else/a.png\r\n3;\r\n")
    assert list_photographs(listed) == [
        PhotographRef(tmp_path, "/else/a.png"),
        PhotographRef(tmp_path, "sub/b.png"),
    ]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("image\na.png\n", [repr(PATH_COLUMN), ["image"]]),
        ("", [repr(PATH_COLUMN), "[]"]),
        ("path\n\n", []),
        ("path\n\udcff.png\n", ["utf-8"]),
        (None, ["No such file"]),
    ],
)
def test_csv_without_photographs_is_refused(tmp_path, text, facts):
    listed = tmp_path / "list.csv"
    if text is not None:
        listed.write_text(text, errors="surrogateescape")
    with raises_naming(LabelError, listed, *facts) as error:
        list_photographs(listed)
    column = repr(PATH_COLUMN)
    assert (column in str(error.value)) == (column in facts)


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_folder_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "closed").mkdir(mode=0)
    with raises_naming(LabelError, tmp_path / "closed"):
        list_photographs(tmp_path)


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

    monkeypatch.setattr("drtf.data.photographs.read_regular", fail_once)
    assert photograph.read() == b"picture"
    monkeypatch.setattr("drtf.data.photographs.read_regular", fail)
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

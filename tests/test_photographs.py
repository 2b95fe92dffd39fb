import os

import pytest

from drtf.data.photographs import (
    find_photographs,
    read_photograph,
    strip_suffix,
)
from drtf.errors import LabelError, PhotographError


def test_photographs_are_found_in_depth_and_sorted(tmp_path):
    for name in ("b.JPG", "sub/deep/a.tif", "notes.txt", ".hidden.png", "c d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_photographs(tmp_path).paths == [
        "b.JPG",
        "c d.jpeg",
        "sub/deep/a.tif",
    ]


def test_linked_folders_are_searched_once_and_circles_end(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").touch()
    images = tmp_path / "images"
    images.mkdir()
    (images / "link").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(images)
    (images / "folder.png").mkdir()
    assert find_photographs(images).paths == ["link/a.png"]


def test_a_missing_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(LabelError, match="no folder"):
        find_photographs(tmp_path / "nowhere")
    with pytest.raises(LabelError, match="no photograph in"):
        find_photographs(tmp_path)


def test_a_photograph_alone_is_told_from_a_folder_that_is_missing(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(LabelError, match=r"not a folder: .*a\.png: --images takes a"):
        find_photographs(tmp_path / "a.png")


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
def test_only_endings_of_images_are_stripped(name, expected):
    assert strip_suffix(name) == expected


def test_a_csv_lists_photographs_by_their_path(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("\ufeffid;path\r\n1;sub/b.png \r\n2;/else/a.png\r\n3;\r\n")
    found = find_photographs(listed)
    assert found.folder == tmp_path
    assert found.paths == ["/else/a.png", "sub/b.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\na.png\n", "has no column 'path'"),
        ("", "has no column 'path'"),
        ("path\n\n", "lists no photograph"),
        ("path\n\udcff.png\n", "can't read the list"),
        (None, "can't read the list"),
    ],
)
def test_a_csv_that_lists_nothing_says_why(tmp_path, text, message):
    listed = tmp_path / "list.csv"
    if text is not None:
        listed.write_text(text, errors="surrogateescape")
    with pytest.raises(LabelError, match=message):
        find_photographs(listed)


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotographError, match="not a regular file"):
        read_photograph(tmp_path, "pipe.jpg")


def test_a_name_that_no_file_can_have_is_set_aside(tmp_path):
    with pytest.raises(PhotographError, match="unreadable: embedded null"):
        read_photograph(tmp_path, "a\0b.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(LabelError, match=r"can't read the folder .*closed"):
        find_photographs(tmp_path)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "large.tif").open("wb") as file:
        file.truncate(2_000_000_000)
    with pytest.raises(PhotographError, match="too_large: 2000000000 bytes"):
        read_photograph(tmp_path, "large.tif")

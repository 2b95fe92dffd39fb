import unicodedata

import numpy as np
import pandas as pd
import pytest

from drtf.errors import LabelError
from drtf.labels import matching
from drtf.labels.matching import clean_path, match_photographs
from drtf.texts import text_column
from naming import raises_naming


def match(names, paths):
    labels = pd.DataFrame({"name": [clean_path(name) for name in names], "grade": 0})
    matches = match_photographs(labels, text_column(paths))
    matches.table["path"] = [paths[row] for row in matches.table["row"]]
    return matches


@pytest.mark.parametrize(
    ("name", "path", "photograph_id"),
    [
        ("10_left", "10_left.jpeg", "10_left"),
        ("10_left.jpeg", "sub/10_left.jpeg", "10_left"),
        ("10_left.png", "10_left.JPG", "10_left"),
        ("10_left.JPG", "10_left.jpg", "10_left"),
        ("./10_left.jpg", "10_left.jpg", "10_left"),
        ("/home/user/data/images/10_left.jpg", "10_left.jpg", "10_left"),
        ("../input/images/10_left.jpg", "10_left.jpg", "10_left"),
        (r"C:\data\images\10_left.jpg", "images/10_left.jpg", "images/10_left"),
        (r"\1\1_l1.jpg", "1/1_l1.jpg", "1/1_l1"),
        ("images/10_left.jpg", "10_left.jpg", "10_left"),
        ("1.1", "1.1.jpg", "1.1"),
        (" 1.1.jpg ", "1.1.jpg", "1.1"),
        ("환자1_left", unicodedata.normalize("NFD", "환자1_left.jpg"), "환자1_left"),
        (unicodedata.normalize("NFD", "é.png"), "é.png", "é"),
        (r"images\10_left", "a/images/10_left.png", "images/10_left"),
    ],
)
def test_label_is_matched_by_its_file_name(name, path, photograph_id):
    table = match([name], ["other.png", path]).table
    assert table["path"].tolist() == [path]
    assert table["id"].tolist() == [photograph_id]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("10_LEFT.JPG", "10_left.jpg"),
        ("10%20left.jpg", "10 left.jpg"),
        ("https://host/images/10_left.jpg?dl=1", "10_left.jpg"),
        ("10\xa0left", "10 left.jpg"),
        ("10_left\u200b", "10_left.jpg"),
        ("“10_left”", "10_left.jpg"),
        ("12", "0012.jpg"),
        ("12.0", "12.jpg"),
        ("\uff11\uff12_left", "12_left.jpg"),
    ],
)
def test_label_is_matched_when_a_program_has_changed_the_name(name, path):
    table = match([name], ["12.1.jpg", path]).table
    assert table["path"].tolist() == [path]
    assert table["id"].tolist() == [path.removesuffix(".jpg")]


def test_exact_names_come_before_changed_ones():
    matches = match(["0012", "12", "A_left"], ["12.jpg", "a_left.jpg", "A_left.png"])
    assert matches.table["path"].tolist() == ["12.jpg", "A_left.png"]
    assert list(matches.missing) == ["0012"]
    assert matches.is_unlabeled.tolist() == [False, True, False]
    with raises_naming(LabelError, "1", "01", "001.jpg"):
        match(["1", "01"], ["001.jpg"])


def test_exact_file_name_comes_before_another_extension():
    matches = match(["IMG_1.jpg", "b"], ["IMG_1.png", "IMG_1.jpg", "b.png"])
    assert matches.table["path"].tolist() == ["IMG_1.jpg", "b.png"]
    assert matches.is_unlabeled.tolist() == [True, False, False]


def test_ids_have_extensions_when_only_these_differ():
    table = match(["IMG_1.jpg", "IMG_1.png"], ["IMG_1.png", "IMG_1.jpg"]).table
    assert table["path"].tolist() == ["IMG_1.jpg", "IMG_1.png"]
    assert table["id"].tolist() == ["IMG_1.jpg", "IMG_1.png"]


def test_longest_common_path_decides():
    paths = ["one/a.png", "two/a.png", "a/two/a.png", "a.png"]
    table = match(["/x/one/a.png", "/x/a/two/a.png", "a"], paths).table
    assert table["path"].tolist() == ["one/a.png", "a/two/a.png", "a.png"]


def test_label_is_not_matched_when_folders_contradict():
    matches = match(["train/1.png", "test/2.png"], ["test/1.png", "test/2.png"])
    assert matches.table["path"].tolist() == ["test/2.png"]
    assert list(matches.missing) == ["train/1.png"]
    assert matches.is_unlabeled.tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("a", ["one/a.png", "two/a.png"]),
        ("IMG_1", ["IMG_1.jpg", "IMG_1.png"]),
        ("IMG_1.tif", ["IMG_1.jpg", "IMG_1.png"]),
    ],
)
def test_both_photographs_are_named_when_a_label_matches_two(name, paths):
    with raises_naming(LabelError, name, *paths):
        match([name], paths)


@pytest.mark.parametrize("names", [("sub/x", "x"), ("x.jpg", "x"), ("x.jpg", "x.png")])
def test_both_labels_are_named_when_they_match_one_photograph(names):
    with raises_naming(LabelError, *names, "sub/x.jpg"):
        match(names, ["sub/x.jpg"])


def test_unmatched_labels_and_photographs_are_listed():
    matches = match(["a", "b", "../../secret"], ["sub/a.jpeg", "c.png"])
    assert matches.table["path"].tolist() == ["sub/a.jpeg"]
    assert list(matches.missing) == ["b", "secret"]
    assert matches.is_unlabeled.tolist() == [False, True]


def test_label_and_photograph_are_named_when_nothing_matches():
    with raises_naming(LabelError, "'x'", "'a.png'"):
        match(["x"], ["a.png"])


def test_many_photographs_have_the_same_name_in_other_folders():
    paths = [f"{number}/{eye}.jpg" for number in range(9000) for eye in "lr"]
    table = match([f"images/{path}" for path in paths[::-1]], paths).table
    assert table["path"].tolist() == paths[::-1]


def test_labels_are_matched_in_batches(monkeypatch):
    monkeypatch.setattr(matching, "LABELS_PER_BATCH", 2)
    paths = ["a/1.png", "b/a/1.png", "b/2.png", "c/2.png", "3.png", "4.png", "5.png"]
    names = ["5", "a/1", "x", "c/2", "3", "y"]
    matches = match(names, paths)
    assert matches.table["path"].tolist() == ["5.png", "a/1.png", "c/2.png", "3.png"]
    assert list(matches.missing) == ["x", "y"]
    assert np.flatnonzero(matches.is_unlabeled).tolist() == [1, 2, 5]


def test_texts_decide_when_all_hashes_are_equal(monkeypatch):
    monkeypatch.setattr(
        matching, "hash_texts", lambda texts: np.zeros(len(list(texts)), np.uint64)
    )
    paths = ["one/a.png", "a/two/a.png", "a.png", "b.png", "c.png"]
    matches = match(["b", "/x/one/a.png", "d", "/x/a/two/a.png", "a"], paths)
    assert matches.table["path"].tolist() == ["b.png", *paths[:3]]
    assert list(matches.missing) == ["d"]
    with raises_naming(LabelError, "a", *paths[:2]):
        match(["a"], paths[:2])

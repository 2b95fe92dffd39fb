import pytest

from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.labels.class_folders import EXAMPLES, label_by_folder
from naming import raises_naming

DEFAULT = LabelsConfig()


@pytest.mark.parametrize(
    "names",
    [
        "0,1,2,3,4",
        "No_DR,Mild,Moderate,Severe,Proliferate_DR",
        "0_No_DR,1_Mild,2 Moderate,3-severe,4_PDR",
        "NoDR,mild,moderate,severe,Proliferative DR",
        "Grade 0,Grade 1,Grade 2,Grade 3,Grade 4",
        "정상,경증,중등도,중증,증식성",
    ],
)
def test_grade_is_that_of_the_folder(names):
    folders = names.split(",")
    paths = [f"{folder}/{n}_left.png" for n, folder in enumerate(folders)]
    table = label_by_folder(paths, DEFAULT)
    assert table["grade"].tolist() == [0, 1, 2, 3, 4]
    assert table["folder"].tolist() == folders
    assert table["path"].tolist() == paths
    assert table["id"].tolist() == [path.removesuffix(".png") for path in paths]


def test_grade_is_that_of_the_config_when_folders_have_other_names():
    config = LabelsConfig(grade_values=["healthy eyes", "DR"], ungraded=["rest"])
    paths = ["Healthy eyes/a.png", "DR/b.png", "rest/c.png"]
    table = label_by_folder(paths, config)
    assert table["grade"].fillna(-1).tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    "paths",
    [
        ["Mild/3/a.png", "No_DR/17/b.png"],
        ["Mild/3/a.png", "No_DR/4/b.png"],
        ["1/3/a.png", "0/17/b.png"],
        ["3/1/a.png", "17/0/b.png"],
        ["3/Mild/a.png", "4/No_DR/b.png"],
    ],
)
def test_numbers_of_patients_are_not_grades(paths):
    assert label_by_folder(paths, DEFAULT)["grade"].tolist() == [1, 0]


def test_folders_are_named_when_two_depths_may_be_grades():
    with raises_naming(LabelError, "'3'", "'2'", "--labels"):
        label_by_folder(["3/2/a.png", "0/1/b.png"], DEFAULT)


def test_folders_of_a_published_split_may_be_above_the_class_folders():
    paths = ["train/0/a.png", "Training/1/b.png", "valid/0/c.png", "Test Set/4/d.png"]
    table = label_by_folder([*paths, "3/e.png"], DEFAULT)
    assert table["split"].tolist() == ["train", "train", "val", "test", ""]
    assert table["grade"].tolist() == [0, 1, 0, 4, 3]


@pytest.mark.parametrize(
    "pattern", ["archive/{}/{}/{}", "{1}/{0}/{2}", "archive/{1}/images/{0}/{2}"]
)
def test_folders_of_a_published_split_may_be_anywhere(pattern):
    rows = [("train", "0", "1_left.png"), ("val", "4", "x.png"), ("test", "2", "y.png")]
    table = label_by_folder([pattern.format(*row) for row in rows], DEFAULT)
    assert table["split"].tolist() == ["train", "val", "test"]
    assert table["grade"].tolist() == [0, 4, 2]


def test_one_folder_below_others_that_is_named_like_a_split_is_none():
    table = label_by_folder(["a/0/test/x.png", "a/1/y.png"], DEFAULT)
    assert table["split"].tolist() == ["", ""]


def test_names_do_not_depend_on_the_class():
    paths = ["Mild/10_right.png", "No_DR/10_left.png", "No_DR/x.png"]
    names = label_by_folder(paths, DEFAULT)["name"]
    assert names.tolist() == ["10_right", "10_left", "x"]


def test_ids_are_unique_when_two_classes_have_a_photograph_of_one_name():
    table = label_by_folder(["Mild/1.png", "No_DR/1.png"], DEFAULT)
    assert table["id"].tolist() == ["Mild/1", "No_DR/1"]
    assert table["grade"].tolist() == [1, 0]


def test_class_folders_may_lie_in_other_folders():
    table = label_by_folder(["site a/4/anna/a.png", "site b/0/a.png"], DEFAULT)
    assert table["id"].tolist() == ["site a/4/anna/a", "site b/0/a"]
    assert table["name"].tolist() == ["anna/a", "a"]
    assert table["grade"].tolist() == [4, 0]


@pytest.mark.parametrize(
    "path",
    [
        "a.png",
        "others/a.png",
        "5x/a.png",
        "x/0/a.png",
        "/0/a.png",
        "../0/a.png",
        "x/0.png",
    ],
)
def test_photograph_is_named_when_it_is_in_no_class_folder(path):
    with raises_naming(LabelError, 1, 3, repr(path), "--labels", *EXAMPLES):
        label_by_folder(["0/b.png", path, "1/c.png"], DEFAULT)


def test_photographs_are_named_when_only_their_extensions_differ():
    with raises_naming(LabelError, "0/a.jpg", "0/a.png"):
        label_by_folder(["0/a.jpg", "0/a.png", "0/b.png"], DEFAULT)


@pytest.mark.parametrize("key", ["patient_column", "image_column"])
def test_column_is_refused_without_a_label_file(key):
    columns = {"image_column": "image", "grade_column": "level"}
    config = LabelsConfig(**columns if key in columns else {key: "who"})
    with raises_naming(LabelError, f"labels.{key}", "--labels"):
        label_by_folder(["0/a.png"], config)

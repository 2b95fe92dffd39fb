import pytest

from drtf.config import LabelsConfig
from drtf.data.class_folders import label_by_folder
from drtf.data.label_formats import FOLDER_FORMATS
from drtf.errors import LabelError
from naming import assert_names, raises_naming

DEFAULT = LabelsConfig()


@pytest.mark.parametrize("known", FOLDER_FORMATS, ids=str)
def test_grade_is_that_of_the_folder(known):
    paths = [f"{folder}/{n}_left.png" for n, folder in enumerate(known.folders)]
    table = label_by_folder(paths, DEFAULT)
    assert table["grade"].tolist() == [0, 1, 2, 3, 4]
    assert table["folder"].tolist() == list(known.folders)
    assert table["path"].tolist() == paths
    assert table["id"].tolist() == [path.removesuffix(".png") for path in paths]


def test_a_folder_name_has_the_same_grade_in_all_formats():
    pairs = {
        (x, grade) for known in FOLDER_FORMATS for grade, x in enumerate(known.folders)
    }
    assert len(pairs) == len({folder for folder, _ in pairs})


def test_both_eyes_are_one_patient_when_their_classes_differ():
    paths = ["Mild/10_right.png", "No_DR/10_left.png", "No_DR/x.png"]
    patients = label_by_folder(paths, DEFAULT)["patient"].tolist()
    assert patients == ["10", "10", "No_DR/x"]


def test_patient_pattern_takes_folders_below_the_class_folder():
    config = LabelsConfig(patient_pattern="^(.+)/")
    patients = label_by_folder(["3/anna/1.png", "train/0/anna/2.png"], config)[
        "patient"
    ]
    assert patients.tolist() == ["anna", "anna"]


def test_ids_are_unique_when_two_classes_have_a_photograph_of_one_name():
    table = label_by_folder(["Mild/1.png", "No_DR/1.png"], DEFAULT)
    assert table["id"].tolist() == ["Mild/1", "No_DR/1"]
    assert table["patient"].tolist() == ["Mild/1", "No_DR/1"]
    assert table["grade"].tolist() == [1, 0]


def test_class_folders_may_lie_in_other_folders():
    table = label_by_folder(["test/4/a.png", "train/0/a.png"], DEFAULT)
    assert table["id"].tolist() == ["test/4/a", "train/0/a"]
    assert table["grade"].tolist() == [4, 0]


@pytest.mark.parametrize(
    "path", ["a.png", "unknown/a.png", "5/a.png", "/0/a.png", "../0/a.png", "x/0.png"]
)
def test_photograph_is_named_when_it_is_in_no_class_folder(path):
    with raises_naming(LabelError, 1, 3, repr(path), "--labels") as error:
        label_by_folder(["0/b.png", path, "1/c.png"], DEFAULT)
    assert_names(error.value, *FOLDER_FORMATS)


def test_folders_are_named_when_they_are_of_two_grades():
    with raises_naming(LabelError, "No_DR/3/a.png", "No_DR", "3", "--labels"):
        label_by_folder(["No_DR/3/a.png"], DEFAULT)


def test_photographs_are_named_when_only_their_extensions_differ():
    with raises_naming(LabelError, "0/a.jpg", "0/a.png"):
        label_by_folder(["0/a.jpg", "0/a.png", "0/b.png"], DEFAULT)


@pytest.mark.parametrize("key", ["patient_column", "image_column"])
def test_column_is_refused_without_a_label_file(key):
    columns = {"image_column": "image", "grade_column": "level"}
    config = LabelsConfig(**columns if key in columns else {key: "who"})
    with raises_naming(LabelError, f"labels.{key}", "--labels"):
        label_by_folder(["0/a.png"], config)

import csv
import re

import pandas as pd
import pytest
from click.testing import CliRunner

from drtf.config import LabelsConfig
from drtf.data import labels
from drtf.data.label_formats import LABEL_FORMATS, LabelFormat
from drtf.data.labels import load_labels, match_photographs
from drtf.errors import LabelError
from drtf.tools.main import drtf
from naming import assert_names, raises_naming

DEFAULT = LabelsConfig()


def load(tmp_path, text, config=DEFAULT):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_labels(path, config)


@pytest.mark.parametrize(
    "text",
    [
        "image,level\n1_left,0\n1_right,4\n",
        "id_code,diagnosis\n1_left,0\n1_right,4\n",
        "Image name,Retinopathy grade,Risk of macular edema ,,,\r\n"
        "1_left,0,2,,,\r\n1_right,4,0,,,\r\n",
        "\ufeffimage,level\r\n1_left.jpeg,0\r\n1_right.JPG,4\r\n",
        "image;level\n1_left;0\n1_right;4\n",
        '"image","level"\n" 1_left","0"\n"1_right","4.0"\n',
        "other,level,image\nx,0,1_left\n\ny,4,1_right\n,,\n",
    ],
)
def test_label_file_is_loaded_in_every_known_form(tmp_path, text):
    table = load(tmp_path, text).table
    assert table["id"].tolist() == ["1_left", "1_right"]
    assert table["grade"].tolist() == [0, 4]
    assert table["patient"].tolist() == ["1", "1"]


def test_columns_are_those_of_the_config_when_named(tmp_path):
    config = LabelsConfig(
        image_column="file", grade_column="dr", patient_column="person"
    )
    table = load(tmp_path, "person,file,dr\nanna,a.png,3\n", config).table
    row = table.iloc[0]
    assert (row["id"], row["grade"], row["patient"]) == ("a", 3, "anna")


@pytest.mark.parametrize("known", LABEL_FORMATS, ids=str)
def test_known_format_is_recognized_by_its_columns(tmp_path, known):
    cells = {known.image: "1_left", known.grade: "2", known.patient: "anna"}
    row = ",".join(cells[column] for column in known.columns)
    row = load(tmp_path, f"{','.join(known.columns)}\n{row}\n").table.iloc[0]
    patient = "anna" if known.patient else "1"
    assert (row["id"], row["grade"], row["patient"]) == ("1_left", 2, patient)


def test_format_with_the_most_columns_is_used_when_several_match(tmp_path, monkeypatch):
    wide = LabelFormat("Wide", "image", "level", patient="person")
    monkeypatch.setattr(labels, "LABEL_FORMATS", (*LABEL_FORMATS, wide))
    table = load(tmp_path, "image,level,person\n1_left,3,anna\n").table
    assert table["patient"].tolist() == ["anna"]


@pytest.fixture
def study_format(monkeypatch):
    """Add a label format with a patient column."""
    study = LabelFormat("Study", "photo", "dr", patient="person")
    monkeypatch.setattr(labels, "LABEL_FORMATS", (*LABEL_FORMATS, study))


def test_patients_are_loaded_when_the_format_has_a_patient_column(
    tmp_path, study_format
):
    table = load(tmp_path, "person,photo,dr\nanna,1_left.png,3\n").table
    assert table["patient"].tolist() == ["anna"]


def test_patient_column_of_the_config_is_used_when_the_format_has_one(
    tmp_path, study_format
):
    text = "person,photo,dr,family\nanna,a.png,3,smith\n"
    table = load(tmp_path, text, LabelsConfig(patient_column="family")).table
    assert table["patient"].tolist() == ["smith"]


def test_known_formats_are_listed_when_none_fits(tmp_path):
    with raises_naming(LabelError, *LABEL_FORMATS):
        load(tmp_path, "name,grade\na,1\n")


def test_known_formats_are_listed_in_the_help():
    output = CliRunner().invoke(drtf, ["build-shards", "--help"]).output
    assert_names(output, *LABEL_FORMATS)


def test_each_image_is_a_patient_when_the_pattern_does_not_match(tmp_path):
    table = load(tmp_path, "id_code,diagnosis\nabc,1\ndef,2\n").table
    assert table["patient"].tolist() == ["abc", "def"]


def test_repeated_rows_are_counted_and_used_once(tmp_path):
    labels = load(tmp_path, "image,level\na,1\nb,2\na,1\na,1\n")
    assert labels.table["id"].tolist() == ["a", "b"]
    assert labels.num_repeated == 2


def test_lines_are_named_when_an_image_has_two_grades(tmp_path):
    with raises_naming(LabelError, "labels.csv", "b", 3, 5):
        load(tmp_path, "image,level\na,1\nb,2\nc,1\nb,3\n")


@pytest.mark.parametrize("grade", ["5", "-1", "", "two", "1.5", "10", "nan"])
def test_line_is_named_when_a_grade_is_invalid(tmp_path, grade):
    facts = ("labels.csv", "line 3", "level", repr(grade), *range(5))
    with raises_naming(LabelError, *facts):
        load(tmp_path, f"image,level\na,1\nb,{grade}\n")


def test_first_lines_are_named_when_many_are_invalid(tmp_path):
    with pytest.raises(LabelError) as caught:
        load(tmp_path, "image,level\n" + "".join(f"a{i},9\n" for i in range(9)))
    # Five lines, and the number of further ones.
    assert re.findall(r"\d+", str(caught.value))[-6:] == ["2", "3", "4", "5", "6", "4"]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("name,grade\na,1\n", ("'name', 'grade'", "labels.image_column")),
        ("image,level\n", ("header",)),
        ("image,level\n,3\n", ("line 2",)),
        ("image,image,level\na,a,1\n", ("header", "'image', 'image', 'level'")),
        ("image,level,level\na,1,1\n", ("header", "'image', 'level', 'level'")),
        ("", ("header",)),
        (b"\xff\xfe\x00\x01\x80", ("UTF-8", "0xff")),
        ("image,level\na,1\nb,1,2,3\n", ("line 3", 4, "header", 2)),
    ],
)
def test_invalid_label_file_is_refused(tmp_path, text, facts):
    with raises_naming(LabelError, "labels.csv", *facts) as error:
        load(tmp_path, text)
    asks_for_columns = "labels.image_column" in str(error.value)
    assert asks_for_columns == ("labels.image_column" in facts)


def test_lines_are_named_when_an_image_has_two_patients(tmp_path):
    config = LabelsConfig(
        image_column="image", grade_column="level", patient_column="who"
    )
    with raises_naming(LabelError, "labels.csv", "a", 2, 3):
        load(tmp_path, "image,level,who\na,1,x\na,1,y\n", config)


def test_image_is_its_own_patient_when_the_pattern_matches_nothing(tmp_path):
    config = LabelsConfig(patient_pattern="^(x)?.*")
    table = load(tmp_path, "image,level\na,1\nxb,2\n", config).table
    assert table["patient"].tolist() == ["a", "x"]


def test_lines_are_numbered_as_in_an_editor(tmp_path):
    text = 'image,level,note\na,1,"two\nlines"\n\nb,7,\n'
    with raises_naming(LabelError, "line 5", "'7'", "level"):
        load(tmp_path, text)


def test_label_file_is_named_when_missing(tmp_path):
    with raises_naming(LabelError, tmp_path / "no.csv", "No such file"):
        load_labels(tmp_path / "no.csv", DEFAULT)


def test_column_of_the_config_is_named_when_missing(tmp_path):
    config = LabelsConfig(image_column="image", grade_column="dr")
    facts = ("labels.csv", "dr", "labels.grade_column", "'image', 'level'")
    with raises_naming(LabelError, *facts):
        load(tmp_path, "image,level\na,1\n", config)


def labels_of(*ids):
    return pd.DataFrame({"id": ids, "grade": 0})


def test_unmatched_labels_and_photographs_are_listed():
    matches = match_photographs(labels_of("a", "b"), ["sub/a.jpeg", "c.png"])
    assert matches.table["path"].tolist() == ["sub/a.jpeg"]
    assert matches.missing == ["b"]
    assert matches.unlabelled == ["c.png"]


def test_label_is_matched_by_its_subfolder():
    matches = match_photographs(labels_of("two/a"), ["one/a.png", "two/a.png"])
    assert matches.table["path"].tolist() == ["two/a.png"]


def test_matching_fails_when_a_label_matches_two_photographs():
    with raises_naming(LabelError, "a", "one/a.png", "two/a.png"):
        match_photographs(labels_of("a"), ["one/a.png", "two/a.png"])


def test_matching_fails_when_two_labels_match_one_photograph():
    with raises_naming(LabelError, "sub/x", "x", "sub/x.jpg"):
        match_photographs(labels_of("sub/x", "x"), ["sub/x.jpg"])


def test_label_does_not_match_files_outside_the_folder():
    matches = match_photographs(labels_of("../../secret", "a"), ["a.png"])
    assert matches.missing == ["../../secret"]


def test_label_and_photograph_are_named_when_nothing_matches():
    with raises_naming(LabelError, "'x'", "'a'"):
        match_photographs(labels_of("x"), ["a.png"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("image,level\n" + "x" * 10_000_000 + ",1\n", 2),
        ("x" * 10_000_000 + "\nimage,1\n", 1),
        ('image,level\n"' + "x\n" * 5_000_000, 2 + 2**16),  # where the limit is reached
    ],
)
def test_line_is_named_when_it_has_ten_megabytes(tmp_path, text, line):
    with raises_naming(
        LabelError, "labels.csv", f"line {line}", csv.field_size_limit()
    ):
        load(tmp_path, text)

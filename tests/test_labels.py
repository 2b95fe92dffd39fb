import pandas as pd
import pytest

from drtf.config import LabelsConfig
from drtf.data.labels import (
    load_labels,
    match_photographs,
)
from drtf.errors import LabelError

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
def test_a_label_file_is_read_whatever_its_form(tmp_path, text):
    table = load(tmp_path, text).table
    assert table["id"].tolist() == ["1_left", "1_right"]
    assert table["grade"].tolist() == [0, 4]
    assert table["patient"].tolist() == ["1", "1"]


def test_other_columns_are_named_by_the_config(tmp_path):
    config = LabelsConfig(
        image_column="file", grade_column="dr", patient_column="person"
    )
    table = load(tmp_path, "person,file,dr\nanna,a.png,3\n", config).table
    row = table.iloc[0]
    assert (row["id"], row["grade"], row["patient"]) == ("a", 3, "anna")


def test_without_a_pattern_that_fits_each_image_is_a_patient(tmp_path):
    table = load(tmp_path, "id_code,diagnosis\nabc,1\ndef,2\n").table
    assert table["patient"].tolist() == ["abc", "def"]


def test_a_repeated_row_is_counted_and_taken_once(tmp_path):
    labels = load(tmp_path, "image,level\na,1\nb,2\na,1\na,1\n")
    assert labels.table["id"].tolist() == ["a", "b"]
    assert labels.num_repeated == 2


def test_two_grades_for_one_image_name_the_lines(tmp_path):
    with pytest.raises(LabelError, match="b has two grades in lines 3, 5"):
        load(tmp_path, "image,level\na,1\nb,2\nc,1\nb,3\n")


@pytest.mark.parametrize("grade", ["5", "-1", "", "two", "1.5", "10", "nan"])
def test_a_grade_outside_the_scale_names_its_line(tmp_path, grade):
    with pytest.raises(LabelError, match=r"must be 0, 1, 2, 3 or 4; .* in line 3"):
        load(tmp_path, f"image,level\na,1\nb,{grade}\n")


def test_many_bad_lines_are_named_in_short(tmp_path):
    with pytest.raises(LabelError, match="in lines 2, 3, 4, 5, 6 and 4 more"):
        load(tmp_path, "image,level\n" + "".join(f"a{i},9\n" for i in range(9)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,grade\na,1\n", "has none of the known headers"),
        ("image,level\n", "no row below its header"),
        ("image,level\n,3\n", "no image name in line 2"),
        ("image,image,level\na,a,1\n", "names a column twice"),
        ("image,level,level\na,1,1\n", "names a column twice"),
        ("", "no row below its header"),
        (b"\xff\xfe\x00\x01\x80", "not a CSV of labels"),
        ("image,level\na,1\nb,1,2,3\n", "line 3 has 4 cells, the header names 2"),
    ],
)
def test_what_is_no_label_file_is_refused(tmp_path, text, message):
    with pytest.raises(LabelError, match=message):
        load(tmp_path, text)


def test_two_patients_for_one_image_name_the_lines(tmp_path):
    config = LabelsConfig(
        image_column="image", grade_column="level", patient_column="who"
    )
    with pytest.raises(LabelError, match="a has two patients in lines 2, 3"):
        load(tmp_path, "image,level,who\na,1,x\na,1,y\n", config)


def test_a_pattern_that_finds_no_name_leaves_the_image_its_own_patient(tmp_path):
    config = LabelsConfig(patient_pattern="^(x)?.*")
    table = load(tmp_path, "image,level\na,1\nxb,2\n", config).table
    assert table["patient"].tolist() == ["a", "x"]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    text = 'image,level,note\na,1,"two\nlines"\n\nb,7,\n'
    with pytest.raises(LabelError, match="in line 5"):
        load(tmp_path, text)


def test_a_missing_label_file_is_named(tmp_path):
    with pytest.raises(LabelError, match=r"can't read label file .*no\.csv"):
        load_labels(tmp_path / "no.csv", DEFAULT)


def test_a_missing_column_of_the_config_is_named(tmp_path):
    config = LabelsConfig(image_column="image", grade_column="dr")
    with pytest.raises(LabelError, match=r"no column 'dr' \(labels.grade_column\)"):
        load(tmp_path, "image,level\na,1\n", config)


def labels_of(*ids):
    return pd.DataFrame({"id": ids, "grade": 0})


def test_matching_counts_what_is_on_one_side_only():
    matches = match_photographs(labels_of("a", "b"), ["sub/a.jpeg", "c.png"])
    assert matches.table["path"].tolist() == ["sub/a.jpeg"]
    assert matches.missing == ["b"]
    assert matches.unlabelled == ["c.png"]


def test_a_label_may_name_the_subfolder():
    matches = match_photographs(labels_of("two/a"), ["one/a.png", "two/a.png"])
    assert matches.table["path"].tolist() == ["two/a.png"]


def test_a_label_that_matches_two_photographs_is_an_error():
    with pytest.raises(LabelError, match=r"a matches 2 photographs, one/a.png and"):
        match_photographs(labels_of("a"), ["one/a.png", "two/a.png"])


def test_two_labels_for_one_photograph_are_an_error():
    with pytest.raises(LabelError, match=r"sub/x and x are one photograph, sub/x\.jpg"):
        match_photographs(labels_of("sub/x", "x"), ["sub/x.jpg"])


def test_a_label_never_leads_out_of_the_folder():
    matches = match_photographs(labels_of("../../secret", "a"), ["a.png"])
    assert matches.missing == ["../../secret"]


def test_no_match_at_all_is_an_error_that_shows_both_sides():
    with pytest.raises(LabelError, match="names 'x', the folder holds 'a'"):
        match_photographs(labels_of("x"), ["a.png"])


@pytest.mark.parametrize(
    "text",
    [
        "image,level\n" + "x" * 10_000_000 + ",1\n",
        "x" * 10_000_000 + "\nimage,1\n",
        'image,level\n"' + "x\n" * 5_000_000,
    ],
)
def test_a_line_of_ten_megabytes_is_refused_with_its_number(tmp_path, text):
    with pytest.raises(LabelError, match=r"labels.csv: line \d+: field larger than"):
        load(tmp_path, text)

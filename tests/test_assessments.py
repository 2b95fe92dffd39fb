import pandas as pd
import pytest

from drtf.errors import LabelError
from drtf.labels.assessments import (
    assessments_by_folder,
    choose_column,
    load_assessments,
    parse_values,
)
from naming import assert_names, raises_naming

PHOTOGRAPHS = pd.DataFrame(
    {
        "source": "",
        "path": [f"{patient}_{eye}.png" for patient in (1, 2, 3) for eye in ("l", "r")],
        "patient": ["1", "1", "2", "2", "3", "3"],
    }
)


def load(tmp_path, text, **options):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return load_assessments(path, PHOTOGRAPHS, **options)


@pytest.mark.parametrize(
    ("header", "gradable", "ungradable"),
    [
        ("image,gradable", "1", "0"),
        ("image,gradable", "1.0", "0.0"),
        ("image,Gradable", "yes", "No"),
        ("image,is_gradable", "TRUE", "FALSE"),
        ("image,ungradable", "0", "1"),
        ("image,Not gradable", "n", "y"),
        ("image,reject", "False", "True"),
        ("image,gradability", "Gradable", "un-gradable"),
        ("image_id,adjudicated_gradable", "1", "0"),  # Messidor-2
        ("image_id,Overall quality", "1", "0"),  # DeepDRiD
        ("image,quality", "good", "reject"),
        ("image,quality", "usable", "bad"),
        ("image_id,quality", "Adequate", "Inadequate"),  # BRSET
        ("file,final_quality", "yes", "no"),  # mBRSET
    ],
)
def test_usual_columns_and_values_are_known(tmp_path, header, gradable, ungradable):
    text = f"{header}\n1_l,{gradable}\n1_r,{ungradable}\n2_l,\n2_r,NA\n"
    found = load(tmp_path, text)
    assert found.column == header.split(",")[1]
    assert found.is_assessed.tolist() == [True, True, False, False, False, False]
    assert found.is_ungradable.tolist() == [False, True, False, False, False, False]


def test_the_numbers_of_eyeq_mean_good_usable_and_reject(tmp_path):
    text = ",image,quality,DR_grade\n0,1_l,0,0\n1,1_r,1,2\n2,2_l,2,0\n"
    found = load(tmp_path, text)
    assert found.is_ungradable.tolist() == [False, False, True, False, False, False]
    assert_names(found.describe(), "'0' = gradable", "'2' = ungradable")


@pytest.mark.parametrize("values", ["012", "135"])
def test_numbers_of_an_unknown_scale_are_refused(tmp_path, values):
    lines = [f"{x}_l,{value}" for x, value in enumerate(values, start=1)]
    text = "\n".join(["image,quality", *lines])
    unknown = sorted(set(values) - set("01"))
    with raises_naming(LabelError, "quality", *unknown, "--ungradable"):
        load(tmp_path, text)
    found = load(tmp_path, text, ungradable=[values[0], values[2]])
    assert found.is_ungradable.tolist() == [True, False, False, False, True, False]


def test_yes_and_no_are_refused_in_a_column_whose_name_says_nothing():
    where = "t.csv: column 'rating'"
    with raises_naming(LabelError, "rating", "'no'", "'yes'", "--ungradable"):
        parse_values(["yes", "no"], where=where, column="rating")
    assert parse_values(["ok", "poor"], where=where, column="rating") == {
        "ok": False,
        "poor": True,
    }


def test_a_value_of_ungradable_that_is_missing_is_named():
    with raises_naming(LabelError, "grade", "'U'", "'G'", "'N'"):
        parse_values(["G", "N"], where="grade", column="grade", ungradable=["U"])
    meanings = parse_values(
        ["G", "N", "u", "-"], where="grade", column="grade", ungradable=["U"]
    )
    assert meanings == {"G": False, "N": False, "u": True, "-": None}


def test_a_column_is_chosen_by_its_name_or_is_missing():
    columns = ["image", "Clarity", "Overall quality", "gradable"]
    assert choose_column(columns, "", where="t.csv") == "gradable"
    assert choose_column(columns, "overall_quality", where="t.csv") == "Overall quality"
    with raises_naming(LabelError, "t.csv", "'sharp'", "Clarity", "--column"):
        choose_column(columns, "sharp", where="t.csv")
    with raises_naming(LabelError, "t.csv", "Clarity", "--column"):
        choose_column(["image", "Clarity"], "", where="t.csv")


def test_a_table_of_patients_applies_to_both_eyes(tmp_path):
    found = load(tmp_path, "patient,gradable\n1,0\n2,1\n3,1\n")
    assert found.is_ungradable.tolist() == [True, True, False, False, False, False]
    assert found.patients.tolist() == ["1", "1", "2", "2", "3", "3"]


def test_the_patients_in_a_table_are_kept(tmp_path):
    found = load(tmp_path, "image,gradable,patient_id\n1_l,1,A\n1_r,0,B\n")
    assert found.patients.tolist() == ["A", "B", "", "", "", ""]


def test_folders_are_assessments():
    paths = ["train/Good/1.jpg", "train/Bad/2.jpg", "Outlier/3.jpg"]
    found = assessments_by_folder(paths, where="images")
    assert found.is_ungradable.tolist() == [False, True, True]
    with raises_naming(LabelError, "images", "'mild'", "--table"):
        assessments_by_folder(["mild/1.jpg", "Bad/2.jpg"], where="images")

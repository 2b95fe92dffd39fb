import re

import pandas as pd
import pytest
from click.testing import CliRunner

from drtf.config import LabelsConfig, load_config
from drtf.errors import LabelError
from drtf.labels import columns as label_columns
from drtf.labels.formats import LABEL_FORMATS, LabelFormat
from drtf.labels.label_files import load_labels
from drtf.tools.main import drtf
from naming import assert_names, raises_naming

DEFAULT = LabelsConfig()


def load(tmp_path, text, config=DEFAULT):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_labels(path, config)


# The first rows of published label files, with the images, grades, patients and columns
# that are not read.
PUBLISHED = {
    "EyePACS": ("image,level\n10_left,0\n10_right,4\n", "10_left 0, 10_right 4"),
    "EyePACS resized": (
        "Unnamed: 0.1,Unnamed: 0,image,level\n0,0,10_left,0\n1,1,10_right,4\n",
        "10_left 0, 10_right 4",
    ),
    "EyePACS test": (
        "image,level,Usage\n1_left,0,Private\n1_right,2,Public\n",
        "1_left 0, 1_right 2",
        "Usage",
    ),
    "EyeQ": (
        ",image,quality,DR_grade\n0,1_left.jpeg,0,0\n1,1_right.jpeg,2,1\n",
        "1_left.jpeg 0, 1_right.jpeg 1",
        "quality",
    ),
    "APTOS": ("id_code,diagnosis\n000c1434d8d7,2\n", "000c1434d8d7 2"),
    "IDRiD": (
        "Image name,Retinopathy grade,Risk of macular edema ,,,\r\n"
        "IDRiD_001,3,2,,,\r\n",
        "IDRiD_001 3",
        "Risk of macular edema",
    ),
    "Messidor-2": (
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
        "a.png,1,0,1\nIM1.jpg,,,0\nb.png,0,0,1\n",
        "a.png 1, IM1.jpg -, b.png 0",
        "adjudicated_dme",
        "adjudicated_gradable",
    ),
    "DDR": (
        "007-0.jpg 1\n007-1.jpg 5\n007-2.jpg 0\n",
        "007-0.jpg 1, 007-1.jpg -, 007-2.jpg 0",
    ),
    "FGADR": ("0000_1.png,1\n0001_1.png,4\n", "0000_1.png 1, 0001_1.png 4"),
    "DeepDRiD": (
        "patient_id,image_id,image_path,left_eye_DR_Level,right_eye_DR_Level,"
        "patient_DR_Level\n"
        "1,1_l1,\\1\\1_l1.jpg,1,,2\n1,1_r1,\\1\\1_r1.jpg,,2,2\n",
        "1_l1 1 1, 1_r1 2 1",
        "image_path",
        "patient_DR_Level",
    ),
    "DeepDRiD ultra-widefield": (
        "patient_id,position,image_path,DR_level\n1,l,\\1\\1_l.jpg,0\n",
        "1/1_l.jpg 0 1",
        "position",
    ),
    "mBRSET": (
        "patient,age,file,laterality,final_icdr\n1,41,1.1.jpg,right,2.0\n"
        "1,41,1.2.jpg,left,\n",
        "1.1.jpg 2 1, 1.2.jpg - 1",
        "age",
        "laterality",
    ),
    "BRSET": (
        "image_id,patient_id,camera,DR_SDRG,DR_ICDR\nimg1,7,Canon,0,0\n",
        "img1 0 7",
        "camera",
        "DR_SDRG",
    ),
    "ODIR": (
        "ID,Patient Age,Left-Fundus,Right-Fundus,D,labels,filename\n"
        "1,57,1_left.jpg,1_right.jpg,1,['N'],1_left.jpg\n"
        "1,57,1_left.jpg,1_right.jpg,1,['D'],1_right.jpg\n",
        "1_left.jpg 0 1, 1_right.jpg 1 1",
        "Patient Age",
        "Left-Fundus",
        "Right-Fundus",
        "D",
    ),
    "RFMiD": (
        "ID,Disease_Risk,DR,ARMD\n1,1,1,0\n2,0,0,0\n",
        "1 1, 2 0",
        "Disease_Risk",
        "ARMD",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_label_file_is_recognized(tmp_path, name):
    text, expected, *unread = PUBLISHED[name]
    labels = load(tmp_path, text)
    grades = ["-" if pd.isna(grade) else grade for grade in labels.table["grade"]]
    table = labels.table.assign(grade=grades)
    columns = [x for x in ("name", "grade", "patient") if x in table]
    rows = [" ".join(map(str, row)) for row in table[columns].to_numpy()]
    assert ", ".join(rows) == expected
    assert labels.unread == unread
    formats = {known.name for known in LABEL_FORMATS}
    assert formats - {"Messidor"} <= set(PUBLISHED)


def test_scale_of_messidor_is_noted(tmp_path):
    text = "Image name,Ophthalmologic department,Retinopathy grade\na.tif,X,3\n"
    assert_names(load(tmp_path, text).columns.note, "ICDR")


def test_columns_are_those_of_the_config_when_named(tmp_path):
    config = LabelsConfig(
        image_column="file", grade_column="dr", patient_column="family"
    )
    table = load(tmp_path, "family,File,DR\nanna,a.png,3\n", config).table
    row = table.iloc[0]
    assert (row["name"], row["grade"], row["patient"]) == ("a.png", 3, "anna")


@pytest.mark.parametrize("known", LABEL_FORMATS, ids=str)
def test_known_format_is_recognized_by_its_columns(tmp_path, known):
    grade = next(iter(known.values), "1")
    cells = {known.image: "1_left", known.patient: "anna", known.grades[0]: grade}
    row = ",".join(cells.get(column, "") for column in known.columns)
    header = ",".join(known.columns).upper().replace("_", " ")
    row = load(tmp_path, f"{header}\n{row}\n").table.iloc[0]
    assert (row["name"], row["grade"]) == ("1_left", known.values.get(grade, 1))
    assert row.get("patient", "") == ("anna" if known.patient else "")


def test_format_with_the_most_columns_is_used_when_several_match(tmp_path, monkeypatch):
    wide = LabelFormat("Wide", "image", ("level",), patient="family")
    monkeypatch.setattr(label_columns, "LABEL_FORMATS", (*LABEL_FORMATS, wide))
    table = load(tmp_path, "image,level,family\n1_left,3,anna\n").table
    assert table["patient"].tolist() == ["anna"]


@pytest.fixture
def study_format(monkeypatch):
    """Add a label format with a patient column."""
    study = LabelFormat("Study", "photo", ("dr",), patient="owner")
    monkeypatch.setattr(label_columns, "LABEL_FORMATS", (*LABEL_FORMATS, study))


def test_patients_are_loaded_when_the_format_has_a_patient_column(
    tmp_path, study_format
):
    table = load(tmp_path, "owner,photo,dr\nanna,1_left.png,3\n").table
    assert table["patient"].tolist() == ["anna"]


def test_patient_column_of_the_config_is_used_when_the_format_has_one(
    tmp_path, study_format
):
    text = "owner,photo,dr,family\nanna,a.png,3,smith\n"
    table = load(tmp_path, text, LabelsConfig(patient_column="family")).table
    assert table["patient"].tolist() == ["smith"]


def test_known_formats_are_listed_when_none_fits(tmp_path):
    with raises_naming(LabelError, *LABEL_FORMATS):
        load(tmp_path, "name,grade\na,1\n")


def test_known_formats_are_listed_in_the_help():
    output = CliRunner().invoke(drtf, ["build-shards", "--help"]).output
    assert_names(output, *LABEL_FORMATS)


def test_repeated_rows_are_counted_and_used_once(tmp_path):
    labels = load(tmp_path, "image,level\na,1\nb,2\na,1\na,1\n")
    assert labels.table["name"].tolist() == ["a", "b"]
    assert labels.num_repeated == 2


def test_lines_are_named_when_an_image_has_two_grades(tmp_path):
    with raises_naming(LabelError, "labels.csv", "b", 3, 5):
        load(tmp_path, "image,level\na,1\nb,2\nc,1\nb,3\n")


def test_columns_are_kept_when_the_config_names_them(tmp_path):
    text = "image,level,Age,sex\na,0,57,F\nb,1,,\na,0,57,F\n"
    config = LabelsConfig(keep_columns=("sex", "camera", "age"))
    labels = load(tmp_path, text, config)
    kept = labels.table[["kept.sex", "kept.camera", "kept.age"]]
    assert kept.values.tolist() == [["F", "", "57"], ["", "", ""]]
    assert labels.columns.kept == ("sex", None, "Age")
    assert labels.unread == []
    with raises_naming(LabelError, "labels.csv", "a", "'Age'", 2, 3):
        load(tmp_path, "image,level,Age\na,0,57\na,0,58\n", config)


@pytest.mark.parametrize("grade", ["6", "-2", "two", "1.5", "10", "2?"])
def test_line_is_named_when_a_grade_is_invalid(tmp_path, grade):
    settings = ("labels.ungraded", "labels.grade_values")
    facts = ("labels.csv", "line 3", "level", repr(grade), *range(5), *settings)
    with raises_naming(LabelError, *facts):
        load(tmp_path, f"image,level\na,0\nb,{grade}\n")


def test_ungraded_rows_have_no_grade(tmp_path):
    config = LabelsConfig(ungraded=["9"])
    table = load(tmp_path, "image,level\na,0\nb,\nc,5\nd,9\n", config).table
    assert table["grade"].isna().tolist() == [False, True, True, True]
    assert table["value"].tolist() == ["0", "", "5", "9"]


def test_column_is_named_when_no_row_has_a_grade(tmp_path):
    with raises_naming(LabelError, "labels.csv", "'level'"):
        load(tmp_path, "image,level\na,\nb,NA\n")


@pytest.mark.parametrize("header", ["no_dr,mild,moderate,severe,pdr", "0,1,2,3,4"])
def test_grade_is_the_column_that_has_a_one(tmp_path, header):
    rows = "a,1,0,0,0,0\nb,0,0,0,0,1\nc,0,0,0,0,0\n"
    table = load(tmp_path, f"image,{header}\n{rows}").table
    assert table["grade"].fillna(-1).tolist() == [0, 4, -1]
    for bad in ("1,0,1,0,0", "1,0,x2,0,0"):
        with raises_naming(LabelError, "labels.csv", "line 2"):
            load(tmp_path, f"image,{header}\na,{bad}\n")


EYES = LabelsConfig(image_column="image", grade_column=("left grade", "right grade"))


def test_grade_is_that_of_the_own_eye_when_a_row_has_both(tmp_path):
    rows = "1_left.jpg,0,4\n1_right.jpg,0,4\n2_OS.jpg,,3\nx,2,2\n"
    table = load(tmp_path, f"image,left grade,right grade\n{rows}", EYES).table
    assert table["grade"].fillna(-1).tolist() == [0, 4, -1, 2]
    with raises_naming(LabelError, "labels.csv", "line 3", "left grade"):
        load(tmp_path, "image,left grade,right grade\n1_left,0,4\nx,0,4\n", EYES)


WIDE = LabelsConfig(
    image_column=("left image", "right image"), grade_column=("left", "right")
)


def test_a_row_with_both_eyes_is_two_photographs(tmp_path):
    header = "patient_id,left image,right image,left,right"
    rows = "A,1.jpg,2.jpg,0,4\nB,3.jpg,,2,\nC,4.jpg,5.jpg,,1\n"
    labels = load(tmp_path, f"{header}\n{rows}", WIDE)
    table = labels.table
    assert table["name"].tolist() == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    assert table["grade"].fillna(-1).tolist() == [0, 4, 2, -1, 1]
    assert table["patient"].tolist() == ["A", "A", "B", "C", "C"]
    assert table.index.tolist() == [2, 2, 3, 4, 4]
    assert labels.unread == []
    assert labels.columns.roles["grade"] == "left, right"
    with raises_naming(LabelError, "labels.csv", "line 3", "'right'", "'7'"):
        load(tmp_path, f"{header}\nA,1,2,0,4\nB,3,4,2,7\n", WIDE)
    with raises_naming(LabelError, "labels.grade_column", "'right'"):
        load(tmp_path, "left image,right image,left\nA,1,2\n", WIDE)


def test_columns_that_are_not_in_utf8_are_named_with_what_to_do(tmp_path):
    config = LabelsConfig(image_column="image", grade_column="Größe")
    (tmp_path / "labels.csv").write_bytes("image;Größe\na;1\n".encode("latin-1"))
    for each in (config, DEFAULT):
        with raises_naming(LabelError, "labels.csv", "'Gr??e'", "CSV UTF-8"):
            load_labels(tmp_path / "labels.csv", each)


def test_columns_are_named_by_numbers_without_a_header(tmp_path):
    text = "a_left.jpg,x,2\nb_left.jpg,y,3\n"
    with raises_naming(LabelError, "labels.csv", 3, "labels.image_column=1"):
        load(tmp_path, text)
    numbers = LabelsConfig(image_column="1", grade_column="3", patient_column="2")
    table = load(tmp_path, text, numbers).table
    assert table["grade"].tolist() == [2, 3]
    assert table["patient"].tolist() == ["x", "y"]
    first = load(tmp_path, "2 a_left.jpg\n3 b_left.jpg\n").table
    assert first[["name", "grade"]].to_numpy().tolist() == [
        ["a_left.jpg", 2],
        ["b_left.jpg", 3],
    ]
    both = load_config("", ["labels.image_column=[1,2]", "labels.grade_column=[3,4]"])
    wide = load(tmp_path, "a.jpg,b.jpg,2,3\n", both.labels).table
    assert wide[["name", "grade"]].to_numpy().tolist() == [["a.jpg", 2], ["b.jpg", 3]]
    words = load(tmp_path, "a,x,mild\nb,y,severe\n", numbers).table
    assert words["grade"].tolist() == [1, 3]


@pytest.mark.parametrize(
    "column",
    [
        "patient",
        "Patient ID",
        "PatientID",
        "patient_id",
        "SUBJECT",
        "pid",
        "subject-id",
        "환자번호",
        "Patienten-ID",
        "患者ID",
    ],
)
def test_patient_column_is_recognized_by_its_usual_name(tmp_path, column):
    text = f"image,level,{column},age\na,1,7,50\nb,2,7,50\n"
    labels = load(tmp_path, text)
    assert labels.table["patient"].tolist() == ["7", "7"]
    assert labels.unread == ["age"]
    by_name = load(tmp_path, text, LabelsConfig(patient_pattern="^(.)"))
    assert "patient" not in by_name.table


@pytest.mark.parametrize("cell", ["", "-", "N/A", "NaN", "Unknown", "(anonymous)"])
def test_line_is_named_when_a_patient_is_unknown(tmp_path, cell):
    with raises_naming(LabelError, "labels.csv", "line 3", "patient"):
        load(tmp_path, f"image,level,patient\na,1,7\nb,2,{cell}\n")


def test_published_splits_are_those_of_the_split_column(tmp_path):
    names = "train,Training,val,VALID,validation,dev,test,Testing,Public,Private Test"
    rows = [f"a{n},1,{name}" for n, name in enumerate(names.split(","))]
    text = "\n".join(["image,level,Usage", *rows])
    labels = load(tmp_path, text, LabelsConfig(split_column="usage"))
    assert labels.table["split"].tolist() == ["train"] * 2 + ["val"] * 4 + ["test"] * 4
    ignored = load(tmp_path, text)
    assert ignored.unread_split == "Usage"
    assert "split" not in ignored.table
    for name in ("fold 1", ""):
        with raises_naming(LabelError, "labels.csv", repr(name), "line 2", "'split'"):
            load(
                tmp_path,
                f"image,level,split\na,1,{name}\n",
                LabelsConfig(split_column="split"),
            )


def test_column_is_refused_when_read_and_not_in_utf8(tmp_path):
    text = "image,level,note\nM\u00fcller_left,1,\u00fc\n".encode("cp1252")
    with raises_naming(LabelError, "labels.csv", "image", "line 2", "UTF-8"):
        load(tmp_path, text)
    assert load(tmp_path, text.replace(b"M\xfcller", b"x")).unread == ["note"]


def test_first_lines_are_named_when_many_are_invalid(tmp_path):
    with pytest.raises(LabelError) as caught:
        load(tmp_path, "image,level\n" + "".join(f"a{i},9\n" for i in range(9)))
    # Five lines, and the number of further ones.
    assert re.search(r"2, 3, 4, 5, 6\b\D+ 4\b", str(caught.value))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("name,grade\na,1\n", ("'name', 'grade'", "labels.image_column")),
        ("image,level\n,3\n", ("line 2",)),
        ("image,Level,level \na,1,1\n", ("'Level'", "'level'")),
    ],
)
def test_invalid_label_file_is_refused(tmp_path, text, facts):
    with raises_naming(LabelError, "labels.csv", *facts):
        load(tmp_path, text)


def test_lines_are_named_when_an_image_has_two_patients(tmp_path):
    config = LabelsConfig(
        image_column="image", grade_column="level", patient_column="who"
    )
    with raises_naming(LabelError, "labels.csv", "a", 2, 3):
        load(tmp_path, "image,level,who\na,1,x\na,1,y\n", config)


def test_lines_are_numbered_as_in_an_editor(tmp_path):
    text = 'image,level,note\na,1,"two\nlines"\n\nb,7,\n'
    with raises_naming(LabelError, "line 5", "'7'", "level"):
        load(tmp_path, text)


def test_column_of_the_config_is_named_when_missing(tmp_path):
    config = LabelsConfig(image_column="image", grade_column="dr")
    facts = ("labels.csv", "dr", "labels.grade_column", "'image', 'level'")
    with raises_naming(LabelError, *facts):
        load(tmp_path, "image,level\na,1\n", config)

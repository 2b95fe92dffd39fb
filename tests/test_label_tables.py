import csv
import io
import zipfile

import pytest

from drtf.errors import LabelError
from drtf.labels.tables import load_label_table
from naming import raises_naming

ROWS = [["10_left", "0"], ["10_right", "4"]]


def load(tmp_path, content, name="labels.csv", **options):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_label_table(path, **options)


def zipped(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            # Without the time, so that every process names the tests alike.
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


TEXT = "image,level\n10_left,0\n10_right,4\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t"),
        TEXT.replace(",", "|"),
        TEXT.replace(",", " "),
        TEXT.replace(",", "   "),
        TEXT.replace(",", ", "),
        "\ufeff" + TEXT,
        "sep=;\r\n" + TEXT.replace(",", ";"),
        'sep=|\n"image"|"level"\n"10_left"|"0"\n"10_right"|4',
        "\n\n image ,level \n 10_left, 0\n\n10_right,4 ,\n,,\n",
        "image,level,,,\n10_left,0,,,\n10_right,4,,,\n",
        "Graded by R. A.\n\n" + TEXT,
        "Graded by R. A.,\n,\n# in 2019,\n" + TEXT,
        TEXT.encode("utf-16"),
        TEXT.replace(",", "\t").encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        zipped(**{"trainLabels.csv": TEXT}),
        zipped(
            **{"a/labels.csv": TEXT, "__MACOSX/a/._labels.csv": "x", "a/.DS_Store": "x"}
        ),
    ],
)
def test_table_is_the_same_in_every_form(tmp_path, content):
    table = load(tmp_path, content)
    assert table.columns == ["image", "level"]
    assert table.rows.to_numpy().tolist() == ROWS
    assert table.has_header


def test_text_stays_as_it_is(tmp_path):
    table = load(tmp_path, 'image,level,note\n007,2.0,"a, b"\n1.1,,NA\n').rows
    assert table.to_numpy().tolist() == [["007", "2.0", "a, b"], ["1.1", "", "NA"]]
    assert table.index.tolist() == [2, 3]


def test_semicolons_separate_when_commas_are_decimal(tmp_path):
    table = load(tmp_path, "image;level\na;1,0\nb;2,0\n")
    assert table.rows["level"].tolist() == ["1,0", "2,0"]


def test_commas_separate_when_names_have_spaces(tmp_path):
    table = load(tmp_path, "image name,level\nmy left eye,1\nmy right eye,2\n")
    assert table.rows["image name"].tolist() == ["my left eye", "my right eye"]


@pytest.mark.parametrize(
    "content",
    [
        "0000_1.png,1\n0001_1.png,0\n",
        "0000_1.png 1\n0001_1.png 0\n",
        "0000_1,1\n0001_1,0\n",
    ],
)
def test_first_row_is_data_when_it_has_a_file_name_or_a_number(tmp_path, content):
    table = load(tmp_path, content)
    assert not table.has_header
    assert table.columns == ["1", "2"]
    assert table.rows["2"].tolist() == ["1", "0"]
    assert table.rows.index.tolist() == [1, 2]


def test_first_row_is_a_header_when_grades_are_columns(tmp_path):
    table = load(tmp_path, "image,0,1,2\na,1,0,0\n")
    assert table.columns == ["image", "0", "1", "2"]


def test_first_row_is_data_when_there_is_no_header(tmp_path):
    table = load(tmp_path, "a,mild\nb,severe\n", has_header=False)
    assert table.rows["1"].tolist() == ["a", "b"]


def test_columns_without_a_name_are_left_out(tmp_path):
    assert load(tmp_path, ",image,level\n0,a,1\n").columns == ["image", "level"]


def test_korean_text_of_windows_is_decoded(tmp_path):
    table = load(tmp_path, "이름,등급\n환자1_left,2\n".encode("cp949"))
    assert table.columns == ["이름", "등급"]
    assert table.rows["이름"].tolist() == ["환자1_left"]


def workbook(*sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def test_workbook_is_read_as_text(tmp_path):
    data = workbook([["image", "level", None], ["007", 2, None], ["1.1", 3.0]], [])
    table = load(tmp_path, data, "labels.xlsx").rows
    assert table.to_numpy().tolist() == [["007", "2"], ["1.1", "3"]]
    assert table.index.tolist() == [2, 3]


def test_sheets_are_named_when_a_workbook_has_two(tmp_path):
    rows = [["image", "level"], ["a", 1]]
    with raises_naming(LabelError, "labels.xlsx", "sheet 0", "sheet 1"):
        load(tmp_path, workbook(rows, rows), "labels.xlsx")


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"\xd0\xcf\x11\xe0" + b"\0" * 600, (".xls", "CSV UTF-8")),
        (b"<html><table>", ("HTML", "CSV UTF-8")),
        (b"\x1f\x8b\x08", ("gzip",)),
        (b"PAR1\0\0", ("Parquet",)),
        (b"\x89PNG\r\n\x1a\n\0\0\0", ("CSV UTF-8",)),
        (b"\xff\xfe\x00\x01\x80", ("CSV UTF-8",)),
        (zipped(**{"content.xml": "x", "mimetype": "x"}), (".ods",)),
        (zipped(**{"Index/Document.iwa": "x"}), ("Numbers",)),
        (zipped(**{"xl/sheet1.xml": "<x>"}), ("Excel",)),
        (zipped(**{"a.csv": TEXT, "b.csv": TEXT}), ("a.csv", "b.csv")),
        (zipped(), ()),
        (zipped(**{"a.zip": zipped(x="y")}), ("a.zip",)),
        (zipped(**{"a.csv": TEXT})[:60], ()),
        ("", ("header",)),
        ("image,level\n", ("header",)),
        ("image\na\nb\n", ("image",)),
        ("image,image,level\na,a,1\n", ("header", "'image', 'image', 'level'")),
        ("image,level\na,1\nb,1,2,3\n", ("line 3", 4, "header", 2)),
    ],
)
def test_file_is_named_when_it_is_not_a_table_of_labels(tmp_path, content, facts):
    with raises_naming(LabelError, tmp_path / "labels.csv", *facts):
        load(tmp_path, content)


def test_swap_is_suspected_when_the_label_file_is_a_folder(tmp_path):
    with raises_naming(LabelError, tmp_path, "--images", "--labels"):
        load_label_table(tmp_path)


def test_label_file_is_named_when_missing(tmp_path):
    with raises_naming(LabelError, tmp_path / "no.csv", "No such file"):
        load_label_table(tmp_path / "no.csv")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("image,level\n" + "x" * 10_000_000 + ",1\n", 2),
        ("x" * 10_000_000 + "\nimage,1\n", 1),
        ('image,level\n"' + "x\n" * 5_000_000, 2 + 2**16),  # where the limit is reached
    ],
)
def test_line_is_named_when_it_has_ten_megabytes(tmp_path, content, line):
    with raises_naming(
        LabelError, "labels.csv", f"line {line}", csv.field_size_limit()
    ):
        load(tmp_path, content)

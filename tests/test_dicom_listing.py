import io
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.config import load_config
from drtf.errors import DrtfError, LabelError, PatientKeyError
from drtf.images.decode import decode_photograph
from drtf.labels.sources import Source, load_sources
from drtf.photographs import dicom_headers
from drtf.photographs.contents import group_identical_files
from drtf.photographs.frames import frame_path, split_frame
from drtf.photographs.listing import list_photographs
from drtf.photographs.pseudonyms import load_key, pseudonym
from drtf.photographs.references import PhotographRef, photograph_id
from naming import raises_naming

pydicom = pytest.importorskip("pydicom")

from encoding_dicom import encode_dicom, patient_tags, save_dicom  # noqa: E402

EYES = [draw_fundus(seed=seed, width=64) for seed in range(3)]


def report(**tags: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(encode_dicom(EYES[0], Modality="SR", **tags)))
    del dataset.Rows, dataset.Columns, dataset.PixelData
    return save_dicom(dataset)


def write(folder, files: dict[str, bytes]):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def study(tmp_path):
    frames = encode_dicom(np.stack(EYES), **patient_tags(2, "R"))
    return write(
        tmp_path / "study",
        {
            "IM1": encode_dicom(EYES[0], **patient_tags(1, "L")),
            "a.dcm": encode_dicom(EYES[1], **patient_tags(1, "R")),
            "damaged.dcm": b"\0" * 128 + b"DICM" + b"\xff" * 50,
            "damaged_tag": encode_dicom(EYES[0], PatientID="1").replace(
                b"\x10\0\x20\0LO", b"\x10\0\x20\0XQ"
            ),
            "frames.dcm": frames,
            "3_left.jpg": encode(EYES[2], ".jpg"),
            "report.dcm": report(),
            "heatmap.dcm": encode_dicom(EYES[0], Manufacturer="drtf"),
            "unknown.dcm": encode_dicom(EYES[2], PatientID="ANONYMOUS"),
        },
    )


def test_each_frame_is_listed_with_its_patient_and_its_eye(study):
    listing = list_photographs(study)
    first, second = pseudonym("00001"), pseudonym("00002")
    assert {x.path: (x.patient, x.eye) for x in listing} == {
        "3_left.jpg": ("", ""),
        "IM1": (first, "left"),
        "a.dcm": (first, "right"),
        "damaged.dcm": ("", ""),
        "damaged_tag": ("", ""),
        "frames.dcm#frame=1": (second, "right"),
        "frames.dcm#frame=2": (second, "right"),
        "frames.dcm#frame=3": (second, "right"),
        "unknown.dcm": ("", ""),
    }
    assert {x.path: x.kind for x in listing.skipped} == {
        "heatmap.dcm": "DICOM result of drtf",
        "report.dcm": "DICOM SR",
    }


def test_frames_are_different_photographs(study):
    photographs = [
        PhotographRef(study, frame_path("frames.dcm", number)) for number in (1, 2, 3)
    ]
    assert len({photograph.sha256() for photograph in photographs}) == 3
    for photograph, expected in zip(photographs, EYES, strict=True):
        assert (decode_photograph(photograph.read()).image == expected).all()
    assert str(photographs[1]) == str(study / "frames.dcm#frame=2")
    listing = list_photographs(study)
    table = listing.paths.to_frame("path").assign(source="")
    table["size_bytes"] = [x.status().size_bytes for x in listing]
    contents = group_identical_files(table, {"": study})
    assert len(set(contents)) == len(table)


def test_archived_dicom_files_are_listed_with_their_tags(study, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in study.iterdir():
            archive.write(path, path.name)
    found, expected = list_photographs(tmp_path / "study.zip"), list_photographs(study)
    assert list(found.paths) == list(expected.paths)
    assert found.table.equals(expected.table)
    photograph = PhotographRef(tmp_path / "study.zip", "frames.dcm#frame=3")
    assert (decode_photograph(photograph.read()).image == EYES[2]).all()


def test_a_list_may_name_frames_and_its_columns_come_before_the_tags(study, tmp_path):
    rows = (
        "path,patient,eye",
        "study/frames.dcm#frame=2,,",
        "study/frames.dcm#frame=9,,",
        "study/a.dcm,Kim,left",
        "study/IM1,,right",
        "study/report.dcm,,",
    )
    (tmp_path / "list.csv").write_text("\n".join(rows))
    first, second = pseudonym("00001"), pseudonym("00002")
    listing = list_photographs(tmp_path / "list.csv")
    assert {x.path: (x.patient, x.eye) for x in listing} == {
        "study/IM1": (first, "right"),
        "study/a.dcm": ("Kim", "left"),
        "study/frames.dcm#frame=2": (second, "right"),
        "study/frames.dcm#frame=9": (second, ""),
        "study/report.dcm": ("", ""),
    }


def test_a_list_with_a_file_and_one_of_its_frames_has_the_frame_once(study, tmp_path):
    rows = ("path", "study/frames.dcm", "study/frames.dcm#frame=2")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    assert list(list_photographs(tmp_path / "list.csv").paths) == [
        f"study/frames.dcm#frame={number}" for number in (1, 2, 3)
    ]


def test_a_folder_of_reports_has_no_photographs(tmp_path):
    write(tmp_path / "reports", {"a.dcm": report(), "b": report()})
    with raises_naming(LabelError, "2 DICOM SR"):
        list_photographs(tmp_path / "reports")


def test_a_long_header_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_headers, "HEADER_BYTES", 500)
    write(tmp_path / "images", {"a": encode_dicom(EYES[0], **patient_tags(1, "L"))})
    (photograph,) = list_photographs(tmp_path / "images")
    assert photograph.eye == "left"


def test_datasets_are_split_by_the_patients_of_the_tags(tmp_path):
    images = write(
        tmp_path / "images",
        {
            "x1.dcm": encode_dicom(EYES[0], **patient_tags(1, "L")),
            "x2.dcm": encode_dicom(EYES[1], **patient_tags(1, "R")),
            "x3.dcm": encode_dicom(EYES[2], **patient_tags(2, "R")),
        },
    )
    labels = tmp_path / "labels.csv"
    labels.write_text("image,level\nx1,0\nx2,1\nx3,2\n")
    config = load_config("", ["labels.keep_columns=['dicom_camera', 'dicom_date']"])
    catalog = load_sources([Source(images, labels)], config.labels)
    assert set(catalog.table["kept.dicom_camera"]) == {"Camera Works F-1"}
    assert set(catalog.table["kept.dicom_date"]) == {"20240131"}
    patients = dict(zip(catalog.table["id"], catalog.table["patient"], strict=True))
    assert patients == {
        "x1": pseudonym("00001"),
        "x2": pseudonym("00001"),
        "x3": pseudonym("00002"),
    }
    assert catalog.patients_from == "stated"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("a.dcm", ("a.dcm", 0)),
        ("a.dcm#frame=12", ("a.dcm", 12)),
        ("a#b.dcm", ("a#b.dcm", 0)),
        ("a.dcm#frame=0", ("a.dcm#frame=0", 0)),
    ],
)
def test_a_path_names_its_file_and_its_frame(path, parts):
    assert split_frame(path) == parts


def test_the_id_of_a_frame_has_no_extension():
    assert photograph_id("study/a.dcm#frame=2") == "a#frame=2"


def test_a_user_without_a_home_folder_must_name_the_key(monkeypatch):
    monkeypatch.delenv("DRTF_PATIENT_KEY")
    monkeypatch.setattr(Path, "expanduser", mock.Mock(side_effect=RuntimeError))
    with raises_naming(PatientKeyError, "DRTF_PATIENT_KEY"):
        pseudonym("1")


def test_pseudonyms_depend_on_patient_issuer_and_key(tmp_path, monkeypatch):
    first = pseudonym("1", "A")
    assert first == pseudonym("1", "A")
    assert len({first, pseudonym("2", "A"), pseudonym("1", "B"), pseudonym("1A")}) == 4
    assert first[1:] != "1"
    (tmp_path / "other.key").write_text("another key of the tests")
    monkeypatch.setenv("DRTF_PATIENT_KEY", str(tmp_path / "other.key"))
    assert pseudonym("1", "A") != first
    monkeypatch.setenv("DRTF_PATIENT_KEY", "plain")
    assert pseudonym("1", "A") == "1"


def test_a_key_is_created_once_for_its_owner_only(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("DRTF_PATIENT_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    first = pseudonym("1")
    path = tmp_path / ".config/drtf/patient.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [x.name for x in path.parent.iterdir()] == [path.name]
    assert str(path) in caplog.text
    load_key.cache_clear()
    assert pseudonym("1") == first


@pytest.mark.parametrize("problem", ["short", "folder"])
def test_a_key_that_cannot_be_used_is_named(problem, tmp_path, monkeypatch):
    path = tmp_path / "patient.key"
    if problem == "short":
        path.write_text("secret")
    else:
        path = tmp_path / "file" / "patient.key"
        (tmp_path / "file").write_text("")
    monkeypatch.setenv("DRTF_PATIENT_KEY", str(path))
    with raises_naming(DrtfError, path):
        pseudonym("1")

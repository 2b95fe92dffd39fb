import errno
import io
import json
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.errors import DrtfError
from drtf.photographs.listing import list_photographs
from drtf.photographs.references import PhotographRef
from drtf.scoring import watch
from drtf.scoring.score_table import COLUMNS, load_rows
from drtf.tasks import TASKS
from naming import assert_names, raises_naming

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

from encoding_dicom import encode_dicom, patient_tags, save_dicom  # noqa: E402

from drtf.clinic import dicom_results  # noqa: E402
from drtf.clinic.dicom_series import Algorithm, derive_uid, load_source  # noqa: E402
from drtf.clinic.heatmap_captures import build_capture  # noqa: E402
from drtf.clinic.mercure import load_task  # noqa: E402
from drtf.clinic.structured_reports import Finding, build_report  # noqa: E402

EYES = [draw_fundus(seed=seed, diseased=seed == 2) for seed in range(4)]
ALGORITHM = Algorithm("clinic", TASKS["grades"], "ab12", "cd34", "0.500000", "4")
ROW = dict.fromkeys(COLUMNS, "") | {
    "eye": "left",
    "score": "0.610000",
    "probability": "0.4213",
    "threshold": "0.500000",
    "predicted_label": "1",
    "expected_grade": "2.210000",
    "predicted_grade": "2",
    "flags": "too_dark;views_disagree",
}


def check_conforms(path: Path) -> None:
    """Check a DICOM file with dciodvfy of dicom3tools, if it is installed."""
    if command := shutil.which("dciodvfy"):
        found = subprocess.run([command, path], capture_output=True, text=True)
        errors = [x for x in found.stderr.splitlines() if x.startswith("Error")]
        assert errors == []


@pytest.fixture
def source(tmp_path):
    (tmp_path / "eye.dcm").write_bytes(encode_dicom(EYES[0], **patient_tags(7)))
    return load_source(PhotographRef(tmp_path, "eye.dcm"))


def measured(group) -> dict[str, float]:
    return {x.name.value: x.value for x in group.get_measurements()}


def test_a_report_is_read_back_with_its_numbers_and_its_finding(source, tmp_path):
    path = tmp_path / "report.dcm"
    path.write_bytes(save_dicom(build_report(source, [Finding(0, ROW)], ALGORITHM)))
    check_conforms(path)
    report = hd.sr.srread(path)
    assert report.StudyInstanceUID == source.StudyInstanceUID
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert report.PatientName == source.PatientName
    assert (report.VerificationFlag, report.PreliminaryFlag) == (
        "UNVERIFIED",
        "PRELIMINARY",
    )
    (group,) = report.content.get_image_measurement_groups()
    assert measured(group)["probability"] == 0.4213
    assert measured(group)["score"] == 0.61
    findings = {
        x.name.value: x.value.meaning for x in group.get_qualitative_evaluations()
    }
    assert findings["referable"] == "Present"
    assert findings["icdr_grade"].startswith("Moderate")
    assert "not for diagnosis" in findings["intended_use"]
    (site,) = group.finding_sites
    assert site.laterality.meaning == "Left"
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    text = str(report)
    assert_names(text, "clinic", "model=ab12", "settings=cd34")


def test_an_equal_report_has_equal_bytes_and_another_one_another_uid(source):
    first, second, other = (
        build_report(source, [Finding(0, ROW | cells)], ALGORITHM)
        for cells in ({}, {}, {"score": "0.620000"})
    )
    assert save_dicom(first) == save_dicom(second)
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID == other.SeriesInstanceUID


def test_an_equal_picture_of_other_settings_has_another_uid(source):
    captures = [
        build_capture(source, Finding(0, ROW), algorithm, EYES[0])
        for algorithm in (ALGORITHM, replace(ALGORITHM, settings="ef56"))
    ]
    for name in ("SeriesInstanceUID", "SOPInstanceUID"):
        assert len({getattr(x, name) for x in captures}) == 2


def test_a_report_without_a_decision_is_indeterminate(source):
    row = ROW | {"predicted_label": "", "predicted_grade": "", "eye": ""}
    data = save_dicom(build_report(source, [Finding(0, row)], ALGORITHM))
    report = hd.sr.ComprehensiveSR.from_dataset(pydicom.dcmread(io.BytesIO(data)))
    (group,) = report.content.get_image_measurement_groups()
    findings = {
        x.name.value: x.value.meaning for x in group.get_qualitative_evaluations()
    }
    assert findings["referable"] == "Indeterminate"
    assert "icdr_grade" not in findings


def test_frames_are_groups_that_name_their_frame(source, tmp_path):
    findings = [Finding(1, ROW), Finding(3, ROW | {"eye": "right"})]
    path = tmp_path / "report.dcm"
    path.write_bytes(save_dicom(build_report(source, findings, ALGORITHM)))
    check_conforms(path)
    groups = hd.sr.srread(path).content.get_image_measurement_groups()
    frames = [x.source_images[0].referenced_frame_numbers for x in groups]
    assert frames == [[1], [3]]


@pytest.mark.parametrize("characters", ["ISO_IR 192", ["", "ISO 2022 IR 149"]])
def test_a_patient_with_a_korean_name_keeps_it(characters, tmp_path):
    name = "Kim^Min=金^民=김^민"
    tags = patient_tags(7, SpecificCharacterSet=characters, PatientName=name)
    (tmp_path / "eye.dcm").write_bytes(encode_dicom(EYES[0], **tags))
    source = load_source(PhotographRef(tmp_path, "eye.dcm"))
    algorithm = replace(ALGORITHM, name="망막")
    path = tmp_path / "result.dcm"
    for result in (
        build_report(source, [Finding(0, ROW)], algorithm),
        build_capture(source, Finding(0, ROW), algorithm, EYES[0]),
    ):
        path.write_bytes(save_dicom(result))
        check_conforms(path)
        saved = pydicom.dcmread(path)
        assert saved.PatientName == name
        assert saved.ManufacturerModelName == "망막"


def test_dates_that_break_the_rules_are_left_out(tmp_path, recwarn):
    tags = patient_tags(7, PatientBirthDate="1970-01-31", StudyTime="noon")
    tags["ContentDate"] = "today"
    (tmp_path / "eye.dcm").write_bytes(encode_dicom(EYES[0], **tags))
    source = load_source(PhotographRef(tmp_path, "eye.dcm"))
    path = tmp_path / "report.dcm"
    path.write_bytes(save_dicom(build_report(source, [Finding(0, ROW)], ALGORITHM)))
    check_conforms(path)
    report = pydicom.dcmread(path)
    dates = (report.PatientBirthDate, report.StudyDate, report.ContentDate)
    assert dates == ("", "20240131", "20240131")


def test_uids_depend_on_each_text_and_its_place():
    uids = {derive_uid(*x) for x in [("a", "b"), ("ab",), ("b", "a"), ("a", "b", "")]}
    assert len(uids) == 4
    assert all(len(uid) <= 64 and pydicom.uid.UID(uid).is_valid for uid in uids)


def write_results(tmp_path, row, *, folder="results"):
    """Write the results of eye.dcm, without a network."""
    photograph = PhotographRef(tmp_path, "eye.dcm")
    row = ROW | {"path": "eye.dcm", "photograph": photograph.sha256()[:16]} | row
    run = SimpleNamespace(folder=tmp_path / "run", task=TASKS["grades"])
    return dicom_results.write_dicom_results(
        run, [photograph], [row], folder=tmp_path / folder
    )


def test_a_file_that_cannot_be_written_leaves_no_part(source, tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("drtf.files.sync_file", fail)
    with pytest.raises(OSError, match="space"):
        write_results(tmp_path, {})
    assert list((tmp_path / "results").iterdir()) == []


def test_a_later_result_replaces_an_earlier_one(source, tmp_path):
    folder = tmp_path / "results"
    assert write_results(tmp_path, {}).num_reports == 1
    (report,) = folder.iterdir()
    heatmap = report.with_name(report.name.replace("report", "heatmap"))
    heatmap.write_bytes(b"of the same result")
    before = report.read_bytes()
    write_results(tmp_path, {})
    assert (report.read_bytes(), heatmap.exists()) == (before, True)
    write_results(tmp_path, {"model": "ef56"})  # another model
    assert [*folder.iterdir()] == [report]
    assert report.read_bytes() != before
    other = encode_dicom(EYES[1], **patient_tags(7))  # another photograph
    (tmp_path / "eye.dcm").write_bytes(other)
    write_results(tmp_path, {})
    assert [*folder.iterdir()] == [report]
    write_results(tmp_path, {"score": "", "error": "empty: no pixels"})
    assert [*folder.iterdir()] == []
    write_results(tmp_path, {})
    (tmp_path / "eye.dcm").write_bytes(encode(EYES[1]))  # no DICOM file any more
    write_results(tmp_path, {})
    assert [*folder.iterdir()] == []


def test_results_are_of_whole_files():
    paths = ["a.dcm#frame=1", "a.dcm#frame=2", "b.dcm", "c.dcm"]
    rows = [ROW | {"path": path} for path in paths]
    chosen = dicom_results.rows_of_files(rows, ["a.dcm#frame=2", "c.dcm"])
    assert [row["path"] for row in chosen] == [*paths[:2], "c.dcm"]


def test_a_row_of_another_file_at_the_same_path_gives_no_report(tmp_path):
    photograph = PhotographRef(tmp_path, "eye.dcm")
    path = tmp_path / "eye.dcm"
    path.write_bytes(encode_dicom(EYES[0], **patient_tags(7)))
    row = ROW | {"path": "eye.dcm", "photograph": photograph.sha256()[:16]}
    run = SimpleNamespace(folder=tmp_path / "run", task=TASKS["grades"])

    def write(folder):
        return dicom_results.write_dicom_results(
            run, [photograph], [row], folder=tmp_path / folder
        )

    assert write("before").num_reports == 1
    path.write_bytes(encode_dicom(EYES[0], **patient_tags(8)))  # another patient
    results = write("after")
    assert results.num_reports == 0
    assert list(results.problems) == ["eye.dcm"]
    assert list(results.folder.iterdir()) == []


def test_a_missing_highdicom_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with raises_naming(DrtfError, "pip install 'drtf[dicom]'"):
        dicom_results.check_can_write_dicom()


@pytest.fixture(scope="module")
def clinic_run(run_folder, save_rule, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clinic") / "run"
    shutil.copytree(run_folder, folder)
    save_rule(folder, 0.5)
    return folder


@pytest.fixture
def study(tmp_path) -> Path:
    """Both eyes of one patient, a file with a frame of each eye, and others."""
    folder = tmp_path / "study"
    folder.mkdir()
    left = encode_dicom(EYES[0], InstanceNumber=1, **patient_tags(1, "L"))
    right = pydicom.dcmread(
        io.BytesIO(encode_dicom(EYES[1], InstanceNumber=2, **patient_tags(1, "R")))
    )
    right.compress(pydicom.uid.JPEG2000Lossless)
    frames = encode_dicom(np.stack(EYES[2:4]), **patient_tags(2, "R"))
    files = {
        "1.dcm": left,
        "IM2": save_dicom(right),
        "frames.dcm": frames,
        "photo.jpg": encode(EYES[3], ".jpg"),
        "damaged.dcm": left[:20_000],
        "no_study.dcm": encode_dicom(EYES[0], PatientID="3"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_scoring_writes_dicom_results(clinic_run, study, tmp_path, run, monkeypatch):
    words = (
        *("score", clinic_run, "--images", study, "--out", tmp_path / "scores.csv"),
        *("--dicom-out", tmp_path / "results", "--dicom-heatmaps"),
        *("--max-rejected", "50%"),
    )
    code, out, _ = run(*words)
    assert code == 0
    assert_names(out, "photo.jpg", "damaged.dcm", "no_study.dcm", "SeriesInstanceUID")
    rows = {row["path"]: row for _, row in load_rows(tmp_path / "scores.csv")}
    text = (tmp_path / "scores.csv").read_text()
    assert "Kim" not in text
    assert "00001" not in text
    assert rows["1.dcm"]["patient"] == rows["IM2"]["patient"] != ""
    eyes = {path: row["eye"] for path, row in rows.items()}
    assert (eyes["1.dcm"], eyes["IM2"], eyes["frames.dcm#frame=2"]) == (
        *("left", "right"),
        "right",
    )
    results = sorted((tmp_path / "results").iterdir())
    reports, captures = [], []
    for path in results:
        check_conforms(path)
        dataset = pydicom.dcmread(path)
        (reports if dataset.Modality == "SR" else captures).append(dataset)
    assert (len(reports), len(captures)) == (3, 4)
    for report in map(hd.sr.ComprehensiveSR.from_dataset, reports):
        for group in report.content.get_image_measurement_groups():
            image = group.source_images[0]
            names = {
                pydicom.dcmread(study / name).SOPInstanceUID: name
                for name in ("1.dcm", "IM2", "frames.dcm")
            }
            path = names[image.referenced_sop_instance_uid]
            if frames := image.referenced_frame_numbers:
                path = f"{path}#frame={frames[0]}"
            assert measured(group)["score"] == float(rows[path]["score"])
            assert measured(group)["probability"] == float(rows[path]["probability"])
    for capture in captures:
        assert capture.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "not for diagnosis" in capture.SeriesDescription
        assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID in names
        assert capture.StudyInstanceUID in ("1.2.3.1", "1.2.3.2")
    before = {path.name: path.read_bytes() for path in results}
    shutil.rmtree(tmp_path / "results")
    assert run(*words, "--append")[0] == 0
    after = {x.name: x.read_bytes() for x in (tmp_path / "results").iterdir()}
    assert after == before
    # Of watching too, with the results that an interrupted call has not written.
    signals = iter([[], [], [signal.SIGTERM]])
    monkeypatch.setattr(
        watch, "wait_for_signal", lambda caught, _: caught.extend(next(signals))
    )
    min((tmp_path / "results").iterdir()).unlink()
    code, _, _ = run(*words[:-2], "--append", "--watch")
    after = {x.name: x.read_bytes() for x in (tmp_path / "results").iterdir()}
    assert (code, after) == (0, before)
    # What was written is no photograph.
    shutil.copytree(tmp_path / "results", study / "results")
    assert len(list_photographs(study).photographs) == len(rows)


def test_mercure_gives_a_folder_and_takes_the_results(
    clinic_run, study, tmp_path, run, monkeypatch
):
    out = tmp_path / "out"
    out.mkdir()
    settings = {"notify": "always", "set": {"score.threshold": 0.0}}
    task = {"id": "1", "process": {"module_name": "drtf", "settings": settings}}
    (study / "task.json").write_text(json.dumps(task))
    monkeypatch.setenv("MERCURE_IN_DIR", str(study))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(out))
    code, _, _ = run("score", clinic_run, "--mercure")
    assert code == 0
    result = json.loads((out / "result.json").read_text())
    assert len(result["photographs"]) == 7
    assert result["threshold"] == 0
    notification = result["__mercure_notification"]
    assert notification["requested"]
    assert_names(notification["text"], "6 of 7")
    assert "Kim" not in json.dumps(result)
    assert len(list(out.glob("*.dcm"))) == 3


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"heatmap": True}, ["process.settings.heatmap", "heatmaps"]),
        ({"notify": "sometimes"}, ["process.settings.notify"]),
        ("yes", ["process.settings"]),
    ],
)
def test_a_wrong_setting_of_mercure_is_named(settings, facts, tmp_path):
    (tmp_path / "task.json").write_text(json.dumps({"process": {"settings": settings}}))
    folders = dict.fromkeys(("MERCURE_IN_DIR", "MERCURE_OUT_DIR"), str(tmp_path))
    with raises_naming(DrtfError, "task.json", *facts):
        load_task(folders)


@pytest.mark.parametrize("text", ["{", "[1]", '{"process": []}', "{}"])
def test_a_task_without_settings_has_the_defaults_or_is_refused(text, tmp_path):
    (tmp_path / "task.json").write_text(text)
    folders = dict.fromkeys(("MERCURE_IN_DIR", "MERCURE_OUT_DIR"), str(tmp_path))
    if text == "{":
        with raises_naming(DrtfError, tmp_path / "task.json"):
            load_task(folders)
    else:
        assert not load_task(folders).settings.heatmaps


def test_a_missing_variable_of_mercure_is_named(tmp_path):
    with raises_naming(DrtfError, "MERCURE_OUT_DIR"):
        load_task({"MERCURE_IN_DIR": str(tmp_path)})

"""Synthetic photographs, and the folders written from them."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.config import LabelsConfig
from drtf.errors import DrtfError
from drtf.labels.sources import Source, load_sources
from drtf.synthetic import Eye, draw_photograph, is_synthetic
from drtf.synthetic.dataset import GRADE_FRACTIONS, plan_photographs, write_photographs
from drtf.synthetic.patient import CAMERAS
from naming import raises_naming

PATIENT_SEEDS = (0, 1, 5, 8, 11)  # one for each camera
CAMERA_BY_SIZE = {(camera.height, camera.width): camera for camera in CAMERAS}


def draw_thumbnail(*, patient_seed: int, eye: Eye) -> np.ndarray:
    """Return a healthy eye's green channel, float64 [48, 48]."""
    image = draw_photograph(0, patient_seed=patient_seed, eye=eye, seed=5).image
    small = cv2.resize(image[..., 1], (48, 48), interpolation=cv2.INTER_AREA)
    return small.astype(float)


def measure_lesions(grade: int, *, patient_seed: int) -> float:
    """Return the fraction of the frame that lesions cover."""
    lesions = draw_photograph(
        grade, patient_seed=patient_seed, eye="left", seed=0
    ).lesions
    return lesions.mean()


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_draw_photograph_gives_equal_pixels_for_equal_arguments():
    first = draw_photograph(4, patient_seed=3, eye="right", seed=8)
    second = draw_photograph(4, patient_seed=3, eye="right", seed=8)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.lesions, second.lesions)


@pytest.mark.parametrize(
    "changed", [{"seed": 9}, {"patient_seed": 4}, {"eye": "left"}], ids=str
)
def test_draw_photograph_gives_other_pixels_when_one_argument_differs(changed):
    arguments = {"patient_seed": 3, "eye": "right", "seed": 8}
    first = draw_photograph(0, **arguments).image
    second = draw_photograph(0, **(arguments | changed)).image
    assert not np.array_equal(first, second)


def test_lesions_grow_with_the_grade():
    areas = [
        np.mean([measure_lesions(grade, patient_seed=p) for p in PATIENT_SEEDS])
        for grade in range(4)
    ]
    assert areas[0] == 0
    assert areas[0] < areas[1] < areas[2] < areas[3]


@pytest.mark.parametrize("grade", [1, 2, 3, 4])
def test_every_diseased_eye_has_lesions(grade):
    assert all(measure_lesions(grade, patient_seed=p) > 0 for p in PATIENT_SEEDS[:3])


def test_lesions_change_the_marked_pixels_and_no_others():
    healthy = draw_photograph(0, patient_seed=2, eye="left", seed=1).image
    diseased = draw_photograph(3, patient_seed=2, eye="left", seed=1)
    change = np.abs(healthy.astype(int) - diseased.image).max(axis=-1)
    assert change[diseased.lesions].mean() > 20
    assert np.median(change[~diseased.lesions]) <= 2


@pytest.mark.parametrize("patient_seed", PATIENT_SEEDS)
def test_field_is_a_circle_on_black(patient_seed):
    photograph = draw_photograph(3, patient_seed=patient_seed, eye="left", seed=2)
    height, width = photograph.lesions.shape
    corner = height // 20
    assert photograph.image[:corner, :corner].max() < 16
    assert photograph.image[-corner:, -corner:].max() < 16
    assert photograph.image[height // 2, width // 2].mean() > 40
    radius = CAMERA_BY_SIZE[height, width].field_radius * height
    for row in (height // 4, height // 2):
        chord = np.ptp(np.flatnonzero(photograph.image[row].max(axis=-1) > 20))
        expected = 2 * np.sqrt(radius**2 - (row - height / 2) ** 2)
        assert chord == pytest.approx(expected, rel=0.06)
    outside = photograph.image.max(axis=-1) < 16
    assert not (photograph.lesions & cv2.erode(outside.astype(np.uint8), None)).any()


def test_every_camera_is_used():
    sizes = {
        draw_photograph(0, patient_seed=p, eye="left", seed=0).lesions.shape
        for p in PATIENT_SEEDS
    }
    assert sizes == set(CAMERA_BY_SIZE)


def test_optic_disc_is_on_the_nasal_side():
    right = sum(draw_thumbnail(patient_seed=p, eye="right") for p in PATIENT_SEEDS)
    left = sum(draw_thumbnail(patient_seed=p, eye="left") for p in PATIENT_SEEDS)
    difference = cv2.GaussianBlur(right - left, (0, 0), 1.5)
    assert np.unravel_index(difference.argmax(), difference.shape)[1] > 30
    assert np.unravel_index(difference.argmin(), difference.shape)[1] < 18


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"grade": 5}, ["grade", 5]),
        ({"grade": -1}, ["grade", -1]),
        ({"eye": "both"}, ["eye", "'both'"]),
        ({"patient_seed": -3}, ["patient_seed=-3"]),
        ({"seed": -1}, ["seed=-1"]),
    ],
    ids=str,
)
def test_draw_photograph_refuses_bad_arguments(arguments, facts):
    good = {"grade": 0, "patient_seed": 0, "eye": "left", "seed": 0}
    with raises_naming(ValueError, *facts):
        draw_photograph(**(good | arguments))


def test_plan_has_the_stated_fractions_of_grades():
    planned = plan_photographs(2000, seed=0)
    fractions = np.bincount([p.grade for p in planned], minlength=5) / len(planned)
    np.testing.assert_allclose(fractions, GRADE_FRACTIONS, atol=0.06)


def test_plan_keeps_both_eyes_within_one_grade():
    planned = plan_photographs(200, seed=1)
    differences = [
        abs(left.grade - right.grade)
        for left, right in zip(planned[::2], planned[1::2], strict=True)
    ]
    assert set(differences) == {0, 1}
    assert differences.count(0) > differences.count(1)


def test_longer_plan_starts_with_the_shorter_one():
    assert plan_photographs(9, seed=4)[:8] == plan_photographs(4, seed=4)


def test_write_photographs_gives_the_same_bytes_with_two_workers(tmp_path):
    write_photographs(tmp_path / "one", num_patients=3, seed=7, num_workers=1)
    write_photographs(tmp_path / "two", num_patients=3, seed=7, num_workers=2)
    assert read_bytes(tmp_path / "one") == read_bytes(tmp_path / "two")
    labels = [(tmp_path / name / "labels.csv").read_bytes() for name in ("one", "two")]
    assert labels[0] == labels[1]


def test_write_photographs_writes_a_file_for_each_row(tmp_path):
    labels = write_photographs(tmp_path, num_patients=2, seed=0, num_workers=1)
    with labels.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "level"]
    assert [name for name, _ in rows[:2]] == ["10_left", "10_right"]
    assert all(level in set("01234") for _, level in rows)
    assert {f"{name}.jpeg" for name, _ in rows} == set(read_bytes(tmp_path))


def test_write_photographs_refuses_a_folder_with_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("mine")
    with raises_naming(DrtfError, tmp_path / "labels.csv"):
        write_photographs(tmp_path, num_patients=1, seed=0)
    assert (tmp_path / "labels.csv").read_text() == "mine"


def test_synthetic_photographs_are_recognised_wherever_they_are_copied(tmp_path):
    write_photographs(tmp_path / "drawn", num_patients=1, seed=0, num_workers=1)
    images = tmp_path / "drawn" / "images"
    images.rename(tmp_path / "copied")
    for path in (tmp_path / "copied").iterdir():
        assert is_synthetic(path.read_bytes())
        # Everything that reads JPEG ignores the comment.
        assert cv2.imread(str(path)) is not None
    source = Source(tmp_path / "copied", tmp_path / "drawn" / "labels.csv")
    (facts,) = load_sources([source], LabelsConfig()).provenance
    assert facts["synthetic"]
    assert not is_synthetic(encode(draw_fundus(seed=0), ".jpeg"))

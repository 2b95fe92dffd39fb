import cv2
import numpy as np
import pytest

from drtf.images.gradability import gradability_flags, measure_statistics
from drtf.images.retina import build_thumbnail, find_field
from drtf.synthetic import draw_photograph


def flags_of(image):
    found = build_thumbnail(image)
    return gradability_flags(found, find_field(found))


@pytest.fixture(scope="module", params=range(4))
def fundus(request):
    image = draw_photograph(1, patient_seed=request.param, eye="left", seed=0).image
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def test_a_good_photograph_has_no_flags(fundus):
    assert flags_of(fundus) == ()


def test_a_fundus_that_fills_the_picture_has_no_flags(fundus):
    height, width = fundus.shape[:2]
    side = int(min(height, width) * 0.5)
    top, left = (height - side) // 2, (width - side) // 2
    inside = fundus[top : top + side, left : left + side]
    assert "not_a_fundus" not in flags_of(inside)


def test_a_dark_photograph_is_flagged_but_not_as_blurred(fundus):
    assert flags_of((fundus * 0.15).astype(np.uint8)) == ("too_dark",)


def test_a_blurred_photograph_is_flagged(fundus):
    sigma = max(fundus.shape) / 256 * 5
    assert flags_of(cv2.GaussianBlur(fundus, (0, 0), sigma)) == ("blurred",)


def test_sharpness_hardly_depends_on_exposure(fundus):
    thumbnail = build_thumbnail(fundus)
    field = find_field(thumbnail)
    darker = (thumbnail.image * 0.5).astype(np.uint8)
    bright, dark = (
        measure_statistics(image, field).sharpness
        for image in (thumbnail.image, darker)
    )
    assert dark == pytest.approx(bright, rel=0.15)


def test_a_black_photograph_has_no_field():
    assert flags_of(np.zeros((300, 300, 3), np.uint8)) == ("no_field",)


def draw_text():
    page = np.full((600, 400, 3), 245, np.uint8)
    for line in range(20):
        place = (20, 30 + 28 * line)
        cv2.putText(page, "a page of text", place, 0, 0.8, (20, 20, 20), 2)
    return page


@pytest.mark.parametrize(
    "image",
    [
        draw_text(),
        np.random.default_rng(0).integers(60, 256, (200, 200, 3), np.uint8),
        np.tile(np.linspace(0, 255, 400, dtype=np.uint8)[:, None, None], (1, 400, 3)),
        np.full((300, 300, 3), (70, 130, 200), np.uint8),
    ],
    ids=["text", "noise", "gradient", "blue"],
)
def test_other_pictures_are_flagged(image):
    assert flags_of(image) in (("no_field",), ("not_a_fundus",))


def test_swapped_channels_are_not_a_fundus(fundus):
    assert flags_of(fundus[..., ::-1]) == ("not_a_fundus",)
    gray = cv2.cvtColor(fundus, cv2.COLOR_RGB2GRAY)
    assert flags_of(np.dstack([gray] * 3)) == ("not_a_fundus",)

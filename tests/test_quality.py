import cv2
import numpy as np
import pytest

from drawing import draw_fundus
from drtf.images.quality import measure_quality
from drtf.images.retina import build_thumbnail, find_field


def measure(image: np.ndarray):
    found = build_thumbnail(image)
    return measure_quality(found, find_field(found.brightness))


def test_the_figures_of_a_field_that_is_known():
    image = np.zeros((200, 256, 3), np.uint8)
    cv2.circle(image, (128, 100), 80, (102, 102, 102), -1)
    quality = measure(image)
    assert quality.brightness == pytest.approx(0.4, abs=1e-3)
    assert quality.contrast == pytest.approx(0, abs=1e-3)
    assert quality.sharpness == pytest.approx(0, abs=1e-3)
    assert quality.field_fraction == pytest.approx(
        np.pi * 80**2 / (200 * 256), rel=0.05
    )
    assert not quality.is_black


def test_contrast_is_the_deviation_of_the_grey_levels():
    image = np.full((200, 256, 3), 80, np.uint8)
    image[:, 128:] = 120
    assert measure(image).contrast == pytest.approx(20 / 255, abs=1e-3)


def test_a_blurred_photograph_is_less_sharp():
    image = draw_fundus(seed=1, width=512, diseased=True)
    blurred = cv2.GaussianBlur(image, (0, 0), 6)
    assert measure(blurred).sharpness < 0.5 * measure(image).sharpness


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_figures_do_not_depend_on_the_photographs_size(scale):
    image = cv2.GaussianBlur(draw_fundus(seed=1, width=512), (0, 0), 3)
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    expected, found = measure(image), measure(large)
    assert found[:4] == pytest.approx(expected[:4], rel=0.1)


def test_black_is_what_has_nothing_lit():
    rng = np.random.default_rng(0)
    assert measure(rng.integers(0, 12, (200, 300, 3), np.uint8)).is_black
    dark = (draw_fundus(seed=1) * 0.12).astype(np.uint8)
    assert not measure(dark).is_black

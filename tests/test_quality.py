import cv2
import numpy as np
import pytest

from drawing import draw_fundus
from drtf.images.quality import measure_quality
from drtf.images.retina import build_thumbnail, find_field


def measure(image: np.ndarray):
    thumbnail = build_thumbnail(image)
    return measure_quality(thumbnail, find_field(thumbnail))


def test_quality_of_a_known_field():
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


def test_contrast_is_the_deviation_of_the_gray_levels():
    image = np.full((200, 256, 3), 80, np.uint8)
    image[:, 128:] = 120
    assert measure(image).contrast == pytest.approx(20 / 255, abs=1e-3)


def test_sharpness_is_lower_when_blurred():
    image = draw_fundus(seed=1, width=512, diseased=True)
    blurred = cv2.GaussianBlur(image, (0, 0), 6)
    assert measure(blurred).sharpness < 0.5 * measure(image).sharpness


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_quality_is_similar_when_the_photograph_is_larger(scale):
    image = cv2.GaussianBlur(draw_fundus(seed=1, width=512), (0, 0), 3)
    large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    expected, measured = measure(image), measure(large)
    assert measured[:4] == pytest.approx(expected[:4], rel=0.1)


def test_photograph_is_black_only_when_nothing_is_lit():
    rng = np.random.default_rng(0)
    assert measure(rng.integers(0, 12, (200, 300, 3), np.uint8)).is_black
    dark = (draw_fundus(seed=1) * 0.12).astype(np.uint8)
    assert not measure(dark).is_black

import cv2
import numpy as np
import pytest

from drtf.images.retina import Frame, cut, find_field, find_frame, survey

Box = tuple[int, int, int, int]


def find_retina(image: np.ndarray) -> Box | None:
    """Return the field's left, top, right and bottom in px of the photograph."""
    field = find_field(survey(image).brightness)
    if field is None:
        return None
    left, top, width, height = cv2.boundingRect(field)
    scale = image.shape[1] / field.shape[1]
    box = (left, top, left + width, top + height)
    return tuple(round(value * scale) for value in box)


def field(*, width=600, height=400, center=(300, 200), radius=180, light=160):
    image = np.zeros((height, width, 3), np.uint8)
    cv2.circle(image, center, radius, (light, light // 2, light // 3), -1)
    return image


def assert_near(box: Box | None, expected: Box, tolerance: int = 5) -> None:
    assert box is not None
    assert np.abs(np.subtract(box, expected)).max() <= tolerance


@pytest.mark.parametrize("light", [255, 160, 60, 25])
def test_the_field_is_found_however_dark(light):
    assert_near(find_retina(field(light=light)), (120, 20, 480, 380))


def test_a_field_cut_above_and_below_is_found():
    assert_near(find_retina(field(radius=240)), (60, 0, 540, 400))


def test_a_field_off_the_middle_is_found():
    found = find_retina(field(center=(220, 210), radius=150))
    assert_near(found, (70, 60, 370, 360))


def test_sensor_noise_does_not_widen_the_field():
    rng = np.random.default_rng(0)
    noisy = field().astype(int) + rng.integers(0, 9, (400, 600, 3))
    found = find_retina(np.clip(noisy, 0, 255).astype(np.uint8))
    assert_near(found, (120, 20, 480, 380))


def test_a_thin_flare_beside_the_field_is_left_out():
    image = field()
    cv2.line(image, (40, 0), (40, 399), (90, 90, 90), 3)
    assert_near(find_retina(image), (120, 20, 480, 380))


def test_a_photograph_that_is_all_field_is_kept_whole():
    assert find_retina(np.full((200, 300, 3), 120, np.uint8)) == (0, 0, 300, 200)


def test_a_black_photograph_has_no_field():
    assert find_retina(np.zeros((200, 300, 3), np.uint8)) is None


def test_a_speck_is_no_field():
    assert find_retina(field(radius=30)) is None


@pytest.mark.parametrize("shape", [(3264, 4928), (400, 600), (40, 64), (50, 400)])
def test_the_survey_has_a_longer_side_of_at_most_256_px(shape):
    height, width = survey(np.zeros((*shape, 3), np.uint8)).brightness.shape
    assert max(height, width) == min(256, max(shape))
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.05)


def test_flare_that_touches_the_field_does_not_reach_the_border():
    image = field()
    cv2.line(image, (300, 30), (300, 0), (120, 120, 120), 8)
    assert_near(find_retina(image), (120, 20, 480, 380), tolerance=8)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_the_frame_is_the_same_at_each_scale(scale):
    image = field(width=1600, height=1064, center=(760, 532), radius=470)
    frames = [
        find_frame(find_field(survey(x).brightness), x.shape, scale=s)
        for x, s in ((image, 1), (image[::scale, ::scale], scale))
    ]
    assert np.abs(np.subtract(*frames)).max() <= 16
    assert all(value % 8 == 0 for value in frames[1])
    left, top, side = frames[0]
    assert_near((left, top, left + side, top + side), (290, 62, 1230, 1002), 20)


def test_a_cut_reaches_outside_the_photograph_with_black():
    image = field(radius=240)
    square = cut(image, Frame(56, -40, 480), scale=1)
    assert square.shape == (480, 480, 3)
    assert (square[40:440] == image[:, 56:536]).all()
    assert not square[:40].any()
    assert not square[440:].any()
    assert cut(image[..., 0], Frame(-8, 0, 616), scale=8).shape == (77, 77)


def test_cutting_a_shrunk_photograph_gives_the_shrunk_cut():
    image = np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3)
    small = image[::4, ::4]
    frame = Frame(16, -8, 72)
    assert (cut(small, frame, scale=4) == cut(image, frame, scale=1)[::4, ::4]).all()

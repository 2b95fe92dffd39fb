import cv2
import numpy as np
import pytest

from drtf.images.retina import Square, build_thumbnail, crop, find_field, square_around

Box = tuple[int, int, int, int]


def find_retina(image: np.ndarray) -> Box | None:
    """Return the field's left, top, right and bottom in px of the photograph."""
    field = find_field(build_thumbnail(image))
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
def test_find_field_works_on_dark_and_bright_photographs(light):
    assert_near(find_retina(field(light=light)), (120, 20, 480, 380))


def test_find_field_finds_a_field_cut_off_at_top_and_bottom():
    assert_near(find_retina(field(radius=240)), (60, 0, 540, 400))


def test_find_field_finds_a_field_off_center():
    found = find_retina(field(center=(220, 210), radius=150))
    assert_near(found, (70, 60, 370, 360))


def test_find_field_ignores_sensor_noise():
    rng = np.random.default_rng(0)
    noisy = field().astype(int) + rng.integers(0, 9, (400, 600, 3))
    found = find_retina(np.clip(noisy, 0, 255).astype(np.uint8))
    assert_near(found, (120, 20, 480, 380))


def test_find_field_leaves_out_a_thin_flare():
    image = field()
    cv2.line(image, (40, 0), (40, 399), (90, 90, 90), 3)
    assert_near(find_retina(image), (120, 20, 480, 380))


def test_find_field_keeps_a_photograph_without_a_mask_whole():
    image = np.full((200, 300, 3), (180, 90, 60), np.uint8)
    assert find_retina(image) == (0, 0, 300, 200)


def surrounded(color, *, radius: int = 180) -> np.ndarray:
    image = field(radius=radius)
    image[image.max(axis=2) == 0] = color
    return image


SURROUNDS = {
    "white": (255, 255, 255),
    "paper": (250, 245, 235),
    "gray": (128, 128, 128),
    "dark gray": (40, 40, 40),
    "blue": (0, 0, 200),
}


@pytest.mark.parametrize("color", SURROUNDS.values(), ids=SURROUNDS)
def test_find_field_finds_a_field_on_a_surround_of_any_even_color(color):
    assert_near(find_retina(surrounded(color)), (120, 20, 480, 380))
    cut_off = find_retina(surrounded(color, radius=240))
    assert_near(cut_off, (60, 0, 540, 400))


def test_find_field_finds_a_field_whose_corners_were_made_white():
    square = surrounded((255, 255, 255))[20:380, 120:480]
    assert_near(find_retina(square), (0, 0, 360, 360))


def test_find_field_ignores_text_beside_the_field():
    for color, ink in (((255,) * 3, (0, 0, 0)), ((0,) * 3, (255,) * 3)):
        image = surrounded(color)
        cv2.putText(image, "OD 2024", (5, 25), 0, 0.8, ink, 2)
        assert_near(find_retina(image), (120, 20, 480, 380))


def test_find_field_finds_the_field_of_a_photograph_on_a_page():
    page = np.full((700, 900, 3), 255, np.uint8)
    page[100:500, 150:750] = field()
    assert_near(find_retina(page), (270, 120, 630, 480), tolerance=8)


@pytest.mark.parametrize("color", [(255,) * 3, (128,) * 3, (30, 60, 140)])
@pytest.mark.parametrize("turns", range(4))
def test_find_field_leaves_out_a_strip_that_touches_the_field(color, turns):
    strip = np.full((40, 360, 3), color, np.uint8)
    cv2.putText(strip, "OD 2024", (5, 28), 0, 0.8, (0, 0, 0), 2)
    image = np.rot90(np.vstack([field()[20:380, 120:480], strip]), turns)
    expected = [
        (0, 0, 360, 360),
        (0, 0, 360, 360),
        (0, 40, 360, 400),
        (40, 0, 400, 360),
    ]
    assert_near(find_retina(np.ascontiguousarray(image)), expected[turns])


@pytest.mark.parametrize("color", [(255,) * 3, (200,) * 3, (128,) * 3])
@pytest.mark.parametrize("width", [4, 15, 40])
def test_find_field_leaves_out_a_frame_and_its_caption(color, width):
    framed = cv2.copyMakeBorder(
        field(), *[width] * 4, borderType=cv2.BORDER_CONSTANT, value=color
    )
    caption = np.full((40, framed.shape[1], 3), (20, 40, 120), np.uint8)
    expected = (120 + width, 20 + width, 480 + width, 380 + width)
    assert_near(find_retina(framed), expected)
    assert_near(find_retina(np.vstack([framed, caption])), expected)


def test_find_field_ends_in_a_picture_of_nested_frames():
    image = np.zeros((256, 256, 3), np.uint8)
    for inset in range(127):
        image[inset : 256 - inset, inset : 256 - inset] = 100 + 60 * (inset % 2)
    assert find_retina(image) is None


def test_find_field_finds_a_red_free_field():
    gray = np.repeat(field()[..., :1], 3, axis=2)
    assert_near(find_retina(gray), (120, 20, 480, 380))


def shaded(width: int, height: int) -> np.ndarray:
    """A retina that fills the picture and is dark on one side."""
    light = np.linspace(200, 20, width)[None, :, None] * np.ones((height, 1, 1))
    return (light * (1, 0.5, 0.3)).astype(np.uint8)


def test_find_field_does_not_cut_through_a_retina_that_fills_the_picture():
    assert find_retina(shaded(400, 300)) in (None, (0, 0, 400, 300))


@pytest.mark.parametrize(
    "image",
    [
        np.hstack([field(), field()]),
        np.vstack([field(), field()]),
        np.hstack([surrounded((255, 255, 255))] * 2),
        np.hstack([field(radius=240)] * 2)[:, 60:1140],
        np.hstack([shaded(400, 300)] * 2),
        np.hstack([field(), field(light=20)]),
        np.hstack([field(light=20), field()]),
    ],
    ids=[
        *("side by side", "stacked", "on white", "touching", "without a mask"),
        *("dark second", "dark first"),
    ],
)
def test_find_field_finds_none_in_a_picture_of_two_eyes(image):
    assert find_retina(image) is None


def test_find_field_finds_none_of_which_half_is_missing():
    image = field()
    image[:, 300:] = 0
    assert find_retina(image) is None


def test_find_field_finds_none_with_gray_outside_and_the_average_subtracted():
    image = np.full((224, 224, 3), 128, np.uint8)
    texture = np.random.default_rng(0).integers(-20, 20, (28, 28, 3))
    texture = cv2.resize(texture.astype(np.float32), (224, 224))
    inside = np.zeros((224, 224), np.uint8)
    cv2.circle(inside, (112, 112), 100, 1, -1)
    image = np.where(inside[..., None], 128 + texture, image).astype(np.uint8)
    assert find_retina(image) is None


def test_find_field_returns_none_when_the_photograph_is_black():
    assert find_retina(np.zeros((200, 300, 3), np.uint8)) is None


def test_find_field_returns_none_when_only_a_speck_is_bright():
    assert find_retina(field(radius=30)) is None


@pytest.mark.parametrize("shape", [(3264, 4928), (400, 600), (40, 64), (50, 400)])
def test_a_thumbnail_is_at_most_256_px_long(shape):
    height, width = build_thumbnail(np.zeros((*shape, 3), np.uint8)).brightness.shape
    assert max(height, width) == min(256, max(shape))
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.05)


def test_find_field_cuts_off_flare_that_touches_the_field():
    image = field()
    cv2.line(image, (300, 30), (300, 0), (120, 120, 120), 8)
    assert_near(find_retina(image), (120, 20, 480, 380), tolerance=8)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_square_around_is_the_same_at_each_scale(scale):
    image = field(width=1600, height=1064, center=(760, 532), radius=470)
    frames = [
        square_around(find_field(build_thumbnail(x)), x.shape, scale=s)
        for x, s in ((image, 1), (image[::scale, ::scale], scale))
    ]
    assert np.abs(np.subtract(*frames)).max() <= 16
    assert all(value % 8 == 0 for value in frames[1])
    left, top, side = frames[0]
    assert_near((left, top, left + side, top + side), (290, 62, 1230, 1002), 20)


def test_crop_pads_with_black_outside_the_photograph():
    image = field(radius=240)
    square = crop(image, Square(56, -40, 480), scale=1)
    assert square.shape == (480, 480, 3)
    assert (square[40:440] == image[:, 56:536]).all()
    assert not square[:40].any()
    assert not square[440:].any()
    assert crop(image[..., 0], Square(-8, 0, 616), scale=8).shape == (77, 77)


def test_crop_of_a_shrunk_photograph_equals_the_shrunk_crop():
    image = np.arange(64 * 96 * 3, dtype=np.uint8).reshape(64, 96, 3)
    small = image[::4, ::4]
    frame = Square(16, -8, 72)
    assert (crop(small, frame, scale=4) == crop(image, frame, scale=1)[::4, ::4]).all()

import cv2
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.config import ImagesConfig
from drtf.errors import PhotographError
from drtf.images.preprocess import (
    decode_image,
    encode_image,
    equalize,
    preprocess_photograph,
)

FUNDUS = draw_fundus(seed=3, diseased=True, width=1200)
EXACT = ImagesConfig(decode="exact", crop="none")


def notebooks_way(data: bytes, size: int) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    lightness, a, b = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2LAB))
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    merged = cv2.merge((clahe.apply(lightness), a, b))
    equalized = cv2.cvtColor(merged, cv2.COLOR_LAB2BGR)
    return cv2.cvtColor(cv2.resize(equalized, (size, size)), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [96, 224])
def test_exact_is_the_notebooks_way_bit_for_bit(suffix, size):
    data = encode(FUNDUS, suffix)
    config = EXACT.model_copy(update={"size": size})
    assert (
        preprocess_photograph(data, config).image == notebooks_way(data, size)
    ).all()


def test_scaled_is_close_to_full_size_and_area_resize():
    data = encode(FUNDUS, ".jpg")
    full = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )
    full = equalize(full, clip_limit=2.0, tiles=8)
    expected = cv2.resize(full, (96, 96), interpolation=cv2.INTER_AREA)
    scaled = preprocess_photograph(data, ImagesConfig(crop="none")).image
    assert cv2.PSNR(scaled, expected) > 35


def test_the_crop_fills_the_image_with_the_field():
    config = ImagesConfig(crop="retina", contrast="none")
    result = preprocess_photograph(encode(FUNDUS), config)
    assert result.retina_found
    lit = result.image.max(axis=2) > 30
    assert lit[48, 2:94].all()
    assert lit[2:94, 48].all()
    assert not lit[:8, :8].any()


def test_a_photograph_without_a_field_is_kept_uncropped_and_said():
    black = np.zeros((200, 300, 3), np.uint8)
    result = preprocess_photograph(encode(black), ImagesConfig(crop="retina"))
    assert not result.retina_found
    assert result.image.shape == (96, 96, 3)


def test_what_opencv_cannot_process_is_set_aside_with_a_reason(monkeypatch):
    def fail(image):
        raise cv2.error("no kernel for it")

    monkeypatch.setattr("drtf.images.preprocess.find_retina", fail)
    with pytest.raises(PhotographError, match="unprocessable: no kernel for it"):
        preprocess_photograph(encode(FUNDUS), ImagesConfig(crop="retina"))


def test_a_small_photograph_is_enlarged():
    small = draw_fundus(seed=1, width=64)
    image = preprocess_photograph(encode(small), ImagesConfig(size=224)).image
    assert image.shape == (224, 224, 3)


def test_clahe_leaves_the_colour_and_raises_the_contrast():
    flat = (FUNDUS[300:600, 450:750] // 4 + 90).astype(np.uint8)
    equalized = equalize(flat, clip_limit=2.0, tiles=8)
    before, after = (cv2.cvtColor(x, cv2.COLOR_RGB2LAB) for x in (flat, equalized))
    assert after[..., 0].std() > 1.2 * before[..., 0].std()
    assert np.abs(after[..., 1:].astype(int) - before[..., 1:]).mean() < 3


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_lossless_encodings_are_undone_exactly(encoding):
    image = cv2.resize(FUNDUS, (96, 96))
    data = np.frombuffer(encode_image(image, encoding, jpeg_quality=90), np.uint8)
    assert (decode_image(data, encoding, size=96) == image).all()


def test_jpeg_encoding_keeps_the_picture_and_takes_less():
    image = cv2.resize(FUNDUS, (96, 96))
    data = np.frombuffer(encode_image(image, "jpeg", jpeg_quality=95), np.uint8)
    assert cv2.PSNR(decode_image(data, "jpeg", size=96), image) > 30
    assert len(data) < image.nbytes / 3

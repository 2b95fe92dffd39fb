import cv2
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.config import ImagesConfig
from drtf.errors import PhotographError
from drtf.images.preprocess import (
    decode_image,
    encode_image,
    equalize_lightness,
    preprocess_photograph,
    subtract_local_average,
)
from drtf.synthetic import draw_photograph
from naming import raises_naming

FUNDUS = draw_fundus(seed=3, diseased=True, width=1200)
EXACT = ImagesConfig(decode="exact", crop="none")


def equalize(image: np.ndarray) -> np.ndarray:
    lightness, a, b = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    lightness = equalize_lightness(lightness, clip_limit=2.0, tiles=8)
    return cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2RGB)


def notebooks_way(data: bytes, size: int) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    lightness, a, b = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2LAB))
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    merged = cv2.merge((clahe.apply(lightness), a, b))
    equalized = cv2.cvtColor(merged, cv2.COLOR_LAB2BGR)
    return cv2.cvtColor(cv2.resize(equalized, (size, size)), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [96, 224])
def test_exact_decoding_reproduces_the_notebook_bit_for_bit(suffix, size):
    data = encode(FUNDUS, suffix)
    config = EXACT.model_copy(update={"size": size})
    assert (
        preprocess_photograph(data, config).image == notebooks_way(data, size)
    ).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_scaled_decoding_is_close_to_full_size_processing(suffix):
    drawn = draw_photograph(2, patient_seed=1, eye="left", seed=2).image
    data = encode(cv2.resize(drawn, (1536, 1024)), suffix)
    full = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    full = equalize(cv2.cvtColor(full, cv2.COLOR_BGR2RGB))
    expected = cv2.resize(full, (96, 96), interpolation=cv2.INTER_AREA)
    scaled = preprocess_photograph(data, ImagesConfig(crop="none")).image
    assert cv2.PSNR(scaled, expected) > 38


def test_the_field_fills_the_cropped_image():
    config = ImagesConfig(crop="retina", contrast="none")
    result = preprocess_photograph(encode(FUNDUS), config)
    assert result.field is not None
    lit = result.image.max(axis=2) > 30
    assert lit[48, 2:94].all()
    assert lit[2:94, 48].all()
    assert not lit[:8, :8].any()


def test_a_photograph_without_a_field_is_kept_whole_and_reported():
    speck = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(speck, (150, 100), 20, (200, 120, 80), -1)
    config = ImagesConfig(crop="retina", contrast="none")
    result = preprocess_photograph(encode(speck), config)
    assert result.field is None
    lit = result.image.max(axis=2) > 100
    height, width = lit.any(axis=1).sum(), lit.any(axis=0).sum()
    assert abs(height - width) <= 1  # padded to a square, not squeezed into one


@pytest.mark.parametrize(
    ("light", "reason"), [(0, "black"), (9, "black"), (255, "blank")]
)
def test_a_blank_photograph_is_refused_by_default(light, reason):
    data = encode(np.full((200, 300, 3), light, np.uint8))
    with pytest.raises(PhotographError) as caught:
        preprocess_photograph(data, ImagesConfig())
    assert caught.value.reason == reason
    kept = preprocess_photograph(data, ImagesConfig(reject_blank=False))
    assert kept.quality.is_black == (reason == "black")


def test_a_small_field_is_decoded_at_a_larger_scale():
    large = np.zeros((1200, 1600, 3), np.uint8)
    large[400:760, 500:980] = cv2.resize(FUNDUS, (480, 360))
    config = ImagesConfig(contrast="none")
    small = preprocess_photograph(encode(large, ".jpg"), config).image
    exact = preprocess_photograph(encode(large), config).image
    assert cv2.PSNR(small, exact) > 32


@pytest.mark.parametrize(("contrast", "outside"), [("clahe", 0), ("graham", 128)])
@pytest.mark.parametrize("crop", ["none", "retina"])
def test_a_mask_paints_the_outside_of_the_field(contrast, outside, crop):
    marked = FUNDUS.copy()
    cv2.putText(marked, "OD 21", (20, 60), 0, 2, (255, 255, 255), 4)
    config = ImagesConfig(contrast=contrast, mask=True, crop=crop)
    image = preprocess_photograph(encode(marked), config).image
    assert (image[:12, :12] == outside).all()
    assert not (image[40:56, 40:56] == outside).all()


def test_subtract_local_average_centers_the_image_on_gray():
    """On a flat field with one step, what is left is gray but for the step's edge."""
    image = np.full((120, 120, 3), 90, np.uint8)
    image[:, 60:] = 120
    out = subtract_local_average(image)
    assert (out[:, :50] == 128).all()
    assert (out[:, 70:] == 128).all()
    # At the step, the average is half way: 128 -+ 4 * 15, minus the blur within one px.
    assert 70 <= out[60, 59, 0] <= 84
    assert 172 <= out[60, 60, 0] <= 186


def test_an_opencv_error_becomes_a_photograph_error(monkeypatch):
    def fail(image):
        raise cv2.error("no kernel for it")

    monkeypatch.setattr("drtf.images.preprocess.build_thumbnail", fail)
    with raises_naming(PhotographError, "no kernel for it") as error:
        preprocess_photograph(encode(FUNDUS), ImagesConfig(crop="retina"))
    assert error.value.reason == "unprocessable"


def test_a_small_photograph_is_enlarged():
    small = draw_fundus(seed=1, width=64)
    image = preprocess_photograph(encode(small), ImagesConfig(size=224)).image
    assert image.shape == (224, 224, 3)


def test_clahe_raises_the_contrast_and_keeps_the_color():
    flat = (FUNDUS[300:600, 450:750] // 4 + 90).astype(np.uint8)
    equalized = equalize(flat)
    before, after = (cv2.cvtColor(x, cv2.COLOR_RGB2LAB) for x in (flat, equalized))
    assert after[..., 0].std() > 1.2 * before[..., 0].std()
    assert np.abs(after[..., 1:].astype(int) - before[..., 1:]).mean() < 3


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_lossless_encodings_decode_exactly(encoding):
    image = cv2.resize(FUNDUS, (96, 96))
    data = np.frombuffer(encode_image(image, encoding, jpeg_quality=90), np.uint8)
    assert (decode_image(data, encoding, size=96) == image).all()


def test_jpeg_encoding_is_smaller_and_nearly_the_same():
    image = cv2.resize(FUNDUS, (96, 96))
    data = np.frombuffer(encode_image(image, "jpeg", jpeg_quality=95), np.uint8)
    assert cv2.PSNR(decode_image(data, "jpeg", size=96), image) > 30
    assert len(data) < image.nbytes / 3

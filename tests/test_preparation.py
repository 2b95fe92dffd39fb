import cv2
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.config import ImagesConfig
from drtf.data.preparation import Prepared, prepare_photograph
from drtf.errors import PhotographError
from drtf.images.preprocess import preprocess_photograph

IMAGES = ImagesConfig(size=48)


@pytest.fixture(scope="module")
def photograph():
    return encode(draw_fundus(seed=1))


def prepare(photograph, **settings):
    settings = {"encoding": "raw", "jpeg_quality": 95} | settings
    return prepare_photograph(photograph, images=IMAGES, **settings)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_photograph_comes_as_it_was_preprocessed(photograph, encoding):
    found = prepare(photograph, encoding=encoding)
    assert (found.image == preprocess_photograph(photograph, IMAGES).image).all()
    assert found.picture is None
    assert not found.error


def test_the_loss_of_jpeg_is_in_it(photograph):
    image = preprocess_photograph(photograph, IMAGES).image
    found = prepare(photograph, encoding="jpeg", jpeg_quality=30)
    options = [cv2.IMWRITE_JPEG_QUALITY, 30]
    _, stored = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    expected = cv2.cvtColor(cv2.imdecode(stored, 1), cv2.COLOR_BGR2RGB)
    assert (found.image == expected).all()
    assert (found.image != image).any()


def test_a_picture_is_of_another_size(photograph):
    found = prepare(photograph, picture_size=96)
    large = ImagesConfig(size=96)
    assert (found.picture == preprocess_photograph(photograph, large).image).all()
    assert found.image.shape == (48, 48, 3)


def test_flags_come_along():
    rng = np.random.default_rng(1)
    patches = rng.integers(0, 255, (30, 30, 3)).astype(np.uint8)
    other = encode(np.kron(patches, np.ones((10, 10, 1), np.uint8)))
    assert prepare(other).flags == ("not_a_fundus",)


@pytest.mark.parametrize("handle", [b"", PhotographError("unreadable", "gone")])
def test_why_there_is_none_is_told(handle):
    found = prepare(handle)
    assert found == Prepared(error=found.error)
    assert found.error

import functools
import os
import signal

import cv2
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.config import BuildConfig, ImagesConfig
from drtf.images.preprocess import preprocess_photograph
from drtf.photographs.prepare import (
    Rejected,
    map_photographs,
    prepare,
    prepare_for_network,
    prepare_for_shard,
)
from drtf.photographs.references import PhotographRef
from drtf.workers import TIMEOUT_SIGNAL

IMAGES = ImagesConfig(size=48)
PHOTOGRAPH = encode(draw_fundus(seed=1))


@pytest.fixture
def photograph(tmp_path):
    return write_photograph(tmp_path, PHOTOGRAPH)


def write_photograph(folder, data):
    (folder / "eye.png").write_bytes(data)
    return PhotographRef(folder, "eye.png")


def network_input(photograph, **settings):
    settings = {"encoding": "raw", "jpeg_quality": 95} | settings
    return prepare_for_network(photograph, images=IMAGES, **settings)


def test_prepare_reads_and_preprocesses(photograph):
    prepared = prepare(photograph, images=IMAGES)
    expected = preprocess_photograph(PHOTOGRAPH, IMAGES)
    assert prepared.path == "eye.png"
    assert prepared.data == PHOTOGRAPH
    assert (prepared.preprocessed.image == expected.image).all()
    assert prepared.preprocessed.quality == expected.quality
    assert prepared.picture is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"text", "not_an_image"), (None, "unreadable")],
)
def test_prepare_rejects_with_reason_and_path(tmp_path, data, reason):
    (tmp_path / "labels.csv").touch()
    photograph = PhotographRef(tmp_path, "eye.png")
    if data is not None:
        write_photograph(tmp_path, data)
    rejected = prepare(photograph, images=IMAGES)
    assert isinstance(rejected, Rejected)
    assert (rejected.path, rejected.reason) == ("eye.png", reason)
    assert str(rejected) == f"{reason}: {rejected.detail}"
    assert network_input(photograph) == rejected
    assert prepare_for_shard(photograph, images=IMAGES, build=BuildConfig()) == rejected


def crash(photograph, cause):
    os.kill(os.getpid(), cause)


@pytest.mark.parametrize("cause", [signal.SIGSEGV, TIMEOUT_SIGNAL])
def test_rejection_when_a_photograph_crashes_its_worker(photograph, cause):
    function = functools.partial(crash, cause=cause)
    (rejected,) = map_photographs(function, [photograph], num_workers=0)
    assert (rejected.path, rejected.reason) == ("eye.png", "unprocessable")


def test_shard_image_when_raw(photograph):
    stored = prepare_for_shard(photograph, images=IMAGES, build=BuildConfig())
    expected = preprocess_photograph(PHOTOGRAPH, IMAGES)
    assert stored.data == expected.image.tobytes()
    assert stored.sha256 == photograph.sha256()
    assert stored.has_field == (expected.field is not None)
    assert stored.quality == expected.quality


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_network_input_when_encoding_is_lossless(photograph, encoding):
    prepared = network_input(photograph, encoding=encoding)
    assert (prepared.image == preprocess_photograph(PHOTOGRAPH, IMAGES).image).all()
    assert prepared.picture is None


def test_network_input_when_encoding_is_jpeg(photograph):
    image = preprocess_photograph(PHOTOGRAPH, IMAGES).image
    prepared = network_input(photograph, encoding="jpeg", jpeg_quality=30)
    options = [cv2.IMWRITE_JPEG_QUALITY, 30]
    _, stored = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    expected = cv2.cvtColor(cv2.imdecode(stored, 1), cv2.COLOR_BGR2RGB)
    assert (prepared.image == expected).all()
    assert (prepared.image != image).any()


def test_network_input_when_a_picture_is_requested(photograph):
    prepared = network_input(photograph, picture_size=96)
    large = ImagesConfig(size=96)
    assert (prepared.picture == preprocess_photograph(PHOTOGRAPH, large).image).all()
    assert prepared.image.shape == (48, 48, 3)


def test_network_input_when_no_field_is_found(tmp_path):
    rng = np.random.default_rng(1)
    patches = rng.integers(0, 255, (30, 30, 3)).astype(np.uint8)
    other = encode(np.kron(patches, np.ones((10, 10, 1), np.uint8)))
    assert network_input(write_photograph(tmp_path, other)).flags == ("no_field",)

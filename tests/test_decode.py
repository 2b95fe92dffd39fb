import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from drawing import draw_fundus, encode
from drtf.errors import PhotographError
from drtf.images.decode import decode_photograph

FUNDUS = draw_fundus(seed=1, width=640)


def reason_of(data: bytes) -> str:
    with pytest.raises(PhotographError) as caught:
        decode_photograph(data)
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_formats_give_the_pixels(suffix):
    assert (decode_photograph(encode(FUNDUS, suffix)) == FUNDUS).all()


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_give_nearly_the_pixels(suffix):
    assert cv2.PSNR(decode_photograph(encode(FUNDUS, suffix)), FUNDUS) > 30


@pytest.mark.parametrize(
    ("min_side", "shape"),
    [
        (0, (480, 640)),
        (241, (480, 640)),
        (240, (240, 320)),
        (61, (120, 160)),
        (60, (60, 80)),
        (1, (60, 80)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_with_pixels_enough(min_side, shape):
    image = decode_photograph(encode(FUNDUS, ".jpg"), min_side=min_side)
    assert image.shape == (*shape, 3)


def test_a_png_is_never_decoded_at_a_smaller_scale():
    image = decode_photograph(encode(FUNDUS), min_side=32)
    assert image.shape == FUNDUS.shape


def test_a_photograph_stands_upright_as_its_exif_says(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise puts it upright
    Image.fromarray(FUNDUS).save(path, exif=exif, quality=95)
    image = decode_photograph(path.read_bytes())
    assert cv2.PSNR(image, np.ascontiguousarray(np.rot90(FUNDUS, -1))) > 30


def test_grey_and_cmyk_become_rgb(tmp_path):
    for mode in ("L", "CMYK"):
        path = tmp_path / f"{mode}.jpg"
        Image.fromarray(FUNDUS).convert(mode).save(path)
        assert decode_photograph(path.read_bytes()).shape == FUNDUS.shape


def test_an_empty_file_is_set_aside():
    assert reason_of(b"") == "empty"


def test_a_text_is_no_image():
    assert reason_of(b"not a photograph, whatever its name says" * 9) == "not_an_image"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_jpeg_is_not_taken_for_a_picture(share):
    data = encode(FUNDUS, ".jpg")
    assert reason_of(data[: int(len(data) * share)]) == "undecodable"


def test_a_png_with_damaged_data_is_undecodable():
    data = bytearray(encode(FUNDUS))
    data[len(data) // 2] ^= 0xFF
    assert reason_of(bytes(data)) == "undecodable"


def test_a_picture_that_declares_a_huge_size_is_refused_before_it_is_decoded():
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    assert reason_of(data) == "too_large"


@pytest.mark.parametrize("shape", [(40, 2000, 3), (20_000, 32, 3)])
def test_a_strip_is_set_aside(shape):
    assert reason_of(encode(np.zeros(shape, np.uint8))) == "too_narrow"


@pytest.mark.parametrize("shape", [(1, 1, 3), (31, 400, 3)])
def test_a_tiny_picture_is_set_aside(shape):
    assert reason_of(encode(np.zeros(shape, np.uint8))) == "too_small"

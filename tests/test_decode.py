import importlib.util
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from drawing import draw_fundus, encode
from drtf.errors import PhotographError
from drtf.images.decode import decode_photograph
from naming import raises_naming

FUNDUS = draw_fundus(seed=1, width=640)


def reason_of(data: bytes) -> str:
    with pytest.raises(PhotographError) as caught:
        decode_photograph(data)
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_formats_decode_to_the_exact_pixels(suffix):
    assert (decode_photograph(encode(FUNDUS, suffix)).image == FUNDUS).all()


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_decode_to_nearly_the_same_pixels(suffix):
    assert cv2.PSNR(decode_photograph(encode(FUNDUS, suffix)).image, FUNDUS) > 30


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
def test_a_jpeg_is_decoded_at_the_smallest_sufficient_scale(min_side, shape):
    image, scale = decode_photograph(encode(FUNDUS, ".jpg"), min_side=min_side)
    assert image.shape == (*shape, 3)
    assert scale == 480 // shape[0]


def test_other_formats_are_shrunk_by_averaging_blocks():
    odd = FUNDUS[:477, :633]
    image, scale = decode_photograph(encode(odd), min_side=100)
    assert (image.shape, scale) == ((120, 159, 3), 4)
    blocks = odd[:476, :632].reshape(119, 4, 158, 4, 3).mean(axis=(1, 3))
    assert abs(image[:119, :158] - blocks).max() <= 1


def test_all_formats_shrink_to_nearly_the_same_picture():
    jpeg = decode_photograph(encode(FUNDUS, ".jpg"), min_side=100).image
    png = decode_photograph(encode(FUNDUS), min_side=100).image
    assert cv2.PSNR(jpeg, png) > 30


def test_exif_rotation_is_applied(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise puts it upright
    Image.fromarray(FUNDUS).save(path, exif=exif, quality=95)
    image = decode_photograph(path.read_bytes()).image
    assert cv2.PSNR(image, np.ascontiguousarray(np.rot90(FUNDUS, -1))) > 30


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "TIFF"),
        ("P", "TIFF"),
    ],
)
def test_all_color_modes_become_rgb(mode, kind):
    image = Image.fromarray(FUNDUS).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    found = decode_photograph(saved(image, kind)).image
    assert cv2.PSNR(found, expected) > (22 if mode == "CMYK" else 30)


def test_progressive_and_multi_picture_jpegs_are_decoded_scaled():
    image = Image.fromarray(FUNDUS)
    for data in (
        saved(image, "JPEG", progressive=True),
        saved(image, "MPO", save_all=True, append_images=[image]),
    ):
        assert decode_photograph(data, min_side=100).image.shape == (120, 160, 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_samples_become_their_upper_8_bits(suffix):
    data = encode(FUNDUS.astype(np.uint16) * 257, suffix)
    difference = abs(decode_photograph(data).image.astype(int) - FUNDUS)
    assert difference.max() <= (0 if suffix == ".png" else 255)
    assert difference.mean() < 1


def encode_tiff(samples: np.ndarray) -> bytes:
    """Encode samples of any type as a TIFF file of one strip."""
    height, width, channels = samples.shape
    bits = 8 * samples.dtype.itemsize
    sample_format = {"u": 1, "i": 2, "f": 3, "c": 6}[samples.dtype.kind]
    start = 8 + 2 + 12 * 9 + 4
    tags = [
        (256, 1, width),
        (257, 1, height),
        (258, channels, bits if channels == 1 else start),
        (262, 1, 1 if channels == 1 else 2),
        (273, 1, start + 4 * channels),
        (277, 1, channels),
        (278, 1, height),
        (279, 1, samples.nbytes),
        (339, channels, sample_format if channels == 1 else start + 2 * channels),
    ]
    return b"".join(
        [
            struct.pack("<2sHIH", b"II", 42, 8, len(tags)),
            *(
                struct.pack("<HHII", tag, 3 if tag in (258, 339) else 4, count, value)
                for tag, count, value in tags
            ),
            bytes(4),
            struct.pack(f"<{channels}H", *[bits] * channels),
            struct.pack(f"<{channels}H", *[sample_format] * channels),
            samples.tobytes(),
        ]
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("i1", 0.5),
        ("i2", 1),
        ("i2", 16),
        ("i2", 128),
        ("i4", 1),
        ("i4", 257),
        ("f4", 1),
        ("f4", 1 / 255),
        ("f8", 1),
        ("f8", 1 / 255),
    ],
)
def test_signed_and_floating_point_samples_are_scaled(kind, scale, channels):
    photograph = FUNDUS[..., :channels].copy()
    photograph[0, 0] = 255
    samples = (photograph.astype(float) * scale).astype(kind)
    image = decode_photograph(encode_tiff(samples)).image.astype(int)
    assert abs(image - photograph).max() <= (kind == "i1")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "value", "name"),
    [
        ("i1", -5, "int8"),
        ("i2", -5, "int16"),
        ("i4", -5, "int32"),
        ("f4", -0.5, "float32"),
        ("f4", np.nan, "float32"),
        ("f4", 256, "float32"),
        ("f8", np.inf, "float64"),
        ("f2", 1, "floating-point 16-bit"),
        ("u4", 1, "unsigned 32-bit"),
        ("i8", 1, "signed 64-bit"),
        ("c8", 1, "complex 64-bit"),
    ],
)
def test_samples_without_a_range_are_refused_by_type(kind, value, name, channels):
    samples = np.zeros((64, 64, channels), kind)
    samples[0, 0] = value
    with raises_naming(PhotographError, name) as error:
        decode_photograph(encode_tiff(samples))
    assert error.value.reason == "unsupported"


def test_alpha_of_floating_point_samples_is_refused():
    assert reason_of(encode_tiff(np.ones((64, 64, 4), "f4"))) == "unsupported"


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_floating_point_samples_of_a_further_page_are_decoded(tmp_path, scale):
    path = tmp_path / "pages.tiff"
    large = (FUNDUS[..., ::-1] * scale).astype(np.float32)
    cv2.imwritemulti(str(path), [large[::4, ::4], large])  # compressed as LogLuv
    assert cv2.PSNR(decode_photograph(path.read_bytes()).image, FUNDUS) > 35


def test_a_portable_floatmap_is_scaled():
    gray = Image.fromarray((FUNDUS[..., 1] / 255).astype(np.float32))
    assert (decode_photograph(saved(gray, "PPM")).image == FUNDUS[..., 1:2]).all()


@pytest.mark.parametrize(
    ("kind", "decibels"), [("GIF", 25), ("PPM", 60), ("JPEG2000", 60)]
)
def test_further_formats_are_decoded(kind, decibels):
    data = saved(Image.fromarray(FUNDUS), kind)
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > decibels


@pytest.mark.parametrize(
    ("kind", "module"), [("HEIF", "pillow_heif"), ("AVIF", "PIL.AvifImagePlugin")]
)
def test_pictures_of_phones_are_decoded_where_a_library_is_installed(kind, module):
    library = pytest.importorskip(module)
    if kind == "HEIF":
        library.register_heif_opener()
    data = saved(Image.fromarray(FUNDUS), kind, quality=90)
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 30


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypisom", "video"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"FUJIFILMCCD-RAW", "raw"),
        (b"\xff\xd8\xff\xc1\0\x11\x0c", "12 bits"),
        (b"\xff\xd8\xff\xf7\0\x11\x08", "JPEG-LS"),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_named(head, name):
    with raises_naming(PhotographError, name) as error:
        decode_photograph(head + bytes(200))
    assert error.value.reason == "unsupported"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_files_are_scaled_by_the_bits_in_use(bits, suffix):
    used = FUNDUS.astype(np.uint16) << (bits - 8)
    used[0, 0] = (1 << bits) - 1
    image = decode_photograph(encode(used, suffix)).image
    assert (image[1:] == FUNDUS[1:]).all()


@pytest.mark.parametrize("largest", [15, 255, 1023, 65535])
def test_a_portable_graymap_is_scaled_by_the_maximum_it_declares(largest):
    gray = (FUNDUS[..., 1].astype(np.uint32) * largest // 255).astype(
        ">u2" if largest > 255 else np.uint8
    )
    height, width = gray.shape
    data = f"P5 {width} {height} {largest}\n".encode() + gray.tobytes()
    image = decode_photograph(data).image.astype(int)
    assert abs(image - FUNDUS[..., 1:2]).max() <= 255 // largest + 1


def test_a_missing_library_for_heic_is_named(monkeypatch):
    data = b"\0\0\0\x18ftypheic" + bytes(200)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises_naming(PhotographError, "HEIC", "pip install 'drtf[heif]'") as error:
        decode_photograph(data)
    assert error.value.reason == "unsupported"
    monkeypatch.undo()
    if importlib.util.find_spec("pillow_heif"):
        assert reason_of(data) == "undecodable"


def test_hidden_colors_of_transparent_pixels_are_black():
    alpha = np.full(FUNDUS.shape[:2], 255, np.uint8)
    alpha[:, :100] = 0
    white = FUNDUS.copy()
    white[:, :100] = 255
    for kind in ("PNG", "TIFF"):
        data = saved(Image.fromarray(np.dstack([white, alpha])), kind)
        image = decode_photograph(data).image
        assert not image[:, :100].any()
        assert (image[:, 100:] == FUNDUS[:, 100:]).all()
    hidden = np.dstack([FUNDUS, np.zeros_like(alpha)])
    image = decode_photograph(saved(Image.fromarray(hidden), "PNG")).image
    assert (image == FUNDUS).all()  # no picture is transparent everywhere on purpose


def test_exif_rotation_is_applied_to_webp():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(FUNDUS), "WEBP", exif=exif, lossless=True)
    assert (decode_photograph(data).image == np.rot90(FUNDUS, -1)).all()


@pytest.mark.parametrize("order", [1, -1])
def test_the_largest_page_of_a_tiff_is_decoded(order):
    large = Image.fromarray(FUNDUS)
    pages = [large, large.resize((64, 48)), large.resize((320, 240))][::order]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert (decode_photograph(data).image == FUNDUS).all()


def test_a_tiff_with_pages_of_the_same_size_is_refused():
    pages = [Image.fromarray(FUNDUS)] * 3
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with raises_naming(PhotographError, "3 pages") as error:
        decode_photograph(data)
    assert error.value.reason == "unsupported"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "PNG"])
def test_a_file_with_several_pictures_is_refused(kind):
    if kind == "AVIF":
        pytest.importorskip("PIL.AvifImagePlugin")
    first, second = (
        Image.fromarray(draw_fundus(seed=seed, width=64)) for seed in (1, 2)
    )
    data = saved(first, kind, save_all=True, append_images=[second])
    with raises_naming(PhotographError, kind) as error:
        decode_photograph(data)
    assert error.value.reason == "unsupported"


def test_a_damaged_picture_is_named_without_the_words_of_a_library(monkeypatch):
    def fail(*_):
        raise TypeError("'>' not supported between instances of 'str' and 'int'")

    data = saved(Image.fromarray(FUNDUS), "GIF")
    monkeypatch.setattr("drtf.images.decode.ImageOps.exif_transpose", fail)
    with raises_naming(PhotographError, "GIF") as error:
        decode_photograph(data)
    assert "instances" not in str(error.value)


def test_an_empty_file_is_refused():
    assert reason_of(b"") == "empty"


def test_a_text_file_is_refused():
    assert reason_of(b"not a photograph, whatever its name says" * 9) == "not_an_image"


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_a_truncated_jpeg_is_refused(fraction):
    data = encode(FUNDUS, ".jpg")
    assert reason_of(data[: int(len(data) * fraction)]) == "undecodable"


def test_a_damaged_png_is_undecodable():
    data = bytearray(encode(FUNDUS))
    data[len(data) // 2] ^= 0xFF
    assert reason_of(bytes(data)) == "undecodable"


def test_a_huge_declared_size_is_refused_before_decoding():
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    assert reason_of(data) == "too_large"


@pytest.mark.parametrize("shape", [(40, 2000, 3), (20_000, 32, 3)])
def test_a_narrow_strip_is_refused(shape):
    assert reason_of(encode(np.zeros(shape, np.uint8))) == "too_narrow"


@pytest.mark.parametrize("shape", [(1, 1, 3), (31, 400, 3)])
def test_a_tiny_picture_is_refused(shape):
    assert reason_of(encode(np.zeros(shape, np.uint8))) == "too_small"


def test_any_error_of_pillow_becomes_a_photograph_error(monkeypatch):
    def fail(file):
        raise NotImplementedError("Unknown pixel format flags")

    monkeypatch.setattr("drtf.images.decode.Image.open", fail)
    with pytest.raises(PhotographError) as caught:
        decode_photograph(b"DDS " + bytes(200))
    assert caught.value.reason == "not_an_image"


def many_scans(num_scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG file."""
    image = draw_fundus(seed=1)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    data = cv2.imencode(".jpg", image, options)[1].tobytes()
    start = data.rindex(b"\xff\xda")
    num_more = num_scans - data.count(b"\xff\xda")
    return data[:-2] + data[start:-2] * num_more + data[-2:]


def test_a_jpeg_with_very_many_scans_is_refused():
    decode_photograph(many_scans(30))
    with raises_naming(PhotographError, 100) as error:
        decode_photograph(many_scans(101))
    assert error.value.reason == "unsupported"


def test_scans_are_counted_only_within_the_picture():
    """A phone appends a video, and embeds a thumbnail."""
    data = encode(draw_fundus(seed=1), ".jpg")
    other = b"\xff\xda" * 200
    comment = b"\xff\xfe" + (len(other) + 2).to_bytes(2, "big") + other
    decode_photograph(data[:2] + comment + data[2:] + other)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_lack_of_memory_is_not_taken_for_damage(monkeypatch, suffix):
    data = encode(draw_fundus(seed=1), suffix)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with raises_naming(PhotographError, "undecodable"):
        decode_photograph(data)
    monkeypatch.setattr("drtf.images.decode.DECODING_BYTES_PER_PIXEL", 1 << 40)
    with pytest.raises(MemoryError):
        decode_photograph(data)

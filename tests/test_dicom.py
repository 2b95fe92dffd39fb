import functools
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from drawing import draw_fundus, encode
from drtf.config import BuildConfig, ImagesConfig
from drtf.errors import PhotographError
from drtf.images import dicom_files
from drtf.images.decode import decode_photograph
from drtf.images.dicom_files import PIXEL_TAGS, extract_frame
from drtf.photographs.prepare import Rejected, map_photographs, prepare_for_shard
from drtf.photographs.references import PhotographRef
from naming import raises_naming

pydicom = pytest.importorskip("pydicom")
gdcm = pytest.importorskip("gdcm")
from encoding_dicom import encode_dicom, save_dicom  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

FUNDUS = draw_fundus(seed=1, width=640)


def dicom(pixels: bytes, syntax=ExplicitVRLittleEndian, **tags: object) -> bytes:
    size = {"Rows": FUNDUS.shape[0], "Columns": FUNDUS.shape[1]}
    return encode_dicom(pixels, syntax, **(size | tags))


def gray(bits: int, **changes: object) -> dict[str, object]:
    allocated = 8 if bits == 8 else 16
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
    } | changes


def reason_of(data: bytes) -> str:
    with pytest.raises(PhotographError) as caught:
        decode_photograph(data)
    return caught.value.reason


def test_raw_rgb_decodes_to_the_exact_pixels():
    assert (decode_photograph(dicom(FUNDUS.tobytes())).image == FUNDUS).all()


def test_an_embedded_jpeg_is_decoded_scaled():
    jpeg = encode(FUNDUS, ".jpg")
    data = dicom(
        encapsulate([jpeg]), JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422"
    )
    expected = decode_photograph(jpeg, min_side=100)
    found = decode_photograph(data, min_side=100)
    assert found.scale == expected.scale == 4
    assert (found.image == expected.image).all()


def test_an_embedded_jpeg_of_another_size_than_declared_is_refused():
    pixels = encapsulate([encode(FUNDUS, ".jpg")])
    data = dicom(
        pixels, JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422", Rows=100
    )
    with raises_naming(PhotographError, "640x100") as error:
        decode_photograph(data)
    assert error.value.reason == "undecodable"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_gray_of_any_bit_depth_becomes_8_bits(bits):
    level = FUNDUS[..., 1].astype(np.uint16) << (bits - 8)
    stored = level.astype(np.uint8 if bits == 8 else np.uint16)
    image = decode_photograph(dicom(stored.tobytes(), **gray(bits))).image
    assert (image == FUNDUS[..., 1:2]).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_samples_are_scaled_unless_negative(bits):
    stored = FUNDUS[..., 1].astype(np.int16) << (bits - 9)
    signed = gray(bits, PixelRepresentation=1)
    image = decode_photograph(dicom(stored.tobytes(), **signed)).image
    assert (image == FUNDUS[..., 1:2]).all()
    stored[0, 0] = -5
    with raises_naming(PhotographError, "int16") as error:
        decode_photograph(dicom(stored.tobytes(), **signed))
    assert error.value.reason == "unsupported"


def test_inverted_gray_is_inverted_back():
    stored = 255 - FUNDUS[..., 1]
    inverted = gray(8, PhotometricInterpretation="MONOCHROME1")
    image = decode_photograph(dicom(stored.tobytes(), **inverted)).image
    assert (image == FUNDUS[..., 1:2]).all()


def test_ybr_full_becomes_rgb():
    ybr = cv2.cvtColor(FUNDUS, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    data = dicom(ybr.tobytes(), PhotometricInterpretation="YBR_FULL")
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 40


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 40_000, "Columns": 40_000}, "too_large"),
        ({"Rows": 1, "Columns": 1}, "too_small"),
        ({"NumberOfFrames": 7}, "unsupported"),
        ({"PhotometricInterpretation": "NO SUCH"}, "unsupported"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "unsupported"),
    ],
)
def test_a_dicom_without_a_photograph_is_refused_with_its_reason(changes, reason):
    assert reason_of(dicom(FUNDUS.tobytes(), **changes)) == reason


def test_a_structured_report_is_named():
    report = pydicom.dcmread(io.BytesIO(dicom(FUNDUS.tobytes(), Modality="SR")))
    del report.Rows, report.Columns, report.PixelData
    with raises_naming(PhotographError, "SR") as error:
        decode_photograph(save_dicom(report))
    assert error.value.reason == "not_an_image"


def test_12_bits_in_samples_that_declare_16_are_scaled_by_the_bits_in_use():
    stored = FUNDUS[..., 1].astype(np.uint16) << 4
    image = decode_photograph(dicom(stored.tobytes(), **gray(16))).image
    assert (image == FUNDUS[..., 1:2]).all()


def test_a_damaged_dicom_is_refused():
    data = dicom(FUNDUS.tobytes())
    assert reason_of(data[: len(data) // 2]) == "undecodable"
    assert reason_of(bytes(128) + b"DICM" + b"\xff" * 99) == "not_an_image"


def test_a_tag_that_is_damaged_is_found_when_it_is_used():
    rows = (0x0028, 0x0010)
    tag = b"".join(x.to_bytes(2, "little") for x in rows)
    data = dicom(FUNDUS.tobytes()).replace(tag + b"US", tag + b"UQ")
    assert reason_of(data) == "not_an_image"


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"NumberOfFrames": "1111111111"}, ()),
        ({"SamplesPerPixel": 2}, ()),
        ({"PhotometricInterpretation": "SECRET"}, ()),
        ({"Rows": 700}, (700 * 640 * 3,)),
    ],
)
def test_damage_is_named_without_the_words_of_a_library(tags, named):
    data = dicom(FUNDUS.tobytes(), **tags).replace(b"1111111111", b"SECRETNAME")
    with raises_naming(PhotographError, "DICOM", *named) as error:
        decode_photograph(data)
    words = ("SECRET", "int", "object", "attribute", "NoneType", "0x", "(00")
    assert not [x for x in words if x in str(error.value)]


@pytest.mark.parametrize("name", PIXEL_TAGS)
def test_a_tag_that_is_missing_is_named(name):
    data = pydicom.dcmread(io.BytesIO(dicom(FUNDUS.tobytes())))
    del data[name]
    with raises_naming(PhotographError, name) as error:
        decode_photograph(save_dicom(data))
    assert error.value.reason == "undecodable"


def test_a_frame_beyond_the_pixels_is_refused():
    data = dicom(FUNDUS.tobytes(), NumberOfFrames=3)
    with raises_naming(PhotographError, FUNDUS.size, 0):
        decode_photograph(extract_frame(io.BytesIO(data), 3))


def test_tags_reach_no_log_of_worker_processes(tmp_path, capfd):
    tags = {"NumberOfFrames": "1111111111", "SpecificCharacterSet": "ISO_IR 192"}
    data = dicom(FUNDUS.tobytes(), **tags)
    data = data.replace(b"1111111111", b"SECRETNAME")
    (tmp_path / "a.dcm").write_bytes(data.replace(b"ISO_IR 192", b"SECRETTEXT"))
    photographs = [PhotographRef(str(tmp_path), "a.dcm")] * 2
    prepare = functools.partial(
        prepare_for_shard, images=ImagesConfig(), build=BuildConfig()
    )
    results = list(map_photographs(prepare, photographs, num_workers=2))
    assert all(isinstance(x, Rejected) for x in results)
    assert capfd.readouterr() == ("", "")


def test_a_missing_pydicom_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with raises_naming(PhotographError, "pip install 'drtf[dicom]'") as error:
        decode_photograph(dicom(FUNDUS.tobytes()))
    assert error.value.reason == "unsupported"


def test_more_pixels_than_declared_are_refused():
    data = dicom(FUNDUS.tobytes() * 2)
    assert reason_of(data) == "undecodable"


def compressed(data: bytes, syntax, **options: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.compress(syntax, **options)
    return save_dicom(dataset)


def deflated(dataset: Dataset) -> bytes:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return save_dicom(dataset)


def converted(data: bytes, syntax) -> bytes:
    """Store raw pixels of one byte in another raw transfer syntax."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(
        file,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    return file.getvalue()


def compressed_by_gdcm(data: bytes, syntax, folder: Path) -> bytes:
    paths = [str(folder / name) for name in ("raw.dcm", "compressed.dcm")]
    Path(paths[0]).write_bytes(data)
    reader = gdcm.ImageReader()
    reader.SetFileName(paths[0])
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(
        gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax)))
    )
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(paths[1])
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return Path(paths[1]).read_bytes()


RGB = dicom(FUNDUS.tobytes())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_raw_syntaxes_decode_to_the_exact_pixels(syntax):
    assert (decode_photograph(converted(RGB, syntax)).image == FUNDUS).all()


def test_big_endian_samples_of_two_bytes_are_read_in_their_order():
    stored = (FUNDUS[..., 1].astype(np.uint16) << 4).astype(">u2")
    data = converted(dicom(stored.tobytes(), **gray(12)), ExplicitVRBigEndian)
    assert (decode_photograph(data).image == FUNDUS[..., 1:2]).all()


def test_a_deflated_file_decodes_to_the_exact_pixels():
    data = deflated(pydicom.dcmread(io.BytesIO(RGB)))
    assert (decode_photograph(data).image == FUNDUS).all()


@pytest.mark.parametrize("is_header", [True, False])
def test_a_deflated_bomb_is_refused(is_header, monkeypatch):
    monkeypatch.setattr(dicom_files, "MAX_HEADER_BYTES", 10_000)
    dataset = pydicom.dcmread(io.BytesIO(RGB))
    zeros = bytes(4_000_000)
    if is_header:
        dataset.add_new((0x0009, 0x1001), "OB", zeros)
    else:
        dataset.PixelData = dataset.PixelData + zeros
    data = deflated(dataset)
    with pytest.raises(PhotographError):
        extract_frame(io.BytesIO(data), 1)
    assert reason_of(data) == ("not_an_image" if is_header else "too_large")


@pytest.mark.parametrize("pixels", [FUNDUS, FUNDUS[..., 1]], ids=["RGB", "gray"])
@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (JPEGLSLossless, {}),
        (JPEGLSNearLossless, {"jls_error": 1}),
        (JPEG2000Lossless, {}),
        (JPEG2000, {"j2k_cr": [2]}),
        (RLELossless, {}),
    ],
)
def test_compressed_pixels_are_decoded(syntax, options, pixels):
    is_gray = pixels.ndim == 2
    data = dicom(pixels.tobytes(), **(gray(8) if is_gray else {}))
    image = decode_photograph(compressed(data, syntax, **options)).image
    expected = np.repeat(pixels[..., None], 3, axis=2) if is_gray else pixels
    assert cv2.PSNR(image, expected) > (40 if options else 100)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless])
def test_inverted_gray_in_lossless_jpeg_decodes_to_the_exact_pixels(
    syntax, bits, tmp_path
):
    level = (255 - FUNDUS[..., 1]).astype(np.uint16) << (bits - 8)
    level += (1 << (bits - 8)) - 1
    stored = level.astype(np.uint8 if bits == 8 else np.uint16)
    data = dicom(
        stored.tobytes(), **gray(bits, PhotometricInterpretation="MONOCHROME1")
    )
    image = decode_photograph(compressed_by_gdcm(data, syntax, tmp_path)).image
    assert (image == FUNDUS[..., 1:2]).all()


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_color_in_lossless_jpeg_decodes_to_the_exact_pixels(syntax, tmp_path):
    data = compressed_by_gdcm(RGB, syntax, tmp_path)
    assert (decode_photograph(data).image == FUNDUS).all()


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
@pytest.mark.parametrize("declared", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_a_jpeg_of_a_camera_keeps_its_colors_whatever_is_declared(declared, syntax):
    data = dicom(
        encapsulate([encode(FUNDUS, ".jpg")]),
        syntax,
        PhotometricInterpretation=declared,
    )
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 35


def test_an_unmarked_jpeg_that_declares_rgb_but_is_ycbcr_keeps_its_colors(tmp_path):
    data = compressed_by_gdcm(RGB, JPEGBaseline8Bit, tmp_path)
    assert pydicom.dcmread(io.BytesIO(data)).PhotometricInterpretation == "RGB"
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 35


@pytest.mark.parametrize("sign", ["marker", "ids", "none"])
def test_a_jpeg_in_rgb_keeps_its_colors(sign):
    file = io.BytesIO()
    Image.fromarray(FUNDUS).save(file, "JPEG", quality=95, keep_rgb=True)
    jpeg = file.getvalue()
    if sign != "marker":
        start = jpeg.index(b"\xff\xee")
        stop = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        jpeg = jpeg[:start] + jpeg[stop:]
    if sign == "none":
        for segment, width in ((b"\xff\xc0", 3), (b"\xff\xda", 2)):
            first = jpeg.index(b"R", jpeg.index(segment))
            ids = slice(first, first + 3 * width, width)
            changed = bytearray(jpeg)
            changed[ids] = b"\1\2\3"
            jpeg = bytes(changed)
    data = dicom(encapsulate([jpeg]), JPEGBaseline8Bit, PhotometricInterpretation="RGB")
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 35


@pytest.mark.parametrize("color", ["YBR_RCT", "YBR_ICT"])
def test_the_color_transforms_of_jpeg_2000_become_rgb(color):
    data = dicom(FUNDUS.tobytes(), PhotometricInterpretation=color)
    if color == "YBR_RCT":
        data = compressed(data, JPEG2000Lossless)
    else:
        data = compressed(data, JPEG2000, j2k_cr=[2])
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 35


def test_a_12_bit_jpeg_names_the_decoder_that_it_requires(tmp_path):
    stored = (FUNDUS[..., 1].astype(np.uint16) << 4).tobytes()
    data = compressed_by_gdcm(dicom(stored, **gray(12)), JPEGExtended12Bit, tmp_path)
    with raises_naming(PhotographError, 12, "pylibjpeg-libjpeg") as error:
        decode_photograph(data)
    assert error.value.reason == "unsupported"


def test_a_video_is_refused_with_its_name():
    data = dicom(encapsulate([bytes(100)]), MPEG4HP41)
    with raises_naming(PhotographError, MPEG4HP41.name) as error:
        decode_photograph(data)
    assert error.value.reason == "unsupported"


@pytest.mark.parametrize(
    ("syntax", "suffix"), [(JPEG2000, ".jp2"), (JPEGLSLossless, ".jls")]
)
def test_a_picture_larger_than_declared_is_refused_before_it_is_decoded(
    syntax, suffix, monkeypatch
):
    if suffix == ".jp2":
        frame = encode(FUNDUS, suffix)
    else:
        whole = pydicom.dcmread(io.BytesIO(compressed(RGB, syntax)))
        frame = pydicom.encaps.get_frame(whole.PixelData, 0, number_of_frames=1)
    data = dicom(encapsulate([frame]), syntax, Rows=100, Columns=100)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", lambda *_: pytest.fail("read"))
    with raises_naming(PhotographError, "100x100", "640x480") as error:
        decode_photograph(data)
    assert error.value.reason == "undecodable"


@pytest.mark.parametrize("color", ["RGB", "YBR_FULL"])
def test_planes_one_after_another_become_pixels(color):
    pixels = FUNDUS
    if color == "YBR_FULL":
        pixels = cv2.cvtColor(FUNDUS, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    data = dicom(
        np.moveaxis(pixels, 2, 0).tobytes(),
        PlanarConfiguration=1,
        PhotometricInterpretation=color,
    )
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 40


def test_raw_subsampled_ybr_becomes_rgb():
    luma, red, blue = cv2.split(cv2.cvtColor(FUNDUS, cv2.COLOR_RGB2YCrCb))
    pairs = [luma[:, 0::2], luma[:, 1::2], blue[:, 0::2], red[:, 0::2]]
    data = dicom(
        np.stack(pairs, axis=2).tobytes(), PhotometricInterpretation="YBR_FULL_422"
    )
    assert cv2.PSNR(decode_photograph(data).image, FUNDUS) > 35


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_applied(bits):
    palette = np.arange(255, -1, -1, dtype=f"<u{bits // 8}") * (
        257 if bits == 16 else 1
    )
    tables = {}
    for color in ("Red", "Green", "Blue"):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tables[f"{color}PaletteColorLookupTableData"] = palette.tobytes()
    indexed = gray(8, PhotometricInterpretation="PALETTE COLOR") | tables
    image = decode_photograph(dicom(FUNDUS[..., 1].tobytes(), **indexed)).image
    assert (image == 255 - FUNDUS[..., 1:2]).all()


FRAMES = [FUNDUS, FUNDUS[::-1], FUNDUS[:, ::-1]]


def multi_frame(syntax=ExplicitVRLittleEndian) -> bytes:
    pixels = b"".join(frame.tobytes() for frame in FRAMES)
    data = dicom(pixels, NumberOfFrames=len(FRAMES))
    if syntax == DeflatedExplicitVRLittleEndian:
        return deflated(pydicom.dcmread(io.BytesIO(data)))
    return compressed(data, syntax) if syntax.is_encapsulated else data


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
)
def test_each_frame_is_a_file_of_its_own(syntax):
    data = multi_frame(syntax)
    for number, frame in enumerate(FRAMES, start=1):
        single = extract_frame(io.BytesIO(data), number)
        assert (decode_photograph(single).image == frame).all()
        assert single == extract_frame(io.BytesIO(data), number)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_only_the_frame_is_read_from_a_large_file(syntax, monkeypatch):
    class Counting(io.BytesIO):
        num_read = 0

        def read(self, size=-1):
            data = super().read(size)
            self.num_read += len(data)
            return data

    monkeypatch.setattr(dicom_files, "MAX_META_BYTES", 1000)
    data = multi_frame(syntax)
    file = Counting(data)
    extract_frame(file, 2)
    assert file.num_read < 0.6 * len(data)


@pytest.mark.parametrize("number", [0, 4])
def test_a_frame_that_does_not_exist_is_refused(number):
    with raises_naming(PhotographError, number, 3) as error:
        extract_frame(io.BytesIO(multi_frame()), number)
    assert error.value.reason == "unreadable"


def test_a_file_with_more_frames_than_fit_into_memory_is_refused():
    data = dicom(FUNDUS.tobytes(), NumberOfFrames=1_000_000)
    with pytest.raises(PhotographError) as error:
        extract_frame(io.BytesIO(data), 1)
    assert error.value.reason == "too_large"

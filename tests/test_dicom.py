import io

import cv2
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.errors import PhotographError
from drtf.images.decode import decode_photograph
from naming import raises_naming

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

OPHTHALMIC_8BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
FUNDUS = draw_fundus(seed=1, width=640)


def dicom(pixels: bytes, syntax=ExplicitVRLittleEndian, **changes: object) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = OPHTHALMIC_8BIT
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SOPClassUID = OPHTHALMIC_8BIT
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = FUNDUS.shape[:2]
    data.SamplesPerPixel = 3
    data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelRepresentation = 0
    for name, value in changes.items():
        setattr(data, name, value)
    data.PixelData = pixels
    if syntax.is_encapsulated:
        data["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def grey(bits: int, **changes: object) -> dict[str, object]:
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


def test_run_length_encoding_decodes_to_the_exact_pixels():
    plain = pydicom.dcmread(io.BytesIO(dicom(FUNDUS.tobytes())))
    plain.compress(RLELossless)
    file = io.BytesIO()
    plain.save_as(file)
    assert (decode_photograph(file.getvalue()).image == FUNDUS).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey_of_any_bit_depth_becomes_8_bits(bits):
    level = FUNDUS[..., 1].astype(np.uint16) << (bits - 8)
    stored = level.astype(np.uint8 if bits == 8 else np.uint16)
    image = decode_photograph(dicom(stored.tobytes(), **grey(bits))).image
    assert (image == FUNDUS[..., 1:2]).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_samples_are_scaled_unless_negative(bits):
    stored = FUNDUS[..., 1].astype(np.int16) << (bits - 9)
    signed = grey(bits, PixelRepresentation=1)
    image = decode_photograph(dicom(stored.tobytes(), **signed)).image
    assert (image == FUNDUS[..., 1:2]).all()
    stored[0, 0] = -5
    with raises_naming(PhotographError, "int16") as error:
        decode_photograph(dicom(stored.tobytes(), **signed))
    assert error.value.reason == "unsupported"


def test_inverted_grey_is_inverted_back():
    stored = 255 - FUNDUS[..., 1]
    inverted = grey(8, PhotometricInterpretation="MONOCHROME1")
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
        ({"PhotometricInterpretation": "NO SUCH"}, "undecodable"),
    ],
)
def test_a_dicom_without_a_photograph_is_refused_with_its_reason(changes, reason):
    assert reason_of(dicom(FUNDUS.tobytes(), **changes)) == reason


def test_a_structured_report_is_named():
    report = pydicom.dcmread(io.BytesIO(dicom(FUNDUS.tobytes(), Modality="SR")))
    del report.Rows, report.Columns, report.PixelData
    file = io.BytesIO()
    report.save_as(file)
    with raises_naming(PhotographError, "SR") as error:
        decode_photograph(file.getvalue())
    assert error.value.reason == "not_an_image"


def test_12_bits_in_samples_that_declare_16_are_scaled_by_the_bits_in_use():
    stored = FUNDUS[..., 1].astype(np.uint16) << 4
    image = decode_photograph(dicom(stored.tobytes(), **grey(16))).image
    assert (image == FUNDUS[..., 1:2]).all()


def test_a_damaged_dicom_is_refused():
    data = dicom(FUNDUS.tobytes())
    assert reason_of(data[: len(data) // 2]) == "undecodable"
    assert reason_of(bytes(128) + b"DICM" + b"\xff" * 99) == "not_an_image"


def test_a_missing_pydicom_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with raises_naming(PhotographError, "pip install 'drtf[dicom]'") as error:
        decode_photograph(dicom(FUNDUS.tobytes()))
    assert error.value.reason == "unsupported"


def test_more_pixels_than_declared_are_refused():
    data = dicom(FUNDUS.tobytes() * 2)
    assert reason_of(data) == "undecodable"


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, JPEG2000])
def test_an_unsupported_syntax_is_recognized_from_the_header(syntax, monkeypatch):
    data = dicom(FUNDUS.tobytes(), ExplicitVRLittleEndian)
    old, new = (str(x).encode() for x in (ExplicitVRLittleEndian, syntax))
    width = max(len(old), len(new)) + 1 & ~1
    start = data.index(old) - 2
    stored = len(old) + 1 & ~1
    header = width.to_bytes(2, "little") + new.ljust(width, b"\0")
    data = data[:start] + header + data[start + 2 + stored :]
    monkeypatch.setattr(pydicom, "dcmread", lambda *_: pytest.fail("read on"))
    with raises_naming(PhotographError, syntax.name) as error:
        decode_photograph(data)
    assert error.value.reason == "unsupported"

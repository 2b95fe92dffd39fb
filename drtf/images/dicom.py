"""DICOM files: extracts the photograph with pydicom."""

import io
import warnings
from collections.abc import Callable

import numpy as np

from drtf.errors import PhotographError
from drtf.images.depth import reduce_to_8_bits

PREAMBLE_BYTES = 128
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
# Transfer syntaxes that need no decoder beyond pydicom and libjpeg. Deflated files are
# excluded, because they can take any amount of memory before their size is known.
SYNTAXES = {
    "1.2.840.10008.1.2": "implicit VR, little endian",
    "1.2.840.10008.1.2.1": "explicit VR, little endian",
    "1.2.840.10008.1.2.2": "explicit VR, big endian",
    "1.2.840.10008.1.2.5": "RLE",
    JPEG_BASELINE: "JPEG baseline",
}
# Colour spaces that libjpeg decodes by default.
JPEG_COLORS = ("YBR_FULL_422", "YBR_FULL", "MONOCHROME2")


def is_dicom(data: bytes) -> bool:
    """Return True for a DICOM file: `DICM` follows its preamble (DICOM PS3.10, 7.1)."""
    return data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM"


def read_dicom(
    data: bytes, *, check_size: Callable[[int, int], None]
) -> bytes | np.ndarray:
    """Extract the photograph from a DICOM file.

    Args:
        data: Bytes of the file.
        check_size: Called with the declared width and height in px, before memory is
            allocated for the pixels. Raises PhotographError to refuse them.

    Returns:
        The bytes of an embedded JPEG file, or else uint8 RGB [H, W, 3].

    Raises:
        PhotographError: With reason `unsupported`, `not_an_image` or `undecodable`, or
            as raised by `check_size`.
    """
    try:
        import pydicom
    except ImportError as error:
        raise PhotographError(
            "unsupported", "DICOM files require pydicom: pip install 'drtf[dicom]'"
        ) from error
    syntax = _transfer_syntax(data)
    if syntax not in SYNTAXES:
        raise PhotographError(
            "unsupported",
            f"a DICOM file in {pydicom.uid.UID(syntax).name}, which is not supported; "
            "decompress it, for example with gdcmconv --raw IN OUT",
        )
    # On damaged files, pydicom and its decoders raise many kinds of errors.
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        _check_has_pixels(dataset)
        width, height = int(dataset.Columns), int(dataset.Rows)
        num_frames = int(dataset.get("NumberOfFrames") or 1)
        color = str(dataset.PhotometricInterpretation)
    except Exception as error:
        raise PhotographError(
            "not_an_image", f"a DICOM file without a photograph: {error}"
        ) from error
    check_size(width, height)
    if num_frames != 1:
        raise PhotographError("unsupported", f"a DICOM file with {num_frames} frames")
    try:
        if syntax == JPEG_BASELINE and color in JPEG_COLORS:
            return pydicom.encaps.get_frame(
                dataset.PixelData, 0, number_of_frames=1
            ).rstrip(b"\0")
        with warnings.catch_warnings(action="ignore"):
            pixels = _rgb_pixels(dataset, color)
    except (PhotographError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise PhotographError("undecodable", f"a DICOM file: {reason}") from error
    if pixels.shape != (height, width, 3):
        raise PhotographError(
            "undecodable",
            f"a DICOM file that declares {width}x{height} px but has "
            f"{pixels.size // 3}",
        )
    return pixels


def _check_has_pixels(dataset) -> None:  # type: ignore[no-untyped-def]
    if "Columns" not in dataset:
        kind = dataset.get("Modality") or dataset.file_meta.MediaStorageSOPClassUID.name
        raise ValueError(f"it holds no pixels but {kind}")


def _transfer_syntax(data: bytes) -> str:
    """Return the UID of the transfer syntax, reading nothing else of the file."""
    from pydicom.filereader import read_dataset

    try:
        header = read_dataset(
            io.BytesIO(data[PREAMBLE_BYTES + 4 :]),
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, vr, length: tag.group != 2,
        )
        return str(header.TransferSyntaxUID)
    except Exception as error:  # damaged headers raise many kinds of errors
        raise PhotographError(
            "not_an_image", f"a DICOM file without a readable header: {error}"
        ) from error


def _rgb_pixels(dataset, color: str) -> np.ndarray:  # type: ignore[no-untyped-def]
    from pydicom.pixels import apply_color_lut, pixel_array

    pixels = pixel_array(dataset)  # converts YBR to RGB
    bits = int(dataset.BitsStored)
    if color == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.dtype.itemsize
    pixels = reduce_to_8_bits(pixels, declared_bits=bits)
    if color == "MONOCHROME1":
        pixels = 255 - pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

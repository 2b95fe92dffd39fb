"""Decoding of image files to RGB pixels, for building and scoring alike."""

import importlib.util
import io
import math
import re
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from drtf.errors import PhotographError
from drtf.images.depth import reduce_to_8_bits
from drtf.images.dicom import read_dicom
from drtf.images.dicom_files import is_dicom
from drtf.images.signatures import container_name

# Kinds that OpenCV decodes, and those that only Pillow does.
OPENCV_KINDS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "BMP", "DIB", "JPEG2000")
PILLOW_KINDS = ("GIF", "PPM", "HEIF", "AVIF")
# Kinds whose files may hold several pictures, none of which is the main one.
SERIES_KINDS = ("GIF", "WEBP", "AVIF")
HEIF_NAMES = ("HEIC", "HEIF")
ORIENTATION_TAG = 0x0112
SUBFILE_TAG, REDUCED, MASK = 254, 1, 4  # TIFF 6.0, NewSubfileType
SUB_PAGES_TAG = 330
WIDTH_TAG, HEIGHT_TAG, BITS_TAG, COLOR_TAG, CHANNELS_TAG = 256, 257, 258, 262, 277
SAMPLE_FORMAT_TAG = 339
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4  # SampleFormat
SAMPLE_NAMES = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "floating-point"}
# What OpenCV reads besides unsigned samples of up to 16 bits.
FURTHER_SAMPLES = {(SIGNED, 8), (SIGNED, 16), (SIGNED, 32), (FLOAT, 32), (FLOAT, 64)}
# Pairs of PhotometricInterpretation and number of channels: gray, RGB and LogLuv.
FURTHER_COLORS = {(1, 1), (2, 3), (32845, 3)}
# How to get one picture of a file with several; ImageMagick counts them from 0.
EXTRACTING = (
    "save the one to grade as a separate file, for example with ImageMagick: magick "
    "'FILE[0]' ONE.png"
)
MAX_PAGES = 100
# Below the limit at which Pillow refuses to read even the header.
MAX_PIXELS = 150_000_000
# More than any decoder takes.
DECODING_BYTES_PER_PIXEL = 16
MIN_SIDE = 32
MAX_ASPECT_RATIO = 8
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK_BYTES = 12  # length, name and checksum
# A marker within the compressed data is a restart, or a byte FF that is data.
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
# Ten are usual.
MAX_SCANS = 100

# libjpeg can shrink a picture to 1/2, 1/4 or 1/8 within the DCT, at far less cost.
JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class Decoded(NamedTuple):
    """A decoded photograph.

    Attributes:
        image: uint8 RGB [H, W, 3].
        scale: Factor by which it was shrunk during decoding: 1, 2, 4 or 8.
    """

    image: np.ndarray
    scale: int


def decode_photograph(data: bytes, *, min_side: int = 0) -> Decoded:
    """Decode a photograph, and rotate it upright according to its EXIF data.

    Args:
        data: Bytes of a JPEG, PNG, TIFF, WebP, BMP, GIF, JPEG 2000, PPM, AVIF, HEIC or
            DICOM file.
        min_side: If above 0, shrink the photograph to the smallest of 1/2, 1/4 and 1/8
            whose shorter side still has this many px. A JPEG is shrunk in the DCT, any
            other file by averaging blocks.

    Raises:
        PhotographError: With reason `empty`, `not_an_image`, `unsupported`,
            `too_large`, `too_small`, `too_narrow` or `undecodable`.
    """
    if is_dicom(data):
        dicom = read_dicom(data, check_size=check_size)
        if isinstance(dicom, np.ndarray):
            scale = choose_scale(dicom.shape[1], dicom.shape[0], min_side)
            return Decoded(shrink(dicom, scale), scale)
        data = dicom
    header = _read_header(data)
    scale = choose_scale(*header.size, min_side)
    try:
        image = _decode_pixels(data, header, scale)
    except (PhotographError, MemoryError):
        raise
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error.err)) from error
        raise _damaged(header.kind) from error
    except Exception as error:  # on damaged files, Pillow raises many kinds of errors
        raise _damaged(header.kind) from error
    return Decoded(image, scale)


def _decode_pixels(data: bytes, header: "Header", scale: int) -> np.ndarray:
    """Decode and shrink a file of a supported kind to uint8 RGB [H, W, 3]."""
    if header.kind in PILLOW_KINDS or (header.kind == "WEBP" and header.is_turned):
        return shrink(_decode_with_pillow(data), scale)
    buffer = np.frombuffer(data, np.uint8)
    if header.is_jpeg:
        image = cv2.imdecode(buffer, JPEG_FLAGS[scale])
    else:
        # OpenCV converts only unsigned samples from gray to color.
        color = cv2.IMREAD_COLOR if header.is_unsigned else cv2.IMREAD_ANYCOLOR
        flags = color | cv2.IMREAD_ANYDEPTH
        if header.page:
            range_ = (header.page, header.page + 1)
            pages = cv2.imdecodemulti(buffer, flags, range=range_)[1]
            image = pages[0] if pages else None
        else:
            image = cv2.imdecode(buffer, flags)
    if image is None:
        # When memory runs out, decoders report a damaged file.
        check_memory(math.prod(header.size) * DECODING_BYTES_PER_PIXEL)
        raise _damaged(header.kind)
    if image.dtype != np.uint8:
        image = reduce_to_8_bits(image, declared_bits=header.bits)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if header.has_alpha:
        image = _paint_transparent(image, data, header.page)
    if not header.is_jpeg:
        image = shrink(image, scale)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"):
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode in ("I", "I;16"):  # Pillow has scaled its samples to 16 bits
        gray = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.mode == "F":
        gray = reduce_to_8_bits(np.asarray(picture))
        return np.repeat(gray[..., None], 3, axis=2)
    image = np.array(picture.convert("RGB"))
    if picture.has_transparency_data:
        return _blend_with_black(image, picture)
    return image


def _paint_transparent(image: np.ndarray, data: bytes, page: int) -> np.ndarray:
    """Paint transparent pixels black, since their hidden color may be any."""
    with warnings.catch_warnings(action="ignore"):
        picture = Image.open(io.BytesIO(data))
        picture.seek(page)
        return _blend_with_black(image, ImageOps.exif_transpose(picture))


def _blend_with_black(image: np.ndarray, picture: Image.Image) -> np.ndarray:
    alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    if alpha.shape != image.shape[:2] or alpha.min() == 255 or not alpha.any():
        return image  # opaque, or wholly transparent by mistake
    return (image * (alpha[..., None] / 255)).round().astype(np.uint8)


def choose_scale(width: int, height: int, min_side: int) -> int:
    """Return the factor to shrink a photograph by during decoding: 8, 4, 2 or 1."""
    scales = (x for x in (8, 4, 2) if min_side and min(width, height) >= min_side * x)
    return next(scales, 1)


def shrink(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrink uint8 [H, W, 3] by averaging blocks of `scale` x `scale` px."""
    if scale == 1:
        return image
    height, width = (math.ceil(side / scale) for side in image.shape[:2])
    # Pad to whole blocks first, as libjpeg does, so that the picture isn't stretched.
    bottom, right = (
        side * scale - unpadded
        for side, unpadded in zip((height, width), image.shape[:2], strict=True)
    )
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def check_size(width: int, height: int) -> None:
    """Check that a declared size in px is plausible and fits into memory.

    Raises:
        PhotographError: With reason `too_large`, `too_small` or `too_narrow`.
    """
    if width * height > MAX_PIXELS:
        raise PhotographError(
            "too_large", f"{width}x{height} px; the maximum is {MAX_PIXELS} px"
        )
    if min(width, height) < MIN_SIDE:
        raise PhotographError(
            "too_small", f"{width}x{height} px; the minimum is {MIN_SIDE} px per side"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PhotographError(
            "too_narrow",
            f"{width}x{height} px; the maximum aspect ratio is {MAX_ASPECT_RATIO}:1",
        )


def check_memory(size_bytes: int) -> None:
    """Check that memory of this size can be allocated.

    Raises:
        MemoryError: If it cannot.
    """
    np.empty(size_bytes, np.uint8)  # is never written to, so it takes no memory


class Header(NamedTuple):
    """The properties of an image file that are known before it is decoded.

    Attributes:
        size: Width and height in px.
        kind: Pillow's name of the format.
        page: The page to decode; above 0 only for TIFF files.
        bits: Bits per sample that the file declares; 0 if it declares none.
        has_alpha: Whether pixels may be transparent.
        is_turned: Whether its EXIF data ask to rotate or mirror it.
        is_unsigned: Whether its samples are unsigned integers of up to 16 bits.
    """

    size: tuple[int, int]
    kind: str
    page: int
    bits: int
    has_alpha: bool
    is_turned: bool
    is_unsigned: bool = True

    @property
    def is_jpeg(self) -> bool:
        """Whether the file is a JPEG file, with or without further pictures."""
        return self.kind in ("JPEG", "MPO")


def _read_header(data: bytes) -> Header:
    if not data:
        raise PhotographError("empty", "the file has no bytes")
    if data[4:8] == b"ftyp":
        _register_heif()
    try:
        with warnings.catch_warnings(action="ignore"):
            page = 0
            if data.startswith(tuple(TiffImagePlugin.PREFIXES)):
                page, tags = _choose_page(data)
                if not _has_unsigned_samples(tags):
                    return _further_header(page, tags)
            header = Image.open(io.BytesIO(data))
            _check_is_one_picture(header)
            header.seek(page)
    except (PhotographError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotographError(
            "too_large", f"it declares more than {MAX_PIXELS} px"
        ) from error
    except Exception as error:  # on damaged files, Pillow raises many kinds of errors
        name = container_name(data)
        if name in HEIF_NAMES:
            raise _heif_error(name) from error
        if name:
            raise _unsupported(name) from error
        raise PhotographError(
            "not_an_image",
            "its first bytes match no known image format, or are cut short",
        ) from error
    kind = str(header.format)
    if kind not in OPENCV_KINDS + PILLOW_KINDS:
        raise _unsupported(kind)
    if header.mode == "LAB":  # which OpenCV misreads
        raise PhotographError(
            "unsupported", f"a {kind} file with CIELAB samples; save it in RGB"
        )
    check_size(*header.size)
    if kind == "PNG":
        _check_png(data)
    if kind in ("JPEG", "MPO"):
        _check_jpeg(data)
    return Header(
        size=header.size,
        kind=kind,
        page=page,
        bits=_jpeg2000_bits(data) if kind == "JPEG2000" else 0,
        has_alpha=kind not in ("JPEG", "MPO") and header.has_transparency_data,
        is_turned=kind == "WEBP" and header.getexif().get(ORIENTATION_TAG, 1) != 1,
    )


def _damaged(kind: str) -> PhotographError:
    return PhotographError(
        "undecodable",
        f"a {kind} file that is damaged, cut short or of an unsupported variant",
    )


def _check_is_one_picture(file: Image.Image) -> None:
    kind = str(file.format)
    if kind in SERIES_KINDS and getattr(file, "is_animated", False):
        raise _several_pictures(kind)


def _several_pictures(kind: str) -> PhotographError:
    return PhotographError(
        "unsupported", f"a {kind} file with several pictures; {EXTRACTING}"
    )


def _unsupported(name: str) -> PhotographError:
    return PhotographError(
        "unsupported",
        f"its content is {name}, which is not supported; convert it to JPEG or PNG",
    )


def _heif_error(name: str) -> PhotographError:
    if importlib.util.find_spec("pillow_heif") is None:
        return PhotographError(
            "unsupported",
            f"its content is {name}, which requires pillow-heif: pip install "
            "'drtf[heif]', or convert it to JPEG or PNG",
        )
    return PhotographError("undecodable", f"a damaged {name} file")


def _register_heif() -> None:
    """Let Pillow open HEIF files, if pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _choose_page(data: bytes) -> tuple[int, ImageFileDirectory_v2]:
    """Return the index of the largest page of a TIFF file, and its tags.

    Raises:
        PhotographError: With reason `unsupported` if several pages are the largest.
    """
    pages = _read_tiff_pages(data)
    # The first page of a camera's raw file is a thumbnail.
    if any(x.get(SUBFILE_TAG, 0) & REDUCED and SUB_PAGES_TAG in x for x in pages):
        raise _unsupported("a camera's raw format")
    areas = [
        0 if x.get(SUBFILE_TAG, 0) & MASK else x[WIDTH_TAG] * x[HEIGHT_TAG]
        for x in pages
    ]
    if areas.count(max(areas)) > 1:
        raise PhotographError(
            "unsupported",
            f"a TIFF file with {areas.count(max(areas))} pages of the same size; "
            f"{EXTRACTING}",
        )
    page = areas.index(max(areas))
    return page, pages[page]


def _read_tiff_pages(data: bytes) -> list[ImageFileDirectory_v2]:
    """Read the tags of each page, also of pages that Pillow cannot open."""
    is_big = 43 in data[2:4]
    start = data[: 16 if is_big else 8]
    position = ImageFileDirectory_v2(start).next
    pages: dict[int, ImageFileDirectory_v2] = {}
    while position and position not in pages and len(pages) < MAX_PAGES:
        tags = ImageFileDirectory_v2(start)
        file = io.BytesIO(data)
        file.seek(position)
        tags.load(file)
        pages[position] = tags
        position = tags.next
    return list(pages.values())


def _has_unsigned_samples(tags: ImageFileDirectory_v2) -> bool:
    formats = set(tags.get(SAMPLE_FORMAT_TAG, (UNSIGNED,)))
    return formats <= {UNSIGNED, UNDEFINED} and max(tags.get(BITS_TAG, (1,))) <= 16


def _further_header(page: int, tags: ImageFileDirectory_v2) -> Header:
    """Return the header of a TIFF file with signed, floating-point or long samples.

    Raises:
        PhotographError: With reason `unsupported` if OpenCV cannot read them.
    """
    bits = tags.get(BITS_TAG, (1,))[0]
    sample_format = tags.get(SAMPLE_FORMAT_TAG, (UNSIGNED,))[0]
    color = (tags.get(COLOR_TAG), tags.get(CHANNELS_TAG, 1))
    if (sample_format, bits) not in FURTHER_SAMPLES or color not in FURTHER_COLORS:
        name = SAMPLE_NAMES.get(sample_format, "complex")
        raise PhotographError(
            "unsupported",
            f"a TIFF file with {color[1]} channels of {name} {bits}-bit samples; save "
            "it in RGB with 8 or 16 bits per sample",
        )
    size = (tags[WIDTH_TAG], tags[HEIGHT_TAG])
    check_size(*size)
    return Header(
        size=size,
        kind="TIFF",
        page=page,
        bits=0,
        has_alpha=False,
        is_turned=False,
        is_unsigned=False,
    )


def _jpeg2000_bits(data: bytes) -> int:
    """Return the bits per sample of a JPEG 2000 file (ISO 15444-1, A.5.1), or 0."""
    size_marker = data.find(b"\xff\x4f\xff\x51") + 2
    position = size_marker + 40
    if size_marker < 2 or position >= len(data):
        return 0
    return (data[position] & 0x7F) + 1


def _check_png(data: bytes) -> None:
    """Refuse PNG files that would crash OpenCV or make it allocate a declared size."""
    position, name = len(PNG_SIGNATURE), b""
    while name != b"IEND" and position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if name == b"acTL":
            raise _several_pictures("PNG")
        position += PNG_CHUNK_BYTES + length
    if position > len(data):
        raise PhotographError("undecodable", "a PNG file that ends within a chunk")


def _check_jpeg(data: bytes) -> None:
    """Refuse JPEG files with so many scans that decoding would not end.

    Each scan of a progressive JPEG costs as much as a whole picture, however few bytes
    it has.
    """
    num_scans = position = 0
    while marker := JPEG_MARKER.search(data, position):
        position = marker.end()
        if marker[0] == JPEG_END:
            return
        num_scans += marker[0] == JPEG_SCAN
        if num_scans > MAX_SCANS:
            raise PhotographError(
                "unsupported", f"a JPEG file with more than {MAX_SCANS} scans"
            )
        if marker[0] != JPEG_START:
            position += int.from_bytes(data[position : position + 2], "big")

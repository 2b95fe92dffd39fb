"""DICOM files as bytes: their transfer syntax, compression, frames and size."""

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from drtf.errors import PhotographError

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE_BYTES = 128
SIGNATURE = b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
PIXEL_GROUP, PIXEL_DATA = 0x7FE0, 0x7FE00010
GROUP_LENGTH_BYTES = 12  # of the first element of the file meta information
# Tags before the pixels take some kilobytes, or megabytes with an embedded preview.
MAX_HEADER_BYTES = 16_000_000
# The file meta information takes some hundred bytes.
MAX_META_BYTES = 65_536
# Of the pixels of all frames.
MAX_PIXEL_BYTES = 1_000_000_000
# Without them, the size of the pixels is unknown.
PIXEL_TAGS = ("BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
MISSING = "DICOM files require pydicom: pip install 'drtf[dicom]'"


def is_dicom(data: bytes) -> bool:
    """Return True for a DICOM file: `DICM` follows its preamble (DICOM PS3.10, 7.1)."""
    return data[PREAMBLE_BYTES : PREAMBLE_BYTES + len(SIGNATURE)] == SIGNATURE


def read_header(data: bytes, *, is_whole: bool = True) -> "Dataset":
    """Read the tags before the pixels of a DICOM file.

    Args:
        data: The file, or its first bytes.
        is_whole: Whether it is the whole file, whose tags may end without pixels.

    Raises:
        PhotographError: With reason `not_an_image`, if the header is damaged or cut
            short, or `unsupported`, if pydicom is missing.
    """
    _check_pydicom()
    from pydicom.filereader import read_partial

    has_pixels = False

    def is_pixels(tag: Any, vr: object, length: object) -> bool:
        nonlocal has_pixels
        has_pixels = tag.group >= PIXEL_GROUP
        return has_pixels

    with damaged_file("not_an_image"):
        if transfer_syntax(data) == DEFLATED:
            data = _inflate(data, MAX_HEADER_BYTES, is_part=True)
        header = read_partial(io.BytesIO(data), stop_when=is_pixels)
        # pydicom takes the end of the bytes for the end of the tags.
        if not has_pixels and (not is_whole or "Columns" in header):
            raise PhotographError(
                "not_an_image", "a DICOM file whose header is cut short"
            )
        return header


def load_file(
    data: bytes, *, check_size: Callable[[int, int], None] = lambda width, height: None
) -> "Dataset":
    """Load a DICOM file with its pixels, which stay compressed.

    Args:
        data: Bytes of the file.
        check_size: Called with the declared width and height in px, before memory is
            allocated for the pixels. Raises PhotographError to refuse them.

    Raises:
        PhotographError: With reason `not_an_image`, `unsupported`, `too_large` or
            `undecodable`, or as raised by `check_size`.
    """
    _check_pydicom()
    import pydicom

    header = read_header(data)
    with damaged_file("not_an_image"):
        _check_has_pixels(header)
        size = int(header.Columns), int(header.Rows)
    check_size(*size)
    with damaged_file("undecodable"):
        _check_pixel_bytes(header)
        if transfer_syntax(data) == DEFLATED:
            data = _inflate(data, MAX_HEADER_BYTES + _pixel_bytes(header))
        return pydicom.dcmread(io.BytesIO(data))


def transfer_syntax(data: bytes) -> str:
    """Return the UID of the transfer syntax, reading nothing else of the file.

    Raises:
        PhotographError: With reason `not_an_image`, if the header is damaged.
    """
    _check_pydicom()
    with damaged_file("not_an_image"):
        return str(_file_meta(data).TransferSyntaxUID)


def count_frames(header: "Dataset") -> int:
    """Return the number of frames that a header declares."""
    return int(header.get("NumberOfFrames") or 1)


def check_raw_pixels(dataset: "Dataset") -> None:
    """Check that the pixels of a file that does not compress them are complete.

    Raises:
        PhotographError: With reason `undecodable`.
    """
    found_bytes = len(dataset.get("PixelData") or b"")
    size_bytes = _pixel_bytes(dataset)
    if found_bytes < size_bytes:
        raise PhotographError(
            "undecodable",
            f"a DICOM file that is cut short: it has {found_bytes} of {size_bytes} "
            "bytes of pixels",
        )


def extract_frame(file: BinaryIO, number: int) -> bytes:
    """Return one frame of a DICOM file as a separate DICOM file.

    The frame is not compressed again. Equal files give equal bytes.

    Args:
        file: The file, opened for reading. Of a large file, only the tags and the frame
            are read.
        number: The frame, from 1.

    Raises:
        PhotographError: With reason `unreadable` if there is no such frame, or as
            `load_file`.
        OSError: If the file cannot be read.
    """
    (frame,) = extract_frames(file, [number])
    if isinstance(frame, PhotographError):
        raise frame
    return frame


def extract_frames(
    file: BinaryIO, numbers: Sequence[int]
) -> Iterator[bytes | PhotographError]:
    """Yield frames of a DICOM file as `extract_frame` does, or their errors.

    Args:
        file: The file, opened for reading.
        numbers: The frames, from 1.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        frames = _open_frames(file)
    except PhotographError as error:
        yield from [error] * len(numbers)
        return
    for number in numbers:
        try:
            yield frames.extract(number)
        except PhotographError as error:
            yield error


@dataclass(frozen=True)
class _Frames:
    """The frames of an open DICOM file.

    Attributes:
        file: The file, with its tags uncompressed.
        start: Where the value of its pixels starts.
        kind: The value representation of the pixels, `OB` or `OW`.
        dataset: Its other tags, which become those of a frame.
        num_frames: Number of frames.
        groups: What the tags say of each frame.
        offsets: Where the frames start, if the tags say it.
    """

    file: BinaryIO
    start: int
    kind: str
    dataset: "Dataset"
    num_frames: int
    groups: Sequence["Dataset"]
    offsets: tuple[bytes, bytes] | None

    def extract(self, number: int) -> bytes:
        """Return a frame as a separate file.

        Raises:
            PhotographError: As `extract_frame`.
            OSError: If the file cannot be read.
        """
        from pydicom.encaps import encapsulate

        if not 1 <= number <= self.num_frames:
            raise PhotographError(
                "unreadable",
                f"frame {number} of a DICOM file that has {self.num_frames}",
            )
        with damaged_file("undecodable"):
            pixels = self._read_pixels(number)
            if self.dataset.file_meta.TransferSyntaxUID.is_encapsulated:
                pixels = encapsulate([pixels], has_bot=False)
            pixels += bytes(len(pixels) % 2)
            self.dataset.add_new(PIXEL_DATA, self.kind, pixels)
            self.dataset.NumberOfFrames = 1
            if self.groups:
                own = self.groups[number - 1 : number]
                self.dataset.PerFrameFunctionalGroupsSequence = own
            file = io.BytesIO()
            self.dataset.save_as(file)
            return file.getvalue()

    def _read_pixels(self, number: int) -> bytes:
        from pydicom.encaps import get_frame

        self.file.seek(self.start)
        if self.dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            return get_frame(
                self.file,
                number - 1,
                number_of_frames=self.num_frames,
                extended_offsets=self.offsets,
            )
        self.dataset.NumberOfFrames = 1
        size_bytes = _pixel_bytes(self.dataset)
        self.file.seek((number - 1) * size_bytes, io.SEEK_CUR)
        return self.file.read(size_bytes)


def _open_frames(file: BinaryIO) -> _Frames:
    """Read the tags of a DICOM file.

    Raises:
        PhotographError: As `load_file`.
        OSError: If the file cannot be read.
    """
    syntax = transfer_syntax(file.read(MAX_META_BYTES))
    from pydicom.filereader import read_partial

    file.seek(0)
    if syntax == DEFLATED:
        data = file.read()
        header = read_header(data)
        with damaged_file("undecodable"):
            _check_has_pixels(header)
            _check_pixel_bytes(header)
            file = io.BytesIO(_inflate(data, MAX_HEADER_BYTES + _pixel_bytes(header)))
    start, kind = 0, ""

    def is_pixels(tag: Any, vr: str | None, length: object) -> bool:
        nonlocal start, kind
        if tag == PIXEL_DATA:
            start, kind = file.tell(), vr or "OW"
        return tag == PIXEL_DATA

    with damaged_file("not_an_image"):
        dataset = read_partial(file, stop_when=is_pixels)
        _check_has_pixels(dataset)
    if not start:
        raise PhotographError("undecodable", "a DICOM file without pixels")
    with damaged_file("undecodable"):
        _check_pixel_bytes(dataset)
        frames = _Frames(
            file,
            start,
            kind,
            dataset,
            count_frames(dataset),
            dataset.get("PerFrameFunctionalGroupsSequence") or (),
            _extended_offsets(dataset),
        )
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            dataset.pop(name, None)
    return frames


@contextmanager
def damaged_file(reason: str) -> Iterator[None]:
    """Report whatever damaged tags or pixels raise as a PhotographError.

    pydicom and its decoders raise many kinds of errors, some of them when a tag is
    first used. Their texts are about Python, and may quote a patient's tags, so they
    are only the cause of the PhotographError.

    Args:
        reason: The reason of the PhotographError. With `undecodable`, the pixels are to
            blame.
    """
    try:
        yield
    except (PhotographError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of a decoder
            raise
        problem = "its tags are missing or have wrong values"
        if reason == "undecodable":
            problem = "its pixels cannot be decoded, or do not match its tags"
        raise PhotographError(reason, f"a damaged DICOM file: {problem}") from error


def _check_pydicom() -> None:
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise PhotographError("unsupported", MISSING) from error


def _check_has_pixels(header: "Dataset") -> None:
    if "Columns" not in header or "Rows" not in header:
        raise PhotographError(
            "not_an_image",
            "a DICOM file without a photograph: it holds no pixels but "
            f"{kind_of(header)}",
        )


def _check_pixel_bytes(header: "Dataset") -> None:
    for name in PIXEL_TAGS:
        if name not in header:
            raise PhotographError(
                "undecodable", f"a DICOM file without the tag {name}, which it requires"
            )
    size_bytes = _pixel_bytes(header)
    if size_bytes > MAX_PIXEL_BYTES:
        raise PhotographError(
            "too_large",
            f"a DICOM file with {size_bytes} bytes of pixels; the maximum is "
            f"{MAX_PIXEL_BYTES}",
        )


def kind_of(header: "Dataset") -> str:
    """Return the kind of a DICOM file without pixels: its modality or SOP class."""
    uid = header.get("SOPClassUID")
    return str(header.get("Modality") or (uid.name if uid else "tags"))


def _pixel_bytes(header: "Dataset") -> int:
    """Return the size of the pixels of all frames when they are not compressed."""
    from pydicom.pixels.utils import get_expected_length

    return get_expected_length(header)


def _extended_offsets(dataset: "Dataset") -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" not in dataset:
        return None
    return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths


def _file_meta(data: bytes) -> "Dataset":
    from pydicom.filereader import read_dataset

    return read_dataset(
        io.BytesIO(data[PREAMBLE_BYTES + len(SIGNATURE) :]),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )


def _inflate(data: bytes, max_bytes: int, *, is_part: bool = False) -> bytes:
    """Return a deflated DICOM file with its tags uncompressed.

    Args:
        data: Bytes of the file.
        max_bytes: The most bytes that its tags may have.
        is_part: Whether to cut longer tags short instead of raising an error.

    Raises:
        PhotographError: With reason `too_large`.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info

    meta = FileMetaDataset(_file_meta(data))
    length = int(meta.FileMetaInformationGroupLength)
    start = PREAMBLE_BYTES + len(SIGNATURE) + GROUP_LENGTH_BYTES + length
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data[start:], max_bytes)
    if stream.unconsumed_tail and not is_part:
        raise PhotographError(
            "too_large",
            f"a deflated DICOM file with more than the {max_bytes} bytes that its "
            "header declares",
        )
    meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    file = io.BytesIO()
    file.write(bytes(PREAMBLE_BYTES) + SIGNATURE)
    write_file_meta_info(file, meta, enforce_standard=False)
    return file.getvalue() + inflated

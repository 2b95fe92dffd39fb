"""File formats by their first bytes: what a file is, whatever its name says."""

from drtf.images.dicom_files import is_dicom
from drtf.images.jpeg_frames import find_jpeg_frame

# Endings of pictures; whether a file can be decoded is decided by its content.
SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp"),
    *(".gif", ".jp2", ".j2k", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".dcm", ".dicom", ".heic", ".heif", ".avif", ".jxl", ".psd", ".pdf"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
    *(".mp4", ".mov", ".avi", ".mkv"),
)
DICOM = "DICOM"
HEAD_BYTES = 132  # the signature of DICOM is the last
# Decoded if a library for it is installed.
PICTURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    # Never decoded.
    (4, b"ftypcrx", "a camera's raw format"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw format"),
    (0, b"IIRO", "a camera's raw format"),
    (0, b"IIRS", "a camera's raw format"),
    (0, b"IIU\0", "a camera's raw format"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "PDF"),
    (4, b"ftyp", "a video"),
    (8, b"AVI ", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
)
# Marker and name of the JPEG frames that libjpeg does not decode.
LOSSLESS = {0xC3: "a lossless JPEG", 0xF7: "JPEG-LS"}


def picture_name(head: bytes) -> str:
    """Return the name of a picture's or video's format, or "" for any other file.

    Args:
        head: The first bytes of the file, at least HEAD_BYTES if it has so many.
    """
    if is_dicom(head):
        return DICOM
    for offset, signature, name in PICTURES:
        if head.startswith(signature, offset):
            return name
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#":
        return "PNM"
    return ""


def container_name(data: bytes) -> str:
    """Return the format of a file that cannot be opened; "" if it is unknown.

    A damaged file of a format that is supported has no name here.
    """
    name = picture_name(data)
    if name == "JPEG":
        return _jpeg_variant(data)
    offsets = {name: offset for offset, _, name in PICTURES}
    decoded = ("", DICOM, "PNG", "TIFF", "BigTIFF", "WebP", "GIF", "JPEG 2000")
    return "" if name in decoded or name not in offsets else name


def _jpeg_variant(data: bytes) -> str:
    """Return the name of a JPEG variant that libjpeg does not decode, or ""."""
    frame = find_jpeg_frame(data)
    if not frame:
        return ""
    if frame.marker in LOSSLESS:
        return LOSSLESS[frame.marker]
    return f"a JPEG with {frame.bits} bits per sample" if frame.bits != 8 else ""

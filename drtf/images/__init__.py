"""Pixels of one photograph: decoding, cropping, contrast and quality."""

__all__ = [
    "decode",
    "depth",
    "dicom",
    "dicom_files",
    "dicom_tags",
    "gradability",
    "jpeg_frames",
    "preprocess",
    "quality",
    "retina",
    "signatures",
]

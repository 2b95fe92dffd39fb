"""Pixels of one photograph: decoding, cropping, contrast and quality."""

__all__ = [
    "decode",
    "dicom",
    "gradability",
    "preprocess",
    "quality",
    "retina",
]

"""Pixels of one photograph: decoding, cropping, contrast and quality."""

__all__ = [
    "decode",
    "depth",
    "dicom",
    "gradability",
    "preprocess",
    "quality",
    "retina",
    "signatures",
]

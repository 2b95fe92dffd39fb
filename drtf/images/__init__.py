"""Pixels of one photograph: decoding, cropping, contrast and quality."""

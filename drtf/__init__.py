"""Retinal photographs to TFRecord shards, once; streamed training from then on."""

__version__ = "0.1.0"

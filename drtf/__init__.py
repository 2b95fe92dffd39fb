"""Convert retinal photographs to TFRecord shards, and train, evaluate and score."""

__version__ = "0.1.0"

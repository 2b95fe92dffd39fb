"""Benchmarks that compare drtf with alternatives, and sweeps over configs."""

__all__ = [
    "augment",
    "convert",
    "heatmaps",
    "memory",
    "quality",
    "read",
    "sample_dataset",
    "score",
    "sweep",
    "train",
]

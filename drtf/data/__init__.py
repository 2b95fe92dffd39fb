"""Data: the order of records, and batches of images from them."""

__all__ = [
    "augment",
    "inspection",
    "loader",
    "mixing",
    "pipeline",
    "resampling",
    "sampling",
    "sampling_groups",
]

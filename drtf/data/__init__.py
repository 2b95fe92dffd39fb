"""Data: the order of records, and batches of images from them."""

__all__ = [
    "augment",
    "examples",
    "inspection",
    "loader",
    "mixing",
    "pipeline",
    "resampling",
    "sampling",
    "sampling_groups",
    "stream",
    "training_batches",
]

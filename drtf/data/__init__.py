"""Data: finds labelled photographs, builds datasets, and streams batches from them."""

__all__ = [
    "augment",
    "build",
    "build_plan",
    "contents",
    "inspection",
    "journal",
    "label_formats",
    "labels",
    "loader",
    "metadata",
    "photographs",
    "pipeline",
    "prepare",
    "resampling",
    "resume",
    "sampling",
    "sources",
    "splits",
    "write",
]

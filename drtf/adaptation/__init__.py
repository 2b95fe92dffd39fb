"""Adaptation: makes a run fit photographs from elsewhere."""

__all__ = [
    "batch_norm",
    "quality_gates",
    "recalibration",
]

"""Adaptation: fits a run to a clinic's camera, prevalence and standard of quality."""

__all__ = [
    "batch_norm",
    "quality_gates",
    "recalibration",
]

"""Models: backbones, heads, losses, calibration, devices and the run folder."""

__all__ = [
    "backbones",
    "calibration",
    "compatibility",
    "decision_rule",
    "device",
    "head",
    "history",
    "losses",
    "machine",
    "network",
    "prediction",
    "run",
]

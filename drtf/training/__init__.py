"""Training: from a dataset and a config to a run folder, with exact resume."""

__all__ = [
    "callbacks",
    "checkpoint",
    "context",
    "hosts",
    "identity",
    "loop",
    "own_model",
    "run",
    "train_plan",
    "trainer",
    "validation",
]

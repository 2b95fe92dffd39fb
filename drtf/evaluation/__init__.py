"""Evaluation: how good a model is, on the photographs of a split."""

__all__ = [
    "comparison",
    "decision_rules",
    "evaluation",
    "folder",
    "group_metrics",
    "group_results",
    "metrics",
    "predictions",
    "report",
    "result",
    "thresholds",
    "weighted_metrics",
]

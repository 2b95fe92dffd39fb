"""Inference: evaluation, scoring, heat maps and export of trained runs."""

__all__ = [
    "comparison",
    "decision_rules",
    "ensemble",
    "evaluation",
    "evaluation_result",
    "export",
    "gradcam",
    "heatmaps",
    "intervals",
    "metrics",
    "predictions",
    "report",
    "score_table",
    "scoring",
    "thresholds",
    "weighted_metrics",
]

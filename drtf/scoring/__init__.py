"""Scoring: the score of every photograph of a folder, as a table."""

__all__ = [
    "growing_table",
    "kept_rows",
    "patient_rows",
    "patient_table",
    "photograph_scores",
    "score_check",
    "score_table",
    "scorer",
    "scoring",
    "table_files",
    "watch",
]

"""Scoring: the score of every photograph of a folder, as a table."""

__all__ = [
    "kept_rows",
    "patient_rows",
    "score_check",
    "score_table",
    "scoring",
    "table_files",
]

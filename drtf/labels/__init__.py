"""Labels: the grade, patient, split and groups of each photograph."""

__all__ = [
    "assessments",
    "class_folders",
    "columns",
    "extra_columns",
    "formats",
    "grades",
    "grouping",
    "label_files",
    "matching",
    "patients",
    "soft_labels",
    "sources",
    "splits",
    "tables",
]

"""Columns of a table that is not part of a dataset, such as one of its patients."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from drtf.errors import LabelError
from drtf.labels.columns import find_column
from drtf.labels.formats import IMAGE_COLUMNS
from drtf.labels.label_files import are_repeated, check_filled
from drtf.labels.matching import clean_path, match_photographs
from drtf.labels.tables import check_utf8, load_label_table
from drtf.photographs.patient_columns import PATIENT_COLUMNS, first_column
from drtf.texts import text_column

# The columns of a dataset's index by which a table is matched with photographs.
MATCHED_COLUMNS = ["source", "path", "patient"]


def load_extra_columns(
    path: Path, photographs: pd.DataFrame, names: Sequence[str]
) -> dict[str, pd.Series]:
    """Load columns of a table with one row per photograph or per patient.

    Photographs are matched as those of a label file are; patients have equal names.

    Args:
        path: A table of text, a workbook, or a zip file with one of them.
        photographs: MATCHED_COLUMNS of an index, one row per photograph.
        names: The columns to load.

    Returns:
        By name, the text for each photograph, empty for those that are not in the
        table. Columns that the table does not have are left out.

    Raises:
        LabelError: If the file cannot be read, names neither photographs nor patients,
            has none of the columns, or has two values for one of them.
    """
    table = load_label_table(path)
    found = {
        name: column for name in names if (column := find_column(table.columns, name))
    }
    if not found:
        raise LabelError(
            f"{path} has no column {' or '.join(map(repr, names))}; its columns are "
            f"{table.columns}"
        )
    image = first_column(table.columns, IMAGE_COLUMNS)
    key = image or first_column(table.columns, PATIENT_COLUMNS)
    if key is None:
        raise LabelError(
            f"{path} has no column with the names of photographs or patients; its "
            f"columns are {table.columns}. Rename one to 'image' or 'patient'"
        )
    for column in (key, *found.values()):
        check_utf8(path, table.rows[column])
    keys = table.rows[key].map(clean_path) if image else table.rows[key]
    check_filled(path, keys, f"no {key!r}")
    columns = {column: table.rows[column] for column in found.values()}
    keys = keys[~are_repeated(path, keys, columns)]
    find_lines = _lines_by_photograph if image else _lines_by_patient
    lines = find_lines(path, keys, photographs)
    return {
        name: columns[column].reindex(lines).fillna("").reset_index(drop=True)
        for name, column in found.items()
    }


def _lines_by_photograph(
    path: Path, names: pd.Series, index: pd.DataFrame
) -> pd.Series:
    """Return the line of each record's photograph, or NaN.

    Args:
        path: The table, for error messages.
        names: The photographs' names by line, each once.
        index: Columns `source` and `path`.
    """
    paths = index["path"].where(
        index["source"] == "", index["source"] + "/" + index["path"]
    )
    try:
        matches = match_photographs(pd.DataFrame({"name": names}), text_column(paths))
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error
    matched = paths.iloc[matches.table["row"]]
    return paths.map(pd.Series(matches.table.index, index=matched))


def _lines_by_patient(path: Path, names: pd.Series, index: pd.DataFrame) -> pd.Series:
    """Return the line of each record's patient, or NaN.

    Args:
        path: The table, for error messages.
        names: The patients' names by line, each once; with or without their source.
        index: Columns `source` and `patient`.
    """
    lines = pd.Series(names.index, index=names)
    prefixes = index["source"] + "/"
    short = pd.Series(
        [
            patient.removeprefix(prefix)
            for patient, prefix in zip(index["patient"], prefixes, strict=True)
        ],
        index=index.index,
    )
    found = index["patient"].map(lines).fillna(short.map(lines))
    if found.isna().all():
        raise LabelError(
            f"{path} has no patient of the dataset: its column {names.name!r} contains "
            f"{names.iloc[0]!r}, and the dataset has {short.iloc[0]!r}"
        )
    return found

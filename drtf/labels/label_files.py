"""Label files: the grade, patient and published split of each photograph."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.labels.columns import (
    Columns,
    choose_columns,
    find_column,
    names_numbers,
    with_one_photograph_per_row,
)
from drtf.labels.formats import SPLIT_COLUMNS
from drtf.labels.grades import grade_scale, parse_grade
from drtf.labels.matching import clean_path
from drtf.labels.patients import find_eye
from drtf.labels.splits import parse_split
from drtf.labels.tables import check_utf8, load_label_table, name_lines
from drtf.photographs.patient_columns import fold_name, names_patient
from drtf.photographs.references import strip_suffix
from drtf.texts import are_repeated_texts, iterate_texts, text_column

MAX_VALUES_NAMED = 5
# Begins the name of a column that a dataset keeps of the label file.
KEPT = "kept."


@dataclass(frozen=True)
class Labels:
    """The contents of a label file.

    Attributes:
        table: One row per photograph in the file's order. Its index is the line in the
            file, from 1. Columns: `name` (a POSIX path), `value` (of the grade column),
            `grade` (0-4, or NA if the photograph is ungraded), one for each of
            `labels.keep_columns`, whose name begins with KEPT, and, if they are known,
            `patient` and `split`.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        columns: The columns that were read.
        unread: The other columns.
        unread_split: The one of them that seems to have a published split, or None.
    """

    table: pd.DataFrame
    num_repeated: int
    columns: Columns
    unread: list[str]
    unread_split: str | None


def load_labels(path: Path, config: LabelsConfig) -> Labels:
    """Load a label file of a known format, or with the columns that the config names.

    Args:
        path: A table of text, a workbook, or a zip file with one of them.
        config: The `labels` section.

    Raises:
        LabelError: If the file cannot be read, a column is missing, a grade or split is
            unknown, or a photograph has two grades, patients or splits.
    """
    table = load_label_table(path)
    if table.has_header and names_numbers(config, table.columns):
        table = load_label_table(path, has_header=False)
    images, grades = config.image_column, config.grade_column
    table, config = with_one_photograph_per_row(path, table, config)
    rows = table.rows
    columns = replace(
        choose_columns(path, table, config),
        kept=tuple(find_column(table.columns, name) for name in config.keep_columns),
    )
    named = columns
    if isinstance(images, tuple):
        named = replace(columns, image=", ".join(images), grades=tuple(grades))
    for name in columns.names:
        check_utf8(path, rows[name])
    names = text_column(map(clean_path, iterate_texts(rows[columns.image])), rows.index)
    check_filled(path, names, "no image name")
    values = _grade_values(path, rows, columns).astype("category")
    labels = pd.DataFrame({"name": names, "value": values})
    labels["grade"] = _parse_grades(path, labels["value"], named, config)
    for name, column in zip(config.keep_columns, columns.kept, strict=True):
        nothing = text_column(itertools.repeat("", len(rows)), rows.index)
        labels[KEPT + name] = rows[column] if column else nothing
    if columns.patient:
        labels["patient"] = rows[columns.patient]
        _check_patients(path, labels["patient"], columns.patient)
    if columns.split:
        labels["split"] = _parse_splits(path, rows[columns.split])
    compared = {x: labels[x] for x in ("grade", "patient", "split") if x in labels}
    compared |= {name: rows[name] for name in columns.kept if name}
    unique = labels[~are_repeated(path, names, compared)]
    unread = [x for x in table.columns if x not in columns.names and not _is_index(x)]
    is_split = [
        fold_name(x) in SPLIT_COLUMNS and rows[x].map(parse_split).notna().all()
        for x in unread
    ]
    readable = [x.encode(errors="replace").decode() for x in unread]
    return Labels(
        unique,
        num_repeated=len(labels) - len(unique),
        columns=named,
        unread=readable,
        unread_split=next(itertools.compress(unread, is_split), None),
    )


def check_filled(path: Path, column: pd.Series, problem: str) -> None:
    """Check that a column has no empty cell.

    Raises:
        LabelError: If it has one.
    """
    empty = column.index[column == ""]
    if len(empty):
        raise LabelError(f"{path}: {problem} in {name_lines(empty)}")


def _check_patients(path: Path, patients: pd.Series, column: str) -> None:
    """Check that each cell names a patient.

    Photographs with the same word for an unknown patient would be of one patient.

    Raises:
        LabelError: If one does not.
    """
    is_named = np.fromiter(map(names_patient, iterate_texts(patients)), bool)
    unknown = patients.index[~is_named]
    if len(unknown):
        raise LabelError(
            f"{path}: column {column!r} names no patient in {name_lines(unknown)}. "
            "If the patient of a photograph is unknown, write a name that no other "
            "photograph has, such as its file name"
        )


def are_repeated(
    path: Path, names: pd.Series, columns: Mapping[str, pd.Series]
) -> pd.Series:
    """Return for each row whether it repeats an earlier row of the same name.

    Args:
        path: The label file, for error messages.
        names: The names; the index is the line in the file.
        columns: The columns in which the rows of a name must be equal.

    Raises:
        LabelError: If two rows of a name differ.
    """
    has_others = are_repeated_texts(names)
    repeated = pd.Series(has_others, names.index)
    names = names[has_others]
    numbers = pd.factorize(names)[0]
    is_later = pd.Series(numbers).duplicated().to_numpy()
    for column, values in columns.items():
        own = pd.factorize(values[has_others])[0]
        first = own[~is_later][numbers]  # numbers are in the order of first rows
        conflicts = names[own != first]
        if len(conflicts):
            name = conflicts.iloc[0]
            lines = names.index[names == name]
            raise LabelError(
                f"{path}: {name} has two values of {column!r} in {name_lines(lines)}; "
                "keep one"
            )
    repeated[has_others] = is_later
    return repeated


def _is_index(column: str) -> bool:
    """Return whether a column only numbers the rows, as pandas writes it."""
    return column.startswith("Unnamed: ")


def _grade_values(path: Path, rows: pd.DataFrame, columns: Columns) -> pd.Series:
    """Return the text in each row that stands for the grade."""
    if columns.is_one_hot:
        return _one_hot_values(path, rows, columns)
    values = rows[list(columns.grades)]
    if len(columns.grades) == 1:
        return values[columns.grades[0]]
    filled = values != ""
    first = values.apply(lambda row: next(filter(None, row), ""), axis=1)
    both = filled.sum(axis=1) > 1
    if not both.any():
        return first
    # Each row has the grades of both eyes: take that of the photograph's own eye.
    sides = {side: name for name in columns.grades if (side := _side_of(name))}
    own = rows[columns.image].map(
        lambda name: sides.get(_side_of(strip_suffix(clean_path(name))) or "")
    )
    unclear = both & own.isna() & values.nunique(axis=1).gt(1)
    if unclear.any():
        raise LabelError(
            f"{path}: the columns {list(columns.grades)} have different grades in "
            f"{name_lines(rows.index[unclear])}, and the name does not say which eye "
            "it is: keep one grade per photograph"
        )
    return pd.Series(
        [
            values.at[line, name] if isinstance(name, str) else first[line]
            for line, name in zip(rows.index, own, strict=True)
        ],
        index=rows.index,
    )


def _side_of(name: str) -> str | None:
    eye = find_eye(name)
    return eye.side if eye else None


def _one_hot_values(path: Path, rows: pd.DataFrame, columns: Columns) -> pd.Series:
    """Return the grade whose column has a 1, or an empty text if none has."""
    values = rows[list(columns.grades)]
    is_set = values.isin(["1", "1.0", "True", "TRUE", "true", "x", "X"])
    known = is_set | values.isin(["0", "0.0", "False", "FALSE", "false", ""])
    bad = ~known.all(axis=1) | is_set.sum(axis=1).gt(1)
    if bad.any():
        raise LabelError(
            f"{path}: exactly one of the columns {list(columns.grades)} must be 1 and "
            f"the others 0; this is not so in {name_lines(rows.index[bad])}"
        )
    grades = [str(parse_grade(name)) for name in columns.grades]
    return pd.Series(
        ["".join(itertools.compress(grades, row)) for row in is_set.to_numpy()],
        index=rows.index,
    )


def _parse_grades(
    path: Path, values: pd.Series, columns: Columns, config: LabelsConfig
) -> pd.Series:
    """Return the grades, 0-4, or NA for ungraded photographs."""
    scale = grade_scale(values.cat.categories, config, published=columns.values)
    if scale.unknown:
        bad = values[values.isin(scale.unknown)]
        unknown = bad.unique().tolist()
        more = "" if len(unknown) <= MAX_VALUES_NAMED else ", ..."
        raise LabelError(
            f"{path}: a grade must be 0, 1, 2, 3 or 4, or a word such as 'mild', but "
            f"column {', '.join(map(repr, columns.grades))} has "
            f"{', '.join(map(repr, unknown[:MAX_VALUES_NAMED]))}{more} in "
            f"{name_lines(bad.index)}. If such photographs have no grade, name the "
            "values with labels.ungraded; if the column has other values, list "
            "those of the grades 0 to 4 with labels.grade_values"
        )
    if not scale.grades:
        raise LabelError(
            f"{path}: no row has a grade; column "
            f"{', '.join(map(repr, columns.grades))} has only "
            f"{sorted(scale.ungraded)[:MAX_VALUES_NAMED]}"
        )
    return values.map(scale.grades).astype("Int8")


def _parse_splits(path: Path, values: pd.Series) -> pd.Series:
    splits = values.astype("category").map(parse_split)
    unknown = values[splits.isna()]
    if len(unknown):
        raise LabelError(
            f"{path}: column {values.name!r} (labels.split_column) must have names of "
            "splits such as train, val, test, Public or Private; it has "
            f"{unknown.unique().tolist()[:MAX_VALUES_NAMED]} in "
            f"{name_lines(unknown.index)}"
        )
    return splits

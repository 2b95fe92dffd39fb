"""Which columns of a label file have the photographs, grades, patients and splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd

from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.labels.formats import IMAGE_COLUMNS, LABEL_FORMATS, LabelFormat
from drtf.labels.grades import parse_grade
from drtf.labels.tables import SAVE_AS_CSV, LabelTable
from drtf.photographs.patient_columns import PATIENT_COLUMNS, first_column, fold_name
from drtf.tasks import NUM_GRADES
from drtf.texts import is_utf8


@dataclass(frozen=True)
class Columns:
    """Which columns of a label file are read.

    Attributes:
        image: Column with the photograph's name.
        grades: Column with the grade, one for each eye, or one for each grade.
        patient: Column with the patient, or None.
        split: Column with the published split, or None.
        kept: The columns to keep in the dataset, in the order of the setting; None for
            one that the file does not have.
        is_one_hot: Whether there is one column for each grade.
        values: The grade that each value means, if the values are not grades.
        note: What a user must know about the grades.
    """

    image: str
    grades: tuple[str, ...]
    patient: str | None = None
    split: str | None = None
    kept: tuple[str | None, ...] = ()
    is_one_hot: bool = False
    values: Mapping[str, int] | None = None
    note: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the columns that are read."""
        read = (self.image, *self.grades, self.patient, self.split, *self.kept)
        return [x for x in read if x]

    @property
    def roles(self) -> dict[str, str]:
        """The role of each column that is read, such as `grade`, and its name."""
        roles = {
            "image": self.image,
            "grade": ", ".join(self.grades),
            "patient": self.patient,
            "split": self.split,
            "kept": ", ".join(filter(None, self.kept)),
        }
        return {role: name for role, name in roles.items() if name}


def names_numbers(config: LabelsConfig, columns: Sequence[str]) -> bool:
    """Return whether the config names the columns by number, as without a header."""
    name = config.image_column
    first = name if isinstance(name, str) else name[0]
    return first.isdigit() and first not in columns


def with_one_photograph_per_row(
    path: Path, table: LabelTable, config: LabelsConfig
) -> tuple[LabelTable, LabelsConfig]:
    """Divide rows with several photographs, such as those of both eyes.

    The line of a row is that of each of its photographs. A photograph without a name
    is left out.

    Args:
        path: The label file, for error messages.
        table: Its contents.
        config: The `labels` section.

    Returns:
        The divided rows, which have the first of each kind of column only, and the
        section with the name of that column.

    Raises:
        LabelError: If a column is missing.
    """
    if isinstance(config.image_column, str):
        return table, config
    images, grades = (
        [_named_column(path, table.columns, key, name) for name in named]
        for key, named in (
            ("image_column", config.image_column),
            ("grade_column", config.grade_column),
        )
    )
    others = table.rows.drop(columns=[*images, *grades])
    parts = [
        others.assign(**{images[0]: table.rows[image], grades[0]: table.rows[grade]})
        for image, grade in zip(images, grades, strict=True)
    ]
    rows = pd.concat([part[part[images[0]] != ""] for part in parts])
    update = {"image_column": images[0], "grade_column": grades[0]}
    return (
        LabelTable(rows.sort_index(kind="stable"), table.has_header),
        config.model_copy(update=update),
    )


def choose_columns(path: Path, table: LabelTable, config: LabelsConfig) -> Columns:
    """Choose the columns that the config names, or those of a known format.

    Args:
        path: The label file, for error messages.
        table: Its contents.
        config: The `labels` section, with one image column at most.

    Raises:
        LabelError: If a column is missing, or no format is known.
    """
    columns = table.columns
    image_column = cast(str, config.image_column)
    patient = split = None
    if config.patient_column:
        patient = _named_column(path, columns, "patient_column", config.patient_column)
    elif not config.patient_pattern:
        patient = first_column(columns, PATIENT_COLUMNS)
    if config.split_column:
        split = _named_column(path, columns, "split_column", config.split_column)
    if config.grade_column:
        named = config.grade_column
        grades = (named,) if isinstance(named, str) else named
        return Columns(
            _named_column(path, columns, "image_column", image_column),
            tuple(_named_column(path, columns, "grade_column", x) for x in grades),
            patient,
            split,
        )
    if not table.has_header and len(columns) == 2:
        first, second = columns
        if _has_only_grades(table, first) and not _has_only_grades(table, second):
            first, second = second, first
        return Columns(first, (second,), patient, split)
    known = _known_format(columns)
    if known and not image_column:
        lookup = _column_lookup(path, columns)
        own = lookup[fold_name(known.patient)] if known.patient else None
        return Columns(
            lookup[fold_name(known.image)],
            tuple(lookup[fold_name(grade)] for grade in known.grades),
            patient if config.patient_column else own or patient,
            split,
            values=known.values,
            note=known.note,
        )
    image = (
        _named_column(path, columns, "image_column", image_column)
        if image_column
        else first_column(columns, IMAGE_COLUMNS)
    )
    one_hot = [x for x in columns if x != image and parse_grade(x) is not None]
    if image and len(one_hot) == len({parse_grade(x) for x in one_hot}) == NUM_GRADES:
        return Columns(image, tuple(one_hot), patient, split, is_one_hot=True)
    if not table.has_header:
        raise LabelError(
            f"{path} has no header, and {len(columns)} columns. Name two of them by "
            "their numbers, from 1, such as --set labels.image_column=1 --set "
            "labels.grade_column=2"
        )
    raise LabelError(
        f"{path} has none of the known formats: {'; '.join(map(str, LABEL_FORMATS))}. "
        f"Its columns are {name_columns(columns)}. Name two of them with --set "
        "labels.image_column=NAME --set labels.grade_column=NAME"
    )


def _has_only_grades(table: LabelTable, column: str) -> bool:
    return all(parse_grade(value) is not None for value in table.rows[column])


def name_columns(columns: Sequence[str]) -> str:
    """Name the columns of a label file, and say so if they are not in UTF-8."""
    if all(map(is_utf8, columns)):
        return str(list(columns))
    readable = [x.encode(errors="replace").decode() for x in columns]
    return f"{readable}, which are not in UTF-8: {SAVE_AS_CSV}"


def find_column(columns: Sequence[str], name: str) -> str | None:
    """Find a column by its name, or else the only one of almost the same name."""
    if name in columns:
        return name
    alike = [x for x in columns if fold_name(x) == fold_name(name)]
    return alike[0] if len(alike) == 1 else None


def _known_format(columns: Sequence[str]) -> LabelFormat | None:
    folded = {fold_name(column) for column in columns}
    known = [x for x in LABEL_FORMATS if {fold_name(y) for y in x.columns} <= folded]
    return max(known, key=lambda x: len(x.columns), default=None)


def _column_lookup(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """Return each column by its folded name."""
    lookup: dict[str, str] = {}
    for column in columns:
        other = lookup.setdefault(fold_name(column), column)
        if other != column:
            raise LabelError(
                f"{path} has two columns of almost the same name, {other!r} and "
                f"{column!r}: rename one"
            )
    return lookup


def _named_column(path: Path, columns: Sequence[str], key: str, name: str) -> str:
    """Return the column that a setting names."""
    column = find_column(columns, name)
    if column is None:
        raise LabelError(
            f"{path} has no column {name!r} (labels.{key}); its columns are "
            f"{name_columns(columns)}"
        )
    return column

"""Label files: the grade and the patient of each photograph."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from drtf.config import LabelsConfig
from drtf.data.label_formats import LABEL_FORMATS, LabelFormat
from drtf.data.photographs import strip_suffix
from drtf.errors import LabelError
from drtf.files import MAX_TABLE_BYTES, read_regular

LINE = "\0line"  # no column of a file can have this name


@dataclass(frozen=True)
class Labels:
    """The contents of a label file.

    Attributes:
        table: One row per photograph in the file's order, with columns `id`, `grade`
            (int8, 0-4), `patient` and `line` (in the file, from 1).
        num_repeated: Number of rows skipped because they repeat an earlier row.
    """

    table: pd.DataFrame
    num_repeated: int


@dataclass(frozen=True)
class Matches:
    """Labels matched with photographs.

    Attributes:
        table: The labels that have a photograph, with its `path` relative to the image
            folder added.
        missing: Ids of labels that have no photograph.
        unlabelled: Paths of photographs that have no label.
    """

    table: pd.DataFrame
    missing: list[str]
    unlabelled: list[str]


def load_labels(path: Path, config: LabelsConfig) -> Labels:
    """Load a label file of a known format, or with the columns that the config names.

    Args:
        path: A CSV file in UTF-8, separated by commas, semicolons or tabs.
        config: The `labels` section.

    Raises:
        LabelError: If the file cannot be read, a column is missing, a grade is not
            0-4, or an id has two grades or two patients.
    """
    rows = _load_rows(path)
    columns = _choose_columns(path, rows, config)
    ids = rows[columns.image].map(strip_suffix)
    _check_no_lines(path, rows[LINE][ids == ""], "no image name in")
    grades = rows[columns.grade].str.fullmatch(r"[0-4](\.0+)?")
    if not grades.all():
        bad = rows[~grades]
        raise LabelError(
            f"{path}: a grade must be 0, 1, 2, 3 or 4; column {columns.grade!r} has "
            f"{bad[columns.grade].iloc[0]!r} in {_name_lines(bad[LINE])}"
        )
    table = pd.DataFrame(
        {
            "id": ids,
            "grade": rows[columns.grade].str[0].astype("int8"),
            "patient": _load_patients(path, rows, ids, columns.patient, config),
            "line": rows[LINE],
        }
    )
    unique = table.drop_duplicates("id")
    for column in ("grade", "patient"):
        first = table["id"].map(unique.set_index("id")[column])
        conflicts = table[first != table[column]]
        if len(conflicts):
            name = conflicts["id"].iloc[0]
            lines = table["line"][table["id"] == name]
            raise LabelError(
                f"{path}: {name} has two {column}s in {_name_lines(lines)}; keep one"
            )
    return Labels(unique.reset_index(drop=True), len(table) - len(unique))


def match_photographs(labels: pd.DataFrame, paths: Sequence[str]) -> Matches:
    """Match each label with a photograph, by its path or else by its file name.

    Args:
        labels: Column `id`, and any others.
        paths: The photographs' paths relative to the image folder.

    Raises:
        LabelError: If a label matches two photographs, two labels match the same one,
            or no label has a photograph.
    """
    by_path: dict[str, list[str]] = {}
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_path.setdefault(strip_suffix(path), []).append(path)
        by_name.setdefault(strip_suffix(PurePosixPath(path).name), []).append(path)
    matched_paths: list[str | None] = []
    for name in labels["id"]:
        candidates = by_path.get(name) or by_name.get(name, [])
        if len(candidates) > 1:
            raise LabelError(
                f"{name} matches {len(candidates)} photographs, {candidates[0]} and "
                f"{candidates[1]}: name the subfolder in the label file, or move one"
            )
        matched_paths.append(candidates[0] if candidates else None)
    taken: dict[str, str] = {}
    for name, photograph in zip(labels["id"], matched_paths, strict=True):
        if photograph and taken.setdefault(photograph, name) != name:
            raise LabelError(
                f"{taken[photograph]} and {name} are the same photograph, "
                f"{photograph}: keep only one of the two rows"
            )
    table = labels.assign(
        path=pd.Series(matched_paths, index=labels.index, dtype=object)
    )
    matched = table.dropna(subset="path").reset_index(drop=True)
    if not len(matched):
        example = next(iter(by_path), "")
        raise LabelError(
            "no label has a photograph: the label file contains "
            f"{labels['id'].iloc[0]!r}, and the folder contains {example!r}"
        )
    used = set(matched["path"])
    return Matches(
        matched,
        missing=table["id"][table["path"].isna()].tolist(),
        unlabelled=[
            path for group in by_path.values() for path in group if path not in used
        ],
    )


def patients_by_name(names: pd.Series, pattern: str) -> pd.Series:
    """Return the patient in each photograph's name, or NaN where there is none.

    Args:
        names: The names, without extensions.
        pattern: Regular expression whose one group is the patient.
    """
    patients = names.str.extract(pattern, expand=False)
    return patients.where(patients != "")


def _load_rows(path: Path) -> pd.DataFrame:
    try:
        text = read_regular(path, MAX_TABLE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise LabelError(
            f"cannot read the label file {path}: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path} is not a CSV file in UTF-8: {error}; save it as CSV UTF-8"
        ) from error
    first_line = text.partition("\n")[0]
    separator = max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        named = [name for name in header if name]
        if len(set(named)) < len(named):
            raise LabelError(
                f"the header of {path} has two equal column names: {named}"
            )
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells[len(header) :]):
                raise LabelError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, but the "
                    f"header has {len(header)}"
                )
            if any(cells):
                cells += [""] * (len(header) - len(cells))
                rows.append([*cells[: len(header)], str(reader.line_num)])
    except csv.Error as error:
        raise LabelError(f"{path}: line {reader.line_num}: {error}") from error
    return pd.DataFrame(rows, columns=[*header, LINE], dtype=str)


def _choose_columns(
    path: Path, rows: pd.DataFrame, config: LabelsConfig
) -> LabelFormat:
    """Return the columns that the config names, or those of a known format."""
    columns = rows.columns.drop(LINE).tolist()
    if not len(rows):
        raise LabelError(f"{path} has no rows after its header")
    if config.image_column or config.grade_column:
        named = LabelFormat("", config.image_column, config.grade_column)
        for key, column in (
            ("image_column", named.image),
            ("grade_column", named.grade),
        ):
            if column not in columns:
                raise LabelError(
                    f"{path} has no column {column!r} (labels.{key}); its columns are "
                    f"{columns}"
                )
        return named
    known = [x for x in LABEL_FORMATS if set(x.columns) <= set(columns)]
    if known:
        return max(known, key=lambda x: len(x.columns))
    raise LabelError(
        f"{path} has none of the known formats: {'; '.join(map(str, LABEL_FORMATS))}. "
        f"Its columns are {columns}. Name two of them with --set "
        "labels.image_column=NAME --set labels.grade_column=NAME"
    )


def _load_patients(
    path: Path,
    rows: pd.DataFrame,
    ids: pd.Series,
    column: str,
    config: LabelsConfig,
) -> pd.Series:
    """Return each row's patient.

    It is the value of the column that the config names, or else of `column`. Without
    either, it is the first group of labels.patient_pattern, or the id if that does not
    match.
    """
    column = config.patient_column or column
    if column:
        if column not in rows:
            raise LabelError(f"{path} has no column {column!r} (labels.patient_column)")
        patients = rows[column]
        _check_no_lines(path, rows[LINE][patients == ""], "no patient in")
        return patients
    return patients_by_name(ids, config.patient_pattern).fillna(ids)


def _check_no_lines(path: Path, lines: pd.Series, problem: str) -> None:
    if len(lines):
        raise LabelError(f"{path}: {problem} {_name_lines(lines)}")


def _name_lines(lines: pd.Series) -> str:
    shown = ", ".join(lines[:5])
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more}"

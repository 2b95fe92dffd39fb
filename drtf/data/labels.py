"""Label files: which photograph has which grade, and whose eye it is."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from drtf.config import LabelsConfig
from drtf.data.photographs import strip_suffix
from drtf.errors import LabelError

LINE = "\0line"  # no column of a file is called so

# Header of the published label files: image column, grade column.
KNOWN_HEADERS = {
    "EyePACS": ("image", "level"),
    "APTOS": ("id_code", "diagnosis"),
    "IDRiD": ("Image name", "Retinopathy grade"),
}


@dataclass(frozen=True)
class Labels:
    """A label file as read.

    Attributes:
        table: a row a photograph in the file's order, with columns `id`, `grade`
            (0-4), `patient` and `line` (in the file, from 1).
        num_repeated: rows left out since they repeat another one word for word.
    """

    table: pd.DataFrame
    num_repeated: int


@dataclass(frozen=True)
class Matches:
    """Labels and photographs brought together.

    Attributes:
        table: the labelled photographs, with `path` below the image folder added.
        missing: ids that have a row and no photograph.
        unlabelled: paths of photographs that have no row.
    """

    table: pd.DataFrame
    missing: list[str]
    unlabelled: list[str]


def load_labels(path: Path, config: LabelsConfig) -> Labels:
    """Load a label file; known ones by their header, others by the config's columns.

    Raises:
        LabelError: if the file can't be read, lacks the columns, has a grade outside
            0-4, or gives one id two grades; names the lines.
    """
    rows = _read_rows(path)
    image_column, grade_column = _find_columns(path, rows, config)
    ids = rows[image_column].map(strip_suffix)
    _refuse_lines(path, rows[LINE][ids == ""], "no image name in")
    grades = rows[grade_column].str.fullmatch(r"[0-4](\.0+)?")
    if not grades.all():
        bad = rows[~grades]
        raise LabelError(
            f"{path}: a grade must be 0, 1, 2, 3 or 4; column {grade_column!r} has "
            f"{bad[grade_column].iloc[0]!r} in {_name_lines(bad[LINE])}"
        )
    table = pd.DataFrame(
        {
            "id": ids,
            "grade": rows[grade_column].str[0].astype("int8"),
            "patient": _find_patients(path, rows, ids, config),
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
    """Find each label's photograph: by its path below the folder, or by its name.

    Raises:
        LabelError: if two photographs match one label, or no label has a photograph.
    """
    by_path: dict[str, list[str]] = {}
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_path.setdefault(strip_suffix(path), []).append(path)
        by_name.setdefault(strip_suffix(PurePosixPath(path).name), []).append(path)
    found = []
    for name in labels["id"]:
        candidates = by_path.get(name) or by_name.get(name, [])
        if len(candidates) > 1:
            raise LabelError(
                f"{name} matches {len(candidates)} photographs, {candidates[0]} and "
                f"{candidates[1]}: name the subfolder in the label file, or move one"
            )
        found.append(candidates[0] if candidates else None)
    taken: dict[str, str] = {}
    for name, photograph in zip(labels["id"], found, strict=True):
        if photograph and taken.setdefault(photograph, name) != name:
            raise LabelError(
                f"{taken[photograph]} and {name} are one photograph, {photograph}: "
                "keep one of the two rows"
            )
    table = labels.assign(path=pd.Series(found, index=labels.index, dtype=object))
    matched = table.dropna(subset="path").reset_index(drop=True)
    if not len(matched):
        example = next(iter(by_path), "")
        raise LabelError(
            "no label has a photograph: the label file names "
            f"{labels['id'].iloc[0]!r}, the folder holds {example!r}"
        )
    used = set(matched["path"])
    return Matches(
        matched,
        missing=table["id"][table["path"].isna()].tolist(),
        unlabelled=[
            path for group in by_path.values() for path in group if path not in used
        ],
    )


def _read_rows(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelError(f"can't read label file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path} is not a CSV of labels in UTF-8: {error}; save it as CSV UTF-8"
        ) from error
    first_line = text.partition("\n")[0]
    separator = max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        named = [name for name in header if name]
        if len(set(named)) < len(named):
            raise LabelError(f"{path} names a column twice in its header: {named}")
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells[len(header) :]):
                raise LabelError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, the "
                    f"header names {len(header)}"
                )
            if any(cells):
                cells += [""] * (len(header) - len(cells))
                rows.append([*cells[: len(header)], str(reader.line_num)])
    except csv.Error as error:
        raise LabelError(f"{path}: line {reader.line_num}: {error}") from error
    return pd.DataFrame(rows, columns=[*header, LINE], dtype=str)


def _find_columns(
    path: Path, rows: pd.DataFrame, config: LabelsConfig
) -> tuple[str, str]:
    columns = rows.columns.drop(LINE).tolist()
    if not len(rows):
        raise LabelError(f"{path} has no row below its header")
    pair = (config.image_column, config.grade_column)
    if any(pair):
        for key, column in zip(("image_column", "grade_column"), pair, strict=True):
            if column not in columns:
                raise LabelError(
                    f"{path} has no column {column!r} (labels.{key}); it has {columns}"
                )
        return pair
    for known in KNOWN_HEADERS.values():
        if set(known) <= set(columns):
            return known
    headers = "; ".join(f"{name}: {','.join(h)}" for name, h in KNOWN_HEADERS.items())
    raise LabelError(
        f"{path} has none of the known headers ({headers}); it has {columns}. Name its "
        "columns with --set labels.image_column=NAME --set labels.grade_column=NAME"
    )


def _find_patients(
    path: Path, rows: pd.DataFrame, ids: pd.Series, config: LabelsConfig
) -> pd.Series:
    if config.patient_column:
        if config.patient_column not in rows:
            raise LabelError(
                f"{path} has no column {config.patient_column!r} "
                "(labels.patient_column)"
            )
        patients = rows[config.patient_column]
        _refuse_lines(path, rows[LINE][patients == ""], "no patient in")
        return patients
    pattern = re.compile(config.patient_pattern)
    patients = ids.map(lambda name: (m := pattern.search(name)) and m[1])
    return patients.where(patients.notna() & (patients != ""), ids)


def _refuse_lines(path: Path, lines: pd.Series, problem: str) -> None:
    if len(lines):
        raise LabelError(f"{path}: {problem} {_name_lines(lines)}")


def _name_lines(lines: pd.Series) -> str:
    shown = ", ".join(lines[:5])
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more}"

"""The table of patients: one row per patient, by the worse eye."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pyarrow as pa

from drtf.scoring.patient_rows import persons_by_path
from drtf.scoring.score_table import (
    VIEWS_DISAGREE,
    Row,
    is_parquet,
    parse_table,
    split_flags,
    write_csv,
    write_parquet,
)
from drtf.scoring.table_files import Location, file_name, sibling, writing_file

SIDES = ("left", "right")
MISSING = "missing"  # the result of an eye without a photograph
# The columns that all photographs of a patient share.
SHARED = ("threshold", "threshold_rule", "model", "settings")
# The types of the columns in a Parquet file.
COLUMNS = {
    "patient": pa.string(),
    "score": pa.float64(),
    "probability": pa.float64(),
    "predicted_label": pa.int8(),
    "predicted_grade": pa.int8(),
    "worse_eye": pa.string(),
    "left_eye": pa.string(),
    "left_score": pa.float64(),
    "right_eye": pa.string(),
    "right_score": pa.float64(),
    "both_eyes": pa.int8(),
    "missing_eye": pa.string(),
    "num_photographs": pa.int64(),
    "num_ungradable": pa.int64(),
    "num_without_score": pa.int64(),
    "photographs": pa.string(),
    "threshold": pa.float64(),
    "threshold_rule": pa.string(),
    "model": pa.string(),
    "settings": pa.string(),
}


def save_patient_table(
    table: Location, rows: Iterable[Row], *, patient_pattern: str
) -> Location:
    """Write the patients of a table of photographs next to it, in the same format.

    An earlier table of patients is replaced.

    Args:
        table: The table of photographs.
        rows: Its rows, as they are now.
        patient_pattern: The pattern of patients in names.

    Returns:
        The table of patients.

    Raises:
        StorageError: If the object store fails.
    """
    lines = [
        _encode_line(row.values())
        for row in patient_rows(rows, patient_pattern=patient_pattern)
    ]
    path = file_name(table)
    out = sibling(table, f"{path.stem}-patients{path.suffix}")
    header = _encode_line(COLUMNS)
    with writing_file(out, overwrite=True) as partial:
        if is_parquet(out):
            write_parquet(parse_table(header, lines, COLUMNS), partial)
        else:
            write_csv(header, lines, partial)
    return out


def patient_rows(rows: Iterable[Row], *, patient_pattern: str) -> list[Row]:
    """Return a row per patient, sorted, from the rows of photographs.

    Args:
        rows: The rows of photographs.
        patient_pattern: The pattern of patients in names.
    """
    return [patient_row(own) for own in rows_by_person(rows, patient_pattern)]


def rows_by_person(rows: Iterable[Row], patient_pattern: str) -> list[list[Row]]:
    """Return the rows of each person, in the order of the persons' names.

    Each photograph without a patient counts as another patient.
    """
    rows = list(rows)
    persons = persons_by_path(rows, patient_pattern)
    by_person = defaultdict(list)
    for row in rows:
        person = persons[row["path"]]
        by_person[person, "" if person else row["path"]].append(row)
    return [by_person[person] for person in sorted(by_person)]


def patient_row(rows: Sequence[Row]) -> Row:
    """Return the cells of a patient by column, from those of the photographs.

    The result is that of the photograph with the highest score among those from which
    something is predicted.
    """
    predicted = [row for row in rows if row["predicted_label"]]
    worst = max(
        predicted,
        key=lambda row: (float(row["score"]), float(row["own_score"])),
        default=dict.fromkeys(rows[0], ""),
    )
    grades = [row["predicted_grade"] for row in predicted]
    by_side = {side: [row for row in rows if row["eye"] == side] for side in SIDES}
    has_unknown = any(row["eye"] not in SIDES for row in rows)
    results = {side: _eye_result(by_side[side], has_unknown) for side in SIDES}
    scores = {
        side: max(
            (row["score"] for row in predicted if row["eye"] == side),
            key=float,
            default="",
        )
        for side in SIDES
    }
    return {
        "patient": rows[0]["patient"],
        "score": worst["score"],
        "probability": worst["probability"],
        "predicted_label": worst["predicted_label"],
        "predicted_grade": max(grades, default=""),
        "worse_eye": worst["eye"],
        "left_eye": results["left"],
        "left_score": scores["left"],
        "right_eye": results["right"],
        "right_score": scores["right"],
        "both_eyes": str(int(all(scores.values()))),
        "missing_eye": ";".join(side for side in SIDES if results[side] == MISSING),
        "num_photographs": str(len(rows)),
        "num_ungradable": str(sum(map(_is_ungradable, rows))),
        "num_without_score": str(sum(not row["score"] for row in rows)),
        "photographs": "; ".join(row["path"] for row in rows),
        **{name: rows[0][name] for name in SHARED},
    }


def _eye_result(rows: Sequence[Row], has_unknown: bool) -> str:
    """Return the result of one eye.

    Args:
        rows: The rows of its photographs.
        has_unknown: Whether it is unknown of which eye another photograph is.
    """
    labels = {row["predicted_label"] for row in rows} - {""}
    if labels:
        return "positive" if "1" in labels else "negative"
    if rows:
        return "ungradable" if any(map(_is_ungradable, rows)) else "error"
    return "unknown" if has_unknown else MISSING


def _is_ungradable(row: Row) -> bool:
    return bool({*split_flags(row["flags"])} - {VIEWS_DISAGREE})


def _encode_line(cells: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")

"""Patients: which photographs are of one person, from their names."""

import re
from collections.abc import Hashable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from drtf.photographs.frames import split_frame
from drtf.photographs.patient_columns import LEFT, RIGHT, SHORT_LEFT, SHORT_RIGHT
from drtf.texts import (
    ROWS_PER_BATCH,
    TEXT,
    count_texts,
    iterate_texts,
    text_column,
)

EYES = "|".join(sorted(LEFT | RIGHT | SHORT_LEFT | SHORT_RIGHT, key=len, reverse=True))
SEPARATORS = " _.()-"
# An eye follows a separator, a digit or nothing. After it, there may be the number of
# the photograph.
NAME_WITH_EYE = re.compile(
    rf"(?P<before>.*?\d|.*?[{SEPARATORS}]+|)(?P<eye>{EYES})"
    rf"(?:[{SEPARATORS}]*(?P<number>\d{{1,2}}))?(?P<after>[{SEPARATORS}]+.*)?",
    re.IGNORECASE,
)
# The day of a visit, such as 20240131 or 2024-01-31.
DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)"
)
MAX_PHOTOGRAPHS_PER_PATIENT = 20
# The types of the columns with the fields of EyeName, and their values without an eye.
EYE_TYPES: dict[Hashable, Any] = {
    "patient": TEXT,
    "number": TEXT,
    "side": pd.CategoricalDtype(["left", "right"]),
    "is_short": "bool",
}
NO_EYE = (None, None, None, False)


class EyeName(NamedTuple):
    """A photograph's name, divided into its patient and its eye.

    Attributes:
        patient: The name without the eye and the number after it; may be empty.
        number: The number after the eye; may be empty.
        side: `left` or `right`.
        is_short: Whether the eye is a short form such as `L`, which may mean something
            else.
    """

    patient: str
    number: str
    side: str
    is_short: bool


def patients_by_name(names: pd.Series, pattern: str) -> pd.Series:
    """Return the patient in each photograph's name, or NA where there is none.

    Args:
        names: The names, without extensions.
        pattern: The setting `labels.patient_pattern`.
    """
    if pattern:
        matches = (re.search(pattern, name) for name in iterate_texts(names))
        patients = (match[1] or None if match else None for match in matches)
        return text_column(patients, names.index)
    return _patients_without_eye(names)


def find_eye(name: str) -> EyeName | None:
    """Find the eye in a photograph's name, such as `12_left`, `12-OD` or `12_l1`.

    Args:
        name: The name without extension. Folders in it belong to the patient. All
            frames of a file have the patient and the eye of its name.
    """
    *folders, last = PurePosixPath(split_frame(name)[0]).parts or ("",)
    match = NAME_WITH_EYE.fullmatch(last)
    if not match:
        return None
    before, after = (
        (match[part] or "").strip(SEPARATORS) for part in ("before", "after")
    )
    number = match["number"] or ""
    if number and not re.search(r"\d", before) and not folders:
        after, number = f"{number}{after}", ""  # the number of the patient: `OD_12`
    own = "_".join(filter(None, (before, after)))
    eye = match["eye"].casefold()
    return EyeName(
        patient="/".join([*folders, *([own] if own else [])]),
        number=number,
        side="left" if eye in LEFT | SHORT_LEFT else "right",
        is_short=eye in SHORT_LEFT | SHORT_RIGHT,
    )


def eyes_by_name(names: pd.Series) -> pd.Series:
    """Return the eye in each photograph's name: `left`, `right` or an empty text.

    Args:
        names: The names, without extensions.
    """
    return _divide_names(names)["side"].astype(object).fillna("")


def _divide_names(names: pd.Series) -> pd.DataFrame:
    """Return the fields of EyeName for each name; NA where there is no eye."""
    batches = []
    for start in range(0, len(names) or 1, ROWS_PER_BATCH):
        batch = names[start : start + ROWS_PER_BATCH]
        fields = [find_eye(name) or NO_EYE for name in iterate_texts(batch)]
        table = pd.DataFrame(fields, batch.index, EyeName._fields).astype(EYE_TYPES)
        batches.append(table)
    table = pd.concat(batches)
    table["patient"] = table["patient"].replace("", pd.NA)
    short = table["is_short"]
    sides = table[short].groupby("patient")["side"].nunique()
    if short.any() and not (sides == 2).any():
        table.loc[short, ["patient", "number", "side"]] = None
    return table


def _patients_without_eye(names: pd.Series) -> pd.Series:
    """Return each name without its eye, or NA where there is no eye.

    Two patients are never joined by a mere number: `IMG_1` and `IMG_2` have no eye,
    and where a name would have too many photographs, the number belongs to the patient.
    """
    table = _divide_names(names)
    patients, numbers = table["patient"], table["number"]
    is_large = count_texts(patients) > MAX_PHOTOGRAPHS_PER_PATIENT
    is_numbered = is_large & (numbers.fillna("") != "").to_numpy(bool)
    if is_numbered.any():
        patients = patients.mask(is_numbered, patients + "_" + numbers)
    return _without_dates(patients)


def _without_dates(patients: pd.Series) -> pd.Series:
    """Remove dates from patients, so that all visits of a person are one patient.

    A date stays if nothing else is left, or too many photographs would be of a patient.
    """
    undated = text_column(
        (
            patient and DATE.sub("", patient).strip(SEPARATORS + "/")
            for patient in iterate_texts(patients)
        ),
        patients.index,
    )
    if undated.equals(patients):
        return patients
    is_small = count_texts(undated) <= MAX_PHOTOGRAPHS_PER_PATIENT
    is_better = is_small & (undated.fillna("") != "").to_numpy(bool)
    return undated.where(is_better, patients)

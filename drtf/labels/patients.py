"""Patients: which photographs are of one person, from their names."""

import re
from array import array
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from drtf.photographs.frames import split_frame
from drtf.photographs.patient_columns import LEFT, RIGHT, SHORT_LEFT, SHORT_RIGHT
from drtf.texts import (
    TextBuilder,
    count_texts,
    divide_into_batches,
    iterate_texts,
    number_texts,
    text_column,
)

EYES = "|".join(sorted(LEFT | RIGHT | SHORT_LEFT | SHORT_RIGHT, key=len, reverse=True))
SEPARATORS = " _.()-"
# Earlier years are of birth: they are the same in all visits, and tell apart persons of
# the same name.
YEAR = r"(?:199[5-9]|20\d\d)"
MONTH = "(?:0[1-9]|1[0-2])"
DAY = r"(?:0[1-9]|[12]\d|3[01])"
HOUR = r"(?:[01]\d|2[0-3])"
# The day of a visit: 20240131 or 2024-01-31, 31.01.2024 or, in the USA, 01-31-2024.
DATES = "|".join(
    [f"{YEAR}{x}{MONTH}{x}{DAY}" for x in ("", "-", "_", r"\.")]
    + [f"{DAY}{x}{MONTH}{x}{YEAR}" for x in ("-", "_", r"\.")]
    + [f"{MONTH}{x}{DAY}{x}{YEAR}" for x in ("-", "_", r"\.")]
)
# The time of day: 091500, 09-15-00 or, with milliseconds, 091500.123.
TIMES = "|".join(
    rf"{HOUR}{x}[0-5]\d{x}[0-5]\d(?:\.?\d{{3}})?" for x in ("", "-", "_", r"\.", ":")
)
DATE = re.compile(rf"(?<!\d)(?:{DATES})(?!\d)")
# Such as 20240131_091500 or 2024-01-31T09-15-00.
DATE_AND_TIME = re.compile(rf"(?<!\d)(?:{DATES})(?:[T _.-]{{0,2}}(?:{TIMES}))?(?!\d)")
# An eye follows a separator, a digit or nothing. After it, there may be the number of
# the photograph: in `p7_OD 2_macula`, `p7` is before, 2 the number, and `macula` after.
NAME_WITH_EYE = re.compile(
    rf"(?P<before>.*?\d|.*?[{SEPARATORS}]+|)(?P<eye>{EYES})"
    rf"(?:[{SEPARATORS}]*(?!{DATES})(?P<number>\d{{1,2}}))?"
    rf"(?P<after>[{SEPARATORS}]+.*)?",
    re.IGNORECASE,
)
# A participant of the UK Biobank, with field 21015 (left eye) or 21016 (right eye), the
# visit, and the number of the photograph.
UK_BIOBANK_NAME = re.compile(r"(?P<before>\d+)_2101(?P<field>[56])_\d_\d")
MAX_PHOTOGRAPHS_PER_PATIENT = 20
SIDES = pd.CategoricalDtype(["left", "right"])
NO_EYE = (None, None, None, None, False)  # instead of an EyeName


class EyeName(NamedTuple):
    """A photograph's name, divided at its eye.

    Attributes:
        before: What comes before the eye, with the folders; may be empty.
        number: The number after the eye; may be empty.
        after: What comes after both; may be empty.
        side: `left` or `right`.
        is_short: Whether the eye is a short form such as `L`, which may mean something
            else.
    """

    before: str
    number: str
    after: str
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
    return _parse_names(names)["patient"]


def eyes_by_name(names: pd.Series) -> pd.Series:
    """Return the eye in each photograph's name: `left`, `right` or an empty text.

    Args:
        names: The names, without extensions.
    """
    return _parse_names(names)["side"].astype(object).fillna("")


def find_eye(name: str) -> EyeName | None:
    """Find the eye in a photograph's name, such as `12_left`, `12-OD` or `12_l1`.

    Args:
        name: The name without extension. Folders in it belong to the patient. All
            frames of a file have the patient and the eye of its name.
    """
    *folders, last = PurePosixPath(split_frame(name)[0]).parts or ("",)
    place = "".join(f"{folder}/" for folder in folders)
    if match := UK_BIOBANK_NAME.fullmatch(last):
        side = "left" if match["field"] == "5" else "right"
        return EyeName(place + match["before"], "", "", side, is_short=False)
    match = NAME_WITH_EYE.fullmatch(last)
    if not match:
        return None
    before, after = (
        (match[part] or "").strip(SEPARATORS) for part in ("before", "after")
    )
    number = match["number"] or ""
    if number and not re.search(r"\d", before) and not folders:
        after, number = f"{number}{after}", ""  # the number of the patient: `OD_12`
    eye = match["eye"].casefold()
    return EyeName(
        place + before,
        number,
        after,
        side="left" if eye in LEFT | SHORT_LEFT else "right",
        is_short=eye in SHORT_LEFT | SHORT_RIGHT,
    )


def _parse_names(names: pd.Series) -> pd.DataFrame:
    """Return the `patient` and the `side` in each name, NA where there is none.

    Short eyes such as `L` count only if some patient has one of them and the other eye.
    """
    divided = _divide_names(names)
    table = pd.DataFrame(
        {"patient": _choose_patients(divided), "side": divided["side"]}
    )
    short = divided["is_short"].to_numpy()
    if short.any():
        numbers = number_texts(table["patient"])
        left, right = (numbers[table["side"] == side] for side in ("left", "right"))
        both = np.setdiff1d(np.intersect1d(left, right), [-1])
        if not np.isin(numbers[short], both).any():
            table.loc[short] = None
    return table


def _divide_names(names: pd.Series) -> pd.DataFrame:
    """Return the fields of EyeName for each name; NA where there is no eye."""
    builders = TextBuilder(), TextBuilder(), TextBuilder()
    sides, is_short = array("b"), bytearray()
    for batch in divide_into_batches(iterate_texts(names)):
        fields = zip(*(find_eye(name) or NO_EYE for name in batch), strict=True)
        *texts, side, short = fields
        for builder, part in zip(builders, texts, strict=True):
            builder.extend(part)
        sides.frombytes(pd.Categorical(side, dtype=SIDES).codes.tobytes())
        is_short += bytes(short)
    before, number, after = (builder.to_column() for builder in builders)
    return pd.DataFrame(
        {
            "before": before,
            "number": number,
            "after": after,
            "side": pd.Categorical.from_codes(
                np.frombuffer(sides, np.int8), dtype=SIDES
            ),
            "is_short": np.frombuffer(is_short, bool),
        }
    ).set_axis(names.index)


def _choose_patients(divided: pd.DataFrame) -> pd.Series:
    """Return the patient of each divided name, or NA where there is none.

    All visits of a person are one patient, and so are all its fields of view. But two
    persons must not be joined: a part of the name that is left out, such as a date or a
    number, stays where too many photographs would be of a patient, or nothing else is
    left.
    """
    before, number, after = (divided[x] for x in ("before", "number", "after"))
    chosen = _join_parts(before, after, number)
    for candidate in _coarser_patients(before, after, number, divided["side"]):
        if not candidate.equals(chosen):
            is_small = count_texts(candidate) <= MAX_PHOTOGRAPHS_PER_PATIENT
            is_better = is_small & candidate.notna().to_numpy(bool)
            chosen = candidate.where(is_better, chosen)
    return chosen


def _coarser_patients(
    before: pd.Series, after: pd.Series, number: pd.Series, side: pd.Series
) -> Iterator[pd.Series]:
    """Yield patients from more and more general parts of names."""
    if (number.fillna("") != "").any():
        yield _join_parts(before, after)
    dated = before, after
    for date in (DATE, DATE_AND_TIME):
        before, after = (_remove_dates(part, date) for part in dated)
        if before.equals(dated[0]) and after.equals(dated[1]):
            continue
        if date == DATE:
            yield _join_parts(before, after, number)
        yield _join_parts(before, after)
    if (after.fillna("") != "").any():
        yield _join_parts(before, after.where(_is_patient(before, after, side), ""))


def _is_patient(before: pd.Series, after: pd.Series, side: pd.Series) -> np.ndarray:
    """Return whether what comes after the eye belongs to the patient, bool [n].

    In `12_OD_macula`, `12_left-600-FA` or `12_OD_001`, it is a field of view, a copy or
    a counter: there are no more of these than of patients, or each occurs with one eye
    only. A name without digits before the eye may be that of a study, so there must be
    more of these names.
    """
    is_patient = np.ones(len(before), bool)
    has_both = ((before != "") & (after != "")).fillna(False).to_numpy(bool)
    has_digit = before.str.contains(r"\d").fillna(False).to_numpy(bool)
    for rows, margin in ((has_both & has_digit, 0), (has_both & ~has_digit, 1)):
        num_before, num_after = (_count_different(x[rows]) for x in (before, after))
        if num_before >= num_after + margin:
            is_patient[rows] = False
    if (rows := has_both & has_digit).any():
        pairs = number_texts(_join_parts(before[rows], after[rows]))
        left, right = (pairs[side[rows] == x] for x in ("left", "right"))
        if 2 * len(np.intersect1d(left, right)) <= pairs.max() + 1:
            is_patient[rows] = False
    return is_patient


def _count_different(texts: pd.Series) -> int:
    return number_texts(texts).max(initial=-1) + 1


def _join_parts(*parts: pd.Series) -> pd.Series:
    """Join parts of names with `_`; NA where nothing is there."""
    rows = zip(*map(iterate_texts, parts), strict=True)
    joined = ("_".join(filter(None, row)).replace("/_", "/") for row in rows)
    patients = (name.strip(SEPARATORS + "/") or None for name in joined)
    return text_column(patients, parts[0].index)


def _remove_dates(names: pd.Series, date: re.Pattern[str]) -> pd.Series:
    between = re.compile(rf"[{SEPARATORS}]*{date.pattern}[{SEPARATORS}]*")
    undated = (
        name and between.sub("_", name).strip(SEPARATORS)
        for name in iterate_texts(names)
    )
    return text_column(undated, names.index)

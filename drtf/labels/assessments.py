"""Assessments: which photographs a clinician called ungradable."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from drtf.errors import LabelError
from drtf.labels.columns import find_column
from drtf.labels.extra_columns import load_extra_columns
from drtf.labels.grouping import is_missing
from drtf.labels.tables import load_label_table
from drtf.photographs.patient_columns import PATIENT_COLUMNS, first_column, fold_name

# The usual names of a column, folded; the first one found is used. In the first group,
# yes and 1 mean that a photograph is gradable; in the second, that it is ungradable.
GRADABLE_COLUMNS = (
    "gradable",
    "gradeable",
    "isgradable",
    "gradability",
    "adjudicatedgradable",
    "imagegradable",
    "overallquality",
    "usable",
    "isusable",
    "usability",
    "acceptable",
    "adequate",
    "quality",
    "imagequality",
    "finalquality",
    "qualitylabel",
)
UNGRADABLE_COLUMNS = (
    "ungradable",
    "ungradeable",
    "isungradable",
    "notgradable",
    "unusable",
    "reject",
    "rejected",
    "poorquality",
    "lowquality",
    "badquality",
)
# Words for the quality of a photograph, folded.
GRADABLE_WORDS = (
    *("gradable", "gradeable", "good", "verygood", "excellent", "usable", "adequate"),
    *("acceptable", "accept", "accepted", "sufficient", "ok", "pass", "passed"),
)
UNGRADABLE_WORDS = (
    *("ungradable", "ungradeable", "notgradable", "notgradeable", "nongradable"),
    *("bad", "poor", "verypoor", "reject", "rejected", "unusable", "notusable"),
    *("inadequate", "unacceptable", "insufficient", "fail", "failed", "outlier"),
)
YES, NO = {"yes", "y", "true", "t", "1"}, {"no", "n", "false", "f", "0"}
# EyeQ's file has this column too. Its numbers mean good, usable and reject.
EYEQ_COLUMN = "drgrade"
EYEQ_NUMBERS = {"0": False, "1": False, "2": True}
MAX_VALUES_NAMED = 10

# Whether a photograph with a value is ungradable; None if it was not assessed.
Meanings = Mapping[str, bool | None]


@dataclass(frozen=True)
class Assessments:
    """A clinician's assessments of photographs.

    Attributes:
        column: Where they come from: the name of a column, or `the folders`.
        values: The text for each photograph; empty if there is none.
        meanings: Whether each value means ungradable; None for not assessed.
        patients: The patient of each photograph in the same table, or None if the table
            has no patients.
    """

    column: str
    values: pd.Series
    meanings: Meanings
    patients: pd.Series | None = None

    @property
    def is_assessed(self) -> np.ndarray:
        """Whether each photograph was assessed, bool [n]."""
        return self._have_meaning(True) | self._have_meaning(False)

    @property
    def is_ungradable(self) -> np.ndarray:
        """Whether each photograph was called ungradable, bool [n]."""
        return self._have_meaning(True)

    def describe(self) -> str:
        """Return the meaning of each value, such as `'0' = ungradable`."""
        return ", ".join(
            f"{value!r} = {'ungradable' if is_ungradable else 'gradable'}"
            for value, is_ungradable in self.meanings.items()
            if is_ungradable is not None
        )

    def _have_meaning(self, is_ungradable: bool) -> np.ndarray:
        values = [x for x, meaning in self.meanings.items() if meaning is is_ungradable]
        return self.values.isin(values).to_numpy()


def load_assessments(
    path: Path,
    photographs: pd.DataFrame,
    *,
    column: str = "",
    ungradable: Sequence[str] = (),
) -> Assessments:
    """Load assessments from a table with one row per photograph or per patient.

    Args:
        path: A table of text, a workbook, or a zip file with one of them.
        photographs: Columns `source`, `path` and `patient`, as in a dataset's index.
        column: The column of the assessments; empty: one with a usual name.
        ungradable: The values that mean ungradable; empty: those with a usual word.

    Raises:
        LabelError: If the table cannot be read or matched, has no such column, or a
            value has no known meaning.
    """
    columns = load_label_table(path).columns
    chosen = choose_column(columns, column, where=str(path))
    patient = first_column(columns, PATIENT_COLUMNS)
    names = [chosen, patient] if patient else [chosen]
    loaded = load_extra_columns(path, photographs, names)
    values = loaded[chosen]
    is_eyeq = chosen == first_column(columns, ["quality"]) and first_column(
        columns, [EYEQ_COLUMN]
    )
    meanings = parse_values(
        values,
        where=f"{path}: column {chosen!r}",
        column=chosen,
        ungradable=ungradable,
        numbers=EYEQ_NUMBERS if is_eyeq else None,
    )
    return Assessments(chosen, values, meanings, loaded.get(patient or ""))


def assessments_by_folder(
    paths: Sequence[str], *, ungradable: Sequence[str] = (), where: str
) -> Assessments:
    """Read assessments from the folders that photographs lie in, such as `Bad`.

    Args:
        paths: The photographs' paths relative to the image folder.
        ungradable: As for `load_assessments`.
        where: The image folder, for error messages.

    Raises:
        LabelError: If the name of a folder has no known meaning.
    """
    values = pd.Series(
        [PurePosixPath(path).parent.name for path in paths], dtype=object
    )
    meanings = parse_values(
        values,
        where=f"{where}: the name of each photograph's folder, which is its assessment "
        "if there is no --table,",
        column="",
        ungradable=ungradable,
    )
    return Assessments("the folders", values, meanings)


def choose_column(columns: Sequence[str], name: str, *, where: str) -> str:
    """Choose the column that is named, or the first one with a usual name.

    Args:
        columns: The columns to choose from.
        name: The name of one, or empty.
        where: What has these columns, for error messages.

    Raises:
        LabelError: If there is none.
    """
    if name:
        chosen = find_column(columns, name)
    else:
        chosen = first_column(columns, GRADABLE_COLUMNS + UNGRADABLE_COLUMNS)
    if chosen is None:
        missing = f"no column {name!r}" if name else "no column such as 'gradable'"
        raise LabelError(
            f"{where} has {missing}; its columns are {list(columns)}. Name the column "
            "of a clinician's assessments with --column, or rename it to 'gradable'"
        )
    return chosen


def parse_values(
    values: Iterable[str],
    *,
    where: str,
    column: str,
    ungradable: Sequence[str] = (),
    numbers: Mapping[str, bool] | None = None,
) -> Meanings:
    """Return whether each distinct value means ungradable, None for not assessed.

    Args:
        values: Texts.
        where: What has these values, for error messages.
        column: The name of their column, which says what yes and no mean.
        ungradable: The values that mean ungradable; all others then mean gradable.
        numbers: What numbers mean, if they are not yes and no.

    Raises:
        LabelError: If a value has no known meaning, or one of `ungradable` is missing.
    """
    distinct = sorted(set(values))
    folded = {x: _fold_value(x) for x in distinct if not is_missing(x)}
    folded = {x: fold for x, fold in folded.items() if fold}
    if ungradable:
        named = {_fold_value(x): x for x in ungradable}
        for fold, value in named.items():
            if fold not in folded.values():
                raise LabelError(
                    f"{where} has no value {value!r} (--ungradable); it has the values "
                    f"{_name_values(folded)}"
                )
        known = {fold: fold in named for fold in folded.values()}
    else:
        known = _known_meanings(column, numbers)
    if unknown := [x for x, fold in folded.items() if fold not in known]:
        raise LabelError(
            f"{where} has values without a known meaning, {_name_values(unknown)}: "
            "name each value that means ungradable with --ungradable VALUE"
        )
    return {x: known.get(folded.get(x, "")) for x in distinct}


def _known_meanings(column: str, numbers: Mapping[str, bool] | None) -> dict[str, bool]:
    known = dict.fromkeys(GRADABLE_WORDS, False) | dict.fromkeys(UNGRADABLE_WORDS, True)
    folded = fold_name(column)
    if folded in GRADABLE_COLUMNS:
        known |= dict.fromkeys(YES, False) | dict.fromkeys(NO, True)
    elif folded in UNGRADABLE_COLUMNS:
        known |= dict.fromkeys(YES, True) | dict.fromkeys(NO, False)
    return known | dict(numbers or {})


def _fold_value(value: str) -> str:
    """Return a value in lower case, without spaces, punctuation and `.0`."""
    return fold_name(re.sub(r"^(\d+)[.,]0+$", r"\1", value.strip()))


def _name_values(values: Iterable[str]) -> str:
    named = list(values)
    more = len(named) - MAX_VALUES_NAMED
    text = ", ".join(map(repr, named[:MAX_VALUES_NAMED]))
    return f"{text} and {more:,} more" if more > 0 else text

"""Patients and eyes in tables: the names of their columns, and what a cell says."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# The usual names of a column with the patient, folded; the first one found is used.
PATIENT_COLUMNS = (
    "patientid",
    "patient",
    "patientno",
    "patientnumber",
    "patientcode",
    "patientkey",
    "patientname",
    "patid",
    "patnr",
    "patienten",
    "patientenid",
    "patientennummer",
    "paciente",
    "idpaciente",
    "subjectid",
    "subject",
    "subjectno",
    "participantid",
    "participant",
    "personid",
    "person",
    "pid",
    "ptid",
    "mrn",
    "medicalrecordnumber",
    "환자번호",
    "환자id",
    "환자",
    "등록번호",
    "患者id",
    "患者",
    "病人id",
    "病人",
)
# The usual names of a column with the eye, folded.
EYE_COLUMNS = ("eye", "eyeside", "side", "laterality", "imagelaterality")
# Cells that name no patient, folded as names of columns are: `-` is empty.
NO_PATIENT = ("", "na", "nan", "nat", "null", "none", "unknown", "anonymous")
# The eye as clinics write it, in tables and in names of photographs. In a name, a short
# form or a word of another language counts only if a patient has both eyes.
LEFT = {"left", "lefteye", "os", "좌안"}
RIGHT = {"right", "righteye", "od", "우안"}
SHORT_LEFT = {
    *("l", "le", "oe", "og", "oi", "좌"),
    *("links", "gauche", "izquierdo", "izquierda", "左", "左眼", "左目"),
}
SHORT_RIGHT = {
    *("r", "re", "우"),
    *("rechts", "droit", "droite", "derecho", "derecha", "右", "右眼", "右目"),
}


class PatientEye(NamedTuple):
    """The patient and the eye of a photograph.

    Attributes:
        patient: The patient; empty if unknown.
        eye: `left` or `right`; empty if unknown.
    """

    patient: str
    eye: str

    def describe(self) -> str:
        """Return both, such as `the patient '12' and the left eye`."""
        patient = f"the patient {self.patient!r}" if self.patient else "no patient"
        return f"{patient} and {f'the {self.eye}' if self.eye else 'no'} eye"


def fold_name(name: str) -> str:
    """Return a column's name in lower case, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def first_column(columns: Sequence[str], names: Iterable[str]) -> str | None:
    """Return the first of some folded names that is a column, or None."""
    by_name = {fold_name(column): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def names_patient(cell: str) -> bool:
    """Return whether a cell names a patient, and does not say that none is known."""
    return fold_name(cell) not in NO_PATIENT


def parse_eye(cell: str) -> str:
    """Return the eye in a cell such as `OD` or `left eye`: `left`, `right` or empty.

    It is empty too if the cell names both eyes.
    """
    words = {fold_name(cell), *re.findall(r"[^\W\d_]+", cell.casefold())}
    is_left = bool(words & (LEFT | SHORT_LEFT))
    is_right = bool(words & (RIGHT | SHORT_RIGHT))
    return "" if is_left == is_right else "left" if is_left else "right"

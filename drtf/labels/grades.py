"""Grades as label files and class folders write them: numbers, words, codes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.photographs.patient_columns import fold_name

NUMBER = re.compile(r"([+-]?)0*(\d+)(?:[.,]0*)?")
# What may follow a word, such as `mild NPDR` or `moderate diabetic retinopathy`.
DISEASE = (
    r"(?:npdr|nonproliferative|비증식성?)?"
    r"(?:dr|diabeticretinopathy|retinopathy|당뇨망막병증)?"
)
WORDS = tuple(
    re.compile(rf"(?:grade|level|class|stage)?(\d*)(?:npdr|dr)?(?:{words}){DISEASE}")
    for words in (
        "no|none|normal|healthy|noapparent|정상|없음",
        "mild|경증|경도",
        "moderate|중등도",
        "severe|중증|고도",
        "pdr|proliferative|proliferate|증식성?",
    )
)
NUMBERED = re.compile(r"(?:grade|level|class|stage|dr)([0-4])")
UNGRADED = {
    "",
    "-1",
    "nan",
    "na",
    "null",
    "missing",
    "unknown",
    "ungraded",
    "notgraded",
    "ungradable",
    "ungradeable",
    "notgradable",
    "notgradeable",
}
# DDR's code of a photograph that cannot be graded.
UNGRADABLE_CODE = "5"


@dataclass(frozen=True)
class GradeScale:
    """The meaning of each value of a grade column.

    Attributes:
        grades: Grade 0-4 of each value that has one.
        ungraded: The values of photographs without a grade.
        unknown: All other values.
    """

    grades: dict[str, int]
    ungraded: set[str]
    unknown: set[str]


def grade_scale(
    values: Iterable[str],
    config: LabelsConfig,
    *,
    published: Mapping[str, int] | None = None,
) -> GradeScale:
    """Return the meaning of each value of a grade column.

    Args:
        values: The column's values.
        config: The `labels` section. Its `grade_values` and `ungraded` come first.
        published: The grade of each value of a published label file.

    Raises:
        LabelError: If two grades of `grade_values` have the same value.
    """
    texts = set(values)
    named = _name_grades(config.grade_values)
    ungraded = {_fold(text) for text in config.ungraded}
    parse = named.get if named else parse_grade
    grades = {
        text: grade
        for text in texts
        if _fold(text) not in ungraded
        and (grade := (published or {}).get(text, parse(_fold(text)))) is not None
    }
    codes = ungraded | UNGRADED
    if 0 in grades.values() and not named:
        codes |= {UNGRADABLE_CODE}  # otherwise, the scale may be 1 to 5
    # Among numbers, `None` is a missing value rather than a healthy eye.
    if not any(re.search(r"[^\W\d]", text) for text in grades if _fold(text) != "none"):
        grades = {text: x for text, x in grades.items() if _fold(text) != "none"}
    rest = texts - set(grades)
    empty = {text for text in rest if _fold(text) in codes}
    return GradeScale(grades, empty, rest - empty)


def _name_grades(grade_values: Sequence[str]) -> dict[str, int]:
    """Return the grade of each folded value of the setting `labels.grade_values`."""
    named: dict[str, int] = {}
    for grade, text in enumerate(grade_values):
        for value in text.split("|"):
            other = named.setdefault(_fold(value), grade)
            if other != grade:
                raise LabelError(
                    f"labels.grade_values={list(grade_values)}: {value.strip()!r} is a "
                    f"value of grade {other} and of grade {grade}, as case and "
                    "punctuation do not count. Remove one of the two"
                )
    return named


def parse_grade(text: str) -> int | None:
    """Return the grade that a number or a word means, or None.

    Args:
        text: Such as `2`, `2.0`, `No_DR`, `1 - Mild`, `Grade 3` or `proliferative`.
    """
    folded = _fold(text)
    if folded in set("01234"):
        return int(folded)
    if numbered := NUMBERED.fullmatch(folded):
        return int(numbered[1])
    for grade, words in enumerate(WORDS):
        found = words.fullmatch(folded)
        if found and found[1] in ("", str(grade)):
            return grade
    return None


def _fold(text: str) -> str:
    """Return a number in its shortest form, or a text without case and punctuation.

    A grade in doubt, such as `2?` or `>2`, is left as it is.
    """
    if number := NUMBER.fullmatch(text.strip()):
        return f"{number[1].replace('+', '')}{number[2]}"
    folded = fold_name(text)
    in_doubt = folded.isdigit() or (folded and re.search("[?<>~]", text))
    return text.strip() if in_doubt else folded

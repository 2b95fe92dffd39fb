"""Splits: which photographs are for training, validation and testing."""

import math

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from drtf.config import SplitConfig
from drtf.errors import DrtfError


def plan_splits(table: pd.DataFrame, config: SplitConfig) -> pd.Series:
    """Assign each photograph to `train`, `val` or `test`.

    Photographs of one patient, and byte-identical ones, form a unit that is never
    divided. scikit-learn's stratified `train_test_split` first takes the test units,
    then the validation units from the rest. A unit's stratum is its worst grade. If a
    grade has too few units for every split, the strata are healthy and diseased; if
    these have too few as well, the split is not stratified.

    Args:
        table: Columns `id`, `patient`, `grade`, and `content`, which is equal for
            byte-identical photographs.
        config: The `split` section.

    Returns:
        The split's name for each row, with the index of `table`.

    Raises:
        DrtfError: If there are fewer units than splits.
    """
    linked = table["patient" if config.by == "patient" else "id"]
    unit = _join_units(linked, table["content"])
    grades = table["grade"].groupby(unit, sort=False).max()
    names = pd.Series("train", index=grades.index)
    rest = grades
    num_units = len(grades)
    for name, fraction in (("test", config.test_size), ("val", config.val_size)):
        if not fraction:
            continue
        size = math.ceil(num_units * fraction)
        if len(rest) - size < 1:
            raise DrtfError(
                f"{num_units} {config.by}s are too few for train, val and test: add "
                "photographs, or set split.val_size=0 or split.test_size=0"
            )
        kept, taken = train_test_split(
            rest.index.to_numpy(),
            test_size=size,
            random_state=config.seed,
            stratify=_choose_strata(rest, size, config.stratify),
        )
        names[taken] = name
        rest = rest[np.sort(kept)]
    return unit.map(names)


def _join_units(linked: pd.Series, content: pd.Series) -> pd.Series:
    """Number the units that share a patient or a content, by first appearance."""
    unit = pd.Series(pd.factorize(linked)[0], index=linked.index)
    while True:
        joined = unit.groupby(content).transform("min")
        joined = joined.groupby(linked).transform("min")
        if joined.equals(unit):
            return unit
        unit = joined


def _choose_strata(grades: pd.Series, size: int, stratify: str) -> pd.Series | None:
    """Return the finest strata with enough units to divide, or None."""
    candidates = {"grade": grades, "binary": (grades > 0).astype("int8")}
    order = {"grade": ("grade", "binary"), "binary": ("binary",), "none": ()}
    for name in order[stratify]:
        counts = candidates[name].value_counts()
        smaller_side = min(size, len(grades) - size)
        if counts.min() >= 2 and smaller_side >= len(counts):
            return candidates[name]
    return None

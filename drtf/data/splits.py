"""Splits: which photographs train, validate and test; pure and seeded."""

import math

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from drtf.config import SplitConfig
from drtf.errors import DrtfError


def plan_splits(table: pd.DataFrame, config: SplitConfig) -> pd.Series:
    """Assign each photograph to `train`, `val` or `test`.

    Units that must stay together (a patient's photographs, byte-identical ones) are
    divided by scikit-learn's stratified `train_test_split`: the test split first, then
    validation from the rest. A unit's stratum is its worst grade. Where some grade has
    too few units to stand in each split, strata are healthy and diseased, and where
    even these are too few, there are none.

    Args:
        table: columns `id`, `patient`, `grade`, and `content`, equal for photographs
            that are byte-identical.
        config: the `split` section.

    Returns:
        The split's name for each row, indexed like `table`.

    Raises:
        DrtfError: if there are fewer units than splits.
    """
    linked = table["patient" if config.by == "patient" else "id"]
    unit = _join_units(linked, table["content"])
    grades = table["grade"].groupby(unit, sort=False).max()
    names = pd.Series("train", index=grades.index)
    rest = grades
    num_units = len(grades)
    for name, share in (("test", config.test_size), ("val", config.val_size)):
        if not share:
            continue
        size = math.ceil(num_units * share)
        if len(rest) - size < 1:
            raise DrtfError(
                f"{num_units} {config.by}s are too few for train, val and test; add "
                "photographs or set split.val_size=0 or split.test_size=0"
            )
        kept, taken = train_test_split(
            rest.index.to_numpy(),
            test_size=size,
            random_state=config.seed,
            stratify=_find_strata(rest, size, config.stratify),
        )
        names[taken] = name
        rest = rest[np.sort(kept)]
    return unit.map(names)


def _join_units(linked: pd.Series, content: pd.Series) -> pd.Series:
    """Number the groups that share a patient or a content, by first appearance."""
    unit = pd.Series(pd.factorize(linked)[0], index=linked.index)
    while True:
        joined = unit.groupby(content).transform("min")
        joined = joined.groupby(linked).transform("min")
        if joined.equals(unit):
            return unit
        unit = joined


def _find_strata(grades: pd.Series, size: int, stratify: str) -> pd.Series | None:
    candidates = {"grade": grades, "binary": (grades > 0).astype("int8")}
    order = {"grade": ("grade", "binary"), "binary": ("binary",), "none": ()}
    for name in order[stratify]:
        counts = candidates[name].value_counts()
        smaller_side = min(size, len(grades) - size)
        if counts.min() >= 2 and smaller_side >= len(counts):
            return candidates[name]
    return None

"""Splits: which photographs are for training, validation and testing."""

import math
import re

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from drtf.config import SplitConfig
from drtf.errors import DrtfError
from drtf.texts import number_texts

# Names of published splits, without case and separators. Kaggle's public and private
# parts are both of the test set of a competition.
SPLIT_NAMES = {
    "train": r"train(ing)?",
    "val": r"val|valid|validation|dev|development|tun(e|ing)",
    "test": r"test(ing)?|(public|private)(test(ing)?)?|eval|evaluation|holdout",
}


def parse_split(name: str) -> str | None:
    """Return `train`, `val` or `test` for the name of a published split, or None.

    Args:
        name: Such as `Training`, `valid`, `Test Set` or `Private`.
    """
    folded = re.sub(r"[\W_]+", "", name.casefold())
    for split, names in SPLIT_NAMES.items():
        if re.fullmatch(f"({names})(set|split|images|data)?", folded):
            return split
    return None


def plan_splits(table: pd.DataFrame, config: SplitConfig) -> pd.Series:
    """Assign each photograph to `train`, `val` or `test`.

    Photographs of one patient, and byte-identical ones, form a unit that is never
    divided. scikit-learn's stratified `train_test_split` first takes the test units,
    then the validation units from the rest. A unit's stratum is its worst grade. If a
    grade has too few units for every split, the strata are healthy and diseased; if
    these have too few as well, the split is not stratified.

    Photographs of a published split stay in it, and so do those of the same unit. If
    there is no published validation split, it is taken from the published training
    split.

    Args:
        table: Columns `id`, `patient`, `grade`, `published` (`train`, `val`, `test` or
            an empty text) and `content`, which is equal for byte-identical photographs.
        config: The `split` section.

    Returns:
        The split's name for each row, with the index of `table`.

    Raises:
        DrtfError: If there are fewer units than splits.
    """
    linked = table["patient" if config.by == "patient" else "id"]
    unit = _join_units(linked, table["content"])
    grades = table["grade"].groupby(unit, sort=False).max()
    published: pd.Series = table["published"].astype(object)
    fixed = published.where(published != "").groupby(unit, sort=False).first()
    names = fixed.fillna("train")
    names.update(_draw_splits(grades[fixed.isna()], config, kind=config.by))
    splits = unit.map(names)
    splits = splits.where(published == "", published)
    if "val" not in set(splits) and config.val_size and (splits == "train").any():
        in_train = grades[(splits == "train").groupby(unit, sort=False).all()]
        only_val = config.model_copy(update={"test_size": 0.0})
        drawn = unit.map(_draw_splits(in_train, only_val, kind=config.by))
        splits = splits.mask(drawn == "val", "val")
    return splits


def _draw_splits(grades: pd.Series, config: SplitConfig, *, kind: str) -> pd.Series:
    """Draw the split of each unit at random.

    Args:
        grades: The worst grade of each unit.
        config: The `split` section.
        kind: What the units are, for error messages.

    Raises:
        DrtfError: If there are fewer units than splits.
    """
    names = pd.Series("test" if config.test_size == 1 else "train", index=grades.index)
    rest = grades
    num_units = len(grades)
    if config.test_size == 1 or not num_units:
        return names
    for name, fraction in (("test", config.test_size), ("val", config.val_size)):
        if not fraction:
            continue
        size = math.ceil(num_units * fraction)
        if len(rest) - size < 1:
            raise DrtfError(
                f"{num_units} {kind}s are too few for train, val and test: add "
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
    return names


def _join_units(linked: pd.Series, content: pd.Series) -> pd.Series:
    """Number the units that share a patient or a content, by first appearance."""
    patients, contents = number_texts(linked), pd.factorize(content)[0]
    unit = pd.Series(patients, index=linked.index)
    while True:
        joined = unit.groupby(contents).transform("min")
        joined = joined.groupby(patients).transform("min")
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

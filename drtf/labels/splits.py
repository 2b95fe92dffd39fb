"""Splits: which photographs are for training, validation and testing."""

import itertools
import math
import posixpath
import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import train_test_split

from drtf.config import SplitConfig
from drtf.errors import DrtfError
from drtf.records.plan import SPLITS
from drtf.texts import first_rows, iterate_texts, number_texts

TRAIN, VAL, TEST = range(len(SPLITS))
# Names of published splits, such as `trainset`, without case and separators. Kaggle's
# public and private parts are both of the test set of a competition.
SPLIT_NAME = re.compile(
    "(?:(?P<train>train(?:ing)?)"
    "|(?P<val>val|valid|validation|dev|development|tun(?:e|ing))"
    "|(?P<test>test(?:ing)?|(?:public|private)(?:test(?:ing)?)?"
    "|eval|evaluation|holdout))"
    "(?:set|split|images|data)?"
)


def parse_split(name: str) -> str | None:
    """Return `train`, `val` or `test` for the name of a published split, or None.

    Args:
        name: Such as `Training`, `valid`, `Test Set` or `Private`.
    """
    match = SPLIT_NAME.fullmatch(re.sub(r"[\W_]+", "", name.casefold()))
    return match.lastgroup if match else None


def choose_split_depth(paths: pd.Series) -> int:
    """Return the depth at which the most photographs have a folder of a split.

    Below other folders, there must be two splits: a single one may mean anything.

    Args:
        paths: The photographs' paths relative to the image folder, a text column.
    """
    splits: defaultdict[int, Counter[str]] = defaultdict(Counter)
    groups = itertools.groupby(iterate_texts(paths), posixpath.dirname)
    for parent, group in groups:
        num_photographs = sum(1 for _ in group)
        for depth, folder in enumerate(PurePosixPath(parent).parts):
            if split := parse_split(folder):
                splits[depth][split] += num_photographs
    counts = {
        depth: found.total()
        for depth, found in splits.items()
        if depth == 0 or len(found) > 1
    }
    return min(counts, key=lambda depth: (-counts[depth], depth), default=0)


def find_split_folders(paths: pd.Series) -> list[str]:
    """Find the names of folders that divide all photographs among splits.

    Args:
        paths: As for `choose_split_depth`.
    """
    depth = choose_split_depth(paths)
    folders: dict[str, str] = {}
    for path in iterate_texts(paths):
        folder = "/".join(PurePosixPath(path).parts[:-1][depth : depth + 1])
        split = folders.get(folder) or parse_split(folder)
        if split is None:
            return []
        folders[folder] = split
    return sorted(folders) if len(set(folders.values())) > 1 else []


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
        The split of each row, a categorical column with the index of `table`.

    Raises:
        DrtfError: If there are fewer units than splits.
    """
    linked = table["patient" if config.by == "patient" else "id"]
    units = _join_units(linked, table["content"])
    grades = np.zeros(units.max(initial=-1) + 1, np.int8)
    np.maximum.at(grades, units, table["grade"].to_numpy())
    # Below, splits are numbers: their positions in SPLITS, or -1.
    names = table["published"].astype("category").cat
    numbers = pd.Index(SPLITS).get_indexer(names.categories).astype(np.int8)
    published = numbers[names.codes]
    fixed = np.full(len(grades), -1, np.int8)
    rows = np.flatnonzero(published >= 0)[::-1]
    fixed[units[rows]] = published[rows]  # the first row of a unit is written last
    is_open = fixed < 0
    fixed[is_open] = _draw_splits(grades[is_open], config, kind=config.by)
    splits = np.where(published < 0, fixed[units], published)
    if VAL not in splits and config.val_size and TRAIN in splits:
        is_train = np.ones(len(grades), bool)
        is_train[units[splits != TRAIN]] = False
        only_val = config.model_copy(update={"test_size": 0.0})
        fixed[:] = -1
        fixed[is_train] = _draw_splits(grades[is_train], only_val, kind=config.by)
        splits[fixed[units] == VAL] = VAL
    drawn = pd.Categorical.from_codes(splits, dtype=pd.CategoricalDtype(list(SPLITS)))
    return pd.Series(drawn, table.index)


def _draw_splits(grades: np.ndarray, config: SplitConfig, *, kind: str) -> np.ndarray:
    """Draw the split of each unit at random, int8 [n], positions in SPLITS.

    Args:
        grades: int8 [n], the worst grade of each unit.
        config: The `split` section.
        kind: What the units are, for error messages.

    Raises:
        DrtfError: If there are fewer units than splits.
    """
    num_units = len(grades)
    splits = np.full(num_units, TEST if config.test_size == 1 else TRAIN, np.int8)
    if config.test_size == 1 or not num_units:
        return splits
    rest = np.arange(num_units)
    for split, fraction in ((TEST, config.test_size), (VAL, config.val_size)):
        if not fraction:
            continue
        size = math.ceil(num_units * fraction)
        if len(rest) - size < 1:
            raise DrtfError(
                f"{num_units} {kind}s are too few for train, val and test: add "
                "photographs, or set split.val_size=0 or split.test_size=0"
            )
        rest, taken = train_test_split(
            rest,
            test_size=size,
            random_state=config.seed,
            stratify=_choose_strata(grades[rest], size, config.stratify),
        )
        splits[taken] = split
        rest.sort()
    return splits


def _join_units(linked: pd.Series, content: pd.Series) -> np.ndarray:
    """Number the units that share a patient or a content, by first appearance."""
    patients, first = number_texts(linked), first_rows(content.to_numpy())
    later = np.flatnonzero(first != np.arange(len(first)))
    pairs = patients[first[later]], patients[later]
    num_patients = patients.max(initial=-1) + 1
    graph = coo_array((np.ones(len(later)), pairs), (num_patients, num_patients))
    # The components are numbered by their lowest patient.
    return connected_components(graph, directed=False)[1][patients]


def _choose_strata(grades: np.ndarray, size: int, stratify: str) -> np.ndarray | None:
    """Return the finest strata with enough units to divide, or None."""
    candidates = {"grade": grades, "binary": (grades > 0).astype(np.int8)}
    order = {"grade": ("grade", "binary"), "binary": ("binary",), "none": ()}
    for name in order[stratify]:
        counts = np.bincount(candidates[name])
        counts = counts[counts > 0]
        smaller_side = min(size, len(grades) - size)
        if counts.min() >= 2 and smaller_side >= len(counts):
            return candidates[name]
    return None

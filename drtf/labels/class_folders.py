"""Class folders: photographs whose grade is the name of a folder above them."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.labels.grades import GradeScale, grade_scale
from drtf.labels.label_files import KEPT
from drtf.labels.splits import choose_split_depth, parse_split
from drtf.photographs.references import strip_suffix
from drtf.texts import are_repeated_texts, iterate_texts, text_column

EXAMPLES = ("0, 1, 2, 3, 4", "No_DR, Mild, Moderate, Severe, Proliferate_DR")


def label_by_folder(paths: pd.Series, config: LabelsConfig) -> pd.DataFrame:
    """Label photographs by the folders that they lie in.

    The class folders are at one depth: that at which the most photographs have a folder
    with the name of a grade. Folders of a published split, such as `train` and `test`,
    may lie above or below them.

    Args:
        paths: The photographs' paths relative to the image folder, a text column.
        config: The `labels` section.

    Returns:
        One row per photograph: `id` (its path without the extension), `grade` (0-4, or
        NA if the folder is of ungraded photographs), `path`, `folder` (the name of its
        class folder), `name` (its path below the class folder, without the extension),
        `split` (`train`, `val` or `test`, or an empty text) and an empty column for
        each of `labels.keep_columns` (see `Labels`).

    Raises:
        LabelError: If a photograph lies in no class folder, two depths have class
            folders, two photographs have the same id, or the config names a column.
    """
    for key in ("image_column", "grade_column", "patient_column", "split_column"):
        if getattr(config, key):
            raise LabelError(
                f"labels.{key}={getattr(config, key)!r} requires a label file: give "
                "one with --labels"
            )
    split_depth = choose_split_depth(paths)
    divide = functools.partial(_divide_path, split_depth=split_depth)
    parents = Counter(
        tuple(folders) for _, folders, _ in map(divide, iterate_texts(paths))
    )
    scale = grade_scale({x for folders in parents for x in folders}, config)
    depth = _choose_depth(parents, scale)
    known = set(scale.grades) | scale.ungraded
    outside = [
        path
        for path in iterate_texts(paths)
        if len(folders := divide(path)[1]) <= depth or folders[depth] not in known
    ]
    if outside:
        raise LabelError(
            f"{len(outside):,} of {len(paths):,} photographs are not in a class "
            f"folder, such as {outside[0]!r}. Give a label file with --labels, name "
            f"the folders of the grades 0-4 as in {' or '.join(EXAMPLES)}, or list "
            "their names with labels.grade_values"
        )
    ids = text_column(map(strip_suffix, iterate_texts(paths)))
    repeated = ids[are_repeated_texts(ids)]
    if len(repeated):
        first, second = repeated.index[repeated == repeated.iloc[0]][:2]
        raise LabelError(
            f"{paths[first]} and {paths[second]} differ only in their extension: "
            "rename or remove one"
        )
    names = text_column(
        strip_suffix("/".join([*folders[depth + 1 :], file]))
        for _, folders, file in map(divide, iterate_texts(paths))
    )
    classes = _category_column(divide(path)[1][depth] for path in iterate_texts(paths))
    splits = _category_column(divide(path)[0] for path in iterate_texts(paths))
    table = pd.DataFrame(
        {
            "id": ids,
            "row": np.arange(len(ids)),
            "grade": classes.map(scale.grades).astype("Int8"),
            "path": paths,
            "folder": classes,
            "name": names,
            "split": splits,
        }
    )
    return table.assign(**{KEPT + name: "" for name in config.keep_columns})


def _category_column(texts: Iterable[str]) -> pd.Series:
    """Return texts, of which few differ, as a column whose categories are str."""
    return text_column(texts).astype("category").cat.rename_categories(str)


def _divide_path(path: str, *, split_depth: int) -> tuple[str, list[str], str]:
    """Return the split that a folder names, the other folders, and the file.

    A path outside the image folder has no folders.

    Args:
        path: The path relative to the image folder.
        split_depth: Number of folders above those that may name a split.
    """
    *folders, file = PurePosixPath(path).parts
    if path.startswith("/") or ".." in folders:
        return "", [], file
    own = folders[split_depth : split_depth + 1]
    split = parse_split(own[0]) if own else None
    if split:
        del folders[split_depth]
    return split or "", folders, file


def _choose_depth(parents: Mapping[tuple[str, ...], int], scale: GradeScale) -> int:
    """Return the depth at which the most photographs have a folder of a grade.

    Folders with words come before numbers, which may be those of patients.

    Args:
        parents: Number of photographs by the folders that they are in.
        scale: The names of grades.

    Raises:
        LabelError: If there are two such depths.
    """
    counts: Counter[int] = Counter()
    words: Counter[int] = Counter()
    for folders, count in parents.items():
        for depth, name in enumerate(folders):
            counts[depth] += count * (name in scale.grades)
            words[depth] += count * (name in scale.grades and not name.isdigit())
    best = [depth for depth, n in counts.items() if n and n == max(counts.values())]
    best = [depth for depth in best if words[depth]] or best
    if len(best) > 1:
        example = next(folders for folders in parents if len(folders) > best[1])
        raise LabelError(
            f"the folders {example[best[0]]!r} and {example[best[1]]!r}, one in the "
            "other, may both be of a grade: rename one kind of them, or give a label "
            "file with --labels"
        )
    return best[0] if best else 0

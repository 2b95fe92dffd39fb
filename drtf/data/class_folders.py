"""Class folders: photographs whose grade is the name of a folder above them."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pandas as pd

from drtf.config import LabelsConfig
from drtf.data.label_formats import FOLDER_FORMATS
from drtf.data.labels import patients_by_name
from drtf.data.photographs import strip_suffix
from drtf.errors import LabelError

GRADES = {
    folder: grade
    for known in FOLDER_FORMATS
    for grade, folder in enumerate(known.folders)
}


class ClassFolder(NamedTuple):
    """The class folder of a photograph.

    Attributes:
        name: Name of the folder.
        grade: Its grade, 0-4.
        path_below: The photograph's path below the folder.
    """

    name: str
    grade: int
    path_below: str


def label_by_folder(paths: Sequence[str], config: LabelsConfig) -> pd.DataFrame:
    """Label photographs by the folders that they lie in.

    Args:
        paths: The photographs' paths relative to the image folder.
        config: The `labels` section. Its pattern is applied to the path below the
            class folder, so that both eyes of a patient are recognized even if they
            have different grades.

    Returns:
        One row per photograph: `id` (its path without the extension), `grade` (int8,
        0-4), `patient`, `path` and `folder` (the name of its class folder).

    Raises:
        LabelError: If a photograph lies in no class folder or in those of two grades,
            two photographs have the same id, or the config names a column.
    """
    for key in ("image_column", "grade_column", "patient_column"):
        if getattr(config, key):
            raise LabelError(
                f"labels.{key}={getattr(config, key)!r} requires a label file: give "
                "one with --labels"
            )
    folders = [_find_class_folder(path) for path in paths]
    outside = [path for path, x in zip(paths, folders, strict=True) if x is None]
    if outside:
        raise LabelError(
            f"{len(outside):,} of {len(paths):,} photographs are not in a class "
            f"folder, such as {outside[0]!r}. Give a label file with --labels, or name "
            "the folders of the grades 0-4 as in one of these: "
            f"{'; '.join(map(str, FOLDER_FORMATS))}"
        )
    labels = pd.DataFrame(folders, columns=ClassFolder._fields)
    ids = pd.Series([strip_suffix(path) for path in paths], dtype=object)
    repeated = ids[ids.duplicated(keep=False)]
    if len(repeated):
        first, second = repeated.index[repeated == repeated.iloc[0]][:2]
        raise LabelError(
            f"{paths[first]} and {paths[second]} differ only in their extension: "
            "rename or remove one"
        )
    names = labels["path_below"].map(strip_suffix)
    return pd.DataFrame(
        {
            "id": ids,
            "grade": labels["grade"].astype("int8"),
            "patient": patients_by_name(names, config.patient_pattern).fillna(ids),
            "path": list(paths),
            "folder": labels["name"],
        }
    )


def _find_class_folder(path: str) -> ClassFolder | None:
    """Return the topmost class folder above a photograph, or None."""
    *parents, _ = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parents:  # not below the image folder
        return None
    depths = [depth for depth, name in enumerate(parents) if name in GRADES]
    if not depths:
        return None
    names = [parents[depth] for depth in depths]
    if len({GRADES[name] for name in names}) > 1:
        raise LabelError(
            f"{path} is in class folders of different grades, {' and '.join(names)}: "
            "rename one, or give a label file with --labels"
        )
    path_below = PurePosixPath(path).relative_to(*parents[: depths[0] + 1])
    return ClassFolder(names[0], GRADES[names[0]], path_below.as_posix())

"""Inspection: statistics and pictures of what is in a dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.config import AugmentConfig
from drtf.data.contents import Conflict, find_conflicts
from drtf.data.loader import read_batch
from drtf.figures import Picture, plot_grid, plot_histograms
from drtf.files import check_absent
from drtf.images.quality import QUALITY_MEASURES
from drtf.records.index import iterate_index
from drtf.records.manifest import INDEX_FILE, Manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import GRADES, TASKS, TaskName

CONTACT_SHEET = "contact-sheet.png"
AUGMENTED_SHEET = "augmented.png"
QUALITY_FIGURE = "quality.png"


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection.

    Attributes:
        manifest: The dataset's manifest.
        num_identical: Number of photographs that are byte-identical to another one.
        conflicts: The groups of them whose grades differ.
        kept_columns: For each column kept from the label file, how often each of its
            values occurs, the most frequent first.
        figures: Paths of the pictures.
    """

    manifest: Manifest
    num_identical: int
    conflicts: list[Conflict]
    kept_columns: dict[str, dict[str, int]]
    figures: list[Path]


def inspect_dataset(
    folder: Path,
    *,
    out: Path,
    num_per_grade: int,
    augment: AugmentConfig | None = None,
    task: TaskName = "binary",
    overwrite: bool = False,
) -> Inspection:
    """Summarize a dataset, and plot a contact sheet by grade and its quality.

    Args:
        folder: The dataset.
        out: Folder for the pictures; created if it does not exist.
        num_per_grade: Number of photographs to show per grade.
        augment: If given, one photograph per grade is also plotted with
            `num_per_grade` random augmentations, as training would see it.
        task: The task whose classes select from augmentation bounds that are lists.
        overwrite: Whether existing pictures in `out` may be replaced.

    Raises:
        RecordError: If the dataset is damaged.
        DrtfError: If the pictures exist.
    """
    sheet, quality = out / CONTACT_SHEET, out / QUALITY_FIGURE
    figures = [sheet, quality, *([out / AUGMENTED_SHEET] if augment else [])]
    check_absent(*figures, overwrite=overwrite)
    with ShardDataset(folder) as dataset:
        manifest = dataset.manifest
        columns = ["grade", "has_field", *QUALITY_MEASURES]
        index = dataset.load_index([*columns, *manifest.kept_columns])
        identical = _load_identical(dataset)
        rows = [
            (title, _read_pictures(dataset, selected[:num_per_grade]))
            for title, selected in _select_rows(index)
        ]
        augmented = (
            [
                _augment_pictures(dataset, grade, augment, task, num_per_grade)
                for grade in GRADES
                if grade in dataset.grades
            ]
            if augment
            else []
        )
    out.mkdir(parents=True, exist_ok=True)
    plot_grid(sheet, rows)
    if augment:
        plot_grid(out / AUGMENTED_SHEET, augmented)
    plot_histograms(
        quality, {name: index[name].to_numpy() for name in QUALITY_MEASURES}
    )
    return Inspection(
        manifest,
        len(identical),
        find_conflicts(identical.rename(columns={"sha256": "content"})),
        {name: _count_values(index[name]) for name in manifest.kept_columns},
        figures,
    )


def _count_values(column: pd.Series) -> dict[str, int]:
    return {str(value): int(n) for value, n in column.value_counts().items()}


def _select_rows(index: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Return the rows of each grade, and of photographs that are worth a second look.

    Returns:
        Titles with rows of the index, int64 [n].
    """
    grades = index["grade"].to_numpy()
    # Records are in random order, so the first ones of a grade are a fair sample.
    by_grade = [
        (
            f"Grade {grade} ({(grades == grade).sum():,})",
            np.flatnonzero(grades == grade),
        )
        for grade in GRADES
    ]
    return [
        *by_grade,
        ("Darkest", np.argsort(index["brightness"].to_numpy(), kind="stable")),
        ("Least sharp", np.argsort(index["sharpness"].to_numpy(), kind="stable")),
        ("No field found", np.flatnonzero(~index["has_field"].to_numpy(bool))),
    ]


def _load_identical(shards: ShardDataset) -> pd.DataFrame:
    """Load `id`, `grade` and `sha256` of the photographs that are not unique.

    The hashes of all photographs would take 100 bytes each, so short hashes of them
    are compared first.
    """
    keys = np.concatenate(
        [
            pd.util.hash_array(batch["sha256"].to_numpy())
            for batch in iterate_index(shards.folder / INDEX_FILE, ["sha256"])
        ]
    )
    rows = np.flatnonzero(pd.Series(keys).duplicated(keep=False))
    table = shards.load_index(["id", "grade", "sha256"], rows)
    return table[table.duplicated("sha256", keep=False)]


def _read_pictures(shards: ShardDataset, rows: np.ndarray) -> list[Picture]:
    names = shards.load_index(["id"], rows)["id"]
    return list(zip(names, read_batch(shards, rows), strict=True))


def _augment_pictures(
    shards: ShardDataset,
    grade: int,
    config: AugmentConfig,
    task: TaskName,
    num_copies: int,
) -> tuple[str, list[Picture]]:
    """Return the first photograph of a grade, followed by augmented copies of it."""
    # Without augmentation, an inspection does not need to load TensorFlow.
    import tensorflow as tf

    from drtf.data.augment import augment as augment_images

    row = np.flatnonzero(shards.grades == grade)[:1]
    image = read_batch(shards, row)
    seeds = np.stack([np.full(num_copies, grade), np.arange(num_copies)], axis=1)
    copies = tf.repeat(tf.cast(image, tf.float32) / 255, num_copies, axis=0)
    classes = TASKS[task].classes(np.full(num_copies, grade))
    augmented = augment_images(copies, tf.constant(seeds, tf.int32), classes, config)
    pixels = tf.cast(tf.round(augmented * 255), tf.uint8).numpy()
    name = str(shards.load_index(["id"], row)["id"][0])
    return f"Grade {grade}", [(name, image[0]), *(("", picture) for picture in pixels)]

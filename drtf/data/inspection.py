"""Inspection: statistics and pictures of a dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.config import AugmentConfig, SamplingConfig
from drtf.data.loader import read_batch
from drtf.data.sampling import BALANCED, partner_sampling, plan_epoch
from drtf.figures import Picture, plot_grid, plot_histograms
from drtf.files import check_absent
from drtf.images.quality import QUALITY_MEASURES
from drtf.photographs.contents import Conflict, find_conflicts
from drtf.records.index import iterate_index
from drtf.records.manifest import INDEX_FILE, Manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import GRADES, NUM_GRADES, TASKS, TaskName

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
    sampling: SamplingConfig = BALANCED,
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
        sampling: How the photographs are sampled that an augmentation mixes in.
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
                _augment_pictures(
                    dataset, grade, augment, sampling, task, num_per_grade
                )
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
    sampling: SamplingConfig,
    task: TaskName,
    num_copies: int,
) -> tuple[str, list[Picture]]:
    """Return the first photograph of a grade, followed by augmented copies of it.

    If the augmentation mixes photographs, each copy is mixed with another one.
    """
    # Without augmentation, an inspection does not need to load TensorFlow.
    import tensorflow as tf

    from drtf.data.augment import augment as augment_images
    from drtf.data.mixing import mix

    def augment_rows(rows: np.ndarray, seeds: np.ndarray) -> tf.Tensor:
        pixels = tf.cast(read_batch(shards, rows), tf.float32) / 255
        return augment_images(pixels, seeds, classes[rows], config)

    classes = TASKS[task].classes(shards.grades)
    row = np.flatnonzero(shards.grades == grade)[:1]
    numbers = np.arange(num_copies, dtype=np.int32)
    seeds = np.stack([np.full_like(numbers, grade), numbers], axis=1)
    augmented = augment_rows(np.repeat(row, num_copies), seeds)
    names = [""] * num_copies
    if partners := partner_sampling(sampling, config):
        order = plan_epoch(
            classes,
            partners,
            seed=grade,
            epoch=0,
            shard_numbers=shards.shard_numbers(np.arange(len(classes))),
        )
        chosen = np.resize(order, num_copies)
        others = augment_rows(chosen, seeds + NUM_GRADES)
        augmented, fractions = mix(augmented, others, seeds, config)
        names = [
            f"{fraction:.0%} of grade {shards.grades[other]}"
            for fraction, other in zip(fractions.numpy(), chosen, strict=True)
        ]
    pixels = tf.cast(tf.round(augmented * 255), tf.uint8).numpy()
    return f"Grade {grade}", [
        *_read_pictures(shards, row),
        *zip(names, pixels, strict=True),
    ]

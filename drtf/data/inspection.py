"""Inspection: what is in a set, in figures and in pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from drtf.config import AugmentConfig
from drtf.data.augment import augment as augment_images
from drtf.data.contents import Conflict, find_conflicts
from drtf.data.loader import read_batch
from drtf.figures import Picture, plot_grid, plot_histograms
from drtf.files import check_absent
from drtf.records.manifest import Manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import GRADES, TASKS, TaskName

CONTACT_SHEET = "contact-sheet.png"
AUGMENTED_SHEET = "augmented.png"
QUALITY_FIGURE = "quality.png"


@dataclass(frozen=True)
class Inspection:
    """What an inspection found and drew.

    Attributes:
        manifest: of the set.
        num_identical: photographs that are byte-identical to another one of the set.
        conflicts: those of them whose grades differ.
        figures: the pictures' paths.
    """

    manifest: Manifest
    num_identical: int
    conflicts: list[Conflict]
    figures: list[Path]


def inspect_set(
    shards: Path,
    *,
    out: Path,
    num_per_grade: int,
    augment: AugmentConfig | None = None,
    task: TaskName = "binary",
    overwrite: bool = False,
) -> Inspection:
    """Find what is in a set, and draw it: a contact sheet by grade, and its quality.

    Args:
        shards: the set.
        out: the folder to write the pictures to.
        num_per_grade: how many photographs of each grade are shown.
        augment: if given, one photograph of each grade is drawn as training would see
            it, as many times.
        task: whose classes choose among bounds that are lists.
        overwrite: whether earlier pictures in `out` may be replaced.

    Raises:
        RecordError: if the set is damaged.
        DrtfError: if the pictures exist.
    """
    sheet, quality = out / CONTACT_SHEET, out / QUALITY_FIGURE
    figures = [sheet, quality, *([out / AUGMENTED_SHEET] if augment else [])]
    check_absent(*figures, overwrite=overwrite)
    with ShardDataset(shards) as shard_set:
        manifest, index = shard_set.manifest, shard_set.index
        rows = [
            (title, _read_pictures(shard_set, chosen[:num_per_grade]))
            for title, chosen in _choose_rows(index)
        ]
        changed = (
            [
                _change_picture(shard_set, grade, augment, task, num_per_grade)
                for grade in GRADES
                if grade in shard_set.grades
            ]
            if augment
            else []
        )
    out.mkdir(parents=True, exist_ok=True)
    plot_grid(sheet, rows)
    if augment:
        plot_grid(out / AUGMENTED_SHEET, changed)
    plot_histograms(
        quality, {name: index[name].to_numpy() for name in manifest.quality}
    )
    alike = index.assign(content=index["sha256"])
    return Inspection(
        manifest,
        int(index.duplicated("sha256", keep=False).sum()),
        find_conflicts(alike),
        figures,
    )


def _choose_rows(index: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Choose a fair sample of each grade, and the photographs to look at twice."""
    grades = index["grade"].to_numpy()
    samples = [
        # Records stand in a random order, so the first ones are a sample.
        (
            f"Grade {grade} ({(grades == grade).sum():,})",
            np.flatnonzero(grades == grade),
        )
        for grade in GRADES
    ]
    return [
        *samples,
        ("Darkest", np.argsort(index["brightness"].to_numpy(), kind="stable")),
        ("Least sharp", np.argsort(index["sharpness"].to_numpy(), kind="stable")),
        ("No field found", np.flatnonzero(~index["field_found"].to_numpy(bool))),
    ]


def _read_pictures(shard_set: ShardDataset, rows: np.ndarray) -> list[Picture]:
    names = shard_set.index["id"].to_numpy()[rows]
    return list(zip(names, read_batch(shard_set, rows), strict=True))


def _change_picture(
    shard_set: ShardDataset,
    grade: int,
    config: AugmentConfig,
    task: TaskName,
    num_changed: int,
) -> tuple[str, list[Picture]]:
    """Show the first photograph of a grade, then as augmentation changes it."""
    row = np.flatnonzero(shard_set.grades == grade)[:1]
    image = read_batch(shard_set, row)
    seeds = np.stack([np.full(num_changed, grade), np.arange(num_changed)], axis=1)
    copies = tf.repeat(tf.cast(image, tf.float32) / 255, num_changed, axis=0)
    classes = TASKS[task].classes(np.full(num_changed, grade))
    changed = augment_images(copies, tf.constant(seeds, tf.int32), classes, config)
    pixels = tf.cast(tf.round(changed * 255), tf.uint8).numpy()
    name = str(shard_set.index["id"][row[0]])
    return f"Grade {grade}", [(name, image[0]), *(("", picture) for picture in pixels)]

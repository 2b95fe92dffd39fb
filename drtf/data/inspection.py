"""Inspection: what is in a set, in figures and in pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.data.contents import Conflict, find_conflicts
from drtf.data.pipeline import read_batch
from drtf.figures import Picture, plot_grid, plot_histograms
from drtf.files import check_absent
from drtf.records.manifest import Manifest
from drtf.records.reader import ShardSet
from drtf.records.schema import GRADES

CONTACT_SHEET = "contact-sheet.png"
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
    figures: tuple[Path, Path]


def inspect_set(
    shards: Path, *, out: Path, num_per_grade: int, overwrite: bool = False
) -> Inspection:
    """Find what is in a set, and draw it: a contact sheet by grade, and its quality.

    Args:
        shards: the set.
        out: the folder to write the pictures to.
        num_per_grade: how many photographs of each grade are shown.
        overwrite: whether earlier pictures in `out` may be replaced.

    Raises:
        RecordError: if the set is damaged.
        DrtfError: if the pictures exist.
    """
    sheet, quality = out / CONTACT_SHEET, out / QUALITY_FIGURE
    check_absent(sheet, quality, overwrite=overwrite)
    with ShardSet(shards) as shard_set:
        manifest, index = shard_set.manifest, shard_set.index
        rows = [
            (title, _read_pictures(shard_set, chosen[:num_per_grade]))
            for title, chosen in _choose_rows(index)
        ]
    out.mkdir(parents=True, exist_ok=True)
    plot_grid(sheet, rows)
    plot_histograms(
        quality, {name: index[name].to_numpy() for name in manifest.quality}
    )
    alike = index.assign(content=index["sha256"])
    return Inspection(
        manifest,
        int(index.duplicated("sha256", keep=False).sum()),
        find_conflicts(alike),
        (sheet, quality),
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


def _read_pictures(shard_set: ShardSet, rows: np.ndarray) -> list[Picture]:
    names = shard_set.index["id"].to_numpy()[rows]
    return list(zip(names, read_batch(shard_set, rows), strict=True))

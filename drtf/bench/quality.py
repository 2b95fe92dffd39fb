"""Measure how well the gradability flags detect ungradable photographs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pandas as pd

from drtf.errors import LabelError, PhotographError
from drtf.images.decode import decode_photograph
from drtf.images.gradability import Flag, gradability_flags
from drtf.images.preprocess import OVERSAMPLING, limit_threads
from drtf.images.retina import THUMBNAIL_SIDE, build_thumbnail, find_field
from drtf.labels.assessments import load_assessments
from drtf.photographs.listing import list_photographs
from drtf.photographs.references import (
    PhotographRef,
    prefetch_photographs,
)
from drtf.progress import progress
from drtf.workers import map_in_order

UNCHANGED = "unchanged"
BLUR_SIGMAS = (2, 3, 4, 6)  # in px of a photograph of THUMBNAIL_SIDE px
BRIGHTNESS_FACTORS = (0.5, 0.3, 0.2)

Flags = tuple[Flag, ...]


@dataclass(frozen=True)
class FlagCounts:
    """How many photographs of one group have each flag.

    Attributes:
        group: How the photographs were degraded or graded.
        num_photographs: Number of photographs in the group.
        num_flagged: Number of photographs with any flag.
        num_by_flag: Number of photographs with each flag.
    """

    group: str
    num_photographs: int
    num_flagged: int
    num_by_flag: Mapping[Flag, int]


def bench_quality(
    images: Path | str, *, gradable: Path | None, num_workers: int = 0
) -> list[FlagCounts]:
    """Flag photographs, originals and degraded copies, and count the flags.

    Args:
        images: Folder of photographs, or a CSV of paths.
        gradable: Table with a clinician's assessments, as for `load_assessments`; None
            if there is none.
        num_workers: Worker processes; 0 means one per CPU.

    Returns:
        The counts of the originals, of each degradation, and of the gradable and the
        ungradable originals.

    Raises:
        LabelError: If no photograph can be read, or if the table cannot be read or
            contains none of the photographs.
    """
    photographs = list_photographs(images).photographs
    assessed = _groups_by_assessment(gradable, photographs) if gradable else {}
    flagged = map_in_order(
        _flag_photograph,
        prefetch_photographs(photographs),
        num_workers=num_workers,
        initializer=limit_threads,
    )
    by_group: dict[str, list[Flags]] = {}
    num_unreadable = 0
    with progress("Flagging photographs", len(photographs)) as advance:
        for photograph, flags_by_form in zip(photographs, flagged, strict=True):
            for form, flags in flags_by_form.items():
                by_group.setdefault(form, []).append(flags)
            if flags_by_form and photograph.path in assessed:
                group = assessed[photograph.path]
                by_group.setdefault(group, []).append(flags_by_form[UNCHANGED])
            num_unreadable += not flags_by_form
            advance(f"{num_unreadable} unreadable")
    if not by_group:
        raise LabelError(f"none of the photographs in {images} can be read")
    return [_count_flags(group, rows) for group, rows in by_group.items()]


def _groups_by_assessment(
    table: Path, photographs: Sequence[PhotographRef]
) -> dict[str, str]:
    """Return `gradable` or `ungradable` for the path of each assessed photograph."""
    paths = [photograph.path for photograph in photographs]
    matched = pd.DataFrame({"source": "", "path": paths, "patient": ""}, dtype=object)
    assessments = load_assessments(table, matched)
    return {
        path: "ungradable" if is_ungradable else "gradable"
        for path, is_assessed, is_ungradable in zip(
            paths, assessments.is_assessed, assessments.is_ungradable, strict=True
        )
        if is_assessed
    }


def _count_flags(group: str, rows: list[Flags]) -> FlagCounts:
    num_by_flag = {
        flag: sum(flag in flags for flags in rows) for flag in get_args(Flag)
    }
    return FlagCounts(group, len(rows), sum(map(bool, rows)), num_by_flag)


def _flag_photograph(photograph: PhotographRef) -> dict[str, Flags]:
    """Return the flags of each form of a photograph; none if it is unreadable."""
    try:
        data = photograph.read()
        image, _ = decode_photograph(data, min_side=OVERSAMPLING * THUMBNAIL_SIDE)
    except PhotographError:
        return {}
    flags = {}
    for form, changed in _degraded_forms(image):
        thumbnail = build_thumbnail(changed)
        flags[form] = gradability_flags(thumbnail, find_field(thumbnail))
    return flags


def _degraded_forms(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a photograph unchanged, blurred and darkened, each with a description."""
    yield UNCHANGED, image
    scale = max(image.shape[:2]) / THUMBNAIL_SIDE
    for sigma in BLUR_SIGMAS:
        blurred = cv2.GaussianBlur(image, (0, 0), sigma * scale)
        yield f"blurred, sigma {sigma} px of {THUMBNAIL_SIDE}", blurred
    for factor in BRIGHTNESS_FACTORS:
        darkened = cv2.convertScaleAbs(image, alpha=factor)
        yield f"darkened to {factor:.0%}", darkened

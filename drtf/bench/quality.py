"""How well flags tell ungradable photographs: as they are, degraded, and as judged."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from drtf.data.photographs import (
    PhotographRef,
    list_photographs,
    prefetch_photographs,
)
from drtf.errors import LabelError, PhotographError
from drtf.images.decode import decode_photograph
from drtf.images.gradability import Flag, gradability_flags
from drtf.images.preprocess import OVERSAMPLING, limit_threads
from drtf.images.retina import THUMBNAIL_SIDE, build_thumbnail, find_field
from drtf.progress import progress
from drtf.workers import count_workers, map_in_order

AS_IT_IS = "as it is"
# By sigma in px of a photograph of 256 px, and by factor.
BLURS = (2, 3, 4, 6)
EXPOSURES = (0.5, 0.3, 0.2)

Flags = tuple[Flag, ...]


@dataclass(frozen=True)
class FlaggedShares:
    """How many photographs got which flags.

    Attributes:
        name: of what was done to the photographs, or how they were judged.
        num_photographs: of this kind.
        num_flagged: with any flag.
        num_by_flag: with each flag.
    """

    name: str
    num_photographs: int
    num_flagged: int
    num_by_flag: Mapping[Flag, int]


def bench_quality(
    images: Path | str, *, judged: Path | None, num_workers: int = 0
) -> list[FlaggedShares]:
    """Flag photographs as they are, degraded, and by how a clinician judged them.

    Args:
        images: a folder of photographs, or a CSV of paths.
        judged: a CSV with columns `image` and `gradable`, 0 or 1; None for none.
        num_workers: processes; 0 is one a CPU.

    Raises:
        LabelError: if no photograph can be read, or the CSV can't be or is of others.
    """
    verdicts = _load_verdicts(judged) if judged else {}
    photographs = list_photographs(images)
    names = {photograph.id for photograph in photographs}
    if judged and not names & verdicts.keys():
        raise LabelError(f"{judged} judges none of the photographs in {images}")
    flagged = map_in_order(
        _flag,
        prefetch_photographs(photographs),
        num_workers=count_workers(num_workers),
        initializer=limit_threads,
    )
    by_kind: dict[str, list[Flags]] = {}
    num_unreadable = 0
    with progress("Flagging photographs", len(photographs)) as advance:
        for photograph, found in zip(photographs, flagged, strict=True):
            for kind, flags in found.items():
                by_kind.setdefault(kind, []).append(flags)
            verdict = verdicts.get(photograph.id)
            if found and verdict is not None:
                kind = "judged gradable" if verdict else "judged ungradable"
                by_kind.setdefault(kind, []).append(found[AS_IT_IS])
            num_unreadable += not found
            advance(f"{num_unreadable} unreadable")
    if not by_kind:
        raise LabelError(f"none of the photographs in {images} could be read")
    return [_count(kind, rows) for kind, rows in by_kind.items()]


def _count(kind: str, rows: list[Flags]) -> FlaggedShares:
    counts = Counter(flag for flags in rows for flag in flags)
    return FlaggedShares(kind, len(rows), sum(map(bool, rows)), counts)


def _flag(photograph: PhotographRef) -> dict[str, Flags]:
    """Flag a photograph as it is and in each degraded form; nothing if unreadable."""
    try:
        data = photograph.read()
        image, _ = decode_photograph(data, min_side=OVERSAMPLING * THUMBNAIL_SIDE)
    except PhotographError:
        return {}
    found = {}
    for kind, form in _degrade(image):
        surveyed = build_thumbnail(form)
        found[kind] = gradability_flags(surveyed, find_field(surveyed.brightness))
    return found


def _degrade(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a photograph as it is, blurred and darkened, each with its name."""
    yield AS_IT_IS, image
    pixels = max(image.shape[:2]) / THUMBNAIL_SIDE
    for sigma in BLURS:
        blurred = cv2.GaussianBlur(image, (0, 0), sigma * pixels)
        yield f"blurred, sigma {sigma} px of {THUMBNAIL_SIDE}", blurred
    for factor in EXPOSURES:
        darkened = cv2.convertScaleAbs(image, alpha=factor)
        yield f"darkened to {factor:.0%}", darkened


def _load_verdicts(path: Path) -> dict[str, bool]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {
                row["image"]: bool(int(row["gradable"])) for row in csv.DictReader(file)
            }
    except OSError as error:
        raise LabelError(f"can't read {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise LabelError(
            f"{path} must be a CSV with the columns image and gradable, 0 or 1"
        ) from error

"""Grad-CAM: the heat maps of some photographs, painted for people."""

import heapq
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import tensorflow as tf

from drtf.config import Config, GradcamConfig
from drtf.data.loader import read_batch
from drtf.data.photographs import PhotographRef, list_photographs
from drtf.data.prepare import NetworkInput, Rejected
from drtf.errors import DrtfError
from drtf.figures import Picture, Row, plot_grid
from drtf.files import check_absent
from drtf.inference.evaluation import check_preprocessing
from drtf.inference.heatmaps import (
    PICTURE_SIDE,
    check_settings,
    compute_maps,
    describe_map,
    draw_overlay,
    paint,
)
from drtf.inference.scoring import Scored, score_photographs
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.progress import progress
from drtf.records.reader import ShardDataset

FIGURES = ("images.png", "heatmaps.png", "overlays.png")
AVERAGES_FIGURE = "averages.png"
OVERLAYS_FOLDER = "overlays"
NOTHING_GREY = 192
# What a folder's overlays are written as; of other kinds, as PNG.
OVERLAY_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp")


@dataclass(frozen=True)
class Explained:
    """A photograph with its map.

    Attributes:
        name: shown above it.
        image: uint8 RGB [S, S, 3], to be shown.
        values: float32 [H, W] in [0, 1].
        score: what the run says of it.
    """

    name: str
    image: np.ndarray
    values: np.ndarray
    score: float


class Overlays:
    """A folder of overlays, written one by one.

    Attributes:
        written: their paths.
        blank: names of photographs whose map is zero everywhere.
        failed: the photographs that could not be read.
    """

    def __init__(self, folder: Path, config: GradcamConfig) -> None:
        self.folder = folder
        self.config = config
        self.written: set[Path] = set()
        self.blank: list[str] = []
        self.failed: list[str] = []

    def write(self, item: Explained) -> None:
        path = _name_overlay(self.folder, item.name)
        while path in self.written:  # lists may lead to one name by several paths
            path = path.with_stem(f"{path.stem}_")
        path.parent.mkdir(parents=True, exist_ok=True)
        overlay = draw_overlay(item.image, item.values, self.config)
        _, data = cv2.imencode(path.suffix, cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
        path.write_bytes(data)
        self.written.add(path)
        if not item.values.any():
            self.blank.append(item.name)

    def count_others(self) -> int:
        """Count the files there that are none of those written."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path not in self.written for path in found)


@dataclass(frozen=True)
class GradcamReport:
    """What was painted.

    Attributes:
        layer: whose activations were weighted; empty for saliency, which has none.
        grid: their height and width in cells.
        figures: the PNGs written.
        num_overlays: pictures in the folder of overlays.
        num_others: files that stood in that folder before, and were left.
        blank: names of photographs whose map is zero everywhere.
        failed: the photographs that could not be read.
    """

    layer: str
    grid: tuple[int, int]
    figures: list[Path]
    num_overlays: int
    num_others: int
    blank: list[str]
    failed: list[str]


def gradcam(
    run_folder: Path,
    *,
    out: Path,
    config: Config,
    shards: Path | None = None,
    split: str = "test",
    images: Path | str | None = None,
    overwrite: bool = False,
) -> GradcamReport:
    """Paint photographs, their heat maps, and the maps laid over the photographs.

    From shards, the first photographs of each true class, and the mean map of each
    grade; from a folder, the lowest and the highest scored, and an overlay of each.

    Args:
        run_folder: what `train` left.
        out: the folder to write to.
        config: its `gradcam` section is used, and `score` for a folder.
        shards: a set preprocessed like the one trained on; or
        images: a folder of photographs, or a CSV of paths.
        split: of the set.
        overwrite: whether earlier figures in `out` may be replaced.

    Raises:
        DrtfError: if there is nothing to paint, the layer is unknown, or `out` holds
            figures already.
    """
    settings = config.gradcam
    figures = [out / name for name in FIGURES]
    others = [out / AVERAGES_FIGURE, *([out / OVERLAYS_FOLDER] if images else [])]
    check_absent(*figures, *others, overwrite=overwrite)
    run = load_run(run_folder)
    layer = check_settings(run.network, settings, backbone=run.backbone)
    averages: list[Picture] = []
    overlays = Overlays(out / OVERLAYS_FOLDER, settings)
    if shards is not None:
        with ShardDataset(shards) as shard_set:
            check_preprocessing(run, shard_set)
            rows = _explain_classes(run, shard_set, split, settings)
            if settings.num_averaged:
                averages = _average_maps(run, shard_set, split, settings)
    elif images is not None:
        rows = _explain_folder(run, images, overlays, config)
    else:
        raise DrtfError("gradcam needs --shards or --images")
    out.mkdir(parents=True, exist_ok=True)
    (out / AVERAGES_FIGURE).unlink(missing_ok=True)  # an earlier call's
    _plot_figures(figures, rows, settings)
    if averages:
        figures.append(out / AVERAGES_FIGURE)
        plot_grid(figures[-1], [("Mean map", averages)], colormap=settings.colormap)
    shown = [item for _, row in rows for item in row]
    return GradcamReport(
        "" if settings.method == "saliency" else layer.name,
        tuple(layer.output.shape[1:3]),
        figures,
        len(overlays.written),
        overlays.count_others(),
        overlays.blank or [item.name for item in shown if not item.values.any()],
        overlays.failed,
    )


def _explain_classes(
    run: Run, shards: ShardDataset, split: str, config: GradcamConfig
) -> list[tuple[str, list[Explained]]]:
    """Explain the first photographs of each true class."""
    rows = shards.split_rows(split)
    positive = run.task.labels(shards.grades[rows]) == 1
    explained = []
    for title, of_class in zip(
        run.task.label_names, (~positive, positive), strict=True
    ):
        chosen = rows[of_class][: config.num_per_class]
        if len(chosen):
            explained.append((title, _explain_rows(run, shards, chosen, config)))
    return explained


def _explain_rows(
    run: Run, shards: ShardDataset, rows: np.ndarray, config: GradcamConfig
) -> list[Explained]:
    images = read_batch(shards, rows)
    views = build_predictor(run.network, run.tta)(tf.constant(images)).numpy()
    scores = run.task.disease_scores(views.mean(axis=1)).tolist()
    maps = compute_maps(
        run.network,
        images,
        task=run.task,
        backbone=run.backbone,
        layer=config.layer,
        method=config.method,
    )
    names = [
        f"{name}, grade {grade}"
        for name, grade in zip(
            shards.index["id"][rows], shards.grades[rows], strict=True
        )
    ]
    return list(map(Explained, names, images, maps, scores))


def _average_maps(
    run: Run, shards: ShardDataset, split: str, config: GradcamConfig
) -> list[Picture]:
    """Paint the mean map of each grade, of the first records: a fair sample."""
    rows = shards.split_rows(split)
    pictures = []
    grades = np.unique(shards.grades[rows])
    with progress("Averaging maps", len(grades)) as advance:
        for grade in grades:
            chosen = rows[shards.grades[rows] == grade][: config.num_averaged]
            maps = compute_maps(
                run.network,
                read_batch(shards, chosen),
                task=run.task,
                backbone=run.backbone,
                layer=config.layer,
                method=config.method,
            )
            mean = maps.mean(axis=0)
            caption = f"grade {grade}, of {len(chosen):,}{describe_map(mean)}"
            pictures.append((caption, _paint_map(mean, config)))
            advance()
    return pictures


def _explain_folder(
    run: Run, images: Path | str, overlays: Overlays, config: Config
) -> list[tuple[str, list[Explained]]]:
    """Write an overlay of each photograph, and keep the lowest and highest scored."""
    photographs = list_photographs(images)
    _check_apart(photographs, overlays.folder)
    size = max(PICTURE_SIDE, run.info.image_size)
    scored = score_photographs(run, photographs, config=config, picture_size=size)
    count = config.gradcam.num_per_class
    find_score = operator.attrgetter("score")
    lowest: list[Explained] = []
    highest: list[Explained] = []
    with progress("Painting overlays", len(photographs)) as advance:
        while batch := list(itertools.islice(scored, config.score.batch_size)):
            overlays.failed += [item.path for item, found in batch if found is None]
            explained = _explain_batch(run, batch, config.gradcam)
            for item in explained:
                overlays.write(item)
            lowest = heapq.nsmallest(count, [*lowest, *explained], key=find_score)
            highest = heapq.nlargest(count, [*highest, *explained], key=find_score)
            advance(num_done=len(batch))
    if not lowest:
        raise DrtfError(f"none of the photographs in {images} could be read")
    low = {item.name for item in lowest}
    highest = [item for item in reversed(highest) if item.name not in low]
    rows = [("scored lowest", lowest), ("scored highest", highest)]
    return [row for row in rows if row[1]]


def _check_apart(photographs: Sequence[PhotographRef], folder: Path) -> None:
    """Refuse to write overlays over the photographs themselves."""
    if photographs[0].is_remote or not folder.exists():
        return
    inside = folder.resolve()
    for photograph in photographs:
        path = Path(photograph.folder, photograph.path)
        if path.resolve().is_relative_to(inside):
            raise DrtfError(
                f"{photograph.path} lies in {folder}, where its overlay would be "
                "written: choose another --out"
            )


def _explain_batch(
    run: Run,
    batch: Sequence[tuple[NetworkInput | Rejected, Scored | None]],
    config: GradcamConfig,
) -> list[Explained]:
    """Explain the photographs of a batch that could be read."""
    read = [
        (item.path, item.image, item.picture, found.score)
        for item, found in batch
        if found and isinstance(item, NetworkInput) and item.picture is not None
    ]
    if not read:
        return []
    names, images, pictures, scores = zip(*read, strict=True)
    maps = compute_maps(
        run.network,
        np.stack(images),
        task=run.task,
        backbone=run.backbone,
        layer=config.layer,
        method=config.method,
    )
    return list(map(Explained, names, pictures, maps, scores))


def _name_overlay(folder: Path, name: str) -> Path:
    """Return where an overlay goes: its photograph's own path, inside the folder."""
    below = PurePosixPath(name)
    parts = below.relative_to(below.anchor).parts  # which is "/", or "//"
    path = folder.joinpath(*(part for part in parts if part != ".."))
    if path.suffix.lower() in OVERLAY_SUFFIXES:
        return path
    return path.with_name(f"{path.name}.png")


def _paint_map(values: np.ndarray, config: GradcamConfig) -> np.ndarray:
    heat = paint(values, config.colormap)
    return heat if values.any() else np.full_like(heat, NOTHING_GREY)


def _plot_figures(
    paths: Sequence[Path],
    rows: Sequence[tuple[str, Sequence[Explained]]],
    config: GradcamConfig,
) -> None:
    """Plot photographs, maps and overlays, a grid of each."""
    grids: list[list[Row]] = [[] for _ in paths]
    for title, explained in rows:
        pictures: list[list[Picture]] = [[] for _ in paths]
        for item in explained:
            said = describe_map(item.values)
            caption = f"{item.name}\nscore {item.score:.3f}{said}"
            heat = _paint_map(item.values, config)
            overlay = draw_overlay(item.image, item.values, config)
            for column, picture in zip(
                pictures, (item.image, heat, overlay), strict=True
            ):
                column.append((caption, picture))
        for grid, row in zip(grids, pictures, strict=True):
            grid.append((title, row))
    for path, grid, colormap in zip(
        paths, grids, ("", config.colormap, config.colormap), strict=True
    ):
        plot_grid(path, grid, colormap=colormap)

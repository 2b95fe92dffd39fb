"""Grad-CAM: figures and overlays of the heat maps of photographs."""

import heapq
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import tensorflow as tf

from drtf import page
from drtf.config import GradcamConfig, ScoreConfig
from drtf.data.loader import read_batch
from drtf.data.photographs import PhotographRef, list_photographs
from drtf.data.prepare import NetworkInput, Rejected
from drtf.errors import DrtfError
from drtf.figures import Picture, Row, plot_grid
from drtf.files import check_absent
from drtf.inference.heatmaps import (
    PICTURE_SIDE,
    check_settings,
    color_map,
    compute_maps,
    describe_map,
    draw_overlay,
)
from drtf.inference.scoring import Scored, score_photographs
from drtf.models.compatibility import check_preprocessing
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.progress import progress
from drtf.records.reader import ShardDataset

FIGURES = ("images.png", "heatmaps.png", "overlays.png")
AVERAGES_FIGURE = "averages.png"
OVERLAYS_FOLDER = "overlays"
EMPTY_MAP_GREY = 192
# Overlays keep these suffixes; overlays of other files are written as PNG.
OVERLAY_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp")


@dataclass(frozen=True)
class Explained:
    """A photograph with its heat map.

    Attributes:
        name: Name to display.
        image: uint8 RGB [S, S, 3], the photograph to display.
        values: float32 [H, W] in [0, 1], the heat map.
        score: The photograph's score, in [0, 1].
    """

    name: str
    image: np.ndarray
    values: np.ndarray
    score: float


class Overlays:
    """Writes overlays to a folder, one by one.

    Attributes:
        written: Paths of the written overlays.
        blank: Names of photographs whose map is zero everywhere.
        failed: Paths of photographs that could not be read.
    """

    def __init__(self, folder: Path, config: GradcamConfig) -> None:
        self.folder = folder
        self.config = config
        self.written: set[Path] = set()
        self.blank: list[str] = []
        self.failed: list[str] = []

    def write(self, item: Explained) -> None:
        """Draw the overlay of a photograph and write it to the folder."""
        path = _overlay_path(self.folder, item.name)
        while path in self.written:  # different paths may give the same name
            path = path.with_stem(f"{path.stem}_")
        path.parent.mkdir(parents=True, exist_ok=True)
        overlay = draw_overlay(item.image, item.values, self.config)
        _, data = cv2.imencode(path.suffix, cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
        path.write_bytes(data)
        self.written.add(path)
        if not item.values.any():
            self.blank.append(item.name)

    def count_others(self) -> int:
        """Count the files in the folder that were not written by this object."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path not in self.written for path in files)


@dataclass(frozen=True)
class GradcamReport:
    """What was drawn.

    Attributes:
        layer: Name of the mapped layer; empty for saliency, which uses none.
        grid: Height and width of the layer's output, in cells.
        figures: The written PNG files.
        num_overlays: Number of written overlays.
        num_others: Number of older files in the folder of overlays, which were kept.
        blank: Names of photographs whose map is zero everywhere.
        failed: Paths of photographs that could not be read.
    """

    layer: str
    grid: tuple[int, int]
    figures: list[Path]
    num_overlays: int
    num_others: int
    blank: list[str]
    failed: list[str]

    def _repr_html_(self) -> str:
        """Show the figures in a notebook."""
        return page.format_figures("Heat maps", self.figures, wide=True)


def gradcam(
    run_folder: Path,
    *,
    out: Path,
    config: GradcamConfig,
    score: ScoreConfig,
    shards: Path | None = None,
    split: str = "test",
    images: Path | str | None = None,
    overwrite: bool = False,
) -> GradcamReport:
    """Draw photographs, their heat maps, and overlays of both.

    For a dataset, draw the first photographs of each class and the mean map of each
    grade. For a folder, draw the photographs with the lowest and the highest scores,
    and write an overlay of every photograph.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        out: The folder to write to.
        config: How to compute and draw the maps.
        score: How to score the photographs of a folder.
        shards: A dataset with the same preprocessing as in training. Give either this
            or `images`.
        images: A folder of photographs, or a CSV of paths.
        split: The split of the dataset.
        overwrite: Whether to replace earlier figures in `out`.

    Raises:
        DrtfError: If there is nothing to draw, the layer is unknown, or `out` already
            has figures.
    """
    figures = [out / name for name in FIGURES]
    others = [out / AVERAGES_FIGURE, *([out / OVERLAYS_FOLDER] if images else [])]
    check_absent(*figures, *others, overwrite=overwrite)
    run = load_run(run_folder)
    layer = check_settings(run.network, config, backbone=run.backbone)
    averages: list[Picture] = []
    overlays = Overlays(out / OVERLAYS_FOLDER, config)
    if shards is not None:
        with ShardDataset(shards) as dataset:
            check_preprocessing(run, dataset)
            rows = _explain_classes(run, dataset, split, config)
            if config.num_averaged:
                averages = _average_maps(run, dataset, split, config)
    elif images is not None:
        rows = _explain_folder(run, images, overlays, config, score)
    else:
        raise DrtfError("gradcam needs --shards or --images")
    out.mkdir(parents=True, exist_ok=True)
    (out / AVERAGES_FIGURE).unlink(missing_ok=True)  # may be left by an earlier call
    _plot_figures(figures, rows, config)
    if averages:
        figures.append(out / AVERAGES_FIGURE)
        plot_grid(figures[-1], [("Mean map", averages)], colormap=config.colormap)
    shown = [item for _, row in rows for item in row]
    return GradcamReport(
        "" if config.method == "saliency" else layer.name,
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
    """Explain the first photographs of each class."""
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
    by_view = build_predictor(run.network, run.tta)(tf.constant(images)).numpy()
    scores = run.task.disease_scores(by_view.mean(axis=1)).tolist()
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
            shards.load_index(["id"], rows)["id"], shards.grades[rows], strict=True
        )
    ]
    return list(map(Explained, names, images, maps, scores))


def _average_maps(
    run: Run, shards: ShardDataset, split: str, config: GradcamConfig
) -> list[Picture]:
    """Draw the mean map of each grade.

    Records are in random order, so the first ones of a grade are a fair sample.
    """
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
            caption = f"grade {grade}, mean of {len(chosen):,}{describe_map(mean)}"
            pictures.append((caption, _draw_map(mean, config)))
            advance()
    return pictures


def _explain_folder(
    run: Run,
    images: Path | str,
    overlays: Overlays,
    config: GradcamConfig,
    score: ScoreConfig,
) -> list[tuple[str, list[Explained]]]:
    """Write an overlay of each photograph; return those with extreme scores."""
    photographs = list_photographs(images)
    _check_apart(photographs, overlays.folder)
    size = max(PICTURE_SIDE, run.info.image_size)
    scores = score_photographs(run, photographs, config=score, picture_size=size)
    count = config.num_per_class
    by_score = operator.attrgetter("score")
    lowest: list[Explained] = []
    highest: list[Explained] = []
    with progress("Drawing overlays", len(photographs)) as advance:
        while batch := list(itertools.islice(scores, score.batch_size)):
            overlays.failed += [item.path for item, scored in batch if scored is None]
            explained = _explain_batch(run, batch, config)
            for item in explained:
                overlays.write(item)
            lowest = heapq.nsmallest(count, [*lowest, *explained], key=by_score)
            highest = heapq.nlargest(count, [*highest, *explained], key=by_score)
            advance(num_done=len(batch))
    if not lowest:
        raise DrtfError(f"none of the photographs in {images} could be read")
    low = {item.name for item in lowest}
    highest = [item for item in reversed(highest) if item.name not in low]
    rows = [("lowest scores", lowest), ("highest scores", highest)]
    return [row for row in rows if row[1]]


def _check_apart(photographs: Sequence[PhotographRef], folder: Path) -> None:
    """Refuse to overwrite the photographs themselves with overlays."""
    if photographs[0].is_remote or not folder.exists():
        return
    inside = folder.resolve()
    for photograph in photographs:
        path = Path(photograph.folder, photograph.path)
        if path.resolve().is_relative_to(inside):
            raise DrtfError(
                f"{photograph.path} is in {folder}, where its overlay would be "
                "written: choose another --out"
            )


def _explain_batch(
    run: Run,
    batch: Sequence[tuple[NetworkInput | Rejected, Scored | None]],
    config: GradcamConfig,
) -> list[Explained]:
    """Explain the photographs of a batch that could be read."""
    read = [
        (item.path, item.image, item.picture, scored.score)
        for item, scored in batch
        if scored and isinstance(item, NetworkInput) and item.picture is not None
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


def _overlay_path(folder: Path, name: str) -> Path:
    """Return the path of an overlay: the photograph's own path inside the folder."""
    below = PurePosixPath(name)
    parts = below.relative_to(below.anchor).parts  # an anchor is "/" or "//"
    path = folder.joinpath(*(part for part in parts if part != ".."))
    if path.suffix.lower() in OVERLAY_SUFFIXES:
        return path
    return path.with_name(f"{path.name}.png")


def _draw_map(values: np.ndarray, config: GradcamConfig) -> np.ndarray:
    heat = color_map(values, config.colormap)
    return heat if values.any() else np.full_like(heat, EMPTY_MAP_GREY)


def _plot_figures(
    paths: Sequence[Path],
    rows: Sequence[tuple[str, Sequence[Explained]]],
    config: GradcamConfig,
) -> None:
    """Plot a grid of photographs, one of maps, and one of overlays."""
    grids: list[list[Row]] = [[] for _ in paths]
    for title, explained in rows:
        pictures: list[list[Picture]] = [[] for _ in paths]
        for item in explained:
            remark = describe_map(item.values)
            caption = f"{item.name}\nscore {item.score:.3f}{remark}"
            heat = _draw_map(item.values, config)
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

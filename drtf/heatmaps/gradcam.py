"""Grad-CAM: figures and overlays of the heat maps of photographs."""

import heapq
import itertools
import operator
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import cv2
import numpy as np
import tensorflow as tf

from drtf.config import GradcamConfig, ScoreConfig
from drtf.data.loader import read_batch
from drtf.errors import DrtfError
from drtf.figures import Picture, Row, plot_grid
from drtf.heatmaps.gradcam_folder import (
    AVERAGES_FIGURE,
    FIGURES,
    OVERLAYS_FOLDER,
    PARTIAL_FOLDER,
    GradcamReport,
    count_overlays,
    find_complete,
    plan_request,
    save_report,
)
from drtf.heatmaps.heatmaps import ComputeMaps, build_map_function, check_settings
from drtf.heatmaps.overlays import (
    MUCH_OUTSIDE,
    PICTURE_SIDE,
    Explained,
    add_caption,
    color_bar,
    color_heat,
    describe_model,
    describe_photograph,
    draw_map,
    draw_overlay,
    draw_photograph,
    explain,
    heat_scale,
)
from drtf.images.preprocess import decode_image, encode_image
from drtf.models.compatibility import check_preprocessing
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.photographs.listing import Listing, SkippedFile, list_photographs
from drtf.photographs.prepare import NetworkInput, Rejected
from drtf.photographs.references import PhotographRef
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.scoring.photograph_scores import Scored, score_photographs

SPOOLED_JPEG_QUALITY = 95
# Overlays keep these suffixes; overlays of other files are written as PNG.
OVERLAY_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp")


@dataclass(frozen=True)
class FolderMaps:
    """The heat maps of a folder of photographs.

    Attributes:
        rows: Titles and the photographs with extreme scores.
        scale: The heat at which the colors of all maps end.
        num_overlays: Number of written overlays.
        blank: Names of photographs whose map is zero everywhere.
        outside: Names of photographs with much heat outside the retina.
        failed: Paths of photographs that could not be read.
        skipped: Files of the folder that are not photographs.
    """

    rows: list[tuple[str, list[Explained]]]
    scale: float
    num_overlays: int
    blank: list[str]
    outside: list[str]
    failed: list[str]
    skipped: list[SkippedFile]


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

    Returns:
        What was drawn. If the same call has drawn it already, nothing is changed.

    Raises:
        DrtfError: If there is nothing to draw, the layer is unknown, or `out` has
            figures of another call.
    """
    request: dict[str, Any] = {
        "config": config,
        "score": score,
        "shards": shards,
        "split": split,
    }
    complete = find_complete(
        run_folder, out=out, overwrite=overwrite, images=images, **request
    )
    if complete:
        return complete
    listing = None if images is None else list_photographs(images)
    planned = plan_request(
        run_folder, photographs=listing.photographs if listing else [], **request
    )
    run = load_run(run_folder)
    layers = check_settings(run, config)
    # Members of an ensemble may have equal layers.
    compute_maps = build_map_function(run, config)
    mapped = list(dict.fromkeys((x.name, *x.output.shape[1:3]) for x in layers))
    with _publishing(out) as partial:
        averages: list[Picture] = []
        averages_scale = 0.0
        if shards is not None:
            with ShardDataset(shards) as dataset:
                check_preprocessing(run, dataset)
                rows = _explain_classes(run, dataset, split, config, compute_maps)
                if config.num_averaged:
                    averages, averages_scale = _average_maps(
                        dataset, split, config, compute_maps
                    )
            shown = [item for _, row in rows for item in row]
            maps = FolderMaps(
                rows, heat_scale(shown), 0, *_remarkable(shown), failed=[], skipped=[]
            )
        elif listing is not None:
            maps = _explain_folder(
                run, listing, out, partial, config, score, compute_maps
            )
        else:
            raise DrtfError("gradcam needs --shards or --images")
        names = list(FIGURES)
        _plot_figures(partial, run, maps, config)
        if averages:
            names.append(AVERAGES_FIGURE)
            plot_grid(
                partial / AVERAGES_FIGURE,
                [("Mean map", averages)],
                color_bar=color_bar(config, averages_scale, quantity="Mean heat"),
                footer=describe_model(run),
            )
        report = GradcamReport(
            layers=[] if config.method == "saliency" else mapped,
            figures=[out / name for name in names],
            num_overlays=maps.num_overlays,
            num_others=0,
            blank=maps.blank,
            outside=maps.outside,
            failed=maps.failed,
            skipped=maps.skipped,
        )
        save_report(partial, report, planned)
        (out / AVERAGES_FIGURE).unlink(missing_ok=True)  # of an earlier call
    return replace(report, num_others=count_overlays(out) - report.num_overlays)


@contextmanager
def _publishing(out: Path) -> Iterator[Path]:
    """Yield a partial folder in `out`, and move its files to `out` at the end.

    Until the last file is moved, the partial folder exists: it shows that the output
    of a killed call is unfinished.
    """
    partial = out / PARTIAL_FOLDER
    is_new, is_unfinished = not out.exists(), partial.exists()
    partial.mkdir(parents=True, exist_ok=True)
    # The folder itself stays, in case this call is killed too.
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    try:
        yield partial
    except BaseException:
        if not is_unfinished:
            shutil.rmtree(out if is_new else partial)
        raise
    for path in sorted(path for path in partial.rglob("*") if path.is_file()):
        target = out / path.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(partial)


def _remarkable(explained: Sequence[Explained]) -> tuple[list[str], list[str]]:
    """Return which maps are blank, and which had much heat outside the retina."""
    blank = [item.name for item in explained if item.is_blank]
    outside = [item.name for item in explained if item.outside >= MUCH_OUTSIDE]
    return blank, outside


def _explain_classes(
    run: Run,
    shards: ShardDataset,
    split: str,
    config: GradcamConfig,
    compute_maps: ComputeMaps,
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
            explained.append((title, _explain_rows(run, shards, chosen, compute_maps)))
    return explained


def _explain_rows(
    run: Run, shards: ShardDataset, rows: np.ndarray, compute_maps: ComputeMaps
) -> list[Explained]:
    images = read_batch(shards, rows)
    by_view = build_predictor(run.network, run.tta)(tf.constant(images)).numpy()
    scores = run.task.disease_scores(by_view.mean(axis=1)).tolist()
    names = [
        f"{name}, grade {grade}"
        for name, grade in zip(
            shards.load_index(["id"], rows)["id"], shards.grades[rows], strict=True
        )
    ]
    return explain(
        compute_maps,
        images,
        names=names,
        scores=scores,
        is_positive=[score >= run.effective_threshold for score in scores],
    )


def _average_maps(
    shards: ShardDataset, split: str, config: GradcamConfig, compute_maps: ComputeMaps
) -> tuple[list[Picture], float]:
    """Draw the mean map of each grade, and return the scale that they share.

    Records are in random order, so the first ones of a grade are a fair sample.
    """
    rows = shards.split_rows(split)
    means = {}
    grades = np.unique(shards.grades[rows])
    with progress("Averaging maps", len(grades)) as advance:
        for grade in grades:
            chosen = rows[shards.grades[rows] == grade][: config.num_averaged]
            heat = compute_maps(read_batch(shards, chosen)).heat
            caption = f"grade {grade}, mean of {len(chosen):,}"
            means[caption] = heat.mean(axis=0)
            advance()
    highest = max(float(mean.max()) for mean in means.values())
    return [
        (
            caption,
            color_heat(
                mean,
                scale=float(mean.max()) if config.scale == "image" else highest,
                colormap=config.colormap,
            ),
        )
        for caption, mean in means.items()
    ], highest


def _explain_folder(
    run: Run,
    listing: Listing,
    out: Path,
    partial: Path,
    config: GradcamConfig,
    score: ScoreConfig,
    compute_maps: ComputeMaps,
) -> FolderMaps:
    """Write an overlay of each photograph; return those with extreme scores.

    The scale is known only after the last map, so overlays are drawn in a second pass.
    """
    photographs = listing.photographs
    _check_apart(photographs, out / OVERLAYS_FOLDER)
    size = max(PICTURE_SIDE, run.info.image_size)
    scores = score_photographs(run, photographs, config=score, picture_size=size)
    count = config.num_per_class
    by_score = operator.attrgetter("score")
    lowest: list[Explained] = []
    highest: list[Explained] = []
    peaks: list[Explained] = []
    failed: list[str] = []
    with tempfile.TemporaryFile(dir=partial) as spool:
        with progress("Computing maps", len(photographs)) as advance:
            while batch := list(itertools.islice(scores, score.batch_size)):
                failed += [item.path for item, scored in batch if scored is None]
                explained = _explain_batch(run, batch, compute_maps)
                for item in explained:
                    _spool(item, spool)
                    peaks.append(_keep_peak(item))
                lowest = heapq.nsmallest(count, [*lowest, *explained], key=by_score)
                highest = heapq.nlargest(count, [*highest, *explained], key=by_score)
                advance(num_done=len(batch))
        if not peaks:
            raise DrtfError(
                f"none of the photographs in {photographs[0].folder} could be read"
            )
        scale = heat_scale(peaks)
        spool.seek(0)
        with progress("Drawing overlays", len(peaks)) as advance:
            written: set[Path] = set()
            for _ in peaks:
                item = _unspool(spool, size)
                path = _overlay_path(partial / OVERLAYS_FOLDER, item.name)
                while path in written:  # different paths may give the same name
                    path = path.with_stem(f"{path.stem}_")
                written.add(path)
                _write_overlay(path, item, run, config, scale=scale)
                advance()
    low = {item.name for item in lowest}
    highest = [item for item in reversed(highest) if item.name not in low]
    rows = [("lowest scores", lowest), ("highest scores", highest)]
    return FolderMaps(
        [row for row in rows if row[1]],
        scale,
        len(written),
        *_remarkable(peaks),
        failed=failed,
        skipped=list(listing.skipped),
    )


def _keep_peak(item: Explained) -> Explained:
    """Reduce a photograph's map to its maximum, and drop the picture."""
    return replace(
        item, image=np.zeros((0, 0, 3), np.uint8), heat=item.heat.max(keepdims=True)
    )


def _spool(item: Explained, file: IO[bytes]) -> None:
    """Append a photograph to a file, compressed."""
    image = encode_image(item.image, "jpeg", jpeg_quality=SPOOLED_JPEG_QUALITY)
    stored = replace(
        item,
        image=np.frombuffer(image, np.uint8),
        heat=item.heat.astype(np.float16),
    )
    pickle.dump(stored, file)


def _unspool(file: IO[bytes], size: int) -> Explained:
    """Read the next photograph from a file written by `_spool`."""
    stored: Explained = pickle.load(file)
    return replace(
        stored,
        image=decode_image(stored.image, "jpeg", size=size),
        heat=stored.heat.astype(np.float32),
    )


def _write_overlay(
    path: Path, item: Explained, run: Run, config: GradcamConfig, *, scale: float
) -> None:
    """Write the overlay of a photograph with a caption below it."""
    lines = [*describe_photograph(item, run), describe_model(run)]
    picture = add_caption(draw_overlay(item, config, scale=scale), lines)
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


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
    compute_maps: ComputeMaps,
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
    return explain(
        compute_maps,
        np.stack(images),
        names=names,
        scores=scores,
        is_positive=[score >= run.effective_threshold for score in scores],
        pictures=pictures,
    )


def _overlay_path(folder: Path, name: str) -> Path:
    """Return the path of an overlay: the photograph's own path inside the folder."""
    below = PurePosixPath(name)
    parts = below.relative_to(below.anchor).parts  # an anchor is "/" or "//"
    path = folder.joinpath(*(part for part in parts if part != ".."))
    if path.suffix.lower() in OVERLAY_SUFFIXES:
        return path
    return path.with_name(f"{path.name}.png")


def _plot_figures(
    folder: Path, run: Run, maps: FolderMaps, config: GradcamConfig
) -> None:
    """Plot a grid of photographs, one of maps, and one of overlays.

    The grids have the same captions and sizes, so that a reader can switch between
    them.
    """
    draw = (
        draw_photograph,
        lambda item: draw_map(item, config, scale=maps.scale),
        lambda item: draw_overlay(item, config, scale=maps.scale),
    )
    for name, draw_item in zip(FIGURES, draw, strict=True):
        grid: list[Row] = [
            (
                title,
                [
                    ("\n".join(describe_photograph(item, run)), draw_item(item))
                    for item in explained
                ],
            )
            for title, explained in maps.rows
        ]
        has_heat = draw_item is not draw_photograph
        plot_grid(
            folder / name,
            grid,
            color_bar=color_bar(config, maps.scale) if has_heat else None,
            footer=describe_model(run),
        )

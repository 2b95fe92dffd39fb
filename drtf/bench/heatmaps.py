"""Measure whether heat maps point at lesions, on synthetic photographs."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import cv2
import keras
import numpy as np

from drtf.config import ImagesConfig, MapMethod
from drtf.errors import DrtfError
from drtf.images.preprocess import limit_threads, preprocess_photograph
from drtf.images.retina import build_thumbnail, crop, find_field, square_around
from drtf.inference.heatmaps import compute_maps, last_layers_by_grid
from drtf.models.run import load_run
from drtf.progress import progress
from drtf.synthetic import PlannedPhotograph, plan_photographs
from drtf.workers import map_in_order

# How far the hottest point may be from a lesion, as a fraction of the image's side:
# 15 px of photographs of about 500 px.
TOLERANCE = 15 / 512
MIN_CELLS_PER_SIDE = 3


class Example(NamedTuple):
    """A synthetic photograph of a diseased eye, preprocessed for the network.

    Attributes:
        image: uint8 [S, S, 3], RGB.
        lesions: bool [S, S], True on lesions.
        field: bool [S, S], True on the visible retina.
    """

    image: np.ndarray
    lesions: np.ndarray
    field: np.ndarray


@dataclass(frozen=True)
class MapMeasures:
    """How well heat maps point at lesions.

    Attributes:
        pointing_fraction: Fraction of photographs whose hottest point is at a lesion
            (the pointing game: Zhang et al., 2016, https://arxiv.org/abs/1608.00507).
        pointing_by_chance: The same for a random point of the field.
        heat_fraction: Fraction of the heat in the field that is on lesions.
        heat_by_chance: The same for uniform heat.
        blank_fraction: Fraction of the maps that are zero everywhere.
        correlation_with_random: Correlation with the maps of a network with random
            weights. It should be near 0 (Adebayo et al., 2018,
            https://arxiv.org/abs/1810.03292).
    """

    pointing_fraction: float
    pointing_by_chance: float
    heat_fraction: float
    heat_by_chance: float
    blank_fraction: float
    correlation_with_random: float


@dataclass(frozen=True)
class MapResult:
    """The measures of one method at one layer.

    Attributes:
        method: Method of the maps.
        layer: Name of the layer; empty for saliency, which has none.
        cells: Number of cells per side of the layer's grid.
        measures: The measures of the maps.
    """

    method: MapMethod
    layer: str
    cells: int
    measures: MapMeasures


def bench_heatmaps(
    run_folder: Path,
    *,
    num_photographs: int,
    seed: int,
    methods: Sequence[MapMethod] = get_args(MapMethod),
    num_workers: int = 0,
) -> list[MapResult]:
    """Measure the heat maps of a run that was trained on synthetic photographs.

    Args:
        run_folder: Folder of a run, made by `train` on synthetic photographs.
        num_photographs: Number of diseased eyes to draw.
        seed: Seed of the drawing; it should differ from the training photographs'.
        methods: Values of `gradcam.method`.
        num_workers: Drawing processes; 0 means one per CPU.

    Returns:
        A result for each method, at the last layer of each grid size.

    Raises:
        DrtfError: If the run cannot be used, or if no photograph shows a lesion.
    """
    run = load_run(run_folder)
    examples = draw_examples(run.config.images, num_photographs, seed, num_workers)
    images, lesions, fields = map(np.stack, zip(*examples, strict=True))
    near_lesions = np.stack([_dilate(mask) for mask in lesions]) & fields
    random_network = keras.models.clone_model(run.network)
    set_shuffled_weights(random_network, run.network, seed)
    layers = last_layers_by_grid(
        run.network, backbone=run.backbone, min_cells=MIN_CELLS_PER_SIDE
    )
    variants = [
        (method, layer)
        for method in methods
        for layer in (layers if method != "saliency" else [None])
    ]
    results = []
    with progress("Measuring maps", len(variants)) as advance:
        for method, layer in variants:
            name = layer.name if layer else ""
            maps, random_maps = (
                compute_maps(
                    network,
                    images,
                    task=run.task,
                    backbone=run.backbone,
                    layer=name,
                    method=method,
                )
                for network in (run.network, random_network)
            )
            cells = layer.output.shape[1] if layer else images.shape[1]
            measures = measure_maps(
                maps,
                random_maps,
                lesions=lesions & fields,
                near_lesions=near_lesions,
                fields=fields,
            )
            results.append(MapResult(method, name, cells, measures))
            advance(f"{method} {name}")
    return results


def measure_maps(
    maps: np.ndarray,
    random_maps: np.ndarray,
    *,
    lesions: np.ndarray,
    near_lesions: np.ndarray,
    fields: np.ndarray,
) -> MapMeasures:
    """Measure how well maps point at lesions.

    Args:
        maps: float32 [N, S, S].
        random_maps: float32 [N, S, S], the maps of a network with random weights.
        lesions: bool [N, S, S].
        near_lesions: bool [N, S, S], the lesions and their surroundings.
        fields: bool [N, S, S], the visible retina.
    """
    inside = np.where(fields, maps, 0)
    heat = inside.sum(axis=(1, 2))
    has_heat = heat > 0
    field_areas = fields.sum(axis=(1, 2))
    hottest = inside.reshape(len(maps), -1).argmax(axis=1)
    flat = near_lesions.reshape(len(maps), -1)
    hits = flat[np.arange(len(maps)), hottest] & has_heat
    fractions = np.where(lesions, inside, 0).sum(axis=(1, 2))[has_heat] / heat[has_heat]
    correlations = [
        np.corrcoef(a[field], b[field])[0, 1]
        for a, b, field in zip(maps, random_maps, fields, strict=True)
        if a[field].std() > 0 and b[field].std() > 0
    ]
    return MapMeasures(
        pointing_fraction=float(hits.mean()),
        pointing_by_chance=float((near_lesions.sum(axis=(1, 2)) / field_areas).mean()),
        heat_fraction=float(fractions.mean()) if has_heat.any() else float("nan"),
        heat_by_chance=float((lesions.sum(axis=(1, 2)) / field_areas).mean()),
        blank_fraction=float(1 - maps.any(axis=(1, 2)).mean()),
        correlation_with_random=(
            float(np.mean(correlations)) if correlations else float("nan")
        ),
    )


def draw_examples(
    config: ImagesConfig, num_photographs: int, seed: int, num_workers: int
) -> list[Example]:
    """Draw photographs of diseased eyes, and keep those that show a lesion.

    Raises:
        DrtfError: If none of them shows a lesion.
    """
    # About half of the planned eyes are healthy.
    planned = (x for x in plan_photographs(4 * num_photographs, seed=seed) if x.grade)
    chosen = list(itertools.islice(planned, num_photographs))
    drawn = map_in_order(
        functools.partial(_draw_example, config=config),
        chosen,
        num_workers=num_workers,
        initializer=limit_threads,
    )
    examples = []
    with progress("Drawing photographs", len(chosen)) as advance:
        for example in drawn:
            if example.lesions.any():
                examples.append(example)
            advance()
    if not examples:
        raise DrtfError(
            f"none of {num_photographs} photographs drawn with seed {seed} shows a "
            "lesion; draw more photographs"
        )
    return examples


def _draw_example(photograph: PlannedPhotograph, *, config: ImagesConfig) -> Example:
    """Draw a photograph, and preprocess it and its masks for the network."""
    drawn = photograph.draw()
    _, data = cv2.imencode(".png", drawn.image[..., ::-1])
    image = preprocess_photograph(data.tobytes(), config).image
    lesions = drawn.lesions.astype(np.uint8)
    thumbnail = build_thumbnail(drawn.image)
    field = find_field(thumbnail)
    mask = np.ones_like(thumbnail.brightness) if field is None else field
    visible = cv2.resize(
        mask, drawn.image.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    if config.crop == "retina":
        frame = square_around(mask, drawn.image.shape, scale=1)
        lesions, visible = (crop(x, frame, scale=1) for x in (lesions, visible))
    # A pixel is on a lesion if any part of it is.
    size = (config.size, config.size)
    lesions, visible = (
        cv2.resize(x * 255, size, interpolation=cv2.INTER_AREA)
        for x in (lesions, visible)
    )
    return Example(image, lesions > 0, visible > 127)


def _dilate(mask: np.ndarray) -> np.ndarray:
    """Extend a mask by the tolerance on all sides."""
    radius = round(TOLERANCE * len(mask))
    side = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def set_shuffled_weights(
    random_network: keras.Model, network: keras.Model, seed: int
) -> None:
    """Set a network's weights to another's, with each tensor in a random order."""
    rng = np.random.default_rng(seed)
    random_network.set_weights(
        [rng.permutation(x.ravel()).reshape(x.shape) for x in network.get_weights()]
    )

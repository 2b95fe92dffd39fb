"""Whether heat maps mean something: drawn photographs, whose lesions are known."""

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
from drtf.inference.heatmaps import compute_maps, list_map_layers
from drtf.models.run import load_run
from drtf.progress import progress
from drtf.synthetic import PlannedPhotograph, plan_photographs
from drtf.workers import count_workers, map_in_order

# How far from a lesion the hottest point may lie: 15 px of photographs of some 500.
TOLERANCE = 15 / 512
LEAST_CELLS_A_SIDE = 3


class Example(NamedTuple):
    """A drawn photograph of a diseased eye, as the network takes it.

    `image` is uint8 RGB [S, S, 3], `lesions` and `field` are bool [S, S].
    """

    image: np.ndarray
    lesions: np.ndarray
    field: np.ndarray


@dataclass(frozen=True)
class MapResult:
    """What the maps of one method at one layer are worth.

    Attributes:
        method: of the maps.
        layer: that they are made at; empty for saliency, which has none.
        cells: of its grid, a side.
        pointing: share of photographs whose hottest point lies at a lesion (the
            pointing game: Zhang et al., 2016, https://arxiv.org/abs/1608.00507).
        pointing_chance: the same of a random point of the field.
        heat_share: of the heat in the field, what lies on lesions themselves.
        heat_chance: the same where all of the field is equally hot.
        blank: share of maps that are zero everywhere.
        likeness: correlation with the maps of a network of random weights, which ought
            to be near 0 (Adebayo et al., 2018, https://arxiv.org/abs/1810.03292).
    """

    method: MapMethod
    layer: str
    cells: int
    pointing: float
    pointing_chance: float
    heat_share: float
    heat_chance: float
    blank: float
    likeness: float


def bench_heatmaps(
    run_folder: Path,
    *,
    num_photographs: int,
    seed: int,
    methods: Sequence[MapMethod] = get_args(MapMethod),
    num_workers: int = 0,
) -> list[MapResult]:
    """Measure the maps of a run that was trained on drawn photographs.

    Args:
        run_folder: what `train` left, on a set such as the demo's.
        num_photographs: of diseased eyes, to be drawn.
        seed: of the drawing; it should not be the training set's.
        methods: of `gradcam.method`.
        num_workers: processes that draw; 0 is one a CPU.

    Returns:
        A result for each method, at the last layer of each size of grid.

    Raises:
        DrtfError: if the run can't be used, or no photograph shows a lesion.
    """
    run = load_run(run_folder)
    examples = draw_examples(run.config.images, num_photographs, seed, num_workers)
    images, lesions, fields = map(np.stack, zip(*examples, strict=True))
    near = np.stack([_widen(mask) for mask in lesions]) & fields
    random = keras.models.clone_model(run.network)
    shuffle_weights(random, run.network, seed)
    layers = list_map_layers(run.network, least_cells=LEAST_CELLS_A_SIDE)
    ways = [
        (method, layer)
        for method in methods
        for layer in (layers if method != "saliency" else [None])
    ]
    found = []
    with progress("Measuring maps", len(ways)) as advance:
        for method, layer in ways:
            name = layer.name if layer else ""
            maps, others = (
                compute_maps(network, images, task=run.task, layer=name, method=method)
                for network in (run.network, random)
            )
            cells = layer.output.shape[1] if layer else images.shape[1]
            found.append(
                MapResult(
                    method,
                    name,
                    cells,
                    *measure_maps(maps, others, lesions & fields, near, fields),
                )
            )
            advance(f"{method} {name}")
    return found


def measure_maps(
    maps: np.ndarray,
    others: np.ndarray,
    lesions: np.ndarray,
    near: np.ndarray,
    fields: np.ndarray,
) -> tuple[float, ...]:
    """Measure how well maps point at lesions.

    Args:
        maps: float32 [N, S, S].
        others: float32 [N, S, S], the maps of a network with random weights.
        lesions: bool [N, S, S].
        near: bool [N, S, S], the lesions and what is close to them.
        fields: bool [N, S, S], the visible retina.

    Returns:
        The last six fields of `MapResult`.
    """
    inside = np.where(fields, maps, 0)
    heat = inside.sum(axis=(1, 2))
    lit = heat > 0
    sizes = fields.sum(axis=(1, 2))
    hottest = inside.reshape(len(maps), -1).argmax(axis=1)
    hits = near.reshape(len(maps), -1)[np.arange(len(maps)), hottest] & lit
    on_lesions = np.where(lesions, inside, 0).sum(axis=(1, 2))
    alike = [
        np.corrcoef(a[field], b[field])[0, 1]
        for a, b, field in zip(maps, others, fields, strict=True)
        if a[field].std() > 0 and b[field].std() > 0
    ]
    return (
        float(hits.mean()),
        float((near.sum(axis=(1, 2)) / sizes).mean()),
        float((on_lesions[lit] / heat[lit]).mean()) if lit.any() else float("nan"),
        float((lesions.sum(axis=(1, 2)) / sizes).mean()),
        float(1 - maps.any(axis=(1, 2)).mean()),
        float(np.mean(alike)) if alike else float("nan"),
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
        functools.partial(_draw, config=config),
        chosen,
        num_workers=count_workers(num_workers),
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
            "lesion: draw more"
        )
    return examples


def _draw(photograph: PlannedPhotograph, *, config: ImagesConfig) -> Example:
    drawn = photograph.draw()
    _, data = cv2.imencode(".png", drawn.image[..., ::-1])
    image = preprocess_photograph(data.tobytes(), config).image
    lesions = drawn.lesions.astype(np.uint8)
    brightness = build_thumbnail(drawn.image).brightness
    field = find_field(brightness)
    mask = np.ones_like(brightness) if field is None else field
    whole = cv2.resize(mask, drawn.image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    if config.crop == "retina":
        frame = square_around(mask, drawn.image.shape, scale=1)
        lesions, whole = (crop(x, frame, scale=1) for x in (lesions, whole))
    # A px is of a lesion if any of its part of the photograph is.
    size = (config.size, config.size)
    lesions, whole = (
        cv2.resize(x * 255, size, interpolation=cv2.INTER_AREA)
        for x in (lesions, whole)
    )
    return Example(image, lesions > 0, whole > 127)


def _widen(mask: np.ndarray) -> np.ndarray:
    radius = round(TOLERANCE * len(mask))
    side = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def shuffle_weights(random: keras.Model, network: keras.Model, seed: int) -> None:
    """Give a network another's weights, each tensor's in a random order."""
    rng = np.random.default_rng(seed)
    random.set_weights(
        [rng.permutation(x.ravel()).reshape(x.shape) for x in network.get_weights()]
    )

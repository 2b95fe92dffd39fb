"""Measure whether heat maps point at lesions, on photographs with lesion masks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import cv2
import keras
import numpy as np

from drtf.config import GradcamConfig, ImagesConfig, MapMethod
from drtf.errors import DrtfError, PhotographError
from drtf.heatmaps.heatmaps import (
    build_map_function,
    choose_layers,
    last_layers_by_grid,
)
from drtf.images.decode import decode_photograph
from drtf.images.preprocess import Preprocessed, preprocess_photograph
from drtf.images.retina import crop
from drtf.intervals import Estimate, bootstrap_interval, bootstrap_weights
from drtf.models.network import ensemble_members
from drtf.models.run import Run, load_run
from drtf.photographs.listing import list_photographs
from drtf.photographs.references import PhotographRef
from drtf.progress import progress

# How far the hottest point may be from a lesion, as a fraction of the image's side:
# 15 px of photographs of about 500 px.
TOLERANCE = 15 / 512
MIN_CELLS_PER_SIDE = 3
NUM_RESAMPLES = 1000
SEED = 42  # of the bootstrap and of the shuffled weights
ANY_LESION = "any"
OPTIC_DISC = "OD"


class Example(NamedTuple):
    """A photograph with lesions, preprocessed for the network.

    Attributes:
        image: uint8 RGB [S, S, 3].
        lesions: By type, and for `ANY_LESION`: bool [S, S], True on lesions.
        field: bool [S, S], True on the visible retina.
    """

    image: np.ndarray
    lesions: dict[str, np.ndarray]
    field: np.ndarray


class Measured(NamedTuple):
    """The measurements of one map for one type of lesion.

    Attributes:
        is_pointing: Whether the hottest point is at a lesion.
        pointing_by_chance: The same for a random point of the field, in [0, 1].
        heat_fraction: Fraction of the heat in the field that is on lesions; NaN if
            there is no heat.
        heat_by_chance: The same for uniform heat.
    """

    is_pointing: float
    pointing_by_chance: float
    heat_fraction: float
    heat_by_chance: float


@dataclass(frozen=True)
class LesionResult:
    """How well maps point at one type of lesion; means over photographs and runs.

    Attributes:
        num_photographs: Number of photographs with such a lesion.
        pointing: Fraction of photographs whose hottest point is at a lesion (the
            pointing game: Zhang et al., 2016, https://arxiv.org/abs/1608.00507).
        pointing_by_chance: The same for a random point of the field.
        heat: Fraction of the heat in the field that is on lesions.
        heat_by_chance: The same for uniform heat.
        pointing_by_run: `pointing` of each run, by name.
        heat_by_run: `heat` of each run, by name.
    """

    num_photographs: int
    pointing: Estimate
    pointing_by_chance: float
    heat: Estimate
    heat_by_chance: float
    pointing_by_run: dict[str, float]
    heat_by_run: dict[str, float]


@dataclass(frozen=True)
class MapResult:
    """How well the maps of one method at one layer point at lesions.

    Attributes:
        method: Method of the maps.
        layer: Name of the layer; empty for saliency, which has none. For an ensemble
            the names of its members' layers.
        cells: Number of cells per side of the layer's grid, or of the finest one.
        is_default: Whether `drtf gradcam` draws these maps by default.
        lesions: By type of lesion; the first is `ANY_LESION`.
        blank_fraction: Fraction of the maps that are zero everywhere.
        correlation_with_random: Correlation with the maps of a network with shuffled
            weights. It should be near 0 (Adebayo et al., 2018,
            https://arxiv.org/abs/1810.03292).
    """

    method: MapMethod
    layer: str
    cells: int
    is_default: bool
    lesions: dict[str, LesionResult]
    blank_fraction: float
    correlation_with_random: float


@dataclass(frozen=True)
class HeatmapsReport:
    """The results of a measurement.

    Attributes:
        num_photographs: Number of photographs with at least one lesion.
        unmatched: Masks that belong to none of the photographs.
        results: For each method, at the last layer of each grid size.
    """

    num_photographs: int
    unmatched: list[PhotographRef]
    results: list[MapResult]


def bench_heatmaps(
    run_folders: Sequence[Path],
    *,
    images: Path | str,
    masks: Path | str,
    methods: Sequence[MapMethod] = get_args(MapMethod),
) -> HeatmapsReport:
    """Measure how well the heat maps of runs point at lesions.

    Args:
        run_folders: Runs of the same config, such as those of several seeds.
        images: Folder of photographs, local or in a store.
        masks: Folder of masks, local or in a store; see `load_examples`.
        methods: Values of `gradcam.method`.

    Raises:
        DrtfError: If the runs differ in their network or preprocessing, or the masks
            cannot be used.
    """
    runs = {str(folder): load_run(folder) for folder in run_folders}
    first = next(iter(runs.values()))
    for name, run in runs.items():
        for section in ("model", "images"):
            if getattr(run.config, section) != getattr(first.config, section):
                raise DrtfError(
                    f"{name} and {first.folder} differ in the section [{section}] of "
                    "their config; measure them one by one"
                )
        if _member_kinds(run) != _member_kinds(first):
            raise DrtfError(
                f"{name} and {first.folder} are not ensembles of the same backbones "
                "and sizes; measure them one by one"
            )
    examples, unmatched = load_examples(images, masks, first.config.images)
    layers = ["auto"]
    if not first.info.members:  # those of an ensemble may have different layers
        last = last_layers_by_grid(
            first.network, backbone=first.backbones[0], min_cells=MIN_CELLS_PER_SIDE
        )
        layers = [layer.name for layer in last]
    variants = [
        GradcamConfig(method=method, layer=layer)
        for method in methods
        for layer in (layers if method != "saliency" else ["auto"])
    ]
    pairs = {name: (run, shuffle_weights(run)) for name, run in runs.items()}
    results = []
    with progress("Measuring maps", len(variants)) as advance:
        for variant in variants:
            results.append(_measure_variant(pairs, examples, variant))
            advance()
    return HeatmapsReport(len(examples), unmatched, results)


def _member_kinds(run: Run) -> list[tuple[str, int]]:
    return [(member.backbone, member.image_size) for member in run.info.members]


def _measure_variant(
    pairs: Mapping[str, tuple[Run, Run]],
    examples: Sequence[Example],
    config: GradcamConfig,
) -> MapResult:
    """Measure the maps of one method and layer for all runs.

    Args:
        pairs: By name, a run and the same run with shuffled weights.
        examples: The photographs.
        config: The method and the layer.
    """
    images = np.stack([example.image for example in examples])
    fields = np.stack([example.field for example in examples])
    measured = {}
    blank, correlations = [], []
    for name, (run, shuffled) in pairs.items():
        maps = build_map_function(run, config)(images).heat
        random_maps = build_map_function(shuffled, config)(images).heat
        measured[name] = [
            measure_map(heat, lesions=example.lesions, field=example.field)
            for heat, example in zip(maps, examples, strict=True)
        ]
        blank.append(1 - maps.any(axis=(1, 2)).mean())
        correlations += [
            np.corrcoef(a[field], b[field])[0, 1]
            for a, b, field in zip(maps, random_maps, fields, strict=True)
            if a[field].std() > 0 and b[field].std() > 0
        ]
    run, _ = next(iter(pairs.values()))
    layers, usual = (choose_layers(run, name) for name in (config.layer, "auto"))
    layer, cells = "", images.shape[1]
    if config.method != "saliency":
        layer = ", ".join(dict.fromkeys(layer.name for layer in layers))
        cells = max(layer.output.shape[1] for layer in layers)
    types = sorted({kind for example in examples for kind in example.lesions})
    types.sort(key=lambda kind: kind != ANY_LESION)
    return MapResult(
        method=config.method,
        layer=layer,
        cells=cells,
        is_default=config.method == GradcamConfig().method and layers == usual,
        lesions={kind: summarize(measured, kind) for kind in types},
        blank_fraction=float(np.mean(blank)),
        correlation_with_random=(
            float(np.mean(correlations)) if correlations else float("nan")
        ),
    )


def measure_map(
    heat: np.ndarray, *, lesions: Mapping[str, np.ndarray], field: np.ndarray
) -> dict[str, Measured]:
    """Measure how well a map points at the lesions of each type.

    Args:
        heat: float32 [S, S], at least 0.
        lesions: By type, bool [S, S]; each has a True pixel in the field.
        field: bool [S, S], the visible retina.
    """
    inside = np.where(field, heat, 0)
    total = inside.sum()
    hottest = np.unravel_index(inside.argmax(), inside.shape)
    measured = {}
    for kind, mask in lesions.items():
        near = _dilate(mask) & field
        measured[kind] = Measured(
            is_pointing=float(total > 0 and near[hottest]),
            pointing_by_chance=near.sum() / field.sum(),
            heat_fraction=inside[mask].sum() / total if total > 0 else np.nan,
            heat_by_chance=(mask & field).sum() / field.sum(),
        )
    return measured


def summarize(
    measured: Mapping[str, Sequence[Mapping[str, Measured]]], kind: str
) -> LesionResult:
    """Average the measures of a type of lesion over runs and photographs.

    The intervals are bootstrap intervals over photographs.

    Args:
        measured: For each run, the measures of each photograph, by type of lesion.
        kind: A type of lesion; photographs without it do not count.
    """
    # [runs, photographs, measures]
    values = np.array(
        [
            [photograph[kind] for photograph in photographs if kind in photograph]
            for photographs in measured.values()
        ]
    )
    by_run = dict(zip(measured, _defined_mean(values, axis=1).tolist(), strict=True))
    by_photograph = _defined_mean(values, axis=0)
    names = Measured._fields
    estimates = {
        name: _estimate(by_photograph[:, column]) for column, name in enumerate(names)
    }
    pointing, heat = names.index("is_pointing"), names.index("heat_fraction")
    return LesionResult(
        num_photographs=values.shape[1],
        pointing=estimates["is_pointing"],
        pointing_by_chance=estimates["pointing_by_chance"].value,
        heat=estimates["heat_fraction"],
        heat_by_chance=estimates["heat_by_chance"].value,
        pointing_by_run={name: means[pointing] for name, means in by_run.items()},
        heat_by_run={name: means[heat] for name, means in by_run.items()},
    )


def _defined_mean(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Return the mean over an axis; NaNs do not count. NaN if there is nothing else."""
    defined = np.isfinite(values)
    counts = defined.sum(axis=axis)
    totals = np.where(defined, values, 0).sum(axis=axis)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def _estimate(values: np.ndarray) -> Estimate:
    """Return the mean of photographs [n] with its interval; NaNs do not count."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    photographs = np.arange(len(values))
    weights = np.concatenate(list(bootstrap_weights(photographs, NUM_RESAMPLES, SEED)))
    return bootstrap_interval(float(values.mean()), weights @ values / len(values))


def load_examples(
    images: Path | str, masks: Path | str, config: ImagesConfig
) -> tuple[list[Example], list[PhotographRef]]:
    """Load the photographs that have lesion masks, preprocessed with their masks.

    A mask is a picture of the photograph's size, named `<photograph>_<type>`, such as
    IDRiD_012_MA.png, in the folder or below it. It is not 0 on lesions. Masks of the
    optic disc, `OD`, are ignored: it is not a lesion.

    Returns:
        The photographs with at least one lesion, and the masks without a photograph.

    Raises:
        DrtfError: If there is no such photograph, a photograph or mask cannot be read,
            or their sizes differ.
    """
    photographs = {x.id: x for x in list_photographs(images).photographs}
    masks_by_type: dict[str, dict[str, PhotographRef]] = defaultdict(dict)
    unmatched = []
    for mask in list_photographs(masks).photographs:
        name, _, kind = mask.id.rpartition("_")
        if name not in photographs:
            unmatched.append(mask)
        elif kind.upper() != OPTIC_DISC:
            masks_by_type[name][kind.upper()] = mask
    examples = []
    with progress("Reading photographs", len(masks_by_type)) as advance:
        for name in sorted(masks_by_type):
            example = _load_example(photographs[name], masks_by_type[name], config)
            if example.lesions[ANY_LESION].any():
                examples.append(example)
            advance()
    if not examples:
        raise DrtfError(
            f"none of the photographs in {images} has a lesion in a mask in {masks}; "
            "masks are named <photograph>_<type>.png, such as IDRiD_012_MA.png"
        )
    return examples, unmatched


def _load_example(
    photograph: PhotographRef,
    masks: Mapping[str, PhotographRef],
    config: ImagesConfig,
) -> Example:
    try:
        data = photograph.read()
        preprocessed = preprocess_photograph(data, config)
        shape = decode_photograph(data).image.shape[:2]
    except PhotographError as error:
        raise DrtfError(f"{photograph}: {error}") from error
    lesions = {}
    for kind, ref in masks.items():
        mask = _load_mask(ref)
        if mask.shape != shape:
            raise DrtfError(
                f"{ref} has {mask.shape[1]} x {mask.shape[0]} px, but its photograph "
                f"{photograph} has {shape[1]} x {shape[0]}"
            )
        # A pixel is on a lesion if any part of it is.
        lesions[kind] = _transform((mask > 0) * np.uint8(255), preprocessed) > 0
    whole = preprocessed.field
    if whole is None:
        whole = np.ones_like(preprocessed.thumbnail.brightness)
    visible = cv2.resize(255 * whole, shape[::-1], interpolation=cv2.INTER_NEAREST)
    field = _transform(visible, preprocessed) > 127
    lesions[ANY_LESION] = np.any(list(lesions.values()), axis=0)
    return Example(
        preprocessed.image,
        {
            kind: mask & field
            for kind, mask in lesions.items()
            if kind == ANY_LESION or (mask & field).any()
        },
        field,
    )


def _load_mask(mask: PhotographRef) -> np.ndarray:
    """Load a mask, uint8 [H, W]."""
    try:
        data = np.frombuffer(mask.read(), np.uint8)
    except PhotographError as error:
        raise DrtfError(f"{mask}: {error}") from error
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    if picture is None:
        raise DrtfError(f"{mask} cannot be read as a picture")
    return picture


def _transform(mask: np.ndarray, preprocessed: Preprocessed) -> np.ndarray:
    """Crop and resize a mask, uint8 [H, W], exactly as its photograph."""
    if preprocessed.square is not None:
        mask = crop(mask, preprocessed.square, scale=1)
    size = preprocessed.image.shape[1::-1]
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA)


def _dilate(mask: np.ndarray) -> np.ndarray:
    """Extend a mask by the tolerance on all sides."""
    radius = round(TOLERANCE * len(mask))
    side = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def shuffle_weights(run: Run) -> Run:
    """Return the run with each weight tensor of its network in a random order."""
    network = keras.models.clone_model(run.network)
    network.set_weights(run.network.get_weights())
    rng = np.random.default_rng(SEED)
    for member in ensemble_members(network):
        member.set_weights(
            [rng.permutation(x.ravel()).reshape(x.shape) for x in member.get_weights()]
        )
    return run.with_network(network)

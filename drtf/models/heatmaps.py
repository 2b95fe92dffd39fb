"""Heat maps: which parts of a photograph speak for disease, by Grad-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import matplotlib
import numpy as np
import tensorflow as tf
from tf_keras_vis.gradcam import Gradcam

from drtf.config import Config
from drtf.data.labels import POSITIVE_FROM
from drtf.data.loader import read_batch
from drtf.data.photographs import Photographs, find_photographs
from drtf.errors import DrtfError
from drtf.figures import Picture, plot_grid
from drtf.files import check_absent
from drtf.models.evaluation import LABELS, check_preprocessing
from drtf.models.network import build_logit_model, find_scores, scale_images
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.models.scoring import prepare_photographs, score_photographs
from drtf.records.reader import ShardSet

MIN_CELLS_A_SIDE = 6
FIGURES = ("images.png", "heatmaps.png", "overlays.png")


@dataclass(frozen=True)
class Example:
    """A photograph to explain.

    Attributes:
        name: shown above it.
        image: uint8 RGB [H, W, 3] as the network takes it.
        row: of the figures, 0 for healthy or lowest, 1 for diseased or highest.
    """

    name: str
    image: np.ndarray
    row: int


@dataclass(frozen=True)
class GradcamReport:
    """What was painted.

    Attributes:
        layer: whose activations were weighted.
        grid: their height and width in cells.
        figures: the PNGs written.
        blank: names of photographs whose map is zero everywhere.
    """

    layer: str
    grid: tuple[int, int]
    figures: list[Path]
    blank: list[str]


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
    """Paint the three figures: photographs, heat maps, and maps laid over photographs.

    From shards, the first photographs of each true class; from a folder, the lowest
    and the highest scored.

    Args:
        run_folder: what `train` left.
        out: the folder to write to.
        config: its `gradcam` section is used.
        shards: a set preprocessed like the one trained on; or
        images: a folder of photographs.
        split: of the set.
        overwrite: whether earlier figures in `out` may be replaced.

    Raises:
        DrtfError: if there is nothing to paint, the layer is unknown, or `out` holds
            figures already.
    """
    paths = [out / name for name in FIGURES]
    check_absent(*paths, overwrite=overwrite)
    run = load_run(run_folder)
    layer = choose_layer(run.network, config.gradcam.layer)
    if shards is not None:
        examples = _take_from_shards(run, shards, split, config)
    elif images is not None:
        examples = _take_from_folder(run, images, config)
    else:
        raise DrtfError("gradcam needs --shards or --images")
    pixels = np.stack([example.image for example in examples])
    maps = compute_gradcam(run.network, pixels, layer=layer.name)
    views = build_predictor(run.network, run.tta)(tf.constant(pixels)).numpy()
    scores = find_scores(views.mean(axis=1))
    if images is None:
        titles = LABELS[run.config.train.task]
    else:
        titles = ("scored lowest", "scored highest")
    figures: list[list[list[Picture]]] = [[[] for _ in titles] for _ in FIGURES]
    blank = []
    for example, values, value in zip(examples, maps, scores, strict=True):
        caption = f"{example.name}\nscore {value:.3f}"
        if not values.any():
            blank.append(example.name)
            caption += ", map all zero"
        heat = paint(values, config.gradcam.colormap)
        alpha = config.gradcam.overlay_alpha
        overlay = cv2.addWeighted(example.image, 1 - alpha, heat, alpha, 0)
        for figure, picture in zip(
            figures, (example.image, heat, overlay), strict=True
        ):
            figure[example.row].append((caption, picture))
    out.mkdir(parents=True, exist_ok=True)
    for path, rows in zip(paths, figures, strict=True):
        plot_grid(path, list(zip(titles, rows, strict=True)))
    return GradcamReport(layer.name, tuple(layer.output.shape[1:3]), paths, blank)


def choose_layer(network: keras.Model, name: str) -> keras.Layer:
    """Return the layer whose activations are mapped.

    `auto` is the last one whose grid still has 6 cells a side: deeper layers know more
    of disease, but at 96 px the last one has 3 x 3 cells, which point at nothing.

    Raises:
        DrtfError: if there is no such layer, or it is no convolution or its ReLU.
    """
    kinds = (keras.layers.Conv2D, keras.layers.ReLU)
    grids = [layer for layer in network.layers if isinstance(layer, kinds)]
    if name != "auto":
        for layer in grids:
            if layer.name == name:
                return layer
        raise DrtfError(
            f"no layer {name!r} to map in {network.name}; the last ones are "
            f"{', '.join(layer.name for layer in grids[-5:])}"
        )
    return [x for x in grids if min(x.output.shape[1:3]) >= MIN_CELLS_A_SIDE][-1]


def compute_gradcam(
    network: keras.Model, images: np.ndarray, *, layer: str
) -> np.ndarray:
    """Compute Grad-CAM of the logit for disease.

    Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391, by tf-keras-vis. On the
    logit, since the sigmoid's gradient vanishes just where the network is sure.

    Args:
        network: from `build_network`.
        images: uint8 RGB [B, H, W, 3].
        layer: whose activations are weighted.

    Returns:
        float32 [B, H, W] in [0, 1], each map's highest value 1; all zero where nothing
        speaks for disease.
    """
    visualizer = Gradcam(build_logit_model(network), clone=False)
    maps = visualizer(
        lambda logits: logits[:, 0],
        scale_images(tf.constant(images)),
        penultimate_layer=layer,
        seek_penultimate_conv_layer=False,
        # Its own normalization would also stretch the coldest cell down to zero.
        normalize_cam=False,
    )
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def paint(values: np.ndarray, colormap: str) -> np.ndarray:
    """Turn a map in [0, 1], [H, W], into uint8 RGB [H, W, 3]."""
    if colormap not in matplotlib.colormaps:
        raise DrtfError(
            f"gradcam.colormap is no colour map of matplotlib: {colormap!r}; try "
            "viridis, cividis, magma or jet"
        )
    colors = matplotlib.colormaps[colormap](values)[..., :3]
    return np.rint(colors * 255).astype(np.uint8)


def _take_from_shards(
    run: Run, shards: Path, split: str, config: Config
) -> Sequence[Example]:
    with ShardSet(shards) as shard_set:
        check_preprocessing(run, shard_set)
        rows = shard_set.find_rows(split)
        positive_from = POSITIVE_FROM[run.config.train.task]
        positive = shard_set.grades[rows] >= positive_from
        count = config.gradcam.num_per_class
        chosen = np.concatenate([rows[~positive][:count], rows[positive][:count]])
        return [
            Example(f"{name}, grade {grade}", image, int(grade >= positive_from))
            for name, grade, image in zip(
                shard_set.index["id"][chosen],
                shard_set.index["grade"][chosen],
                read_batch(shard_set, chosen),
                strict=True,
            )
        ]


def _take_from_folder(
    run: Run, images: Path | str, config: Config
) -> Sequence[Example]:
    photographs = find_photographs(images)
    scored = sorted(
        (scored.score, item.path)
        for item, scored in score_photographs(run, photographs, config=config)
        if scored is not None
    )
    if not scored:
        raise DrtfError(f"none of the photographs in {images} could be read")
    count = config.gradcam.num_per_class
    lowest, highest = scored[:count], scored[count:][-count:]
    chosen = [path for _, path in lowest + highest]
    prepared = prepare_photographs(
        run, Photographs(photographs.folder, chosen), num_workers=1
    )
    return [
        Example(item.path, item.image, int(number >= len(lowest)))
        for number, item in enumerate(prepared)
        if item.image is not None
    ]

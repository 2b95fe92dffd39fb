"""Heat maps: which parts of a photograph speak for disease, by Grad-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from tf_keras_vis.gradcam import Gradcam

from drtf.config import Config
from drtf.data.labels import find_classes, find_photographs
from drtf.data.pipeline import read_batch
from drtf.errors import DrtfError
from drtf.files import check_absent
from drtf.models.evaluation import LABELS, check_preprocessing
from drtf.models.figures import plot_grid
from drtf.models.network import build_logit_model
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.models.scoring import prepare_photographs, score_photographs
from drtf.models.training import scale_images
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
    images: Path | None = None,
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
    scores = build_predictor(run.network, "none")(tf.constant(pixels)).numpy()[:, 0]
    painted = [paint(values, config.gradcam.colormap) for values in maps]
    alpha = config.gradcam.overlay_alpha
    overlays = [
        np.uint8(np.rint((1 - alpha) * example.image + alpha * color))
        for example, color in zip(examples, painted, strict=True)
    ]
    blank = [e.name for e, m in zip(examples, maps, strict=True) if not m.any()]
    captions = [
        f"{example.name}\nscore {value:.3f}{', map all zero' * (not values.any())}"
        for example, value, values in zip(examples, scores, maps, strict=True)
    ]
    out.mkdir(parents=True, exist_ok=True)
    names = LABELS[run.config.train.task]
    titles = [f"scored {name}" for name in ("lowest", "highest")] if images else names
    for path, pictures in zip(
        paths, ([e.image for e in examples], painted, overlays), strict=True
    ):
        cells = list(zip(examples, captions, pictures, strict=True))
        rows = [
            (title, [(text, picture) for e, text, picture in cells if e.row == row])
            for row, title in enumerate(titles)
        ]
        plot_grid(path, rows)
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
    return np.uint8(np.rint(colors * 255))


def _take_from_shards(
    run: Run, shards: Path, split: str, config: Config
) -> Sequence[Example]:
    with ShardSet(shards) as shard_set:
        check_preprocessing(run, shard_set)
        rows = shard_set.find_rows(split)
        table = shard_set.index.loc[rows]
        classes = find_classes(table["grade"], run.config.train.task)
        chosen = np.concatenate(
            [rows[classes == label][: config.gradcam.num_per_class] for label in (0, 1)]
        )
        return [
            Example(
                f"{table.at[row, 'id']}, grade {table.at[row, 'grade']}",
                image,
                int(classes[row]),
            )
            for row, image in zip(chosen, read_batch(shard_set, chosen), strict=True)
        ]


def _take_from_folder(run: Run, images: Path, config: Config) -> Sequence[Example]:
    paths = find_photographs(images)
    scored = sorted(
        (value, item.path)
        for item, value in score_photographs(run, images, paths, config=config)
        if value is not None
    )
    if not scored:
        raise DrtfError(f"none of the photographs in {images} could be read")
    count = config.gradcam.num_per_class
    lowest, highest = scored[:count], scored[count:][-count:]
    chosen = [path for _, path in lowest + highest]
    prepared = prepare_photographs(run, images, chosen, num_workers=1)
    return [
        Example(item.path, item.image, int(number >= len(lowest)))
        for number, item in enumerate(prepared)
        if item.image is not None
    ]

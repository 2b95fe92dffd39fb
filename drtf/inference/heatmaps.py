"""Heat maps: which parts of a photograph speak for disease, by Grad-CAM."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import matplotlib
import numpy as np
import tensorflow as tf
from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.layercam import Layercam
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.scorecam import Scorecam

from drtf.config import Config, MapMethod
from drtf.data.labels import POSITIVE_FROM
from drtf.data.loader import read_batch
from drtf.data.photographs import Photographs, find_photographs
from drtf.errors import DrtfError
from drtf.figures import Picture, plot_grid
from drtf.files import check_absent
from drtf.inference.evaluation import LABELS, check_preprocessing
from drtf.inference.scoring import prepare_photographs, score_photographs
from drtf.models.network import build_logit_model, find_scores, scale_images
from drtf.models.prediction import build_predictor
from drtf.models.run import Run, load_run
from drtf.records.reader import ShardSet

MIN_CELLS_A_SIDE = 6
BATCH_SIZE = 16
NUM_SMOOTHED = 20
NUM_CHANNELS = 64
CAMS = {"gradcam": Gradcam, "gradcam++": GradcamPlusPlus, "layercam": Layercam}
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
    maps = compute_maps(
        run.network, pixels, layer=layer.name, method=config.gradcam.method
    )
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


def compute_maps(
    network: keras.Model, images: np.ndarray, *, layer: str, method: MapMethod
) -> np.ndarray:
    """Compute which parts of images speak for disease, by tf-keras-vis.

    Grad-CAM, Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391; Grad-CAM++,
    Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063; Layer-CAM, Jiang et
    al., IEEE Transactions on Image Processing 30, 2021; Score-CAM, Wang et al., 2020,
    https://arxiv.org/abs/1910.01279, of the channels that vary most; saliency, Simonyan
    et al., 2014, https://arxiv.org/abs/1312.6034, smoothed after Smilkov et al., 2017,
    https://arxiv.org/abs/1706.03825. Of the logit, since the sigmoid's gradient
    vanishes just where the network is sure.

    Args:
        network: from `build_network`.
        images: uint8 RGB [B, H, W, 3].
        layer: whose activations are weighted; saliency has none.
        method: one of `gradcam`, `gradcam++`, `layercam`, `scorecam` and `saliency`.

    Returns:
        float32 [B, H, W] in [0, 1], each map's highest value 1; all zero where nothing
        speaks for disease.
    """
    model = build_logit_model(network)
    # The library gives some of its methods' models a list of inputs.
    model = keras.Model([model.input], model.output)
    maps = np.concatenate(
        [
            _compute(model, scale_images(tf.constant(part)), layer, method)
            for part in np.array_split(images, -(-len(images) // BATCH_SIZE))
        ]
    )
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def _compute(
    model: keras.Model, images: tf.Tensor, layer: str, method: MapMethod
) -> np.ndarray:
    """Compute maps [B, H, W] of a batch, not normalised."""

    def find_logits(logits: tf.Tensor) -> tf.Tensor:
        return logits[:, 0]

    # The library's own normalization would also stretch the coldest cell down to zero.
    if method == "saliency":
        with _numpy_seed(0):
            return Saliency(model, clone=False)(
                find_logits, images, smooth_samples=NUM_SMOOTHED, normalize_map=False
            )
    common = {
        "penultimate_layer": layer,
        "seek_penultimate_conv_layer": False,
        "normalize_cam": False,
    }
    if method == "scorecam":
        num_channels = model.get_layer(layer).output.shape[-1]
        # It takes a softmax, which of a single logit would always be 1.
        logits = [keras.ops.zeros_like(model.output), model.output]
        pair = keras.Model(model.inputs, keras.ops.concatenate(logits, axis=-1))
        with redirect_stdout(io.StringIO()):  # it draws a bar there
            return Scorecam(pair, clone=False)(
                lambda scores: scores[:, 1],
                images.numpy(),
                max_N=min(NUM_CHANNELS, num_channels),
                **common,
            )
    return CAMS[method](model, clone=False)(find_logits, images, **common)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed what draws from NumPy's global state, and leave that as it was."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


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

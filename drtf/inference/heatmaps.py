"""Heat maps: which regions of a photograph raise its score, and how to show them."""

import functools
import io
from collections.abc import Callable
from contextlib import redirect_stdout

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

from drtf.config import GradcamConfig, MapMethod
from drtf.errors import DrtfError
from drtf.models.backbones import Backbone
from drtf.models.network import (
    build_disease_logit_model,
    ensemble_members,
    scale_images,
)
from drtf.tasks import Task

MIN_CELLS_A_SIDE = 6
BATCH_SIZE = 16
NUM_SMOOTHED = 20
SMOOTHING = 0.2  # standard deviation of the noise, as a fraction of the image's range
NUM_CHANNELS = 64
CAMS = {"gradcam": Gradcam, "gradcam++": GradcamPlusPlus, "layercam": Layercam}
# Displayed pictures have at least this many px per side. Contours are drawn where a map
# reaches these fractions of its maximum, so that they are visible without colours too.
PICTURE_SIDE = 512
CONTOURS = (0.5, 0.8)


def check_settings(
    network: keras.Model, config: GradcamConfig, *, backbone: Backbone
) -> keras.Layer:
    """Check, before anything is computed, that maps can be computed and drawn.

    Args:
        network: From `build_network`, or an ensemble.
        config: The `gradcam` section.
        backbone: The network's, or that of all members of the ensemble.

    Returns:
        The layer whose activations are mapped, see `choose_layer`.

    Raises:
        DrtfError: If there is no such layer or colour map.
    """
    if config.colormap not in matplotlib.colormaps:
        raise DrtfError(
            f"gradcam.colormap={config.colormap!r} is not a matplotlib colour map; try "
            "viridis, cividis, magma or jet"
        )
    return choose_layer(network, config.layer, backbone=backbone)


def choose_layer(network: keras.Model, name: str, *, backbone: Backbone) -> keras.Layer:
    """Return the layer whose activations are mapped.

    `auto` is the last layer with at least 6 x 6 cells. Deeper layers know more about
    disease, but at 96 px the last one has 3 x 3 cells, too few to locate anything.

    Args:
        network: From `build_network`, or an ensemble.
        name: The layer's name, or `auto`.
        backbone: The network's, or that of all members of the ensemble.

    Raises:
        DrtfError: If there is no such layer, or heat maps cannot show its output.
    """
    layers = mappable_layers(network, backbone)
    if not layers:
        raise DrtfError(f"{network.name} has no layer that heat maps can show")
    if name == "auto":
        fine = last_layers_by_grid(
            network, backbone=backbone, min_cells=MIN_CELLS_A_SIDE
        )
        return fine[-1] if fine else layers[0]
    for layer in layers:
        if layer.name == name:
            return layer
    raise DrtfError(
        f"gradcam.layer={name!r}: {network.name} has no such layer that heat maps can "
        f"show; the last ones are {', '.join(layer.name for layer in layers[-5:])}"
    )


def last_layers_by_grid(
    network: keras.Model, *, backbone: Backbone, min_cells: int
) -> list[keras.Layer]:
    """Return the last mappable layer of each grid size, the finest grid first.

    Args:
        network: From `build_network`, or an ensemble.
        backbone: The network's, or that of all members of the ensemble.
        min_cells: The fewest cells per side.
    """
    last = {_num_cells(layer): layer for layer in mappable_layers(network, backbone)}
    return [last[cells] for cells in sorted(last, reverse=True) if cells >= min_cells]


def mappable_layers(network: keras.Model, backbone: Backbone) -> list[keras.Layer]:
    """Return the layers whose output heat maps can show, in the network's order.

    Layers with a single cell, such as those of squeeze-and-excitation, locate nothing.
    """
    first = ensemble_members(network)[0]  # all members have the same layers
    return [
        layer
        for layer in first.layers
        if type(layer).__name__ in backbone.map_layers
        and len(layer.output.shape) == 4
        and _num_cells(layer) > 1
    ]


def _num_cells(layer: keras.Layer) -> int:
    return min(layer.output.shape[1:3])


def compute_maps(
    network: keras.Model,
    images: np.ndarray,
    *,
    task: Task,
    backbone: Backbone,
    layer: str,
    method: MapMethod,
) -> np.ndarray:
    """Compute which regions of images raise the disease score, with tf-keras-vis.

    Grad-CAM, Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391; Grad-CAM++,
    Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063; Layer-CAM, Jiang et
    al., IEEE Transactions on Image Processing 30, 2021; Score-CAM, Wang et al., 2020,
    https://arxiv.org/abs/1910.01279, for the channels that vary most; saliency,
    Simonyan et al., 2014, https://arxiv.org/abs/1312.6034, smoothed as in Smilkov et
    al., 2017, https://arxiv.org/abs/1706.03825. Gradients are those of the logit,
    because the gradient of the sigmoid vanishes where the network is certain. Score-CAM
    uses no gradients and weights its channels by the score.

    Args:
        network: From `build_network`, or an ensemble; the maps of an ensemble are the
            mean of its members' maps.
        images: uint8 RGB [B, H, W, 3].
        task: The task that the network was trained for.
        backbone: The backbone of the network, or of all members of an ensemble.
        layer: Name of the layer whose activations are weighted, see `choose_layer`;
            unused for saliency.
        method: How to compute the maps.

    Returns:
        float32 [B, H, W] in [0, 1]. The maximum of each map is 1, unless no region
        raises the score and the map is zero everywhere.
    """
    name = ""
    if method != "saliency":
        name = choose_layer(network, layer, backbone=backbone).name
    mean = np.mean(
        [
            _compute_all(build_disease_logit_model(member, task), images, name, method)
            for member in ensemble_members(network)
        ],
        axis=0,
    )
    return _normalize(mean)


def _compute_all(
    model: keras.Model, images: np.ndarray, name: str, method: MapMethod
) -> np.ndarray:
    """Compute the maps of a single network, in batches."""
    # tf-keras-vis passes a list of inputs to the model for some methods.
    explain = _build_explainer(keras.Model([model.input], model.output), name, method)
    # Score-CAM would mask all images of a batch by the channels of each image, and
    # saliency fills a batch with noisy copies of one image.
    batch_size = 1 if method in ("scorecam", "saliency") else BATCH_SIZE
    parts = np.array_split(images, -(-len(images) // batch_size))
    maps = [explain(scale_images(tf.constant(part))) for part in parts]
    return _normalize(np.concatenate(maps))


def _normalize(maps: np.ndarray) -> np.ndarray:
    """Scale the maximum of each map to 1, unless the map is zero everywhere."""
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def _build_explainer(
    model: keras.Model, layer: str, method: MapMethod
) -> Callable[[tf.Tensor], np.ndarray]:
    """Return a function that computes maps [B, H, W] of a batch, not normalized.

    For saliency and Score-CAM a batch has one image.
    """

    def disease_logits(logits: tf.Tensor) -> tf.Tensor:
        return logits[:, 0]

    # normalize_map and normalize_cam would also shift the minimum to zero.
    if method == "saliency":
        saliency = Saliency(model, clone=False)
        shape = NUM_SMOOTHED, *model.inputs[0].shape[1:]
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)

        def compute_saliency(images: tf.Tensor) -> np.ndarray:
            sigma = SMOOTHING * (tf.reduce_max(images) - tf.reduce_min(images))
            gradients = saliency(
                disease_logits,
                images + sigma * noise,
                keepdims=True,
                normalize_map=False,
            )
            return np.mean(gradients, axis=0, keepdims=True).max(axis=-1)

        return compute_saliency
    common = {
        "penultimate_layer": layer,
        "seek_penultimate_conv_layer": False,
        "normalize_cam": False,
    }
    if method == "scorecam":
        num_channels = model.get_layer(layer).output.shape[-1]
        # Score-CAM applies a softmax, which is always 1 for a single logit.
        logits = [keras.ops.zeros_like(model.output), model.output]
        pair = keras.Model(model.inputs, keras.ops.concatenate(logits, axis=-1))
        scorecam = Scorecam(pair, clone=False)

        def compute_scorecam(images: tf.Tensor) -> np.ndarray:
            with redirect_stdout(io.StringIO()):  # it prints a progress bar
                return scorecam(
                    lambda scores: scores[:, 1],
                    images.numpy(),
                    max_N=min(NUM_CHANNELS, num_channels),
                    **common,
                )

        return compute_scorecam
    return functools.partial(CAMS[method](model, clone=False), disease_logits, **common)


def describe_map(values: np.ndarray) -> str:
    """Return the remark that a caption needs if a map is zero everywhere."""
    return "" if values.any() else ", empty map"


def color_map(values: np.ndarray, colormap: str) -> np.ndarray:
    """Convert a map [H, W] in [0, 1] to uint8 RGB [H, W, 3]."""
    colors = matplotlib.colormaps[colormap](values)[..., :3]
    return np.rint(colors * 255).astype(np.uint8)


def draw_overlay(
    image: np.ndarray, values: np.ndarray, config: GradcamConfig
) -> np.ndarray:
    """Draw a map over its photograph, with contours around its highest regions.

    Args:
        image: uint8 RGB [H, W, 3], square.
        values: float32 [h, w] in [0, 1]. A map that is zero everywhere is not drawn.
        config: Opacity and colour map of the overlay; its method.

    Returns:
        uint8 RGB [S, S, 3], S at least `PICTURE_SIDE`.
    """
    image, values = _enlarge(image), _enlarge(values, side=max(image.shape[:2]))
    if not values.any():
        return image
    alpha = config.overlay_alpha
    heat = color_map(values, config.colormap)
    picture = cv2.addWeighted(image, 1 - alpha, heat, alpha, 0)
    # A saliency map consists of single pixels, so it has no contours.
    for level in CONTOURS if config.method != "saliency" else ():
        lines, _ = cv2.findContours(
            (values >= level).astype(np.uint8),
            cv2.RETR_EXTERNAL,
            cv2.CHAIN_APPROX_NONE,
        )
        for color, thickness in (((0, 0, 0), 6), ((255, 255, 255), 2)):
            cv2.drawContours(picture, lines, -1, color, thickness, cv2.LINE_AA)
    return picture


def _enlarge(picture: np.ndarray, *, side: int = 0) -> np.ndarray:
    side = max(side, PICTURE_SIDE, *picture.shape[:2])
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)

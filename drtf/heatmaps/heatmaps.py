"""Heat maps: which regions of a photograph raise its score."""

import functools
import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass

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
from drtf.images.retina import build_thumbnail, find_field
from drtf.models.backbones import Backbone
from drtf.models.network import (
    build_disease_logit_model,
    ensemble_members,
    member_image,
    scale_images,
)
from drtf.models.run import Run

# Of `gradcam.layer="auto"`, in px of the image that the backbone gets.
MAX_CELL_SIDE = 16
MIN_CELLS_PER_SIDE = 6
BATCH_SIZE = 16
NUM_SMOOTHED = 20
SMOOTHING = 0.2  # standard deviation of the noise, as a fraction of the image's range
NUM_CHANNELS = 64
# What heat measures; the other methods have no unit.
LOGIT_UNIT = "rise of the logit per 1 % of the picture"
HEAT_UNITS: Mapping[MapMethod, str] = {"gradcam": LOGIT_UNIT, "layercam": LOGIT_UNIT}
CAMS = {"gradcam": Gradcam, "gradcam++": GradcamPlusPlus, "layercam": Layercam}


@dataclass(frozen=True)
class HeatMaps:
    """The heat maps of some images.

    Attributes:
        heat: float32 [B, H, W], at least 0. It is 0 where a region does not raise the
            score, and outside the retina. `HEAT_UNITS` has its unit.
        outside: float32 [B] in [0, 1], the fraction of the heat that lay outside the
            retina and was removed.
    """

    heat: np.ndarray
    outside: np.ndarray


ComputeMaps = Callable[[np.ndarray], HeatMaps]


def check_settings(run: Run, config: GradcamConfig) -> list[keras.Layer]:
    """Check, before anything is computed, that maps can be computed and drawn.

    Args:
        run: The run whose network is explained.
        config: The `gradcam` section.

    Returns:
        The layer whose activations are mapped, see `choose_layer`; for an ensemble that
        of each member.

    Raises:
        DrtfError: If there is no such layer or color map.
    """
    if config.colormap not in matplotlib.colormaps:
        raise DrtfError(
            f"gradcam.colormap={config.colormap!r} is not a matplotlib color map; try "
            "viridis, cividis, magma or jet"
        )
    return choose_layers(run, config.layer)


def choose_layers(run: Run, name: str) -> list[keras.Layer]:
    """Return the mapped layer of a network, or of each member of an ensemble.

    Args:
        run: The run whose network is explained.
        name: As for `choose_layer`.

    Raises:
        DrtfError: If a member has no such layer.
    """
    members = ensemble_members(run.network)
    return [
        choose_layer(member, name, backbone=backbone)
        for member, backbone in zip(members, run.backbones, strict=True)
    ]


def choose_layer(network: keras.Model, name: str, *, backbone: Backbone) -> keras.Layer:
    """Return the layer whose activations are mapped.

    `auto` is the last layer whose cells are at most 16 px wide, and which has at least
    6 x 6 of them. On photographs with known lesions, it points at lesions far more
    often than both the layers before it, which know less about disease, and those
    after it, whose cells see most of the photograph: at 320 and 448 px too, where these
    have many cells (see docs/results.md).

    Args:
        network: From `build_network`, or a member of an ensemble.
        name: The layer's name, or `auto`.
        backbone: The network's backbone.

    Raises:
        DrtfError: If there is no such layer, or heat maps cannot show its output.
    """
    layers = mappable_layers(network, backbone)
    if not layers:
        raise DrtfError(f"{network.name} has no layer that heat maps can show")
    if name == "auto":
        min_cells = max(MIN_CELLS_PER_SIDE, _backbone_side(network) / MAX_CELL_SIDE)
        fine = [layer for layer in layers if _num_cells(layer) >= min_cells]
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
        network: From `build_network`.
        backbone: The network's backbone.
        min_cells: The fewest cells per side.
    """
    last = {_num_cells(layer): layer for layer in mappable_layers(network, backbone)}
    return [last[cells] for cells in sorted(last, reverse=True) if cells >= min_cells]


def mappable_layers(network: keras.Model, backbone: Backbone) -> list[keras.Layer]:
    """Return the layers whose output heat maps can show, in the network's order.

    Layers with a single cell, such as those of squeeze-and-excitation, locate nothing.
    """
    return [
        layer
        for layer in network.layers
        if type(layer).__name__ in backbone.map_layers
        and len(layer.output.shape) == 4
        and _num_cells(layer) > 1
    ]


def _backbone_side(network: keras.Model) -> int:
    """Return the smaller side in px of the image that the backbone gets."""
    enlarged = [x for x in network.layers if isinstance(x, keras.layers.Resizing)]
    image = enlarged[0].output if enlarged else network.input
    return min(image.shape[1:3])


def _num_cells(layer: keras.Layer) -> int:
    return min(layer.output.shape[1:3])


def build_map_function(run: Run, config: GradcamConfig) -> ComputeMaps:
    """Build a function that computes which regions of images raise the disease score.

    It uses tf-keras-vis. Building it takes longer than a call, so it is built once.

    Grad-CAM, Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391; Grad-CAM++,
    Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063; Layer-CAM, Jiang et
    al., IEEE Transactions on Image Processing 30, 2021; Score-CAM, Wang et al., 2020,
    https://arxiv.org/abs/1910.01279, for the channels that vary most; saliency,
    Simonyan et al., 2014, https://arxiv.org/abs/1312.6034, smoothed as in Smilkov et
    al., 2017, https://arxiv.org/abs/1706.03825. Gradients are those of the logit,
    because the gradient of the sigmoid vanishes where the network is certain. Score-CAM
    uses no gradients and weights its channels by the score.

    The heat of Grad-CAM and Layer-CAM has a unit: activation times gradient estimates
    how much a region adds to the logit. It is given per 1 % of the picture, so that it
    does not depend on the number of cells, and maps can be compared with each other.

    The map of an ensemble is the mean of its members' maps. Each is computed on the
    image that the member gets and enlarged to the ensemble's image.

    Args:
        run: The run whose network is explained.
        config: The `gradcam` section: the method and the layer.

    Returns:
        A function from images, uint8 RGB [B, H, W, 3], to their maps.
    """
    members = ensemble_members(run.network)
    layers = [""] * len(members)
    if config.method != "saliency":
        layers = [layer.name for layer in choose_layers(run, config.layer)]
    functions = [
        _build_cell_function(
            build_disease_logit_model(member, run.task),
            keras.Model(run.network.input, member_image(run.network, member)),
            layer,
            config.method,
        )
        for member, layer in zip(members, layers, strict=True)
    ]

    def compute_maps(images: np.ndarray) -> HeatMaps:
        height, width = images.shape[1:3]
        maps = [_enlarge_cells(compute(images), height, width) for compute in functions]
        heat = np.mean(maps, axis=0)
        inside = np.where(find_fields(images), heat, 0)
        totals = heat.sum(axis=(1, 2))
        outside = np.divide(
            totals - inside.sum(axis=(1, 2)),
            totals,
            out=np.zeros_like(totals),
            where=totals > 0,
        )
        return HeatMaps(inside, outside)

    return compute_maps


def find_fields(images: np.ndarray) -> np.ndarray:
    """Find the retina in preprocessed images.

    Args:
        images: uint8 RGB [B, H, W, 3].

    Returns:
        bool [B, H, W], True inside the retina's field. An image whose field cannot be
        found counts as all field.
    """
    height, width = images.shape[1:3]
    fields = np.ones(images.shape[:3], bool)
    for image, inside in zip(images, fields, strict=True):
        field = find_field(build_thumbnail(image))
        if field is not None:
            inside[:] = cv2.resize(
                field, (width, height), interpolation=cv2.INTER_NEAREST
            )
    return fields


def _build_cell_function(
    model: keras.Model, shown: keras.Model, layer: str, method: MapMethod
) -> Callable[[np.ndarray], np.ndarray]:
    """Build a function that computes the heat of each cell of a single network.

    Args:
        model: From images, float32 [B, S, S, 3], to the disease logit.
        shown: Turns images, float32 [B, H, W, 3] in [0, 1], into those that the network
            gets.
        layer: Name of the mapped layer; empty for saliency.
        method: How to compute the heat.

    Returns:
        A function from images, uint8 RGB [B, H, W, 3], to cells, [B, h, w].
    """
    # tf-keras-vis passes a list of inputs to the model for some methods.
    explain = _build_explainer(keras.Model([model.input], model.output), layer, method)
    # Score-CAM would mask all images of a batch by the channels of each image, and
    # saliency fills a batch with noisy copies of one image.
    batch_size = 1 if method in ("scorecam", "saliency") else BATCH_SIZE

    def compute_cells(images: np.ndarray) -> np.ndarray:
        parts = np.array_split(images, -(-len(images) // batch_size))
        return np.concatenate(
            [explain(shown(scale_images(tf.constant(part)))) for part in parts]
        )

    return compute_cells


def _enlarge_cells(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge heat per cell to images of a size; convert it to heat per 1 %."""
    percents_per_cell = 100 / (cells.shape[1] * cells.shape[2])
    return np.stack(
        [
            cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
            for heat in cells.astype(np.float32) / percents_per_cell
        ]
    )


def _build_explainer(
    model: keras.Model, layer: str, method: MapMethod
) -> Callable[[tf.Tensor], np.ndarray]:
    """Return a function that computes the heat of each cell, [B, h, w], of a batch.

    For saliency, a cell is a pixel. For saliency and Score-CAM a batch has one image.
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
        "expand_cam": False,
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

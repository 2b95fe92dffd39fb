"""The networks: RGB in [0, 1] in, a score for disease out, one flat graph."""

import math
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.config import NUM_CLASSES, ModelConfig, Task
from drtf.data.labels import POSITIVE_FROM
from drtf.errors import DrtfError

LOGITS = "logits"
SCORE = "score"
POOL = "pool"  # the first layer of the head
# The first output that is of disease: a sigmoid's, a softmax's over two, or grades'.
FIRST_POSITIVE = {1: 0, 2: 1, NUM_CLASSES["grades"]: POSITIVE_FROM["grades"]}


def build_network(
    config: ModelConfig,
    *,
    image_size: int,
    load_weights: bool,
    task: Task = "binary",
) -> keras.Model:
    """Build an untrained or pretrained network.

    Args:
        config: the `model` section.
        image_size: height and width of the input in px.
        load_weights: False leaves random weights, whatever the config says.
        task: whose classes it is to tell apart.

    Returns:
        A model from float32 [B, image_size, image_size, 3] in [0, 1] to float32
        probabilities: [B, 1] of a sigmoid, [B, 2] of a softmax with disease last, or
        [B, 5] of the grades. Its layer `logits` holds what they are made of. Its
        backbone is not nested, so that every layer can be named, frozen and looked
        into.

    Raises:
        DrtfError: if the weights can't be loaded.
    """
    image = keras.Input((image_size, image_size, 3), name="image")
    x = image
    if config.input_range == "symmetric":
        x = keras.layers.Rescaling(2.0, offset=-1.0, name="rescaling")(x)
    weights = config.weights if load_weights else "none"
    if config.name == "eyenet":
        if weights != "none":
            raise DrtfError(
                f"model.weights={weights!r} is for mobilenetv2; eyenet has none: "
                'set model.weights="none"'
            )
        logits = _add_eyenet(x, NUM_CLASSES[task])
    else:
        # Of two classes one unit tells all.
        num_units = NUM_CLASSES[task] if NUM_CLASSES[task] > 2 else 1
        logits = _add_mobilenetv2(x, config, weights, num_units)
    network = keras.Model(image, add_score(logits), name=config.name)
    set_trainable(network, config)
    return network


def add_score(logits: keras.KerasTensor) -> keras.KerasTensor:
    """End a network: the sigmoid of a single logit, or the softmax of several."""
    activation = "sigmoid" if logits.shape[-1] == 1 else "softmax"
    return keras.layers.Activation(activation, dtype="float32", name=SCORE)(logits)


def set_trainable(
    network: keras.Model, config: ModelConfig, *, head_only: bool = False
) -> None:
    """Choose what of a network is trained: its head, and the backbone as configured."""
    names = [layer.name for layer in network.layers]
    if POOL not in names:  # a network without a backbone
        return
    backbone = network.layers[: names.index(POOL)]
    num_frozen = len(backbone)
    if not head_only:
        num_trained = config.trainable_layers
        num_frozen = 0 if num_trained < 0 else max(num_frozen - num_trained, 0)
    for number, layer in enumerate(backbone):
        layer.trainable = number >= num_frozen


def ensemble_members(network: keras.Model) -> list[keras.Model]:
    """Return the members of an ensemble; of any other network itself."""
    nested = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return nested or [network]


def build_logit_model(network: keras.Model) -> keras.Model:
    """Return a model over a network's own layers that ends in one logit, [B, 1].

    Its sigmoid is the score of disease: of a softmax, what all its classes of disease
    have together.
    """
    logits = network.get_layer(LOGITS).output
    if first := FIRST_POSITIVE[logits.shape[-1]]:
        positive, negative = (
            keras.ops.logsumexp(part, axis=-1, keepdims=True)
            for part in (logits[:, first:], logits[:, :first])
        )
        logits = positive - negative
    return keras.Model(network.input, logits)


def build_task_model(network: keras.Model) -> keras.Model:
    """Return a model over a network's own layers that ends in what losses take.

    That is one logit, [B, 1], or one for each grade, [B, 5].
    """
    logits = network.get_layer(LOGITS).output
    if logits.shape[-1] == NUM_CLASSES["grades"]:
        return keras.Model(network.input, logits)
    return build_logit_model(network)


def disease_scores(probabilities: np.ndarray) -> np.ndarray:
    """Return the scores of disease, [...], of what a network puts out, [..., C]."""
    first = FIRST_POSITIVE[probabilities.shape[-1]]
    return probabilities[..., first:].sum(axis=-1)


def scale_images(images: tf.Tensor) -> tf.Tensor:
    """Turn uint8 pixels into the float32 in [0, 1] that networks take."""
    return tf.cast(images, tf.float32) / 255.0


def count_parameters(network: keras.Model) -> tuple[int, int]:
    """Return the numbers of trained and of frozen parameters."""
    trained = sum(math.prod(value.shape) for value in network.trainable_variables)
    return trained, network.count_params() - trained


def _add_mobilenetv2(
    x: keras.KerasTensor, config: ModelConfig, weights: str, num_units: int
) -> keras.KerasTensor:
    if config.upsampling > 1:
        side = round(config.upsampling * x.shape[1])
        x = keras.layers.Resizing(side, side, name="upsampling")(x)
    backbone = _load_backbone(x, config, weights)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config.batch_norm_momentum
    x = keras.layers.GlobalAveragePooling2D(name=POOL)(backbone.output)
    num_layers = len(config.head_units) + 1
    for number, units, batch_norm, dropout in zip(
        range(1, num_layers + 1),
        (*config.head_units, 0),
        _repeat(config.head_batch_norm, num_layers),
        _repeat(config.dropout, num_layers),
        strict=True,
    ):
        if batch_norm:
            x = keras.layers.BatchNormalization(name=f"head_bn_{number}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"head_dropout_{number}")(x)
        if units:
            name = f"head_dense_{number}"
            x = keras.layers.Dense(units, activation="relu", name=name)(x)
    return keras.layers.Dense(num_units, dtype="float32", name=LOGITS)(x)


def _repeat(value: Any, count: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * count


def _load_backbone(
    x: keras.KerasTensor, config: ModelConfig, weights: str
) -> keras.Model:
    from_keras = weights if weights == "imagenet" else None
    try:
        # It warns of a size that has no weights of its own: those of 224 px do.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            backbone = keras.applications.MobileNetV2(
                input_tensor=x,
                input_shape=x.shape[1:],
                alpha=config.alpha,
                include_top=False,
                weights=from_keras,
            )
    except Exception as error:
        # Keras raises a bare Exception where the download fails.
        if from_keras is None:
            raise
        reason = str(error).splitlines()[0]
        raise DrtfError(
            f"can't get Keras's ImageNet weights for alpha {config.alpha}: {reason}; "
            "without a network, name a file: --set model.weights=FILE.weights.h5, or "
            "model.weights=none for random ones"
        ) from error
    if weights not in ("imagenet", "none"):
        _load_file(backbone, weights, config.alpha)
    return backbone


def _load_file(backbone: keras.Model, weights: str, alpha: float) -> None:
    if not Path(weights).is_file() or not weights.endswith(".weights.h5"):
        raise DrtfError(
            f'model.weights must be "imagenet", "none" or the path of a .weights.h5 '
            f"file; no such file: {weights}"
        )
    try:
        # Keras only warns of layers that it left as they were.
        with warnings.catch_warnings(action="error", category=UserWarning):
            backbone.load_weights(weights)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = str(error).splitlines()[0]
        raise DrtfError(
            f"{weights} does not fit MobileNetV2 with model.alpha={alpha}; set "
            f"model.alpha to what it was trained with. Keras says: {reason}"
        ) from error


def _add_eyenet(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    for number in (1, 2, 3):
        x = keras.layers.Conv2D(32, 3, activation="relu", name=f"conv_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense")(x)
    return keras.layers.Dense(num_classes, dtype="float32", name=LOGITS)(x)

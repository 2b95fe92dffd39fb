"""The networks: RGB in [0, 1] in, a score for disease out, one flat graph."""

import math
import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from drtf.config import ModelConfig
from drtf.errors import DrtfError
from drtf.tasks import TASKS, Task

LOGITS = "logits"
SCORE = "score"
POOL = "pool"  # the first layer of the head


def build_network(
    config: ModelConfig,
    *,
    image_size: int,
    load_weights: bool,
    task: Task = TASKS["binary"],
) -> keras.Model:
    """Build an untrained or pretrained network.

    Args:
        config: the `model` section.
        image_size: height and width of the input in px.
        load_weights: False leaves random weights, whatever the config says.
        task: whose classes it is to tell apart.

    Returns:
        A model from float32 [B, image_size, image_size, 3] in [0, 1] to float32
        probabilities [B, C], with C = `task.num_logits`: of disease, or of each grade.
        Its layer `logits` holds their logits. Its backbone is not nested, so that every
        layer can be named, frozen and inspected.

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
        logits = _add_eyenet(x, task)
    else:
        logits = _add_mobilenetv2(x, config, weights, task.num_logits)
    network = keras.Model(image, add_score(logits, task), name=config.name)
    set_trainable(network, config)
    return network


def add_score(logits: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    """Add the last layer, which turns logits into probabilities.

    It is a softmax over the grades, or the sigmoid of the single logit of disease.
    """
    activation = "softmax" if task.predicts_grades else "sigmoid"
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
    """Build a model that shares a network's layers and ends in its logits, [B, C]."""
    return keras.Model(network.input, network.get_layer(LOGITS).output)


def build_disease_logit_model(network: keras.Model, task: Task) -> keras.Model:
    """Build a model that shares a network's layers and ends in one logit, [B, 1].

    The sigmoid of the logit is the score for disease. If the network predicts grades,
    that is the sum of the probabilities of all positive grades.
    """
    logits = network.get_layer(LOGITS).output
    if task.predicts_grades:
        positive, negative = (
            keras.ops.logsumexp(part, axis=-1, keepdims=True)
            for part in (
                logits[:, task.first_positive_class :],
                logits[:, : task.first_positive_class],
            )
        )
        logits = positive - negative
    return keras.Model(network.input, logits)


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


def _add_eyenet(x: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    for number in (1, 2, 3):
        x = keras.layers.Conv2D(32, 3, activation="relu", name=f"conv_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense")(x)
    if task.predicts_grades:
        return keras.layers.Dense(task.num_classes, dtype="float32", name=LOGITS)(x)
    # EyeNet ends in a softmax over two classes. The softmax's probability of disease is
    # the sigmoid of the difference of their logits.
    dense = keras.layers.Dense(task.num_classes, dtype="float32", name="class_logits")
    healthy, diseased = keras.ops.split(dense(x), task.num_classes, axis=-1)
    return keras.layers.Identity(dtype="float32", name=LOGITS)(diseased - healthy)

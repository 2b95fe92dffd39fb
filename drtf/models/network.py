"""Networks: from RGB in [0, 1] to probabilities, as one flat graph of layers."""

import math
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from drtf.config import LossName, ModelConfig
from drtf.errors import DrtfError
from drtf.models.backbones import (
    BACKBONES,
    InputRange,
    check_model,
    number_names,
)
from drtf.models.device import use_keras_settings
from drtf.models.head import HEADS, LOGITS, POOL, add_score, logit_of_reaching
from drtf.models.losses import LOSSES
from drtf.models.weights import KEYWORDS, copy_weights, load_weights
from drtf.tasks import TASKS, Task

# Mean and standard deviation of the channels of ImageNet's photographs, for RGB in
# [0, 1]: the values that Keras's EfficientNetV2 has built in.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Feature maps of more sizes make a quality gate hardly better, but take time.
NUM_POOLED_SIZES = 3


def build_network(
    config: ModelConfig,
    *,
    image_size: int,
    load_weights: bool,
    task: Task = TASKS["binary"],
    loss: LossName = "crossentropy",
    source: keras.Model | None = None,
) -> keras.Model:
    """Build an untrained or pretrained network.

    Args:
        config: The `model` section.
        image_size: Height and width of the input in px.
        load_weights: False leaves the weights random, whatever the config says.
        task: What the network is to learn.
        loss: What it is trained with, which determines its output layer.
        source: A network whose backbone's weights are copied, in place of those that
            the config names.

    Returns:
        A model from float32 [B, image_size, image_size, 3] in [0, 1] to float32
        probabilities [B, C], with C = `task.num_logits`: of disease, or of each grade.
        Its layer `logits` holds their logits. Its backbone is not nested, so that every
        layer can be named, frozen and inspected.

    Raises:
        ConfigError: If the backbone is unknown, or a setting does not apply to it.
        DrtfError: If the weights cannot be loaded, or `source` has other shapes.
    """
    check_model(config)
    use_keras_settings()
    backbone = BACKBONES[config.name]
    image = keras.Input((image_size, image_size, 3), name="image")
    x = _rescale(image, backbone.choose_input_range(config))
    if config.upsampling > 1:
        side = round(config.upsampling * image_size)
        x = keras.layers.Resizing(side, side, name="upsampling")(x)
    weights = config.weights if load_weights else "none"
    features = _build_backbone(image, x, config, weights if source is None else source)
    logits = HEADS[backbone.head](features, config, task, LOSSES[loss].output)
    network = keras.Model(image, add_score(logits, task), name=config.name)
    number_names(network)
    set_trainable(network, config)
    return network


def set_trainable(
    network: keras.Model, config: ModelConfig, *, head_only: bool = False
) -> None:
    """Choose which layers are trained: the head, and the end of the backbone.

    Args:
        network: From `build_network`.
        config: Its `model` section, whose `trainable_layers` counts from the end of the
            backbone.
        head_only: Whether the whole backbone is frozen instead.
    """
    if not BACKBONES[config.name].can_freeze:
        return
    names = [layer.name for layer in network.layers]
    backbone = network.layers[: names.index(POOL)]
    num_frozen = len(backbone)
    if not head_only:
        num_trained = config.trainable_layers
        num_frozen = 0 if num_trained < 0 else max(num_frozen - num_trained, 0)
    for number, layer in enumerate(backbone):
        layer.trainable = number >= num_frozen


def ensemble_members(network: keras.Model) -> list[keras.Model]:
    """Return the members of an ensemble, or the network itself if it is not one."""
    nested = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    return nested or [network]


def member_image(network: keras.Model, member: keras.Model) -> keras.KerasTensor:
    """Return the tensor of an ensemble that is a member's input.

    Args:
        network: The ensemble, or any other network.
        member: One of its `ensemble_members`.
    """
    size = member.input.shape[1]
    if size == network.input.shape[1]:
        return network.input
    return network.get_layer(_shrunk_name(size)).output


def shrink_image(image: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Shrink square images within a network; each pixel is the mean of its area.

    Two layers with fixed weights, one for each axis, take the weighted means. Unlike a
    layer that resizes, they can be exported to every format.

    Args:
        image: float32 [B, S, S, 3].
        size: At most S.

    Returns:
        float32 [B, size, size, 3].
    """
    weights = area_weights(image.shape[1], size)
    x = keras.layers.Permute((3, 1, 2), name=f"channels_first_{size}")(image)
    for axis in ("width", "height"):
        mean = keras.layers.Dense(
            size, use_bias=False, trainable=False, name=f"mean_{axis}_{size}"
        )
        x = keras.layers.Permute((1, 3, 2), name=f"swap_{axis}_{size}")(mean(x))
        mean.set_weights([weights])
    return keras.layers.Permute((2, 3, 1), name=_shrunk_name(size))(x)


def area_weights(size: int, smaller: int) -> np.ndarray:
    """Return how much each pixel of a row contributes to each pixel of a smaller row.

    Returns:
        float32 [size, smaller]. Each column adds up to 1.
    """
    ratio = size / smaller
    pixels, targets = np.arange(size)[:, None], np.arange(smaller)
    ends = np.minimum(pixels + 1, (targets + 1) * ratio)
    starts = np.maximum(pixels, targets * ratio)
    return (np.clip(ends - starts, 0, None) / ratio).astype(np.float32)


def _shrunk_name(size: int) -> str:
    return f"image_{size}"


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
        logits = logit_of_reaching(logits, task.first_positive_class)
    return keras.Model(network.input, logits)


def build_feature_model(network: keras.Model) -> keras.Model:
    """Build a model that shares a network's layers and returns its features too.

    The features are the means over height and width of the last feature maps of the
    last three sizes. Those of an ensemble are its members', one after the other.

    Args:
        network: From `build_network`, or an ensemble of such networks.

    Returns:
        A model from the network's input to its output and the features, float32 [B, F].
    """
    features = []

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.Model):
            return layer(*args, **kwargs)
        output, own = build_feature_model(layer)(*args)
        features.append(own)
        return output

    if ensemble_members(network) != [network]:
        network = keras.models.clone_model(
            network, clone_function=lambda layer: layer, call_function=call
        )
        own = ops.concatenate(features, axis=-1)
    else:
        own = _pool_maps(network)
    return keras.Model(network.input, [network.output, own])


def _pool_maps(network: keras.Model) -> keras.KerasTensor:
    """Return the mean of each channel of the last feature maps of the last sizes.

    Returns:
        float32 [B, F].
    """
    last = {
        layer.output.shape[1:3]: layer.output
        for layer in network.layers
        if len(layer.output.shape) == 4
        and not isinstance(layer, keras.layers.ZeroPadding2D)
    }
    maps = list(last.values())[-NUM_POOLED_SIZES:]
    means = [ops.mean(ops.cast(x, "float32"), axis=(1, 2)) for x in maps]
    return ops.concatenate(means, axis=-1)


def scale_images(images: tf.Tensor) -> tf.Tensor:
    """Convert uint8 pixels to the float32 in [0, 1] that networks take."""
    return tf.cast(images, tf.float32) / 255.0


def count_parameters(network: keras.Model) -> tuple[int, int]:
    """Return the numbers of trained and of frozen parameters."""
    trained = sum(math.prod(value.shape) for value in network.trainable_variables)
    return trained, network.count_params() - trained


def _rescale(image: keras.KerasTensor, input_range: InputRange) -> keras.KerasTensor:
    """Rescale RGB in [0, 1] to the range that a backbone takes."""
    if input_range == "unit":
        return image
    if input_range == "symmetric":
        layer = keras.layers.Rescaling(2.0, offset=-1.0, name="rescaling")
    else:
        channels = list(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
        layer = keras.layers.Rescaling(
            [1 / std for _, std in channels],
            offset=[-mean / std for mean, std in channels],
            name="rescaling",
        )
    return layer(image)


def _build_backbone(
    image: keras.KerasTensor,
    x: keras.KerasTensor,
    config: ModelConfig,
    weights: str | keras.Model,
) -> keras.KerasTensor:
    """Build a backbone with its weights, and return its features.

    Args:
        image: The network's input.
        x: The backbone's input, computed from it.
        config: The `model` section.
        weights: "imagenet", "none", the path of a file, or a network with this
            backbone.
    """
    backbone = BACKBONES[config.name]
    from_keras = weights if weights == "imagenet" else None
    try:
        # Keras warns of sizes without weights of their own: those for 224 px will do.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            features = backbone.build(x, config, from_keras)
    except Exception as error:
        # Keras raises a bare Exception if the download fails.
        if from_keras is None:
            raise
        reason = str(error).splitlines()[0]
        raise DrtfError(
            f"cannot get Keras's ImageNet weights of {config.name}: "
            f"{reason}; without internet access name a file, --set model.weights=FILE, "
            "or use random weights, model.weights=none"
        ) from error
    model = keras.Model(image, features)
    if isinstance(weights, keras.Model):
        copy_weights(weights, model.layers)
    elif weights not in KEYWORDS:
        load_weights(model, config, image_size=image.shape[1])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config.batch_norm_momentum
    return features

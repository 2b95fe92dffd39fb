"""The networks: RGB in [0, 1] in, a score for disease out, one flat graph."""

import math
import warnings
from pathlib import Path

import keras
import tensorflow as tf

from drtf.config import ModelConfig
from drtf.errors import DrtfError

LOGITS = "logits"


def build_network(
    config: ModelConfig, *, image_size: int, load_weights: bool
) -> keras.Model:
    """Build an untrained or pretrained network.

    Args:
        config: the `model` section.
        image_size: height and width of the input in px.
        load_weights: False leaves random weights, whatever the config says.

    Returns:
        A model from float32 [B, image_size, image_size, 3] in [0, 1] to float32 scores
        in [0, 1]: [B, 1] of a sigmoid, or [B, 2] of a softmax with disease last. Its
        layer `logits` holds what the scores are made of. Its backbone is not nested,
        so that every layer can be named, frozen and looked into.

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
        logits = _add_eyenet(x)
    else:
        logits = _add_mobilenetv2(x, config, weights)
    activation = "softmax" if logits.shape[-1] == 2 else "sigmoid"
    score = keras.layers.Activation(activation, dtype="float32", name="score")(logits)
    return keras.Model(image, score, name=config.name)


def build_logit_model(network: keras.Model) -> keras.Model:
    """Return a model over a network's own layers that ends in one logit, [B, 1].

    Its sigmoid is the score of disease. For a softmax over two that is the difference
    of the two.
    """
    logits = network.get_layer(LOGITS).output
    if logits.shape[-1] == 2:
        logits = logits[:, 1:] - logits[:, :1]
    return keras.Model(network.input, logits)


def scale_images(images: tf.Tensor) -> tf.Tensor:
    """Turn uint8 pixels into the float32 in [0, 1] that networks take."""
    return tf.cast(images, tf.float32) / 255.0


def count_parameters(network: keras.Model) -> tuple[int, int]:
    """Return the numbers of trained and of frozen parameters."""
    trained = sum(math.prod(value.shape) for value in network.trainable_variables)
    return trained, network.count_params() - trained


def _add_mobilenetv2(
    x: keras.KerasTensor, config: ModelConfig, weights: str
) -> keras.KerasTensor:
    backbone = _load_backbone(x, config, weights)
    if config.trainable_layers >= 0:
        for layer in backbone.layers[: -config.trainable_layers or None]:
            layer.trainable = False
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config.batch_norm_momentum
    x = keras.layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    if config.head == "notebook":
        x = keras.layers.BatchNormalization(name="head_bn_1")(x)
        x = keras.layers.Dropout(0.5, name="head_dropout_1")(x)
        x = keras.layers.Dense(256, activation="relu", name="head_dense_1")(x)
        x = keras.layers.BatchNormalization(name="head_bn_2")(x)
        x = keras.layers.Dropout(0.3, name="head_dropout_2")(x)
        x = keras.layers.Dense(128, activation="relu", name="head_dense_2")(x)
        x = keras.layers.Dropout(0.2, name="head_dropout_3")(x)
    elif config.dropout:
        x = keras.layers.Dropout(config.dropout, name="head_dropout")(x)
    return keras.layers.Dense(1, dtype="float32", name=LOGITS)(x)


def _load_backbone(
    x: keras.KerasTensor, config: ModelConfig, weights: str
) -> keras.Model:
    from_keras = weights if weights == "imagenet" else None
    try:
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


def _add_eyenet(x: keras.KerasTensor) -> keras.KerasTensor:
    for number in (1, 2, 3):
        x = keras.layers.Conv2D(32, 3, activation="relu", name=f"conv_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(128, activation="relu", name="dense")(x)
    return keras.layers.Dense(2, dtype="float32", name=LOGITS)(x)

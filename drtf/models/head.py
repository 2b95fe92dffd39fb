"""Heads: the last layers of a network, from the features of its backbone to logits."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from drtf.config import ModelConfig
from drtf.tasks import Task

LOGITS = "logits"
SCORE = "score"
POOL = "pool"  # the first layer of the pooled head


def build_pooled_head(
    features: keras.KerasTensor, config: ModelConfig, task: Task
) -> keras.KerasTensor:
    """Build average pooling and dense layers, as the `model` section describes them.

    Args:
        features: float [B, H, W, C].
        config: The `model` section.
        task: What the network learns.

    Returns:
        The logits, float32 [B, `task.num_logits`].
    """
    x = keras.layers.GlobalAveragePooling2D(name=POOL)(features)
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
    return keras.layers.Dense(task.num_logits, dtype="float32", name=LOGITS)(x)


def build_softmax_head(
    features: keras.KerasTensor, config: ModelConfig, task: Task
) -> keras.KerasTensor:
    """Build EyeNet's head: one unit per class, of which a softmax is taken.

    The softmax's probability of the second of two classes is the sigmoid of the
    difference of their logits. So a network for two classes ends in one logit, as with
    any other head.

    Args:
        features: float [B, C].
        config: The `model` section. None of its settings apply.
        task: What the network learns.

    Returns:
        The logits, float32 [B, `task.num_logits`].
    """
    if task.predicts_grades:
        units = keras.layers.Dense(task.num_classes, dtype="float32", name=LOGITS)
        return units(features)
    units = keras.layers.Dense(task.num_classes, dtype="float32", name="class_logits")
    negative, positive = keras.ops.split(units(features), task.num_classes, axis=-1)
    return keras.layers.Identity(dtype="float32", name=LOGITS)(positive - negative)


def add_score(logits: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    """Add the last layer, which turns logits into probabilities.

    It is a softmax over the grades, or the sigmoid of the single logit of disease.
    """
    activation = "softmax" if task.predicts_grades else "sigmoid"
    return keras.layers.Activation(activation, dtype="float32", name=SCORE)(logits)


HEADS: Mapping[
    str, Callable[[keras.KerasTensor, ModelConfig, Task], keras.KerasTensor]
] = {"pooled": build_pooled_head, "softmax": build_softmax_head}


def _repeat(value: Any, count: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * count

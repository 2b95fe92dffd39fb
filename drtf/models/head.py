"""Heads: the last layers of a network, from the features of its backbone to logits.

The logits of a network that predicts grades are one for each grade, whatever its output
layer is. Their softmax is the probability of each grade.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
from keras import ops

from drtf.config import ModelConfig
from drtf.tasks import Task

LOGITS = "logits"
SCORE = "score"
POOL = "pool"  # the first layer of the pooled head
# The distance of neighboring grades in logits where it is not trained. It makes the
# probabilities those of a logistic distribution with a deviation of 0.9 grades, about
# the error of a network.
GRADE_DISTANCE = 2.0

OutputName = Literal["classes", "equal_steps", "trained_steps"]


def build_pooled_head(
    features: keras.KerasTensor, config: ModelConfig, task: Task, output: OutputName
) -> keras.KerasTensor:
    """Build average pooling and dense layers, as the `model` section describes them.

    Args:
        features: float [B, H, W, C].
        config: The `model` section.
        task: What the network learns.
        output: The kind of output layer, a key of `OUTPUTS`.

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
    return OUTPUTS[output](x, task)


def build_softmax_head(
    features: keras.KerasTensor, config: ModelConfig, task: Task, output: OutputName
) -> keras.KerasTensor:
    """Build EyeNet's head: one unit per class, of which a softmax is taken.

    The softmax's probability of the second of two classes is the sigmoid of the
    difference of their logits. So a network for two classes ends in one logit, as with
    any other head.

    Args:
        features: float [B, C].
        config: The `model` section. None of its settings apply.
        task: What the network learns.
        output: The kind of output layer for grades, a key of `OUTPUTS`.

    Returns:
        The logits, float32 [B, `task.num_logits`].
    """
    if task.predicts_grades:
        return OUTPUTS[output](features, task)
    units = keras.layers.Dense(task.num_classes, dtype="float32", name="class_logits")
    negative, positive = keras.ops.split(units(features), task.num_classes, axis=-1)
    return keras.layers.Identity(dtype="float32", name=LOGITS)(positive - negative)


def build_class_output(x: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    """Build one unit for each logit."""
    return keras.layers.Dense(task.num_logits, dtype="float32", name=LOGITS)(x)


def build_equal_steps_output(x: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    """Build one unit, the severity, in which neighboring grades are equally distant.

    A network with this output can be regressed to the grade: the mean of the grades,
    weighted by their probabilities, rises with the severity from 0 to the last grade.
    """
    severity = keras.layers.Dense(1, dtype="float32", name="severity")(x)
    # softplus(step) is the distance.
    step = keras.layers.Rescaling(
        0.0,
        offset=math.log(math.expm1(GRADE_DISTANCE)),
        dtype="float32",
        name="step",
    )(severity)
    steps = ops.concatenate([step] * (task.num_classes - 2), axis=-1)
    return _grade_logits(severity, steps)


def build_trained_steps_output(x: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    """Build one unit, the severity, and trained distances of neighboring grades.

    This is the output of CORAL: Cao, Mirjalili and Raschka, Pattern Recognition Letters
    140, 2020, https://arxiv.org/abs/1901.07884. All binary classifiers "the grade is at
    least k" share their weights and differ in their bias. The best biases are in
    descending order (theorem 1 there). Here they are so at each step of the training,
    since a distance is the softplus of a weight.
    """
    severity = keras.layers.Dense(1, dtype="float32", name="severity")(x)
    one = keras.layers.Rescaling(0.0, offset=1.0, dtype="float32", name="one")(severity)
    steps = keras.layers.Dense(
        task.num_classes - 2,
        use_bias=False,
        kernel_initializer="zeros",
        dtype="float32",
        name="steps",
    )(one)
    return _grade_logits(severity, steps)


def _grade_logits(
    severity: keras.KerasTensor, steps: keras.KerasTensor
) -> keras.KerasTensor:
    """Return the logarithm of the probability of each grade, from ordered classifiers.

    The classifiers' logits f_1 > f_2 > ... are those of "the grade is at least k", so
    grade k has the probability sigmoid(f_k) - sigmoid(f_k+1), which is sigmoid(f_k)
    sigmoid(-f_k+1) (1 - exp(f_k+1 - f_k)). The last factor is the sigmoid of the step.

    Args:
        severity: float32 [B, 1], the first classifier's logit.
        steps: float32 [B, K - 2]. The softplus of each is the distance from one
            classifier's logit to that of the next.

    Returns:
        float32 [B, K].
    """
    others = severity - ops.cumsum(ops.softplus(steps), axis=-1)
    reached = ops.concatenate([severity, others], axis=-1)
    last = ops.log_sigmoid(reached[:, -1:])
    first = ops.log_sigmoid(-severity)
    between = ops.log_sigmoid(reached[:, :-1]) + ops.log_sigmoid(-others)
    between += ops.log_sigmoid(steps)
    logits = ops.concatenate([first, between, last], axis=-1)
    return keras.layers.Identity(dtype="float32", name=LOGITS)(logits)


def logit_of_reaching(logits: Any, grade: int) -> Any:
    """Return the logit of the probability that the grade is at least `grade`.

    Args:
        logits: float32 [B, K], one for each grade.
        grade: From 1 to K - 1.

    Returns:
        float32 [B, 1].
    """
    reached = ops.logsumexp(logits[:, grade:], axis=-1, keepdims=True)
    return reached - ops.logsumexp(logits[:, :grade], axis=-1, keepdims=True)


def add_score(logits: keras.KerasTensor, task: Task) -> keras.KerasTensor:
    """Add the last layer, which turns logits into probabilities.

    It is a softmax over the grades, or the sigmoid of the single logit of disease.
    """
    activation = "softmax" if task.predicts_grades else "sigmoid"
    return keras.layers.Activation(activation, dtype="float32", name=SCORE)(logits)


OUTPUTS: Mapping[OutputName, Callable[[keras.KerasTensor, Task], keras.KerasTensor]] = {
    "classes": build_class_output,
    "equal_steps": build_equal_steps_output,
    "trained_steps": build_trained_steps_output,
}
HEADS: Mapping[
    str, Callable[[keras.KerasTensor, ModelConfig, Task, OutputName], keras.KerasTensor]
] = {"pooled": build_pooled_head, "softmax": build_softmax_head}


def _repeat(value: Any, count: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * count

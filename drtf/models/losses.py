"""Losses, from integer labels and logits: one logit per image, or one per grade."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from drtf.config import LossName, TrainConfig
from drtf.models.head import OutputName, logit_of_reaching
from drtf.tasks import GRADES, NUM_GRADES, TASKS


def build_loss(config: TrainConfig) -> keras.losses.Loss:
    """Build the loss that the `train` section describes.

    Returns:
        A loss of labels, int [B, 1], and logits, float32 [B, C] with C = `num_logits`
        of the task. Its `call` returns the loss of each image, float32 [B].
    """
    loss = LOSSES[config.loss].build(config)
    if config.class_weights:
        return WeightedLoss(loss, config.class_weights)
    return loss


def class_weights(config: TrainConfig) -> tuple[float, ...]:
    """Return the weight in the loss of an image of each class."""
    weights = config.class_weights or (1.0,) * TASKS[config.task].num_classes
    if config.loss != "focal":
        return weights
    negative, positive = weights
    return negative * (1 - config.focal_alpha), positive * config.focal_alpha


class WeightedLoss(keras.losses.Loss):
    """Multiply another loss by a weight for each class."""

    def __init__(self, loss: keras.losses.Loss, weights: Sequence[float]) -> None:
        super().__init__(name=f"weighted_{loss.name}")
        self.loss = loss
        self.weights = tuple(weights)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image.

        Args:
            y_true: int [B, 1], the classes.
            y_pred: float32 [B, C], the logits.

        Returns:
            float32 [B].
        """
        weights = tf.constant(self.weights, y_pred.dtype)
        losses = self.loss.call(y_true, y_pred)
        return losses * tf.gather(weights, tf.cast(y_true[:, 0], tf.int32))


class GradeLoss(keras.losses.Loss):
    """A loss of grades and their logits.

    Attributes:
        function: Takes grades, int [B], and logits, float32 [B, 5]. Returns the loss of
            each image, float32 [B].
    """

    def __init__(
        self, name: str, function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    ) -> None:
        super().__init__(name=name)
        self.function = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image.

        Args:
            y_true: int [B, 1], the grades.
            y_pred: float32 [B, 5], the logits.

        Returns:
            float32 [B].
        """
        return self.function(tf.cast(y_true[:, 0], tf.int32), y_pred)


def grade_crossentropy(
    grades: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float
) -> tf.Tensor:
    """Return the cross-entropy of a softmax over the grades, as in `GradeLoss`."""
    return keras.losses.categorical_crossentropy(
        tf.one_hot(grades, NUM_GRADES),
        logits,
        from_logits=True,
        label_smoothing=label_smoothing,
    )


def expected_grade_error(grades: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the squared difference of the label and the mean of the grades.

    The mean is weighted by the predicted probabilities. For `GradeLoss`.
    """
    values = tf.constant(list(GRADES), logits.dtype)
    expected = tf.reduce_sum(tf.nn.softmax(logits) * values, axis=-1)
    return tf.square(expected - tf.cast(grades, logits.dtype))


def coral_loss(grades: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return a sum of binary cross-entropies, one for each grade that may be reached.

    Cao, Mirjalili and Raschka, Pattern Recognition Letters 140, 2020,
    https://arxiv.org/abs/1901.07884, eq. 4 with equal weights: the sum over k of the
    cross-entropy of "the grade is at least k". For `GradeLoss`.
    """
    steps = list(GRADES)[1:]
    reaching = tf.concat([logit_of_reaching(logits, k) for k in steps], axis=-1)
    reached = grades[:, None] >= tf.constant(steps)  # [B, 4]
    losses = tf.nn.sigmoid_cross_entropy_with_logits(
        tf.cast(reached, logits.dtype), reaching
    )
    return tf.reduce_sum(losses, axis=-1)


class FocalLoss(keras.losses.Loss):
    """Binary focal loss, Lin et al., 2017, https://arxiv.org/abs/1708.02002, eq. 5.

    FL = -alpha_t (1 - p_t)^gamma log(p_t), where p_t is the probability of the true
    class, and alpha_t is alpha for positive and 1 - alpha for negative labels.
    """

    def __init__(self, *, gamma: float, alpha: float) -> None:
        super().__init__(name="focal")
        self.gamma = gamma
        self.alpha = alpha

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image.

        Args:
            y_true: int [B, 1], 1 for positive.
            y_pred: float32 [B, 1], the logits.

        Returns:
            float32 [B].
        """
        y_true = tf.cast(y_true, y_pred.dtype)
        crossentropy = tf.nn.sigmoid_cross_entropy_with_logits(y_true, y_pred)
        miss = 1 - tf.exp(-crossentropy)
        # If gamma is below 1, the gradient of 0^gamma is not finite.
        miss = tf.maximum(miss, 1e-7)
        weight = self.alpha * y_true + (1 - self.alpha) * (1 - y_true)
        return tf.reduce_mean(weight * miss**self.gamma * crossentropy, axis=-1)


@dataclass(frozen=True)
class LossKind:
    """The functions of a value of `train.loss`.

    Attributes:
        build: Builds the loss that the `train` section describes.
        output: The output layer that it trains, a key of `drtf.models.head.OUTPUTS`.
    """

    build: Callable[[TrainConfig], keras.losses.Loss]
    output: OutputName = "classes"


def _build_crossentropy(config: TrainConfig) -> keras.losses.Loss:
    if TASKS[config.task].predicts_grades:
        smoothing = config.label_smoothing
        crossentropy = functools.partial(grade_crossentropy, label_smoothing=smoothing)
        return GradeLoss("grade_crossentropy", crossentropy)
    return keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=config.label_smoothing
    )


def _build_focal(config: TrainConfig) -> keras.losses.Loss:
    return FocalLoss(gamma=config.focal_gamma, alpha=config.focal_alpha)


LOSSES: Mapping[LossName, LossKind] = {
    "crossentropy": LossKind(_build_crossentropy),
    "focal": LossKind(_build_focal),
    "mse": LossKind(
        lambda config: GradeLoss("expected_grade_error", expected_grade_error),
        "equal_steps",
    ),
    "coral": LossKind(lambda config: GradeLoss("coral", coral_loss), "trained_steps"),
}

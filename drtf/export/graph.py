"""The graph that is exported: from uint8 pixels to named outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from drtf.errors import DrtfError
from drtf.models.calibration import MARGIN, Calibration
from drtf.models.network import scale_images
from drtf.models.prediction import build_views
from drtf.models.run import Run

Compiled: TypeAlias = "tf.types.experimental.PolymorphicFunction"

# What the outputs are, by name, in the order of a graph.
OUTPUTS: Mapping[str, str] = {
    "score": "float32 [B] in [0, 1], that the grade is positive",
    "probability": "float32 [B] in [0, 1], the calibrated score, rounded as in the "
    "table of drtf score",
    "predicted_label": "int32 [B], 1 if the score is at least the threshold, "
    "otherwise 0",
    "expected_grade": "float32 [B] from 0 to 4",
    "predicted_grade": "int32 [B] from 0 to 4",
}
IMAGE = "image"


@dataclass(frozen=True)
class Graph:
    """The graph to export.

    Attributes:
        image_size: Height and width that the network takes, in px.
        names: Names of the outputs, keys of `OUTPUTS` in their order.
        network: The Keras network, whose weights the graph uses.
        call: From RGB in [0, 255], uint8 or float32 [B, H, W, 3], to the outputs in
            this order, each [B].
    """

    image_size: int
    names: Sequence[str]
    network: keras.Model
    call: Callable[[tf.Tensor], Sequence[tf.Tensor]]

    def compile(self) -> Compiled:
        """Return a compiled function from uint8 images of any size to named outputs."""
        return tf.function(
            lambda image: dict(zip(self.names, self.call(image), strict=True)),
            autograph=False,
            input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, IMAGE)],
        )

    def compile_numbered(self, spec: tf.TensorSpec) -> Compiled:
        """Return a compiled function whose outputs have an order but no names."""
        return tf.function(
            lambda image: tuple(self.call(image)),
            autograph=False,
            input_signature=[spec],
        )


def build_graph(run: Run, *, whole: bool) -> Graph:
    """Build the graph that is exported.

    Args:
        run: The run.
        whole: Whether the graph contains the whole decision rule. Otherwise it scores
            one view, and test-time augmentation, calibration, threshold and cut points
            are left to the caller.

    Raises:
        DrtfError: If the whole graph of a run without a decision rule is asked for.
    """
    size, task = run.info.image_size, run.task
    tta = run.tta if whole else "none"
    rule = run.decision_rule if whole else None
    if whole and rule is None:
        raise DrtfError(
            f"--whole exports the decision rule of a run, but {run.folder} has none: "
            "run drtf evaluate first"
        )

    def call(image: tf.Tensor) -> list[tf.Tensor]:
        pixels = tf.image.resize(scale_images(image), (size, size))
        views = build_views(pixels, tta)  # [V, B, H, W, 3]
        joined = tf.reshape(views, [-1, size, size, 3])
        by_view = run.network(joined, training=False)
        by_view = tf.reshape(by_view, [views.shape[0], -1, task.num_logits])
        probabilities = tf.reduce_mean(by_view, axis=0)  # [B, C]
        score = tf.reduce_sum(probabilities[:, task.disease_outputs], axis=-1)
        outputs = {"score": score}
        if rule:
            outputs["probability"] = calibrate(score, rule.calibration)
            is_positive = score >= rule.threshold.value
            outputs["predicted_label"] = tf.cast(is_positive, tf.int32)
        if task.predicts_grades:
            grades = tf.range(task.num_logits, dtype=tf.float32)
            expected = tf.reduce_sum(probabilities * grades, axis=-1)
            outputs["expected_grade"] = expected
            if rule:
                cuts = tf.constant(rule.cut_points, tf.float32)
                reached = tf.cast(expected[:, None] >= cuts, tf.int32)
                outputs["predicted_grade"] = tf.reduce_sum(reached, axis=-1)
        return list(outputs.values())

    wholly = {"probability", "predicted_label", "predicted_grade"}
    graded = {"expected_grade", "predicted_grade"}
    names = [
        name
        for name in OUTPUTS
        if (whole or name not in wholly)
        and (task.predicts_grades or name not in graded)
    ]
    return Graph(size, names, run.network, call)


def calibrate(scores: tf.Tensor, calibration: Calibration) -> tf.Tensor:
    """Compute `Calibration.apply_rounded` in TensorFlow.

    Args:
        scores: float32 [B] in [0, 1].
        calibration: The fitted mapping.

    Returns:
        float32 [B] in [0, 1].
    """
    clipped = tf.clip_by_value(scores, MARGIN, 1 - MARGIN)
    shifted = _logit(clipped) + calibration.prior_shift
    if calibration.method == "isotonic":
        curve = interpolate(
            tf.sigmoid(shifted), calibration.scores, calibration.probabilities
        )
        logits = _logit(curve) + calibration.prevalence_shift
    else:
        logits = shifted / calibration.temperature + calibration.offset
        logits += calibration.prevalence_shift
    steps = 10.0**calibration.num_decimals
    rounded = tf.round(tf.sigmoid(logits) * steps) / steps
    lowest = calibration.lowest_probability
    return tf.clip_by_value(rounded, lowest, 1 - lowest)


def interpolate(x: tf.Tensor, xs: Sequence[float], ys: Sequence[float]) -> tf.Tensor:
    """Compute `numpy.interp` as a sum of one ramp for each piece of the curve.

    Args:
        x: float32 [B].
        xs: Where the pieces meet, in ascending order.
        ys: The values there.

    Returns:
        float32 [B].
    """
    starts = np.asarray(xs, np.float32)
    # Of two points at one place, the curve jumps from the first to the second.
    widths = np.maximum(np.diff(starts), np.finfo(np.float32).tiny)
    rises = np.diff(np.asarray(ys)).astype(np.float32)
    ramps = tf.clip_by_value((x[:, None] - starts[:-1]) / widths, 0.0, 1.0)
    return np.float32(ys[0]) + tf.reduce_sum(rises * ramps, axis=-1)


def _logit(p: tf.Tensor) -> tf.Tensor:
    return tf.math.log(p) - tf.math.log(1.0 - p)

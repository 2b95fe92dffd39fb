"""Comparison of an exported network with Keras, one photograph at a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from drtf.config import Tta
from drtf.data.loader import read_batch
from drtf.export.formats import Predict
from drtf.models.network import scale_images
from drtf.models.prediction import build_predictor, build_views
from drtf.models.run import Run
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import classes_at

# From one photograph, uint8 RGB [1, H, W, 3], to its outputs by name.
PredictOne = Callable[[np.ndarray], dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """An exported network compared with the Keras network.

    Attributes:
        num_photographs: Number of photographs that both networks scored, one at a time,
            with all views.
        max_difference: Largest absolute difference between the scores of a photograph.
        max_probability_difference: The same for probabilities; 0 without calibration.
        num_changed_predictions: Number of photographs whose predicted label differs.
        num_changed_grades: Number of photographs whose predicted grade differs; 0 if
            the run predicts no grades.
        roc_auc: ROC AUC of the exported network.
        keras_roc_auc: ROC AUC of the Keras network.
        images_per_second: Speed of the exported network, all views included.
        keras_images_per_second: Speed of the Keras network, compiled.
    """

    num_photographs: int
    max_difference: float
    max_probability_difference: float
    num_changed_predictions: int
    num_changed_grades: int
    roc_auc: float
    keras_roc_auc: float
    images_per_second: float
    keras_images_per_second: float


def compare(
    y_true: np.ndarray,
    exported: tuple[pd.DataFrame, float],
    keras: tuple[pd.DataFrame, float],
) -> Comparison:
    """Compare the predictions of two networks for the same photographs.

    Args:
        y_true: int64 [n], 1 for positive.
        exported: From `predict_each`, with the exported network.
        keras: From `predict_each`, with the Keras network.
    """
    (ours, our_rate), (theirs, their_rate) = exported, keras
    differences = (ours - theirs).abs()

    def largest(name: str) -> float:
        return float(differences[name].max()) if name in differences else 0.0

    def count(name: str) -> int:
        return int((differences[name] > 0).sum()) if name in differences else 0

    return Comparison(
        num_photographs=len(y_true),
        max_difference=largest("score"),
        max_probability_difference=largest("probability"),
        num_changed_predictions=count("predicted_label"),
        num_changed_grades=count("predicted_grade"),
        roc_auc=_roc_auc(y_true, ours["score"]),
        keras_roc_auc=_roc_auc(y_true, theirs["score"]),
        images_per_second=our_rate,
        keras_images_per_second=their_rate,
    )


def _roc_auc(y_true: np.ndarray, scores: pd.Series) -> float:
    """Return the ROC AUC, or NaN if all photographs are of one class."""
    if y_true.min() == y_true.max():
        return float("nan")
    return float(roc_auc_score(y_true, scores))


def keras_predictor(run: Run) -> PredictOne:
    """Return a function that predicts with Keras, as scoring does."""
    predict_views = build_predictor(run.network, run.tta)

    def predict(image: np.ndarray) -> dict[str, float]:
        probabilities = predict_views(tf.constant(image)).numpy()[0].mean(axis=0)
        outputs = {"score": float(run.task.disease_scores(probabilities))}
        if run.task.predicts_grades:
            expected = run.task.expected_classes(probabilities)
            outputs["expected_grade"] = float(expected)
        return outputs

    return predict


def exported_predictor(predict_views: Predict, tta: Tta) -> PredictOne:
    """Return a function that averages the outputs of an exported network over views.

    Args:
        predict_views: The exported network.
        tta: The views that it does not make itself.
    """

    def predict(image: np.ndarray) -> dict[str, float]:
        views = build_uint8_views(image, tta)
        outputs = predict_views(views)
        return {name: float(values.mean(axis=0)) for name, values in outputs.items()}

    return predict


def build_uint8_views(image: np.ndarray, tta: Tta) -> np.ndarray:
    """Build the views of one photograph, uint8 [1, H, W, 3], as uint8 [V, H, W, 3]."""
    if tta == "none":
        return image
    views = build_views(scale_images(image), tta)[:, 0]
    return tf.cast(tf.round(views * 255.0), tf.uint8).numpy()


def predict_each(
    predict: PredictOne, shards: ShardDataset, rows: np.ndarray, *, title: str
) -> tuple[pd.DataFrame, float]:
    """Predict photographs one at a time, as users of exported networks do.

    Args:
        predict: Predicts one photograph.
        shards: An open dataset.
        rows: The photographs, as rows of the index.
        title: What the progress bar shows.

    Returns:
        One row per photograph, with the outputs; the photographs per second.
    """
    size = shards.manifest.image_size
    predict(np.zeros((1, size, size, 3), np.uint8))  # compile and allocate memory
    outputs = []
    seconds = 0.0
    with progress(title, len(rows)) as advance:
        for row in rows:
            image = read_batch(shards, row[None])
            start = time.perf_counter()
            outputs.append(predict(image))
            seconds += time.perf_counter() - start
            advance()
    return pd.DataFrame(outputs), len(rows) / seconds


def add_predictions(outputs: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Add the outputs that a graph without the decision rule leaves to the caller.

    Each photograph is predicted by itself, whatever the fellow eye.

    Args:
        outputs: From `predict_each`.
        run: The run, whose decision rule applies.
    """
    scores = outputs["score"].to_numpy()
    added = {"predicted_label": (scores >= run.effective_threshold).astype(int)}
    if run.calibration:
        added["probability"] = run.calibration.apply_rounded(scores)
    if run.task.predicts_grades:
        expected = outputs["expected_grade"].to_numpy()
        added["predicted_grade"] = classes_at(expected, run.cut_points)
    return pd.DataFrame({**added, **outputs})

"""Validation: what a network in training makes of photographs it does not train on."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    recall_score,
    roc_auc_score,
)

from drtf.tasks import GRADES
from drtf.training.trainer import Batch, Trainer


class Validation:
    """Measures a trainer's network on a split.

    Attributes:
        task: what the network learns.
        classes: int64 [n], the true classes of the last measurement.
        probabilities: float32 [n, C], of the classes, or [n, 1] of disease.
    """

    def __init__(self, trainer: Trainer, batches: Iterable[Batch]) -> None:
        """Make a validation.

        Args:
            trainer: whose network is measured.
            batches: of `eval_dataset`, or such a dataset distributed.
        """
        self.task = trainer.task
        self._trainer = trainer
        self._batches = batches
        strategy = tf.distribute.get_strategy()
        self._predict = tf.function(
            lambda batch: strategy.run(trainer.test_step, (batch,))
        )
        self._list_parts = strategy.experimental_local_results
        self.classes = np.zeros(0, np.int64)
        self.probabilities = np.zeros((0, 1), np.float32)

    def measure(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Predict the whole split, and measure that by scikit-learn.

        Args:
            stop: asked after each batch whether to leave it.

        Returns:
            None where it was left; `loss` alone where it is not finite; or `loss`,
            `accuracy`, `balanced_accuracy`, `roc_auc` and `average_precision` of
            disease, and of grades their quadratic weighted `kappa`. The score from
            which disease is decided is 0.5.
        """
        labels, logits = [], []
        for batch in self._batches:
            found = self._list_parts(self._predict(batch))
            parts = zip(
                self._list_parts(batch["mask"]),
                self._list_parts(batch["label"]),
                found,
                strict=True,
            )
            for mask, label, logit in parts:
                # Padding does not count.
                labels.append(label.numpy()[mask.numpy()])
                logits.append(logit.numpy()[mask.numpy()])
            if stop():
                return None
        y_true, y_pred = np.concatenate(labels), np.concatenate(logits)
        loss = tf.reduce_mean(self._trainer.task_loss.call(y_true[:, None], y_pred))
        self.classes = y_true
        grades = self.task.predicts_grades
        activation = keras.ops.softmax if grades else keras.ops.sigmoid
        self.probabilities = np.asarray(activation(y_pred))
        if not np.isfinite(loss):
            return {"loss": float(loss)}
        return {"loss": float(loss)} | self._measure()

    def disease_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Return whether there is disease, bool [n], and its scores, float32 [n]."""
        positive = self.classes >= self.task.first_positive_class
        return positive, self.task.disease_scores(self.probabilities)

    def predicted_classes(self) -> np.ndarray:
        """Return the classes decided on, int64 [n]."""
        return self.task.predicted_classes(self.probabilities)

    def _measure(self) -> dict[str, float]:
        positive, scores = self.disease_scores()
        decisions = self.predicted_classes()
        found = {
            "roc_auc": roc_auc_score(positive, scores),
            "average_precision": average_precision_score(positive, scores),
            "accuracy": accuracy_score(self.classes, decisions),
            "balanced_accuracy": recall_score(
                self.classes,
                decisions,
                labels=np.unique(self.classes),
                average="macro",
                zero_division=0,
            ),
        }
        if self.task.predicts_grades:
            # All grades are listed, since a missing one would bring its neighbours
            # closer together.
            found["kappa"] = cohen_kappa_score(
                self.classes, decisions, labels=GRADES, weights="quadratic"
            )
        return {name: float(value) for name, value in found.items()}

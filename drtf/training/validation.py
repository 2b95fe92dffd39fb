"""Validation: the metrics of a network on photographs it does not train on."""

from collections.abc import Callable, Iterable, Mapping

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

from drtf.tasks import GRADES, classes_at
from drtf.training.hosts import Hosts
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation_groups import WORST


class Validation:
    """Measures a trainer's network on a split.

    Attributes:
        task: what the network learns.
        rows: int64 [n], the index rows of the last measurement.
        classes: int64 [n], the true classes of the last measurement.
        probabilities: float32 [n, C], of the classes, or [n, 1] of disease.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Iterable[Batch],
        *,
        hosts: Hosts,
        groups: Mapping[str, np.ndarray],
    ) -> None:
        """Prepare the prediction function.

        Args:
            trainer: Its network is measured.
            batches: From `eval_dataset`, or such a dataset distributed. Each host has
                different batches, as many as the others.
            hosts: The hosts that measure together.
            groups: From `validation_groups`.
        """
        self.task = trainer.task
        self._trainer = trainer
        self._batches = batches
        self._hosts = hosts
        self._groups = groups
        strategy = tf.distribute.get_strategy()
        self._predict = tf.function(
            lambda batch: strategy.run(trainer.test_step, (batch,))
        )
        self._device_values = strategy.experimental_local_results
        self.rows = np.zeros(0, np.int64)
        self.classes = np.zeros(0, np.int64)
        self.probabilities = np.zeros((0, 1), np.float32)

    def measure(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Predict the whole split and return its metrics by name.

        Args:
            stop: Called after each batch; true stops the validation.

        Returns:
            None if stopped. Only `loss` if it is non-finite. Otherwise `loss`,
            `roc_auc` and `average_precision` of the disease score, `accuracy` and
            `balanced_accuracy` of the predicted classes (with a threshold of 0.5), for
            the task `grades` the quadratic weighted `kappa`, and if there are groups
            `roc_auc[NAME]` of each and the lowest of them, `worst_roc_auc`.
        """
        masks, rows, labels, logits = [], [], [], []
        for batch in self._batches:
            masks += self._device_values(batch["mask"])
            rows += self._device_values(batch["row"])
            labels += self._device_values(batch["label"])
            logits += self._device_values(self._predict(batch))
            if stop():
                return None
        mask, row, y_true, y_pred = (
            np.concatenate(self._hosts.gather(np.concatenate(values)))
            for values in (masks, rows, labels, logits)
        )
        self.rows, y_true, y_pred = row[mask], y_true[mask], y_pred[mask]
        loss = tf.reduce_mean(self._trainer.task_loss.call(y_true[:, None], y_pred))
        self.classes = y_true
        grades = self.task.predicts_grades
        activation = keras.ops.softmax if grades else keras.ops.sigmoid
        self.probabilities = np.asarray(activation(y_pred))
        if not np.isfinite(loss):
            return {"loss": float(loss)}
        return {"loss": float(loss)} | self._measure()

    def labels_and_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the binary labels, bool [n], and the disease scores, float32 [n]."""
        positive = self.classes >= self.task.first_positive_class
        return positive, self.task.disease_scores(self.probabilities)

    def predicted_classes(self) -> np.ndarray:
        """Return the predicted classes, int64 [n]: the nearest to the expected ones."""
        expected = self.task.expected_classes(self.probabilities)
        return classes_at(expected, self.task.neutral_cut_points)

    def _measure(self) -> dict[str, float]:
        positive, scores = self.labels_and_scores()
        predicted = self.predicted_classes()
        metrics = {
            "roc_auc": roc_auc_score(positive, scores),
            "average_precision": average_precision_score(positive, scores),
            "accuracy": accuracy_score(self.classes, predicted),
            "balanced_accuracy": recall_score(
                self.classes,
                predicted,
                labels=np.unique(self.classes),
                average="macro",
                zero_division=0,
            ),
        }
        if self.task.predicts_grades:
            # All grades are listed: without a missing one, its neighbors would count
            # as adjacent.
            metrics["kappa"] = cohen_kappa_score(
                self.classes, predicted, labels=GRADES, weights="quadratic"
            )
        by_group = {
            f"roc_auc[{name}]": roc_auc_score(positive[members], scores[members])
            for name, rows in self._groups.items()
            for members in [np.isin(self.rows, rows)]
        }
        if by_group:
            metrics |= by_group | {WORST: min(by_group.values())}
        return {name: float(value) for name, value in metrics.items()}

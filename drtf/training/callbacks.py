"""Callbacks of a training run, in addition to Keras's own."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Monitor, TrainConfig
from drtf.figures import plot_confusion, plot_grid, plot_roc
from drtf.tasks import TASKS, Task
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation import Validation

NUM_PER_CLASS = 8


def build_callbacks(
    config: TrainConfig,
    *,
    best_model: "BestModel",
    validation: Validation,
    trainer: Trainer,
    load_batch: Callable[[], Batch],
    logs: Path | None,
) -> list[keras.callbacks.Callback]:
    """Build the callbacks that the `train` section asks for.

    Args:
        config: The `train` section.
        best_model: The callback that saves the best model.
        validation: Its ROC curve and confusion matrix are shown in TensorBoard.
        trainer: Its augmentation is shown in TensorBoard.
        load_batch: Loads a batch to augment.
        logs: TensorBoard's folder; None for a host that writes no logs.
    """
    callbacks: list[keras.callbacks.Callback] = [best_model]
    if logs:
        callbacks += [
            keras.callbacks.TensorBoard(logs, write_graph=False),
            AugmentedImages(trainer, load_batch, logs / "train"),
            BestFigures(best_model, validation, logs / "validation"),
        ]
    if config.schedule == "plateau":
        monitor = _metric_name(config.plateau_monitor, TASKS[config.task])
        plateau = keras.callbacks.ReduceLROnPlateau(
            monitor,
            mode=_metric_mode(monitor),
            factor=config.plateau_factor,
            patience=config.plateau_patience,
        )
        callbacks.append(plateau)
    if config.early_stopping_patience:
        monitor = monitor_name(config)
        stopping = keras.callbacks.EarlyStopping(
            monitor,
            mode=_metric_mode(monitor),
            patience=config.early_stopping_patience,
        )
        callbacks.append(stopping)
    return callbacks


def monitor_name(config: TrainConfig) -> str:
    """Return the name in the history of the metric that selects the best epoch."""
    return _metric_name(config.monitor, TASKS[config.task])


def _metric_name(monitor: Monitor, task: Task) -> str:
    return f"val_{task.default_monitor if monitor == 'auto' else monitor}"


def _metric_mode(monitor: str) -> str:
    return "min" if monitor == "val_loss" else "max"


class BestModel(keras.callbacks.Callback):
    """Saves the model of the best epoch. Of equal epochs, the lower loss wins.

    Attributes:
        best: The values that the best epoch so far has: metric and negative loss.
        best_epoch: Its number, from 1; 0 before the first epoch.
    """

    def __init__(self, save: Callable[[], None], *, monitor: str) -> None:
        super().__init__()
        self._save = save
        self._monitor = monitor
        self.best = [-math.inf, -math.inf]
        self.best_epoch = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the model if this epoch is the best so far."""
        logs = logs or {}
        loss = logs["val_loss"]
        metric = -loss if self._monitor == "val_loss" else logs[self._monitor]
        if [metric, -loss] > self.best:
            self.best = [metric, -loss]
            self.best_epoch = epoch + 1
            self._save()


class AugmentedImages(keras.callbacks.Callback):
    """Shows augmented photographs in TensorBoard before the first step."""

    def __init__(
        self, trainer: Trainer, load_batch: Callable[[], Batch], logs: Path
    ) -> None:
        super().__init__()
        self._trainer = trainer
        self._load_batch = load_batch
        self._writer = tf.summary.create_file_writer(str(logs))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw some photographs of each class."""
        if epoch:
            return
        batch = self._load_batch()
        changed, _ = self._trainer.augment_batch(batch)
        pixels = tf.cast(tf.round(changed * 255), tf.uint8).numpy()
        classes = batch["label"].numpy()
        page = io.BytesIO()
        plot_grid(
            page,
            [
                (
                    f"Class {number}",
                    [("", x) for x in pixels[classes == number][:NUM_PER_CLASS]],
                )
                for number in np.unique(classes)
            ],
        )
        _write_image(self._writer, "augmented", page, step=0)


class BestFigures(keras.callbacks.Callback):
    """Shows ROC curve and confusion matrix of each new best epoch in TensorBoard."""

    def __init__(
        self, best_model: BestModel, validation: Validation, logs: Path
    ) -> None:
        super().__init__()
        self._best_model = best_model
        self._validation = validation
        self._writer = tf.summary.create_file_writer(str(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw the figures if this epoch is the best so far."""
        if self._best_model.best_epoch != epoch + 1:
            return
        validation = self._validation
        positive, scores = validation.labels_and_scores()
        roc, confusion = io.BytesIO(), io.BytesIO()
        roc_auc = (logs or {})["val_roc_auc"]
        caption = f"AUC {roc_auc:.3f}"
        plot_roc(roc, positive, scores, caption=caption, threshold=0.5)
        task = validation.task
        matrix = np.zeros((task.num_classes, task.num_classes), np.int64)
        np.add.at(matrix, (validation.classes, validation.predicted_classes()), 1)
        plot_confusion(confusion, matrix, labels=task.class_names)
        _write_image(self._writer, "roc", roc, step=epoch)
        _write_image(self._writer, "confusion_matrix", confusion, step=epoch)


def _write_image(
    writer: tf.summary.SummaryWriter, name: str, png: io.BytesIO, *, step: int
) -> None:
    """Write an image to TensorBoard."""
    with writer.as_default():
        tf.summary.image(name, tf.io.decode_png(png.getvalue())[None], step=step)
    writer.flush()

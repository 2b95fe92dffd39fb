"""Callbacks: what happens around the epochs of a training, beside Keras's own."""

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
from drtf.models.network import scale_images
from drtf.tasks import TASKS, Task
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation import Validation

NUM_SHOWN = 8


def build_callbacks(
    config: TrainConfig,
    *,
    keeper: "BestModel",
    validation: Validation,
    trainer: Trainer,
    load_batch: Callable[[], Batch],
    logs: Path,
) -> list[keras.callbacks.Callback]:
    """Build the callbacks that the `train` section asks for.

    Args:
        config: the `train` section.
        keeper: of the best model, one of them.
        validation: that is shown in TensorBoard.
        trainer: whose augmentation is shown there.
        load_batch: loads what to show it on.
        logs: TensorBoard's folder.
    """
    callbacks = [
        keeper,
        keras.callbacks.TensorBoard(logs, write_graph=False),
        AugmentedPage(trainer, load_batch, logs / "train"),
        BestFigures(keeper, validation, logs / "validation"),
    ]
    if config.schedule == "plateau":
        monitor = _metric_name(config.plateau_monitor, TASKS[config.task])
        plateau = keras.callbacks.ReduceLROnPlateau(
            monitor,
            mode=_find_mode(monitor),
            factor=config.plateau_factor,
            patience=config.plateau_patience,
        )
        callbacks.append(plateau)
    if config.early_stopping_patience:
        monitor = monitor_name(config)
        stopping = keras.callbacks.EarlyStopping(
            monitor,
            mode=_find_mode(monitor),
            patience=config.early_stopping_patience,
        )
        callbacks.append(stopping)
    return callbacks


def monitor_name(config: TrainConfig) -> str:
    """Return the name in the history of what the best epoch is chosen by."""
    return _metric_name(config.monitor, TASKS[config.task])


def _metric_name(monitor: Monitor, task: Task) -> str:
    return f"val_{task.default_monitor if monitor == 'auto' else monitor}"


def _find_mode(monitor: str) -> str:
    return "min" if monitor == "val_loss" else "max"


class BestModel(keras.callbacks.Callback):
    """Keeps the model of the best epoch; of equal ones, that of the lower loss.

    Attributes:
        best: what is highest in the best epoch so far.
        best_epoch: its number, from 1.
    """

    def __init__(self, save: Callable[[], None], *, monitor: str) -> None:
        super().__init__()
        self._save = save
        self._monitor = monitor
        self.best = [-math.inf, -math.inf]
        self.best_epoch = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the model where this epoch is the best so far."""
        logs = logs or {}
        loss = logs["val_loss"]
        found = [-loss if self._monitor == "val_loss" else logs[self._monitor], -loss]
        if found > self.best:
            self.best = found
            self.best_epoch = epoch + 1
            self._save()


class AugmentedPage(keras.callbacks.Callback):
    """Shows photographs as training sees them in TensorBoard, before its first step."""

    def __init__(
        self, trainer: Trainer, load_batch: Callable[[], Batch], logs: Path
    ) -> None:
        super().__init__()
        self._trainer = trainer
        self._load_batch = load_batch
        self._writer = tf.summary.create_file_writer(str(logs))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw some of each class."""
        if epoch:
            return
        batch = self._load_batch()
        images = scale_images(batch["image"])
        changed = self._trainer.augment(images, batch["seed"], batch["label"])
        pixels = tf.cast(tf.round(changed * 255), tf.uint8).numpy()
        classes = batch["label"].numpy()
        page = io.BytesIO()
        plot_grid(
            page,
            [
                (
                    f"Class {number}",
                    [("", x) for x in pixels[classes == number][:NUM_SHOWN]],
                )
                for number in np.unique(classes)
            ],
        )
        _write_image(self._writer, "augmented", page, step=0)


class BestFigures(keras.callbacks.Callback):
    """Shows ROC curve and confusion matrix of each new best epoch in TensorBoard."""

    def __init__(self, keeper: BestModel, validation: Validation, logs: Path) -> None:
        super().__init__()
        self._keeper = keeper
        self._validation = validation
        self._writer = tf.summary.create_file_writer(str(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw where the model was just kept."""
        if self._keeper.best_epoch != epoch + 1:
            return
        validation = self._validation
        positive, scores = validation.disease_scores()
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
    """Write a picture to TensorBoard."""
    with writer.as_default():
        tf.summary.image(name, tf.io.decode_png(png.getvalue())[None], step=step)
    writer.flush()

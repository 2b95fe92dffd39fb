"""Callbacks: what happens around the steps and epochs of a training run."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from drtf.config import TrainConfig
from drtf.errors import DrtfError
from drtf.progress import Advance


def plan_learning_rate(step: int, *, num_steps: int, config: TrainConfig) -> float:
    """Return a step's learning rate: linear warm-up, then half a cosine down to zero.

    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts.

    Args:
        step: from 0.
        num_steps: of the whole run.
        config: the `train` section.
    """
    warmup_steps = round(num_steps * config.warmup_share)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress_share = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * progress_share)) / 2


class Schedule(keras.callbacks.Callback):
    """Sets the learning rate before each step.

    A schedule inside the optimizer would be traced once for each variable.
    """

    def __init__(self, config: TrainConfig, *, num_steps: int) -> None:
        super().__init__()
        self._config = config
        self._num_steps = num_steps

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Set the step's learning rate."""
        optimizer = self.model.optimizer
        optimizer.learning_rate = plan_learning_rate(
            int(optimizer.iterations), num_steps=self._num_steps, config=self._config
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the learning rate into the history, as ReduceLROnPlateau does."""
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class BestModel(keras.callbacks.Callback):
    """Keeps the model of the best epoch: by ROC AUC, then by loss, of validation."""

    def __init__(self, save: Callable[[], None]) -> None:
        super().__init__()
        self._save = save
        self._best = (-math.inf, -math.inf)
        self.best_epoch = 0

    @property
    def best_roc_auc(self) -> float:
        """The validation ROC AUC of the best epoch so far."""
        return self._best[0]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the model where this epoch is the best so far."""
        logs = logs or {}
        result = (float(logs["val_roc_auc"]), -float(logs["val_loss"]))
        if result > self._best:
            self._best = result
            self.best_epoch = epoch + 1
            self._save()


class StopAtNonFinite(keras.callbacks.Callback):
    """Fails the run when the loss is no longer finite."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the epoch's mean loss.

        Raises:
            DrtfError: if it is not finite.
        """
        loss = (logs or {})["loss"]
        if not np.isfinite(loss):
            raise DrtfError(
                f"the loss became {loss} in epoch {epoch + 1}: try a smaller "
                "train.learning_rate, or train.precision=float32"
            )


class ProgressBar(keras.callbacks.Callback):
    """Advances a bar by a step, and shows the last epoch's metrics beside it."""

    def __init__(self, advance: Advance, epochs: int) -> None:
        super().__init__()
        self._advance = advance
        self._epochs = epochs
        self._note = ""

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Count a step."""
        self._advance(self._note)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take the epoch's metrics into the bar."""
        logs = logs or {}
        self._note = (
            f"epoch {epoch + 1}/{self._epochs}: loss {logs['loss']:.3f}, "
            f"val_loss {logs['val_loss']:.3f}, val_roc_auc {logs['val_roc_auc']:.3f}"
        )

"""The training loop: steps, epochs, checkpoints, and resuming from one."""

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

from drtf.data.pipeline import StreamPosition
from drtf.errors import DrtfError, RunError, StoppedError
from drtf.files import save_rows, write_atomic
from drtf.models.device import training_versions
from drtf.models.history import save_history
from drtf.models.run import MODEL_FILE
from drtf.models.stored_run import try_to_upload
from drtf.progress import Advance, progress
from drtf.training.callbacks import monitor_name
from drtf.training.checkpoint import Checkpoint, list_checkpoints, save_checkpoint
from drtf.training.context import TrainingContext
from drtf.training.trainer import Batch

# The attributes of each kind of callback that change from epoch to epoch.
CALLBACK_ATTRIBUTES = {
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
    "EarlyStopping": ("best", "wait", "best_epoch", "stopped_epoch"),
    "BestModel": ("best", "best_epoch"),
}
# Long compared with the call of a compiled function, during which a GPU is idle, and
# short for a user who waits for it to end.
EXECUTION_SECONDS = 0.25
MAX_STEPS_PER_EXECUTION = 256
NUM_STEPS_SPEC = tf.TensorSpec([], tf.int32)
FAILED_BATCH_FILE = "failed_batch.csv"
MAX_IDS_IN_MESSAGE = 5

_log = logging.getLogger(__name__)


@dataclass
class TrainingStatus:
    """How far a training run is. A checkpoint holds it.

    Attributes:
        position: Of the next batch.
        history: The metrics of each finished epoch.
        is_stopped: Whether a callback has ended the training.
        epoch_seconds: Time that the steps of the current epoch have taken.
        wait_seconds: The part of it that was spent waiting for batches.
    """

    position: StreamPosition
    history: list[dict[str, float]] = field(default_factory=list)
    is_stopped: bool = False
    epoch_seconds: float = 0.0
    wait_seconds: float = 0.0


def run_epochs(
    context: TrainingContext,
    *,
    checkpoint: Checkpoint | None,
    signals: Sequence[signal.Signals],
) -> TrainingStatus:
    """Train to the end, from the start or from a checkpoint.

    Args:
        context: The parts of the training.
        checkpoint: To resume from; None starts from the beginning.
        signals: From `catch_signals`. The training stops after the first one.

    Raises:
        StoppedError: If a signal stopped a host; everything is saved.
        DrtfError: If the loss, gradients, predictions or weights become non-finite.
        RunError: If the checkpoint is of another network.
    """
    trainer, epochs = context.trainer, context.config.epochs
    callbacks = keras.callbacks.CallbackList(
        list(context.callbacks),
        model=trainer,
        epochs=epochs,
        steps=context.steps_per_epoch,
        verbose=0,
    )
    trainer.stop_training = False
    callbacks.on_train_begin()
    status = TrainingStatus(StreamPosition(context.config.seed))
    if checkpoint:
        status = restore_training(context, checkpoint)
    batches = context.stream_batches(status.position)
    while status.position.epoch < epochs and not status.is_stopped:
        _stop_on_signal(context, status, signals)
        trainer.begin_epoch(status.position.epoch)
        # Trace here, so that the first step is timed like the others.
        trainer.execute_steps.get_concrete_function(batches, NUM_STEPS_SPEC)
        title = f"Epoch {status.position.epoch + 1}/{epochs}"
        num_done = status.position.step
        total = context.steps_per_epoch if context.hosts.is_first else 0
        with progress(title, total, done=num_done) as advance:
            callbacks.on_epoch_begin(status.position.epoch)
            _run_epoch_steps(context, status, batches, signals, advance)
            _finish_epoch(context, status, callbacks, signals)
            advance(_epoch_summary(context, status), 0)
    callbacks.on_train_end()
    return status


def _run_epoch_steps(
    context: TrainingContext,
    status: TrainingStatus,
    batches: Iterator[Batch],
    signals: Sequence[signal.Signals],
    advance: Advance,
) -> None:
    """Run the steps that remain in the epoch, and save checkpoints on the way."""
    trainer, config = context.trainer, context.config
    if status.position.step == 0:
        trainer.reset_metrics()
    requested = config.steps_per_execution
    num_steps = 1 if requested == "auto" else requested
    last_save = time.monotonic()
    while num_left := context.steps_per_epoch - status.position.step:
        start = time.monotonic()
        result = trainer.execute_steps(
            batches, tf.constant(min(num_steps, num_left), tf.int32)
        )
        num_done = int(result.num_done)
        if result.has_failed:
            failed = status.position.advance(num_done - 1)
            _raise_non_finite(context, failed, "the loss or its gradients")
        seconds = time.monotonic() - start
        status.epoch_seconds += seconds
        status.wait_seconds += float(result.wait_seconds)
        status.position = status.position.advance(num_done)
        advance("", num_done)
        if requested == "auto":
            num_steps = choose_num_steps(num_done / seconds)
        is_due = time.monotonic() - last_save >= 60 * config.checkpoint_minutes
        num_steps, is_due = context.hosts.share((num_steps, is_due))
        if is_due:
            save_training(context, status)
            last_save = time.monotonic()
        _stop_on_signal(context, status, signals)


def choose_num_steps(steps_per_second: float) -> int:
    """Return how many steps to run in one call."""
    num_steps = int(EXECUTION_SECONDS * steps_per_second)
    return min(max(num_steps, 1), MAX_STEPS_PER_EXECUTION)


def _finish_epoch(
    context: TrainingContext,
    status: TrainingStatus,
    callbacks: keras.callbacks.CallbackList,
    signals: Sequence[signal.Signals],
) -> None:
    """Validate, call the callbacks, and save the history and a checkpoint."""
    trainer, epoch = context.trainer, status.position.epoch
    logs = {name: float(x) for name, x in trainer.get_metrics_result().items()}
    start = time.monotonic()
    with trainer.use_averaged_weights():
        metrics = context.validation.measure(
            lambda: bool(context.hosts.first_signal(signals))
        )
        metrics = context.hosts.share(metrics)
        if metrics and not np.isfinite(metrics["loss"]):
            last = _last_position(context, status)
            _raise_non_finite(context, last, "predictions")
        if metrics:
            logs |= {f"val_{name}": value for name, value in metrics.items()}
            logs["learning_rate"] = np.asarray(trainer.optimizer.learning_rate).item()
            logs["input_wait_fraction"] = status.wait_seconds / status.epoch_seconds
            logs["seconds"] = status.epoch_seconds
            logs["val_seconds"] = time.monotonic() - start
            callbacks.on_epoch_end(epoch, logs)
    # Not inside the block above, where the weights may be averages.
    if metrics is None:
        _stop_on_signal(context, status, signals)
    status.history.append({"epoch": epoch + 1, **logs})
    status.position = StreamPosition(status.position.seed, epoch + 1)
    status.is_stopped = trainer.stop_training
    status.epoch_seconds = status.wait_seconds = 0.0
    if context.hosts.is_first:
        save_history(context.out, status.history)
    save_training(context, status)


def _epoch_summary(context: TrainingContext, status: TrainingStatus) -> str:
    """Return the epoch's speed and metrics, and the time that the rest will take."""
    last = status.history[-1]
    monitor = monitor_name(context.config)
    names = dict.fromkeys(("loss", "val_loss", "val_roc_auc", monitor))
    metrics = ", ".join(f"{name} {last[name]:.3f}" for name in names)
    text = (
        f"{context.images_per_epoch / last['seconds']:,.0f} images/s, "
        f"{last['input_wait_fraction']:.1%} waiting for input, {metrics}"
    )
    num_left = context.config.epochs - status.position.epoch
    if not num_left:
        return text
    seconds_left = num_left * (last["seconds"] + last["val_seconds"])
    return f"{text}, {timedelta(seconds=round(seconds_left))} left"


def _raise_non_finite(
    context: TrainingContext, position: StreamPosition, subject: str
) -> NoReturn:
    """Save the ids of the photographs in a failed step, and raise an error.

    Args:
        context: The parts of the training.
        position: Of the step's batch.
        subject: What became non-finite, in the plural.
    """
    ids = context.batch_ids(position)
    path = context.out / FAILED_BATCH_FILE
    if context.hosts.is_first:
        save_rows(path, ["id"], ([name] for name in ids))
    examples = ", ".join(ids[:MAX_IDS_IN_MESSAGE])
    if len(ids) > MAX_IDS_IN_MESSAGE:
        examples += ", …"
    checkpoints = list_checkpoints(context.out)
    saved = (
        f"the last good checkpoint is {checkpoints[0]}"
        if checkpoints
        else "no checkpoint was saved yet"
    )
    num_before = np.asarray(context.trainer.num_consecutive_skips).item() - 1
    before = f", after {num_before} skipped steps" if num_before > 0 else ""
    precision = context.trainer.network.dtype_policy.name
    advice = "" if precision == "float32" else " or with train.precision=float32"
    raise DrtfError(
        f"{subject} became non-finite at step {position.step + 1} of epoch "
        f"{position.epoch + 1}{before}. {path} lists its photographs ({examples}); "
        f"{saved}. Train into another folder with a smaller "
        f"train.learning_rate{advice}"
    )


def save_training(context: TrainingContext, status: TrainingStatus) -> None:
    """Save a checkpoint of a training run.

    Raises:
        DrtfError: If the file cannot be written, or weights are non-finite. Earlier
            checkpoints are kept.
    """
    variables = context.trainer.state_variables()
    arrays = [np.asarray(variable) for variable in variables]
    floats = (x for x in arrays if np.issubdtype(x.dtype, np.floating))
    if not all(np.isfinite(x).all() for x in floats):
        _raise_non_finite(context, _last_position(context, status), "weights")
    sums = context.trainer.metric_sums()
    for rows in context.hosts.gather_values(list(context.damaged_rows.items())):
        context.damaged_rows.update(rows)
    if not context.hosts.is_first:
        return
    model = context.out / MODEL_FILE
    state = {
        "versions": training_versions(),
        "status": asdict(status),
        "callbacks": {
            type(callback).__name__: _callback_state(callback)
            for callback in context.callbacks
        },
        "variables": [[str(x.dtype), list(x.shape)] for x in variables],
        "damaged_rows": dict(context.damaged_rows),
    }
    position = status.position
    num_steps = position.epoch * context.steps_per_epoch + position.step
    checkpoint = Checkpoint(
        num_steps, state, arrays, sums, model.read_bytes() if model.exists() else b""
    )
    try:
        save_checkpoint(
            context.out, checkpoint, num_kept=context.config.num_checkpoints
        )
    except OSError as error:
        raise DrtfError(
            f"cannot save a checkpoint in {context.out}: {error.strerror or error}. "
            "Earlier checkpoints are kept: free disk space and run the same command "
            "with --resume"
        ) from error
    try_to_upload(context.out)


def _last_position(context: TrainingContext, status: TrainingStatus) -> StreamPosition:
    """Return the position of the last step that was run."""
    position = status.position
    if position.step == 0:
        position = StreamPosition(
            position.seed, position.epoch - 1, context.steps_per_epoch
        )
    return position.advance(-1)


def restore_training(
    context: TrainingContext, checkpoint: Checkpoint
) -> TrainingStatus:
    """Load a checkpoint into the parts of a training run and into its run folder.

    Raises:
        RunError: If the checkpoint is of another network or optimizer.
    """
    state = checkpoint.state
    if context.hosts.is_first and state["versions"] != training_versions():
        _log.warning(
            "%s was started with other versions or on another device (%s; now %s): "
            "results may differ slightly from those of an uninterrupted run",
            context.out,
            state["versions"],
            training_versions(),
        )
    variables = context.trainer.state_variables()
    if state["variables"] != [[str(x.dtype), list(x.shape)] for x in variables]:
        raise RunError(
            f"{context.out} was started with other versions of drtf or Keras, whose "
            "network or optimizer differs: resume with those versions, or train into "
            "another folder"
        )
    for variable, value in zip(variables, checkpoint.arrays, strict=True):
        variable.assign(value)
    context.trainer.set_metric_sums(checkpoint.metric_sums)
    for callback in context.callbacks:
        for name, value in state["callbacks"][type(callback).__name__].items():
            setattr(callback, name, value)
    rows = {int(row): error for row, error in state["damaged_rows"].items()}
    context.damaged_rows.update(rows)
    saved = state["status"]
    status = TrainingStatus(**saved | {"position": StreamPosition(**saved["position"])})
    # Files left by a killed process may be of a later epoch, or cut off.
    if context.hosts.is_first and checkpoint.model:
        write_atomic(context.out / MODEL_FILE, checkpoint.model)
    if context.hosts.is_first and status.history:
        save_history(context.out, status.history)
    return status


def _callback_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    names = CALLBACK_ATTRIBUTES.get(type(callback).__name__, ())
    return {name: getattr(callback, name) for name in names}


def _stop_on_signal(
    context: TrainingContext,
    status: TrainingStatus,
    signals: Sequence[signal.Signals],
) -> None:
    """Save a checkpoint and raise StoppedError if a host caught a signal."""
    if number := context.hosts.first_signal(signals):
        save_training(context, status)
        position = status.position
        raise StoppedError(
            f"stopped by {signal.Signals(number).name} in epoch {position.epoch + 1}, "
            f"after step {position.step} of {context.steps_per_epoch}. Everything is "
            "saved: run the same command with --resume to continue",
            number,
        )

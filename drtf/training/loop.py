"""The loop of a training: steps, epochs, checkpoints, and going on from one."""

import csv
import io
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.config import TrainConfig
from drtf.data.pipeline import State
from drtf.errors import DrtfError, RunError, StoppedError
from drtf.files import write_atomic
from drtf.models.run import MODEL_FILE, save_history, training_versions
from drtf.progress import Advance, progress
from drtf.training.callbacks import BestModel, monitor_name
from drtf.training.checkpoint import Checkpoint, list_checkpoints, save_checkpoint
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation import Validation

# Of each kind of callback, all that changes from epoch to epoch.
CALLBACK_STATE = {
    "ReduceLROnPlateau": ("best", "wait", "cooldown_counter"),
    "EarlyStopping": ("best", "wait", "best_epoch", "stopped_epoch"),
    "BestModel": ("best", "best_epoch"),
}
# Long against the call of a compiled function, short for who waits for its end.
EXECUTION_SECONDS = 0.1
MAX_STEPS_PER_EXECUTION = 64
NUM_STEPS = tf.TensorSpec([], tf.int64)
FAILED_BATCH_FILE = "failed_batch.csv"
NUM_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass
class Course:
    """Where a training stands.

    Attributes:
        state: of its next batch.
        history: what each epoch measured, one after the other.
        stopped: whether a callback has ended it.
        seconds: of the epoch so far, spent on steps.
        waited: of these, spent waiting for batches.
    """

    state: State
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: bool = False
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class Training:
    """All parts of a training, and what names it.

    Attributes:
        trainer: whose network is trained.
        validation: after each epoch.
        callbacks: Keras's and ours.
        keeper: the one of them that keeps the best model.
        load_batches: the batches from a state on.
        find_ids: the ids of the photographs in a state's batch.
        config: the `train` section.
        out: the run folder.
        steps: of an epoch.
        num_drawn: photographs of an epoch.
        damaged: the rows skipped so far, and what is wrong with each.
    """

    trainer: Trainer
    validation: Validation
    callbacks: Sequence[keras.callbacks.Callback]
    keeper: BestModel
    load_batches: Callable[[State], Iterator[Batch]]
    find_ids: Callable[[State], Sequence[str]]
    config: TrainConfig
    out: Path
    steps: int
    num_drawn: int
    damaged: dict[int, str]


def run_epochs(
    training: Training,
    *,
    checkpoint: Checkpoint | None,
    caught: Sequence[signal.Signals],
) -> Course:
    """Train to the end, from the beginning or from a checkpoint.

    Args:
        training: all its parts.
        checkpoint: to go on from; None begins anew.
        caught: from `catch_signals`; at the first one the training stops.

    Raises:
        StoppedError: if Ctrl-C or SIGTERM stopped it; all is saved then.
        DrtfError: if the loss or its gradients were not finite.
        RunError: if the checkpoint's network is another one.
    """
    trainer, epochs = training.trainer, training.config.epochs
    callbacks = keras.callbacks.CallbackList(
        list(training.callbacks),
        model=trainer,
        epochs=epochs,
        steps=training.steps,
        verbose=0,
    )
    trainer.stop_training = False
    callbacks.on_train_begin()
    course = Course(State(training.config.seed))
    if checkpoint:
        course = restore(training, checkpoint)
    batches = training.load_batches(course.state)
    while course.state.epoch < epochs and not course.stopped:
        _stop_if(caught, training, course)
        trainer.begin_epoch(course.state.epoch)
        # Traced here, so that the first step is timed like the others.
        trainer.run_steps.get_concrete_function(batches, NUM_STEPS)
        title = f"Epoch {course.state.epoch + 1}/{epochs}"
        with progress(title, training.steps, done=course.state.step) as advance:
            callbacks.on_epoch_begin(course.state.epoch)
            _run_steps(training, course, batches, caught, advance)
            _end_epoch(training, course, callbacks, caught)
            advance(_describe(training, course), 0)
    callbacks.on_train_end()
    return course


def _run_steps(
    training: Training,
    course: Course,
    batches: Iterator[Batch],
    caught: Sequence[signal.Signals],
    advance: Advance,
) -> None:
    """Run what is left of an epoch's steps."""
    trainer, config = training.trainer, training.config
    if course.state.step == 0:
        trainer.reset_metrics()
    requested = config.steps_per_execution
    num_steps = 1 if requested == "auto" else requested
    saved = time.monotonic()
    while left := training.steps - course.state.step:
        start = time.monotonic()
        num_done, waited, failed = trainer.run_steps(
            batches, tf.constant(min(num_steps, left), tf.int64)
        )
        if failed:
            state = course.state.advance(int(num_done) - 1)
            raise _explain_failure(training, state, "the loss or its gradients were")
        seconds = time.monotonic() - start
        course.seconds += seconds
        course.waited += float(waited)
        course.state = course.state.advance(int(num_done))
        advance("", int(num_done))
        if requested == "auto":
            num_steps = int(EXECUTION_SECONDS * int(num_done) / seconds)
            num_steps = min(max(num_steps, 1), MAX_STEPS_PER_EXECUTION)
        if time.monotonic() - saved >= 60 * config.checkpoint_minutes:
            capture(training, course)
            saved = time.monotonic()
        _stop_if(caught, training, course)


def _end_epoch(
    training: Training,
    course: Course,
    callbacks: keras.callbacks.CallbackList,
    caught: Sequence[signal.Signals],
) -> None:
    """Validate, tell the callbacks, and save all."""
    trainer, epoch = training.trainer, course.state.epoch
    logs = {name: float(x) for name, x in trainer.get_metrics_result().items()}
    began = time.monotonic()
    with trainer.averaged():
        found = training.validation.measure(lambda: bool(caught))
        if found and not np.isfinite(found["loss"]):
            state = _find_last(training, course)
            raise _explain_failure(training, state, "what is predicted became")
        if found:
            logs |= {f"val_{name}": value for name, value in found.items()}
            logs["learning_rate"] = np.asarray(trainer.optimizer.learning_rate).item()
            logs["input_wait_share"] = course.waited / course.seconds
            logs["seconds"] = course.seconds
            logs["val_seconds"] = time.monotonic() - began
            callbacks.on_epoch_end(epoch, logs)
    # Not above, where weights may be averages.
    if found is None:
        _stop_if(caught, training, course)
    course.history.append({"epoch": epoch + 1, **logs})
    course.state = State(course.state.seed, epoch + 1)
    course.stopped = trainer.stop_training
    course.seconds = course.waited = 0.0
    save_history(training.out, course.history)
    capture(training, course)


def _describe(training: Training, course: Course) -> str:
    """Tell an epoch's rate and metrics, and how long the rest will take."""
    last = course.history[-1]
    monitor = monitor_name(training.config)
    names = dict.fromkeys(("loss", "val_loss", "val_roc_auc", monitor))
    metrics = ", ".join(f"{name} {last[name]:.3f}" for name in names)
    text = (
        f"{training.num_drawn / last['seconds']:,.0f} images/s, "
        f"{last['input_wait_share']:.1%} waiting, {metrics}"
    )
    num_left = training.config.epochs - course.state.epoch
    if not num_left:
        return text
    left = num_left * (last["seconds"] + last["val_seconds"])
    return f"{text}, {timedelta(seconds=round(left))} left"


def _explain_failure(training: Training, state: State, what: str) -> DrtfError:
    """Write down which photographs a step failed on, and say what to do."""
    ids = training.find_ids(state)
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerows([("id",), *((name,) for name in ids)])
    path = training.out / FAILED_BATCH_FILE
    write_atomic(path, table.getvalue())
    named = ", ".join(ids[:NUM_NAMED]) + (" …" if len(ids) > NUM_NAMED else "")
    saved = list_checkpoints(training.out)
    kept = (
        f"the last good checkpoint is {saved[0]}" if saved else "nothing was saved yet"
    )
    streak = np.asarray(training.trainer.streak).item()
    before = f", as in the {streak - 1} steps before it" if streak > 1 else ""
    precision = training.trainer.network.dtype_policy.name
    advice = "" if precision == "float32" else ", or with train.precision=float32"
    return DrtfError(
        f"{what} not finite in step {state.step + 1} of epoch {state.epoch + 1}"
        f"{before}; its photographs are listed in {path} ({named}); {kept}; train into "
        f"another folder with a smaller train.learning_rate{advice}"
    )


def capture(training: Training, course: Course) -> Path:
    """Save a checkpoint of a training.

    Raises:
        DrtfError: if it can't be written, or is not worth it, since weights are not
            finite; those before it are as they were.
    """
    variables = training.trainer.state_variables()
    arrays = [np.asarray(variable) for variable in variables]
    weights = (x for x in arrays if np.issubdtype(x.dtype, np.floating))
    if not all(np.isfinite(x).all() for x in weights):
        raise _explain_failure(training, _find_last(training, course), "weights became")
    model = training.out / MODEL_FILE
    facts = {
        "versions": training_versions(),
        "course": asdict(course),
        "callbacks": [_get_state(callback) for callback in training.callbacks],
        "variables": [[str(x.dtype), list(x.shape)] for x in variables],
        "damaged": dict(training.damaged),
    }
    num_steps = course.state.epoch * training.steps + course.state.step
    checkpoint = Checkpoint(
        num_steps, facts, arrays, model.read_bytes() if model.exists() else b""
    )
    try:
        return save_checkpoint(
            training.out, checkpoint, num_kept=training.config.num_checkpoints
        )
    except OSError as error:
        raise DrtfError(
            f"can't save a checkpoint in {training.out}: {error.strerror or error}; "
            "what was saved before is whole: make room, and go on with --resume"
        ) from error


def _find_last(training: Training, course: Course) -> State:
    """Return the state of the step that was the last one."""
    state = course.state
    if state.step == 0:
        state = State(state.seed, state.epoch - 1, training.steps)
    return state.advance(-1)


def restore(training: Training, checkpoint: Checkpoint) -> Course:
    """Bring a training to where a checkpoint left it, its folder too.

    Raises:
        RunError: if the checkpoint's network is another one.
    """
    facts = checkpoint.facts
    if facts["versions"] != training_versions():
        _log.warning(
            "%s was begun with other versions or on another device (%s) than these "
            "(%s): it goes on, but not bit for bit",
            training.out,
            facts["versions"],
            training_versions(),
        )
    variables = training.trainer.state_variables()
    if facts["variables"] != [[str(x.dtype), list(x.shape)] for x in variables]:
        raise RunError(
            f"{training.out} was begun by other versions of drtf or Keras, whose "
            "network or optimizer differs: go on with these, or train into another "
            "folder"
        )
    for variable, value in zip(variables, checkpoint.arrays, strict=True):
        variable.assign(value)
    for callback, state in zip(training.callbacks, facts["callbacks"], strict=True):
        for name, value in state.items():
            setattr(callback, name, value)
    training.damaged.update({int(row): x for row, x in facts["damaged"].items()})
    # What a kill left there may be of a later epoch, or cut off.
    if checkpoint.model:
        write_atomic(training.out / MODEL_FILE, checkpoint.model)
    course = Course(**facts["course"] | {"state": State(**facts["course"]["state"])})
    if course.history:
        save_history(training.out, course.history)
    return course


def _get_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    names = CALLBACK_STATE.get(type(callback).__name__, ())
    return {name: getattr(callback, name) for name in names}


@contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
    """Note Ctrl-C and SIGTERM instead of dying of them; a second one acts at once."""
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: object) -> None:
        caught.append(signal.Signals(number))
        signal.signal(number, before[caught[-1]])

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_if(
    caught: Sequence[signal.Signals], training: Training, course: Course
) -> None:
    if caught:
        capture(training, course)
        raise StoppedError(
            f"stopped by {caught[0].name} in epoch {course.state.epoch + 1}, after "
            f"step {course.state.step} of {training.steps}; all is saved, and the same "
            "command with --resume goes on",
            caught[0],
        )

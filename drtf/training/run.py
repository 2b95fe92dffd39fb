"""Training: a set of shards in, a run folder out."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Config, TrainConfig
from drtf.data.pipeline import (
    State,
    count_examples,
    count_steps,
    eval_dataset,
    record_errors,
    train_dataset,
)
from drtf.data.sampling import count_draws
from drtf.errors import DrtfError
from drtf.figures import plot_history
from drtf.files import check_absent, hash_file, lock_or_fail, partial_path
from drtf.models.device import (
    choose_compiler,
    choose_precision,
    choose_strategy,
    dtype_policy,
)
from drtf.models.network import build_network, count_parameters
from drtf.models.run import (
    CONFIG_FILE,
    HISTORY_FIGURE,
    INFO_FILE,
    MODEL_FILE,
    RunInfo,
    load_info,
    save_config,
    save_info,
    save_model,
    training_versions,
)
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.callbacks import BestModel, build_callbacks, monitor_name
from drtf.training.checkpoint import list_checkpoints, load_newest
from drtf.training.identity import (
    IDENTITY_FILE,
    check_identity,
    save_identity,
    training_identity,
)
from drtf.training.loop import Training, catch_signals, run_epochs
from drtf.training.train_plan import adopt_settings, positive_prior
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation import Validation

LOGS = "logs"


def train(shards: Path, *, out: Path, config: Config, resume: bool = False) -> RunInfo:
    """Train a network on a set and leave a run folder.

    The model of the best epoch is kept. The sections of the config that shape a set are
    replaced by those that made this one.

    Args:
        shards: the set's folder.
        out: the run folder to be made.
        config: its sections `sampling`, `augment`, `model` and `train` are used.
        resume: whether to go on from the newest whole checkpoint in `out`, if there is
            one; a training that is at its end is left as it is.

    Returns:
        What was written as run.json.

    Raises:
        StoppedError: if Ctrl-C or SIGTERM stopped it; all is saved then.
        DrtfError: if `out` exists, the set lacks a split or a class, the weights can't
            be had, or the loss stops being finite.
    """
    out = out.resolve()
    with ShardDataset(shards) as shard_set:
        config = adopt_settings(config, shard_set)
        precision = choose_precision(config.train.precision)
        strategy = choose_strategy(
            config.train.num_devices, batch_size=config.train.batch_size
        )
        num_devices = strategy.num_replicas_in_sync
        # What it refuses is refused before anything is made.
        choose_compiler(config.train.jit_compile, num_devices=num_devices)
        identity = training_identity(
            config,
            precision=precision,
            num_devices=num_devices,
            dataset_sha256=hash_manifest(shards),
        )
        _check_out(out, identity, resume=resume)
        if (out / INFO_FILE).exists():
            return load_info(out)
        train_prior = positive_prior(shard_set, config)
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, since a training that can't begin leaves no folder.
        lock = out.with_name(f".{out.name}.lock")
        with (
            lock_or_fail(lock),
            strategy.scope(),
            record_errors(),
            catch_signals() as caught,
        ):
            return _train(shard_set, out, config, identity, train_prior, caught)


def _train(
    shards: ShardDataset,
    out: Path,
    config: Config,
    identity: dict[str, Any],
    train_prior: float,
    caught: Sequence[signal.Signals],
) -> RunInfo:
    checkpoint = load_newest(out)
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    precision = identity["precision"]
    with dtype_policy(precision):
        network = build_network(
            config.model,
            task=TASKS[config.train.task],
            image_size=config.images.size,
            load_weights=checkpoint is None,
        )
        num_trained, num_frozen = count_parameters(network)
        out.mkdir(exist_ok=True)
        save_identity(out, identity)
        save_config(out, config)
        try:
            training = prepare_training(network, shards, config=config, out=out)
            course = run_epochs(training, checkpoint=checkpoint, caught=caught)
        except tf.errors.ResourceExhaustedError as error:
            raise _explain_exhaustion(error, out, config.train) from error
    plot_history(out / HISTORY_FIGURE, course.history)
    manifest = shards.manifest
    info = RunInfo(
        dataset_name=manifest.name,
        dataset_sha256=hash_manifest(shards.folder),
        encoding=manifest.encoding,
        jpeg_quality=manifest.settings["build"]["jpeg_quality"],
        image_size=config.images.size,
        train_prior=train_prior,
        model_sha256=hash_file(out / MODEL_FILE),
        config_sha256=hash_file(out / CONFIG_FILE),
        best_epoch=training.keeper.best_epoch,
        num_epochs=len(course.history),
        num_trained=num_trained,
        num_frozen=num_frozen,
        num_damaged=len(shards.damaged),
        num_skipped_steps=np.asarray(training.trainer.num_skipped).item(),
        precision=precision,
        num_devices=tf.distribute.get_strategy().num_replicas_in_sync,
        seconds=sum(row["seconds"] for row in course.history),
        peak_memory_mb=getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        versions=training_versions(),
    )
    save_info(out, info)
    return info


def _check_out(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Refuse a folder of other things, or of another training."""
    identity_file = out / IDENTITY_FILE
    if not identity_file.exists():
        # An empty folder, as a kill at the very beginning leaves one too, is taken.
        found = list(out.iterdir()) if out.is_dir() else [out]
        if found not in ([], [partial_path(identity_file)]):
            check_absent(out)
    elif resume:
        check_identity(out, identity)
    else:
        # What failed before its first checkpoint may be begun anew.
        check_absent(out / INFO_FILE)
        if list_checkpoints(out):
            raise DrtfError(
                f"{out} holds a training that was not finished: go on with --resume, "
                "or choose another folder"
            )


def _explain_exhaustion(
    error: tf.errors.ResourceExhaustedError, out: Path, config: TrainConfig
) -> DrtfError:
    """Tell a full disk, on which TensorBoard writes, from a device without memory."""
    if "No space left" in str(error):
        return DrtfError(
            f"can't write to {out}: the disk is full; make room, and go on with "
            "--resume"
        )
    return DrtfError(
        "the device has too little memory: try a smaller train.batch_size than "
        f"{config.batch_size}, or train.precision=mixed_bfloat16"
    )


def prepare_training(
    network: keras.Model, shards: ShardDataset, *, config: Config, out: Path
) -> Training:
    """Bring together all that a training takes; called under its strategy.

    Args:
        network: untrained.
        shards: an open set.
        config: as for `train`.
        out: the run folder.
    """
    settings = config.train
    common: dict[str, Any] = {
        "task": settings.task,
        "sampling": config.sampling,
        "batch_size": settings.batch_size,
    }
    strategy = tf.distribute.get_strategy()
    num_devices = strategy.num_replicas_in_sync

    def load_parts(state: State) -> tf.data.Dataset:
        return train_dataset(
            shards,
            epochs=settings.epochs,
            state=state,
            parts=range(num_devices),
            num_parts=num_devices,
            **common,
        )

    def load_batches(state: State) -> Iterator[Batch]:
        return iter(
            strategy.distribute_datasets_from_function(
                lambda context: load_parts(state)
            )
        )

    def find_ids(state: State) -> Sequence[str]:
        parts = load_parts(state).take(num_devices)
        rows = np.concatenate([part["row"].numpy() for part in parts])
        return shards.index["id"].to_numpy()[rows].tolist()

    def save_float32() -> None:
        with dtype_policy("float32"):
            clone = build_network(
                config.model,
                task=TASKS[settings.task],
                image_size=network.input_shape[1],
                load_weights=False,
            )
        clone.set_weights(network.get_weights())
        save_model(out, clone)

    steps = count_steps(shards, split="train", num_parts=num_devices, **common)
    trainer = Trainer(network, config, num_steps=steps * settings.epochs)
    validation = Validation(
        trainer,
        strategy.distribute_datasets_from_function(
            lambda context: eval_dataset(
                shards,
                split=settings.validation_split,
                task=settings.task,
                batch_size=-(-settings.batch_size // num_devices),
                on_corrupt=config.sampling.on_corrupt,
                num_parts=num_devices,
            )
        ),
    )
    keeper = BestModel(save_float32, monitor=monitor_name(settings))
    counts = count_examples(shards, "train", settings.task)
    return Training(
        trainer=trainer,
        validation=validation,
        callbacks=build_callbacks(
            settings,
            keeper=keeper,
            validation=validation,
            trainer=trainer,
            load_batch=lambda: next(iter(load_parts(State(settings.seed)))),
            logs=out / LOGS,
        ),
        keeper=keeper,
        load_batches=load_batches,
        find_ids=find_ids,
        config=settings,
        out=out,
        steps=steps,
        num_drawn=sum(count_draws(counts, config.sampling)),
        damaged=shards.damaged,
    )

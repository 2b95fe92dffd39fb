"""Train a network on a dataset and write a run folder."""

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
    StreamPosition,
    count_examples,
    count_steps,
    eval_dataset,
    train_dataset,
    translate_record_errors,
)
from drtf.data.sampling import count_draws
from drtf.errors import DrtfError
from drtf.figures import plot_history
from drtf.files import hash_file, lock_or_fail
from drtf.models.backbones import check_model
from drtf.models.device import (
    choose_compiler,
    choose_precision,
    choose_strategy,
    training_versions,
    use_dtype_policy,
)
from drtf.models.history import HISTORY_FIGURE, HISTORY_FILE
from drtf.models.network import build_network, count_parameters
from drtf.models.run import (
    CONFIG_FILE,
    INFO_FILE,
    MODEL_FILE,
    RunInfo,
    check_files,
    load_info,
    save_config,
    save_info,
    save_model,
)
from drtf.models.training_photographs import (
    PHOTOGRAPHS_FILE,
    save_training_photographs,
)
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.callbacks import BestModel, build_callbacks, monitor_name
from drtf.training.checkpoint import load_newest_checkpoint
from drtf.training.identity import (
    IDENTITY_FILE,
    check_identity,
    check_out,
    save_identity,
    training_identity,
)
from drtf.training.loop import TrainingContext, catch_signals, run_epochs
from drtf.training.train_plan import adopt_settings, positive_prior
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation import Validation

LOGS_FOLDER = "logs"


def train(shards: Path, *, out: Path, config: Config, resume: bool = False) -> RunInfo:
    """Train a network on a dataset and write a run folder.

    The folder has the model of the best epoch. The sections of the config that shape a
    dataset (such as `images`) are replaced by those that the dataset was built with.

    Args:
        shards: The dataset's folder.
        out: The run folder to write.
        config: Its sections `sampling`, `augment`, `model` and `train` are used.
        resume: Continue from the newest intact checkpoint in `out`, if there is one. A
            finished training is left as it is.

    Returns:
        The contents of run.json.

    Raises:
        StoppedError: If a signal stopped the training; everything is saved.
        DrtfError: If `out` exists, the dataset has no photographs of a split or class,
            the pretrained weights cannot be loaded, or the loss becomes non-finite.
    """
    check_model(config.model, head_epochs=config.train.head_epochs)
    out = out.resolve()
    with ShardDataset(shards) as dataset:
        config = adopt_settings(config, dataset)
        precision = choose_precision(config.train.precision)
        strategy = choose_strategy(
            config.train.num_devices, batch_size=config.train.batch_size
        )
        num_devices = strategy.num_replicas_in_sync
        # Refuse a bad combination before anything is written.
        choose_compiler(config.train.jit_compile, num_devices=num_devices)
        identity = training_identity(
            config,
            precision=precision,
            num_devices=num_devices,
            dataset_sha256=hash_manifest(shards),
        )
        check_out(out, resume=resume)
        if resume and (out / IDENTITY_FILE).exists():
            check_identity(out, identity)
        if (out / INFO_FILE).exists():
            info = load_info(out)
            check_files(out, info)
            return info
        train_prior = positive_prior(
            dataset, sampling=config.sampling, train=config.train
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        # Next to the folder: a training run that fails to start leaves no folder.
        lock = out.with_name(f".{out.name}.lock")
        with (
            lock_or_fail(lock),
            strategy.scope(),
            translate_record_errors(),
            catch_signals() as signals,
        ):
            return _train_locked(dataset, out, config, identity, train_prior, signals)


def _train_locked(
    shards: ShardDataset,
    out: Path,
    config: Config,
    identity: dict[str, Any],
    train_prior: float,
    signals: Sequence[signal.Signals],
) -> RunInfo:
    """Train while the run folder is locked."""
    checkpoint = load_newest_checkpoint(out)
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    precision = identity["precision"]
    with use_dtype_policy(precision):
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
        save_training_photographs(
            out, shards, validation_split=config.train.validation_split
        )
        try:
            context = build_context(network, shards, config=config, out=out)
            status = run_epochs(context, checkpoint=checkpoint, signals=signals)
        except tf.errors.ResourceExhaustedError as error:
            raise _exhaustion_error(error, out, config.train) from error
    plot_history(out / HISTORY_FIGURE, status.history)
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
        history_sha256=hash_file(out / HISTORY_FILE),
        photographs_sha256=hash_file(out / PHOTOGRAPHS_FILE),
        best_epoch=context.best_model.best_epoch,
        num_epochs=len(status.history),
        num_trained=num_trained,
        num_frozen=num_frozen,
        num_damaged=len(shards.damaged),
        num_skipped_steps=np.asarray(context.trainer.num_skipped).item(),
        precision=precision,
        num_devices=tf.distribute.get_strategy().num_replicas_in_sync,
        seconds=sum(row["seconds"] for row in status.history),
        peak_memory_mb=getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        versions=training_versions(),
    )
    save_info(out, info)
    return info


def _exhaustion_error(
    error: tf.errors.ResourceExhaustedError, out: Path, config: TrainConfig
) -> DrtfError:
    """Return the user's error for TensorFlow's: a full disk, or too little memory.

    TensorBoard writes through TensorFlow, which reports a full disk as exhaustion.
    """
    if "No space left" in str(error):
        return DrtfError(
            f"cannot write to {out}: the disk is full. Free disk space and run the "
            "same command with --resume"
        )
    return DrtfError(
        "the device has too little memory: try a smaller train.batch_size than "
        f"{config.batch_size}, or train.precision=mixed_bfloat16"
    )


def build_context(
    network: keras.Model, shards: ShardDataset, *, config: Config, out: Path
) -> TrainingContext:
    """Build the parts of a training run, in the scope of its strategy.

    Args:
        network: Untrained, from `build_network`.
        shards: An open dataset.
        config: As for `train`.
        out: The run folder.
    """
    settings = config.train
    common: dict[str, Any] = {
        "task": settings.task,
        "sampling": config.sampling,
        "batch_size": settings.batch_size,
    }
    strategy = tf.distribute.get_strategy()
    num_devices = strategy.num_replicas_in_sync

    def parts_dataset(position: StreamPosition) -> tf.data.Dataset:
        return train_dataset(
            shards,
            epochs=settings.epochs,
            start=position,
            parts=range(num_devices),
            num_parts=num_devices,
            **common,
        )

    def stream_batches(position: StreamPosition) -> Iterator[Batch]:
        return iter(
            strategy.distribute_datasets_from_function(
                lambda input_context: parts_dataset(position)
            )
        )

    def batch_ids(position: StreamPosition) -> Sequence[str]:
        parts = parts_dataset(position).take(num_devices)
        rows = np.concatenate([part["row"].numpy() for part in parts])
        return shards.load_index(["id"], rows)["id"].tolist()

    def save_float32() -> None:
        with use_dtype_policy("float32"):
            clone = build_network(
                config.model,
                task=TASKS[settings.task],
                image_size=network.input_shape[1],
                load_weights=False,
            )
        clone.set_weights(network.get_weights())
        save_model(out, clone)

    steps_per_epoch = count_steps(
        shards, split="train", num_parts=num_devices, **common
    )
    trainer = Trainer(
        network,
        augment=config.augment,
        model=config.model,
        train=settings,
        num_steps=steps_per_epoch * settings.epochs,
    )
    validation = Validation(
        trainer,
        strategy.distribute_datasets_from_function(
            lambda input_context: eval_dataset(
                shards,
                split=settings.validation_split,
                task=settings.task,
                batch_size=-(-settings.batch_size // num_devices),
                on_damaged=config.sampling.on_damaged,
                num_parts=num_devices,
            )
        ),
    )
    best_model = BestModel(save_float32, monitor=monitor_name(settings))
    counts = count_examples(shards, "train", settings.task)
    return TrainingContext(
        trainer=trainer,
        validation=validation,
        callbacks=build_callbacks(
            settings,
            best_model=best_model,
            validation=validation,
            trainer=trainer,
            load_batch=lambda: next(iter(parts_dataset(StreamPosition(settings.seed)))),
            logs=out / LOGS_FOLDER,
        ),
        best_model=best_model,
        stream_batches=stream_batches,
        batch_ids=batch_ids,
        config=settings,
        out=out,
        steps_per_epoch=steps_per_epoch,
        images_per_epoch=sum(count_draws(counts, config.sampling)),
        damaged_rows=shards.damaged,
    )

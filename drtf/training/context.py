"""The parts of a training run, which stay the same from its first to its last step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Config, TrainConfig
from drtf.data.pipeline import StreamPosition, eval_dataset, train_dataset
from drtf.data.sampling import partner_sampling
from drtf.data.sampling_groups import group_photographs
from drtf.labels.soft_labels import SoftLabels
from drtf.models.device import device_batches, use_dtype_policy
from drtf.models.network import build_network
from drtf.models.run import save_model
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.callbacks import BestModel, build_callbacks, monitor_name
from drtf.training.hosts import Hosts
from drtf.training.trainer import Batch, Trainer
from drtf.training.validation import Validation
from drtf.training.validation_groups import validation_groups

LOGS_FOLDER = "logs"


@dataclass(frozen=True)
class TrainingContext:
    """Everything that the training loop works with.

    Attributes:
        trainer: Holds the network and trains it.
        validation: Runs after each epoch.
        callbacks: Keras's callbacks and ours.
        best_model: The callback that saves the best model.
        stream_batches: Returns the batches from a position on.
        batch_ids: Returns the ids of the photographs in the batch at a position.
        hosts: The hosts that train together. The first one writes the run folder.
        config: The `train` section.
        out: The run folder.
        steps_per_epoch: Steps of each epoch.
        images_per_epoch: Images drawn in each epoch.
        damaged_rows: Index rows skipped so far, each with its error.
    """

    trainer: Trainer
    validation: Validation
    callbacks: Sequence[keras.callbacks.Callback]
    best_model: BestModel
    stream_batches: Callable[[StreamPosition], Iterator[Batch]]
    batch_ids: Callable[[StreamPosition], Sequence[str]]
    hosts: Hosts
    config: TrainConfig
    out: Path
    steps_per_epoch: int
    images_per_epoch: int
    damaged_rows: dict[int, str]


def build_context(
    network: keras.Model,
    shards: ShardDataset,
    *,
    config: Config,
    soft_labels: SoftLabels | None = None,
    out: Path,
    hosts: Hosts,
) -> TrainingContext:
    """Build the parts of a training run, in the scope of its strategy.

    Args:
        network: Untrained, from `build_network`.
        shards: An open dataset.
        config: As for `train`.
        soft_labels: The targets, if they are not the labels.
        out: The run folder.
        hosts: The hosts that train together.
    """
    settings = config.train
    num_devices = tf.distribute.get_strategy().num_replicas_in_sync

    def parts_dataset(
        position: StreamPosition, parts: Sequence[int] = hosts.device_numbers
    ) -> tf.data.Dataset:
        return train_dataset(
            shards,
            task=settings.task,
            sampling=config.sampling,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            start=position,
            parts=parts,
            num_parts=num_devices,
            partners=partner_sampling(config.sampling, config.augment),
            targets=soft_labels.targets if soft_labels else None,
            timed=True,
        )

    def stream_batches(position: StreamPosition) -> Iterator[Batch]:
        return iter(device_batches(lambda: parts_dataset(position)))

    def batch_ids(position: StreamPosition) -> Sequence[str]:
        parts = parts_dataset(position, range(num_devices)).take(num_devices)
        names = ("row", "partner_row")
        rows = np.concatenate(
            [part[name] for part in parts for name in names if name in part]
        )
        return shards.load_index(["id"], rows)["id"].tolist()

    def save_float32() -> None:
        with use_dtype_policy("float32"):
            clone = build_network(
                config.model,
                task=TASKS[settings.task],
                loss=settings.loss,
                image_size=network.input_shape[1],
                load_weights=False,
            )
        clone.set_weights(network.get_weights())
        if hosts.is_first:
            save_model(out, clone)

    groups = group_photographs(
        shards, "train", task=settings.task, sampling=config.sampling
    )
    steps_per_epoch = groups.count_steps(settings.batch_size, num_parts=num_devices)
    trainer = Trainer(
        network,
        augment=config.augment,
        model=config.model,
        train=settings,
        num_steps=steps_per_epoch * settings.epochs,
    )
    validation = Validation(
        trainer,
        device_batches(
            lambda: eval_dataset(
                shards,
                split=settings.validation_split,
                task=settings.task,
                batch_size=-(-settings.batch_size // num_devices),
                on_damaged=config.sampling.on_damaged,
                parts=hosts.device_numbers,
                num_parts=num_devices,
            )
        ),
        hosts=hosts,
        groups=validation_groups(shards, settings),
    )
    best_model = BestModel(save_float32, monitor=monitor_name(settings))
    return TrainingContext(
        trainer=trainer,
        validation=validation,
        callbacks=build_callbacks(
            settings,
            best_model=best_model,
            validation=validation,
            trainer=trainer,
            load_batch=lambda: next(iter(parts_dataset(StreamPosition(settings.seed)))),
            logs=out / LOGS_FOLDER if hosts.is_first else None,
        ),
        best_model=best_model,
        stream_batches=stream_batches,
        batch_ids=batch_ids,
        hosts=hosts,
        config=settings,
        out=out,
        steps_per_epoch=steps_per_epoch,
        images_per_epoch=groups.images_per_epoch,
        damaged_rows=shards.damaged,
    )

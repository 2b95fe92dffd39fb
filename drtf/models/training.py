"""Training: a set of shards in, a run folder out."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from drtf.config import (
    AugmentConfig,
    Config,
    TrainConfig,
    parse_config,
)
from drtf.data.augment import augment
from drtf.data.pipeline import (
    State,
    count_steps,
    eval_dataset,
    find_examples,
    record_errors,
    train_dataset,
)
from drtf.errors import DrtfError
from drtf.figures import plot_history
from drtf.files import check_absent, hash_file
from drtf.models.callbacks import (
    BestModel,
    ProgressBar,
    Schedule,
    StopAtNonFinite,
)
from drtf.models.device import can_compile, choose_precision, dtype_policy
from drtf.models.losses import build_loss
from drtf.models.network import (
    build_logit_model,
    build_network,
    count_parameters,
    scale_images,
)
from drtf.models.run import (
    CONFIG_FILE,
    HISTORY_FIGURE,
    HISTORY_FILE,
    INFO_FILE,
    MODEL_FILE,
    RunInfo,
    find_versions,
    load_history,
    save_config,
    save_info,
    save_model,
)
from drtf.progress import progress
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardSet


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes:
        best_epoch: from 1, the one whose model was kept.
        best_roc_auc: its ROC AUC on the validation split.
        epochs: how many were run.
        num_trained: trained parameters.
        num_frozen: frozen parameters.
        num_damaged: records that were skipped, each for another one.
        precision: the dtype policy.
    """

    best_epoch: int
    best_roc_auc: float
    epochs: int
    num_trained: int
    num_frozen: int
    num_damaged: int
    precision: str


def train(shards: Path, *, out: Path, config: Config) -> TrainReport:
    """Train a network on a set and leave a run folder.

    The model of the epoch with the best validation ROC AUC is kept. The sections
    `images`, `labels`, `split` and `build` of the config are replaced by those that
    made the shards.

    Args:
        shards: the set's folder.
        out: the run folder to be made.
        config: its sections `sampling`, `augment`, `model` and `train` are used.

    Raises:
        DrtfError: if `out` exists, the set lacks a split or a class, the weights can't
            be had, or the loss stops being finite.
    """
    # What a failed training left has no run.json, and may be trained into again.
    check_absent(out if not (out / CONFIG_FILE).exists() else out / INFO_FILE)
    with ShardSet(shards) as shard_set:
        manifest = shard_set.manifest
        made = {"images": manifest.preprocessing} | manifest.settings
        config = parse_config(config.model_dump() | made, where=str(shards))
        _check_classes(shard_set, config.train)
        keras.utils.set_random_seed(config.train.seed)
        if config.train.deterministic:
            tf.config.experimental.enable_op_determinism()
        precision = choose_precision(config.train.precision)
        with dtype_policy(precision):
            network = build_network(
                config.model, image_size=config.images.size, load_weights=True
            )
        out.mkdir(parents=True, exist_ok=True)
        save_config(out, config)
        keeper = fit(network, shard_set, config=config, out=out)
    history = load_history(out)
    plot_history(out / HISTORY_FIGURE, history)
    save_info(
        out,
        RunInfo(
            set_name=manifest.name,
            set_sha256=hash_manifest(shards),
            encoding=manifest.encoding,
            jpeg_quality=manifest.settings["build"]["jpeg_quality"],
            image_size=config.images.size,
            model_sha256=hash_file(out / MODEL_FILE),
            best_epoch=keeper.best_epoch,
            precision=precision,
            versions=find_versions(),
        ),
    )
    num_trained, num_frozen = count_parameters(network)
    return TrainReport(
        best_epoch=keeper.best_epoch,
        best_roc_auc=keeper.best_roc_auc,
        epochs=len(history),
        num_trained=num_trained,
        num_frozen=num_frozen,
        num_damaged=len(shard_set.damaged),
        precision=precision,
    )


def fit(
    network: keras.Model, shards: ShardSet, *, config: Config, out: Path
) -> BestModel:
    """Fit a network to a set's train split; keep the best model in `out`."""
    settings = config.train
    task, batch_size = settings.task, settings.batch_size
    steps = count_steps(
        shards,
        split="train",
        task=task,
        sampling=config.sampling,
        batch_size=batch_size,
    )
    dataset = train_dataset(
        shards,
        split="train",
        task=task,
        sampling=config.sampling,
        batch_size=batch_size,
        epochs=settings.epochs,
        state=State(settings.seed),
    )
    validation = eval_dataset(
        shards,
        split=settings.validation_split,
        task=task,
        batch_size=batch_size,
        on_corrupt=config.sampling.on_corrupt,
    )
    trainer = Trainer(network, build_loss(settings), config.augment)
    optimizer = build_optimizer(settings, precision=network.dtype_policy.name)
    trainer.compile(optimizer=optimizer, jit_compile=False)
    # A step that makes no variables is traced once and not twice.
    trainer.optimizer.build(trainer.trainable_variables)

    def save_float32() -> None:
        clone = build_network(
            config.model, image_size=network.input_shape[1], load_weights=False
        )
        clone.set_weights(network.get_weights())
        save_model(out, clone)

    keeper = BestModel(save_float32)
    history = keras.callbacks.CSVLogger(out / HISTORY_FILE)
    callbacks = [
        StopAtNonFinite(),
        keeper,
        history,
        keras.callbacks.TensorBoard(out / "logs", write_graph=False),
    ]
    if settings.schedule == "plateau":
        plateau = keras.callbacks.ReduceLROnPlateau(
            factor=settings.plateau_factor, patience=settings.plateau_patience
        )
        callbacks.insert(0, plateau)
    else:
        callbacks.insert(0, Schedule(settings, num_steps=steps * settings.epochs))
    if settings.early_stopping_patience:
        stopping = keras.callbacks.EarlyStopping(
            "val_roc_auc", mode="max", patience=settings.early_stopping_patience
        )
        callbacks.append(stopping)
    with (
        record_errors(),
        progress("Training", steps * settings.epochs) as advance,
        ExitStack() as stack,
    ):
        # Closes the file also where the training fails.
        stack.callback(history.on_train_end)
        trainer.fit(
            dataset,
            epochs=settings.epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=[ProgressBar(advance, settings.epochs), *callbacks],
            shuffle=False,
            verbose=0,
        )
    return keeper


def build_optimizer(config: TrainConfig, *, precision: str) -> keras.Optimizer:
    """Build the optimizer; its learning rate is a variable that callbacks set.

    Under `mixed_float16` the loss is scaled, since small gradients would be zero.
    """
    if config.optimizer == "adam":
        optimizer = keras.optimizers.Adam(config.learning_rate)
    elif config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(config.learning_rate, momentum=config.momentum)
    else:
        optimizer = keras.optimizers.AdamW(
            config.learning_rate, weight_decay=config.weight_decay
        )
    if precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


class Trainer(keras.Model):
    """A network in training: augmentation before it, its logit after it.

    Takes the pipeline's batches: uint8 images go to the device and become floats there.
    """

    def __init__(
        self, network: keras.Model, loss: keras.losses.Loss, config: AugmentConfig
    ) -> None:
        super().__init__(name="trainer")
        self.logit_model = build_logit_model(network)
        self.logit_loss = loss
        # One pass over the pixels and not twenty; the network itself is slower by far
        # under XLA on CPUs.
        self.augment = tf.function(
            lambda images, seeds, classes: augment(images, seeds, classes, config),
            jit_compile=can_compile(),
        )
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.roc_auc = keras.metrics.AUC(name="roc_auc", from_logits=True)

    @property
    def metrics(self) -> list[keras.Metric]:
        """The metrics of an epoch, reset at its start."""
        return [self.loss_mean, self.roc_auc]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return float32 logits [B, 1] of floating images [B, H, W, 3] in [0, 1]."""
        return self.logit_model(images, training=training)

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Augment a batch, and step down the gradient of its loss."""
        classes = tf.cast(batch["label"], tf.int32)
        images = self.augment(scale_images(batch["image"]), batch["seed"], classes)
        labels = batch["label"][:, None]
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            loss = self.logit_loss(labels, logits)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self._measure(labels, logits, tf.ones_like(batch["label"]), loss)

    def test_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Measure a batch; padding does not count."""
        labels = batch["label"][:, None]
        mask = tf.cast(batch["mask"], tf.float32)
        logits = self(scale_images(batch["image"]), training=False)
        losses = self.logit_loss(labels, logits, sample_weight=mask)
        # The loss divides by the batch's size; the padding is no part of the mean.
        size = tf.cast(tf.size(mask), tf.float32)
        loss = tf.math.divide_no_nan(losses * size, tf.reduce_sum(mask))
        return self._measure(labels, logits, mask, loss)

    def _measure(
        self, labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor, loss: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        self.loss_mean.update_state(loss, sample_weight=tf.reduce_sum(mask))
        self.roc_auc.update_state(labels, logits, sample_weight=mask)
        return {metric.name: metric.result() for metric in self.metrics}


def _check_classes(shards: ShardSet, config: TrainConfig) -> None:
    for split in ("train", config.validation_split):
        _, classes = find_examples(shards, split, config.task)
        if len(np.unique(classes)) < 2:
            raise DrtfError(
                f"split {split!r} of {shards.folder} has photographs of one class only "
                f"for train.task={config.task!r}; training needs both"
            )

"""A network in training: the step, what it changes, and several of them in one call."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.config import Config, TrainConfig
from drtf.data.augment import augment
from drtf.models.device import can_compile, choose_compiler
from drtf.models.losses import build_loss
from drtf.models.network import build_logit_model, scale_images, set_trainable
from drtf.tasks import TASKS

Batch = dict[str, tf.Tensor]


class Trainer(keras.Model):
    """A network with all that trains it: augmentation, loss, optimizer, metrics.

    Takes the pipeline's batches: uint8 images go to the device and become floats there.
    To be made under the strategy, if there is one, that shares its steps.

    Attributes:
        network: that is trained.
        num_updates: steps that changed the weights, int64.
        num_skipped: steps whose loss or gradients were not finite, int64.
        streak: how many of them were the last ones, int64.
    """

    def __init__(self, network: keras.Model, config: Config, *, num_steps: int) -> None:
        """Make a trainer.

        Args:
            network: from `build_network`.
            config: its sections `augment`, `model` and `train` are used.
            num_steps: of the whole training, for the schedule.
        """
        super().__init__(name="trainer")
        self.network = network
        self.task = TASKS[config.train.task]
        self.logit_model = build_logit_model(network)
        self.task_loss = build_loss(config.train)
        self.augment = tf.function(
            lambda images, seeds, classes: augment(
                images, seeds, classes, config.augment
            ),
            # One pass over the pixels and not twenty; the network itself is slower by
            # far under XLA on CPUs.
            jit_compile=can_compile(),
        )
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.score_metric: keras.metrics.Metric
        if self.task.predicts_grades:
            self.score_metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        else:
            self.score_metric = keras.metrics.AUC(name="roc_auc", from_logits=True)
        self.num_updates = self._add_state("num_updates", 0, "int64")
        self.num_skipped = self._add_state("num_skipped", 0, "int64")
        self.streak = self._add_state("streak", 0, "int64")
        self.ema_momentum = config.train.ema_momentum
        # Statistics of batch normalization are averaged with the weights they go with.
        self.averages = [
            self._add_state(f"average_{number}", value, "float32")
            for number, value in enumerate(network.get_weights())
            if self.ema_momentum
        ]
        self._schedule = build_schedule(config.train, num_steps=num_steps)
        self.compile(
            build_optimizer(config.train, precision=network.dtype_policy.name),
            jit_compile=False,
        )
        # A step that makes no variables is traced once and not twice.
        self.optimizer.build(network.trainable_variables)
        self._scaled = hasattr(self.optimizer, "dynamic_scale")
        self._config = config
        self._strategy = tf.distribute.get_strategy()
        num_devices = self._strategy.num_replicas_in_sync
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = num_devices > 1
        self._jit_compile = choose_compiler(
            config.train.jit_compile, num_devices=num_devices
        )
        self._head_only: bool | None = None
        self.begin_epoch(0)

    @property
    def metrics(self) -> list[keras.Metric]:
        """The metrics of an epoch."""
        return [self.loss_mean, self.score_metric]

    def begin_epoch(self, epoch: int) -> None:
        """Choose what is trained in an epoch, after a checkpoint was loaded."""
        head_epochs = self._config.train.head_epochs
        head_only = epoch < head_epochs
        if head_only != self._head_only:
            self._head_only = head_only
            set_trainable(self.network, self._config.model, head_only=head_only)
            self._step = tf.function(self.train_step, jit_compile=self._jit_compile)
            self.run_steps = tf.function(self._run_steps)
        optimizer: Any = self.optimizer
        steps = [np.asarray(x).item() for x in (optimizer.iterations, self.num_updates)]
        if head_epochs and not head_only and steps[0] == steps[1]:
            # All that the optimizer has counted are steps of the head alone. Beside
            # these Adam's would be several times too long for weights without moments.
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            for variable in inner.variables:
                if variable is not inner.learning_rate:
                    variable.assign(tf.zeros_like(variable))

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return float32 logits [B, C] of float32 images [B, H, W, 3] in [0, 1]."""
        return self.logit_model(images, training=training)

    def train_step(self, batch: Batch) -> None:
        """Augment a device's part of a batch, and step down the loss's gradient."""
        context = tf.distribute.get_replica_context()
        labels = batch["label"][:, None]
        images = self.augment(
            scale_images(batch["image"]), batch["seed"], batch["label"]
        )
        size = tf.cast(tf.size(labels), tf.float32)
        size = context.all_reduce(tf.distribute.ReduceOp.SUM, size)
        statistics = self._find_statistics() if self._scaled else []
        before = [tf.identity(variable) for variable in statistics]
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            losses = self.task_loss.call(labels, logits)
            loss = tf.reduce_sum(losses) / size
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        gradients = tape.gradient(scaled, weights)
        if self._schedule:
            # Inside the optimizer it would be traced once for each variable.
            self.optimizer.learning_rate = self._schedule(self.num_updates)
        both = tf.stack([loss, tf.linalg.global_norm(gradients)])
        both = context.all_reduce(tf.distribute.ReduceOp.SUM, both)
        finite = tf.reduce_all(tf.math.is_finite(both))
        if self._scaled:
            # A loss scale leaves out steps that are not finite, and looks at the
            # gradients of one device: these are so on all devices, or on none.
            gradients[0] = tf.where(finite, gradients[0], np.inf)
        self.optimizer.apply(gradients, weights)
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(finite, variable, value))
        bad = tf.cast(~finite, tf.int64)
        self.num_updates.assign_add(1 - bad)
        self.num_skipped.assign_add(bad)
        self.streak.assign((self.streak + bad) * bad)
        self._average()
        # Of a step that was left out nothing is measured.
        counted = tf.fill(tf.shape(losses), tf.cast(finite, tf.float32))
        self.loss_mean.update_state(tf.where(finite, losses, 0), counted)
        self.score_metric.update_state(labels, tf.where(finite, logits, 0), counted)

    def _run_steps(
        self, batches: Iterator[Batch], num_steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run some steps, or until too many in a row were not finite.

        `run_steps` is this, compiled.

        Args:
            batches: of a dataset, or a distributed one.
            num_steps: int64.

        Returns:
            int64, how many were run; float64, seconds waited for their batches; bool,
            whether too many were not finite.
        """
        limit = self._config.train.max_skipped_steps if self._scaled else 0
        num_done = tf.zeros([], tf.int64)
        waited = tf.zeros([], tf.float64)
        for _ in tf.range(num_steps):
            asked = _read_clock()
            with tf.control_dependencies([asked]):
                batch = next(batches)
            with tf.control_dependencies(
                tf.nest.flatten(batch, expand_composites=True)
            ):
                came = _read_clock()
            waited += came - asked
            # A single thread might else do the step first, and then read the clock.
            with tf.control_dependencies([came]):
                self._strategy.run(self._step, (batch,))
            num_done += 1
            if self.streak > limit:
                break
        return num_done, waited, self.streak > limit

    def test_step(self, batch: Batch) -> tf.Tensor:
        """Return the logits of a batch without augmentation, float32 [B, C]."""
        return self(scale_images(batch["image"]), training=False)

    def state_variables(self) -> list[keras.Variable]:
        """List all that a step reads and changes, each once.

        Weights, statistics of batch normalization, the states of dropout's generators,
        moving averages, the optimizer's variables with its loss scale, and the sums of
        the epoch's metrics.
        """
        every = (*self.variables, *self.metrics_variables, *self.optimizer.variables)
        return list({id(variable): variable for variable in every}.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the network stand with its averaged weights, if there are any."""
        if not self.averages:
            yield
            return
        held = self.network.get_weights()
        self.network.set_weights([np.asarray(value) for value in self.averages])
        try:
            yield
        finally:
            self.network.set_weights(held)

    def _find_statistics(self) -> list[keras.Variable]:
        """List what the way forward changes: batch normalization's statistics."""
        return [
            variable
            for layer in self.network.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

    def _average(self) -> None:
        # As TensorFlow's ExponentialMovingAverage: fast while there is little to
        # average, since the first weights are not worth to be kept.
        count = tf.cast(self.num_updates, tf.float32)
        momentum = tf.minimum(self.ema_momentum, (1 + count) / (10 + count))
        for average, weight in zip(self.averages, self.network.weights, strict=False):
            average.assign_add((1 - momentum) * (weight - average))

    def _add_state(self, name: str, value: Any, dtype: str) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=np.shape(value),
            dtype=dtype,
            initializer=lambda shape, dtype: tf.cast(value, dtype),
            trainable=False,
            aggregation="only_first_replica",
        )


def _read_clock() -> tf.Tensor:
    # TensorFlow's own clock is refused where determinism is asked for.
    return tf.ensure_shape(tf.numpy_function(time.perf_counter, [], tf.float64), [])


def build_schedule(
    config: TrainConfig, *, num_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """Build the learning rate over steps: linear warm-up, then half a cosine to zero.

    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts.

    Returns:
        None where the rate is constant, but for what callbacks change.
    """
    if config.schedule != "cosine":
        return None
    num_warm = round(num_steps * config.warmup_fraction)
    decay_steps = max(num_steps - num_warm, 1)
    if not num_warm:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, decay_steps)
    return keras.optimizers.schedules.CosineDecay(
        config.learning_rate / num_warm,  # a step without a rate would be lost
        decay_steps,
        warmup_target=config.learning_rate,
        warmup_steps=num_warm,
    )


def build_optimizer(config: TrainConfig, *, precision: str) -> keras.Optimizer:
    """Build the optimizer; its learning rate is a variable.

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

"""The trainer: a network with its training step, and several steps in one call."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from drtf.config import AugmentConfig, ModelConfig, TrainConfig
from drtf.data.augment import augment as augment_images
from drtf.data.mixing import mix
from drtf.models.device import can_compile, choose_compiler
from drtf.models.losses import build_loss
from drtf.models.network import build_logit_model, scale_images, set_trainable
from drtf.tasks import TASKS

Batch = dict[str, tf.Tensor]


class StepsResult(NamedTuple):
    """The result of several steps.

    Attributes:
        num_done: int64, steps up to the last one, or up to the one that failed.
        wait_seconds: float64, time from the end of a step until the next batch was
            loaded.
        has_failed: bool, whether too many steps in a row were non-finite.
    """

    num_done: tf.Tensor
    wait_seconds: tf.Tensor
    has_failed: tf.Tensor


class Trainer(keras.Model):
    """A network with its augmentation, loss, optimizer and metrics.

    It takes the batches of `train_dataset`: uint8 images go to the device and become
    floats there. Create it in the scope of the strategy that distributes its steps.

    Attributes:
        network: The network that is trained.
        step: `train_step`, compiled.
        execute_steps: Runs several steps in one call; see `_execute_steps`.
        num_updates: int64, steps that changed the weights.
        num_skipped: int64, steps skipped because loss or gradients were non-finite.
        num_consecutive_skips: int64, how many of the last steps were skipped.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        augment: AugmentConfig,
        model: ModelConfig,
        train: TrainConfig,
        num_steps: int,
    ) -> None:
        """Build the optimizer, the metrics and the compiled functions.

        Args:
            network: From `build_network`.
            augment: The `augment` section.
            model: The `model` section, from which the network was built.
            train: The `train` section.
            num_steps: Steps of the whole training, for the learning rate schedule.
        """
        super().__init__(name="trainer")
        self.network = network
        self.task = TASKS[train.task]
        self.logit_model = build_logit_model(network)
        self.task_loss = build_loss(train)
        self.augment = tf.function(
            lambda images, seeds, classes: augment_images(
                images, seeds, classes, augment
            ),
            # XLA fuses some twenty passes over the pixels into one. The network itself
            # is much slower under XLA on CPUs.
            jit_compile=can_compile(),
        )
        self.mix = tf.function(
            lambda images, partners, seeds: mix(images, partners, seeds, augment),
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
        self.num_consecutive_skips = self._add_state(
            "num_consecutive_skips", 0, "int64"
        )
        self.ema_momentum = train.ema_momentum
        # The statistics of batch normalization are averaged together with the weights.
        self.averages = [
            self._add_state(f"average_{number}", value, "float32")
            for number, value in enumerate(network.get_weights())
            if self.ema_momentum
        ]
        self._schedule = build_schedule(train, num_steps=num_steps)
        self.compile(
            build_optimizer(train, precision=network.dtype_policy.name),
            jit_compile=False,
        )
        # A step that creates no variables is traced only once.
        self.optimizer.build(network.trainable_variables)
        self._has_loss_scale = hasattr(self.optimizer, "dynamic_scale")
        self._max_skipped_steps = train.max_skipped_steps * self._has_loss_scale
        self._model_config = model
        self._train_config = train
        self._strategy = tf.distribute.get_strategy()
        num_devices = self._strategy.num_replicas_in_sync
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = num_devices > 1
        self._jit_compile = choose_compiler(train.jit_compile, num_devices=num_devices)
        self._gather_sums = tf.function(
            lambda: self._strategy.run(self._all_gather_sums)
        )
        self._head_only: bool | None = None
        self.begin_epoch(0)

    @property
    def metrics(self) -> list[keras.Metric]:
        """The metrics of an epoch."""
        return [self.loss_mean, self.score_metric]

    def begin_epoch(self, epoch: int) -> None:
        """Choose the layers to train in an epoch, counted from 0.

        Call it after a checkpoint was loaded.
        """
        head_epochs = self._train_config.head_epochs
        head_only = epoch < head_epochs
        if head_only != self._head_only:
            self._head_only = head_only
            set_trainable(self.network, self._model_config, head_only=head_only)
            self.step = tf.function(self.train_step, jit_compile=self._jit_compile)
            self.execute_steps = tf.function(self._execute_steps)
        optimizer: Any = self.optimizer
        num_optimizer_steps = np.asarray(optimizer.iterations).item()
        num_updates = np.asarray(self.num_updates).item()
        if head_epochs and not head_only and num_optimizer_steps == num_updates:
            # The optimizer has counted only steps of the head. With that count, Adam's
            # first steps would be several times too long for the other weights, which
            # have no moments yet.
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            for variable in inner.variables:
                if variable is not inner.learning_rate:
                    variable.assign(tf.zeros_like(variable))

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return float32 logits [B, C] of float32 images [B, H, W, 3] in [0, 1]."""
        return self.logit_model(images, training=training)

    def train_step(self, batch: Batch) -> None:
        """Augment a device's part of a batch and update the weights."""
        context = tf.distribute.get_replica_context()
        images, fractions = self.augment_batch(batch)
        size = tf.cast(tf.size(fractions), tf.float32)
        size = context.all_reduce(tf.distribute.ReduceOp.SUM, size)
        statistics = self._batch_norm_statistics() if self._has_loss_scale else []
        before = [tf.identity(variable) for variable in statistics]
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            losses = self.image_losses(batch, logits, fractions)
            loss = tf.reduce_sum(losses) / size
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        gradients = tape.gradient(scaled, weights)
        if self._schedule:
            # Inside the optimizer the schedule would be traced once per variable.
            self.optimizer.learning_rate = self._schedule(self.num_updates)
        loss_and_norm = tf.stack([loss, tf.linalg.global_norm(gradients)])
        loss_and_norm = context.all_reduce(tf.distribute.ReduceOp.SUM, loss_and_norm)
        is_finite = tf.reduce_all(tf.math.is_finite(loss_and_norm))
        if self._has_loss_scale:
            # LossScaleOptimizer skips a step with non-finite gradients, but each device
            # checks only its own: make them non-finite on all devices or on none.
            gradients[0] = tf.where(is_finite, gradients[0], np.inf)
        self.optimizer.apply(gradients, weights)
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(is_finite, variable, value))
        skipped = tf.cast(~is_finite, tf.int64)
        self.num_updates.assign_add(1 - skipped)
        self.num_skipped.assign_add(skipped)
        # The steps that follow a failed one do not hide it.
        num_skips = (self.num_consecutive_skips + skipped) * skipped
        self.num_consecutive_skips.assign(
            tf.where(self._has_failed(), self.num_consecutive_skips, num_skips)
        )
        self._update_averages()
        # The metrics do not count a skipped step.
        weight = tf.fill(tf.shape(losses), tf.cast(is_finite, tf.float32))
        self.loss_mean.update_state(tf.where(is_finite, losses, 0), weight)
        labels = batch["label"]
        if "partner_label" in batch:  # a metric takes the label of the larger part
            labels = tf.where(fractions > 0.5, batch["partner_label"], labels)
        logits = tf.where(is_finite, logits, 0)
        self.score_metric.update_state(labels[:, None], logits, weight)

    def augment_batch(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Augment the images of a batch, and mix them with any partners.

        Returns:
            Images, float32 [B, H, W, 3] in [0, 1], and the fraction of each that is its
            partner's, float32 [B].
        """
        images = self.augment(
            scale_images(batch["image"]), batch["seed"], batch["label"]
        )
        if "partner_image" not in batch:
            return images, tf.zeros(tf.shape(batch["label"]))
        partners = self.augment(
            scale_images(batch["partner_image"]),
            batch["partner_seed"],
            batch["partner_label"],
        )
        return self.mix(images, partners, batch["seed"])

    def image_losses(
        self, batch: Batch, logits: tf.Tensor, fractions: tf.Tensor
    ) -> tf.Tensor:
        """Return the loss of each image, float32 [B].

        That of a mixed image is the mean of the weighted losses of its two labels. For
        a loss that is linear in the label this is the loss of the mixed label: Zhang et
        al., 2017, https://arxiv.org/abs/1710.09412.
        """
        losses = self._unmixed_losses(batch["label"], batch.get("target"), logits)
        if "partner_label" in batch:
            others = self._unmixed_losses(
                batch["partner_label"], batch.get("partner_target"), logits
            )
            losses = (1 - fractions) * losses + fractions * others
        return losses

    def _unmixed_losses(
        self, labels: tf.Tensor, targets: tf.Tensor | None, logits: tf.Tensor
    ) -> tf.Tensor:
        """Return the loss of each image, float32 [B].

        That of a target between 0 and 1 is the mean of the losses of both labels.

        Args:
            labels: int64 [B], the classes.
            targets: float32 [B] in [0, 1]; None: the labels are the targets.
            logits: float32 [B, C].
        """
        if targets is None:
            return self.task_loss.call(labels[:, None], logits)
        negative, positive = (
            self.task_loss.call(tf.fill(tf.shape(labels[:, None]), label), logits)
            for label in (0, 1)
        )
        return (1 - targets) * negative + targets * positive

    def _execute_steps(
        self, batches: Iterator[Batch], num_steps: tf.Tensor
    ) -> StepsResult:
        """Run several steps.

        Nothing here waits for the device, so that its queue is never empty: the loop
        depends only on its counter, int32, which stays on the host.

        `execute_steps` is the compiled function.

        Args:
            batches: Timed, of `train_dataset`, or such a dataset distributed.
            num_steps: int32.
        """

        def run_step(
            number: tf.Tensor,
            num_done: tf.Tensor,
            wait_seconds: tf.Tensor,
            last_end: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            batch = dict(next(batches))
            loaded = self._strategy.experimental_local_results(batch.pop("loaded"))
            num_done += tf.cast(~self._has_failed(), tf.int64)
            self._strategy.run(self.step, (batch,))
            with tf.device("CPU"):
                wait = tf.maximum(tf.reduce_max(loaded) - last_end, 0)
                end = _read_clock(self.num_updates)
                return number + 1, num_done, wait_seconds + wait, end

        _, num_done, wait_seconds, _ = tf.while_loop(
            lambda number, *_: number < num_steps,
            run_step,
            (
                tf.zeros([], tf.int32),
                tf.zeros([], tf.int64),
                tf.zeros([], tf.float64),
                _read_clock(num_steps),
            ),
        )
        return StepsResult(num_done, wait_seconds, self._has_failed())

    def _has_failed(self) -> tf.Tensor:
        """Return whether too many steps in a row were non-finite."""
        return self.num_consecutive_skips > self._max_skipped_steps

    def test_step(self, batch: Batch) -> tf.Tensor:
        """Return the logits of a batch without augmentation, float32 [B, C]."""
        return self(scale_images(batch["image"]), training=False)

    def state_variables(self) -> list[keras.Variable]:
        """List the variables that a step reads or changes, each once.

        They are the weights, the statistics of batch normalization, the states of
        dropout's generators, the moving averages, and the optimizer's variables with
        its loss scale. The sums of the epoch's metrics are not among them, because each
        device has its own: see `metric_sums`.
        """
        sums = {id(variable) for variable in self.metrics_variables}
        variables = (*self.variables, *self.optimizer.variables)
        unique = {id(variable): variable for variable in variables}
        return [variable for key, variable in unique.items() if key not in sums]

    def metric_sums(self) -> list[np.ndarray]:
        """Return the sums of the epoch's metrics, each [num_devices, *shape]."""
        return [
            self._strategy.experimental_local_results(value)[0].numpy()
            for value in self._gather_sums()
        ]

    def set_metric_sums(self, sums: Sequence[np.ndarray]) -> None:
        """Restore the sums that `metric_sums` returned."""

        def assign() -> None:
            context = tf.distribute.get_replica_context()
            for variable, values in zip(self.metrics_variables, sums, strict=True):
                variable.assign(tf.gather(values, context.replica_id_in_sync_group))

        tf.function(lambda: self._strategy.run(assign))()

    def _all_gather_sums(self) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        return [
            context.all_gather(tf.convert_to_tensor(variable)[None], axis=0)
            for variable in self.metrics_variables
        ]

    @contextmanager
    def use_averaged_weights(self) -> Iterator[None]:
        """Give the network its averaged weights inside the block, if it has any."""
        if not self.averages:
            yield
            return
        weights = self.network.get_weights()
        self.network.set_weights([np.asarray(value) for value in self.averages])
        try:
            yield
        finally:
            self.network.set_weights(weights)

    def _batch_norm_statistics(self) -> list[keras.Variable]:
        """Return the variables that the forward pass changes."""
        return [
            variable
            for layer in self.network.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

    def _update_averages(self) -> None:
        # As TensorFlow's ExponentialMovingAverage: the average follows fast at first,
        # so that it soon forgets the initial weights.
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


def _read_clock(after: tf.Tensor) -> tf.Tensor:
    """Return the time, float64 [], when a tensor is known."""
    # With op determinism TensorFlow refuses its own clock.
    seconds = tf.numpy_function(
        lambda _: time.perf_counter(), [after], tf.float64, stateful=False
    )
    return tf.ensure_shape(seconds, [])


def build_schedule(
    config: TrainConfig, *, num_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """Build the learning rate schedule: linear warm-up, then half a cosine to zero.

    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts.

    Returns:
        None if only callbacks change the rate.
    """
    if config.schedule != "cosine":
        return None
    num_warm = round(num_steps * config.warmup_fraction)
    decay_steps = max(num_steps - num_warm, 1)
    if not num_warm:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, decay_steps)
    return keras.optimizers.schedules.CosineDecay(
        config.learning_rate
        / num_warm,  # with a rate of 0 the first step would be lost
        decay_steps,
        warmup_target=config.learning_rate,
        warmup_steps=num_warm,
    )


def build_optimizer(config: TrainConfig, *, precision: str) -> keras.Optimizer:
    """Build the optimizer. Its learning rate is a variable.

    With `mixed_float16` the loss is scaled, because small gradients would underflow.
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

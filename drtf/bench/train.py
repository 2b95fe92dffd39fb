"""Measure the training step with and without streaming, by precision and compiler."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from drtf.bench.read import check_batch_size
from drtf.config import AugmentConfig, ModelConfig, SamplingConfig, TrainConfig
from drtf.data.pipeline import train_dataset
from drtf.data.sampling import partner_sampling
from drtf.models.device import device_batches, use_dtype_policy
from drtf.models.network import build_network
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.loop import choose_num_steps
from drtf.training.trainer import Batch, Trainer

UNLIMITED = 10**9  # steps or epochs, more than are ever run
NUM_WARMUP_STEPS = 2


@dataclass
class StepResult:
    """The measurements of one kind of step, with one value per repetition.

    Attributes:
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the whole step.
        resident: Steps per second with one batch that stays on the device.
        streamed: Steps per second with batches from the pipeline.
        forward: Steps per second of the forward pass only, with the resident batch.
        augment_fraction: Time of the augmentation on its own, as a fraction of a
            resident step's.
        input_wait_fraction: Fraction of the time that is spent waiting for the
            pipeline.
        first_step_seconds: Duration of the first step, which traces and compiles.
        failure: Why the step could not run; empty if it could.
    """

    precision: str
    jit_compile: bool
    resident: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    augment_fraction: list[float] = field(default_factory=list)
    input_wait_fraction: list[float] = field(default_factory=list)
    first_step_seconds: float = 0.0
    failure: str = ""


def bench_train(
    shards: Path,
    *,
    sampling: SamplingConfig,
    augment: AugmentConfig,
    model: ModelConfig,
    train: TrainConfig,
    precisions: Sequence[str],
    compilers: Sequence[bool] = (False, True),
    seconds: float,
    num_repeats: int,
) -> list[StepResult]:
    """Measure the whole training step: augmentation, forward, backward, update.

    Args:
        shards: A dataset; its train split is streamed.
        sampling: How the stream samples.
        augment: How images are augmented.
        model: The network; its weights are random.
        train: The task, batch size, loss and optimizer.
        precisions: Dtype policies to measure.
        compilers: Whether XLA compiles the step; each is measured.
        seconds: Duration of each measurement; it has at least one step.
        num_repeats: Number of repetitions; each one measures the resident batch and
            then the stream.

    Returns:
        A result for each precision and compiler.

    Raises:
        DrtfError: If the dataset is smaller than a batch.
    """
    results = [StepResult(x, y) for x in precisions for y in compilers]
    with (
        ShardDataset(shards) as dataset,
        progress("Measuring", len(results) * num_repeats) as advance,
    ):
        check_batch_size(dataset, train.task, sampling, train.batch_size)
        for result in results:
            try:
                _measure(
                    result,
                    dataset,
                    sampling=sampling,
                    augment=augment,
                    model=model,
                    train=train,
                    seconds=seconds,
                    num_repeats=num_repeats,
                    advance=lambda: advance(result.precision),  # noqa: B023
                )
            except (tf.errors.OpError, ValueError) as error:
                result.failure = str(error).strip().splitlines()[0]
    return results


def _measure(
    result: StepResult,
    shards: ShardDataset,
    *,
    sampling: SamplingConfig,
    augment: AugmentConfig,
    model: ModelConfig,
    train: TrainConfig,
    seconds: float,
    num_repeats: int,
    advance: Callable[[], None],
) -> None:
    with use_dtype_policy(result.precision):
        network = build_network(
            model,
            task=TASKS[train.task],
            loss=train.loss,
            image_size=shards.manifest.image_size,
            load_weights=False,
        )
    trainer = Trainer(
        network,
        augment=augment,
        model=model,
        train=train.model_copy(update={"jit_compile": result.jit_compile}),
        num_steps=UNLIMITED,
    )

    def full_batches() -> tf.data.Dataset:
        batches = train_dataset(
            shards,
            task=train.task,
            sampling=sampling,
            batch_size=train.batch_size,
            epochs=UNLIMITED,
            partners=partner_sampling(sampling, augment),
            timed=True,
        )
        # Without the smaller ones at the end of an epoch, which are compiled again.
        return batches.filter(lambda x: tf.size(x["label"]) == train.batch_size)

    streamed = iter(device_batches(full_batches))
    start = time.perf_counter()
    _stream_steps(trainer, streamed, 1)
    result.first_step_seconds = time.perf_counter() - start
    resident = next(streamed)
    del resident["loaded"]
    specs = {
        name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)
        for name, value in resident.items()
    }
    # The same function as in the stream, so that XLA compiles it only once.
    step = trainer.step.get_concrete_function(specs)
    forward = tf.function(trainer.test_step, jit_compile=result.jit_compile)
    augment_batch = tf.function(trainer.augment_batch)
    for function in (step, forward, augment_batch):
        function(resident)
    took = _seconds_of(step, resident, NUM_WARMUP_STEPS)
    num_steps = max(1, round(seconds * NUM_WARMUP_STEPS / took))
    for _ in range(num_repeats):
        took = _seconds_of(step, resident, num_steps)
        result.resident.append(num_steps / took)
        augmenting = _seconds_of(augment_batch, resident, num_steps)
        result.augment_fraction.append(augmenting / took)
        took = _seconds_of(forward, resident, num_steps)
        result.forward.append(num_steps / took)
        start = time.perf_counter()
        waited = _stream_steps(trainer, streamed, num_steps)
        took = time.perf_counter() - start
        result.streamed.append(num_steps / took)
        result.input_wait_fraction.append(waited / took)
        advance()


def _stream_steps(trainer: Trainer, batches: Iterator[Batch], num_steps: int) -> float:
    """Run steps as training does, and return the seconds spent waiting for batches."""
    waited, num_left, num_per_call = 0.0, num_steps, 1
    while num_left:
        start = time.perf_counter()
        done = trainer.execute_steps(
            batches, tf.constant(min(num_per_call, num_left), tf.int32)
        )
        num_left -= int(done.num_done)
        waited += float(done.wait_seconds)
        rate = int(done.num_done) / (time.perf_counter() - start)
        num_per_call = choose_num_steps(rate)
    return waited


def _seconds_of(
    function: Callable[[Batch], Any], batch: Batch, num_calls: int
) -> float:
    """Return how long some calls take, until the device has done its work."""
    start = time.perf_counter()
    for _ in range(num_calls):
        function(batch)
    tf.test.experimental.sync_devices()
    return time.perf_counter() - start

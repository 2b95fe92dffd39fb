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
from drtf.models.device import use_dtype_policy
from drtf.models.network import build_network
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.trainer import Trainer

UNLIMITED = 10**9  # steps or epochs, more than are ever run
NUM_WARMUP_STEPS = 2

Batch = dict[str, tf.Tensor]


@dataclass
class StepResult:
    """The measurements of one kind of step, with one value per repetition.

    Attributes:
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the whole step.
        resident: Steps per second with one batch that stays on the device.
        streamed: Steps per second with batches from the pipeline.
        input_wait_fraction: Fraction of the time that is spent waiting for the
            pipeline.
        first_step_seconds: Duration of the first step, which traces and compiles.
        failure: Why the step could not run; empty if it could.
    """

    precision: str
    jit_compile: bool
    resident: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
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
        precisions: Dtype policies, each measured without and with XLA.
        seconds: Duration of each measurement; it has at least one step.
        num_repeats: Number of repetitions; each one measures the resident batch and
            then the stream.

    Returns:
        A result for each precision, without and with XLA.

    Raises:
        DrtfError: If the dataset is smaller than a batch.
    """
    results = [StepResult(x, y) for x in precisions for y in (False, True)]
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
        train=train,
        num_steps=UNLIMITED,
    )
    step = tf.function(trainer.train_step, jit_compile=result.jit_compile)
    streamed = _full_batches(shards, sampling=sampling, augment=augment, train=train)
    resident = {name: tf.identity(value) for name, value in next(streamed).items()}
    start = time.perf_counter()
    _run(step, lambda: resident, 1)
    result.first_step_seconds = time.perf_counter() - start
    took, _ = _run(step, lambda: resident, NUM_WARMUP_STEPS)
    num_steps = max(1, round(seconds * NUM_WARMUP_STEPS / took))
    for _ in range(num_repeats):
        took, _ = _run(step, lambda: resident, num_steps)
        result.resident.append(num_steps / took)
        took, waited = _run(step, lambda: next(streamed), num_steps)
        result.streamed.append(num_steps / took)
        result.input_wait_fraction.append(waited / took)
        advance()


def _full_batches(
    shards: ShardDataset,
    *,
    sampling: SamplingConfig,
    augment: AugmentConfig,
    train: TrainConfig,
) -> Iterator[Batch]:
    """Yield batches without end, except the smaller ones at the end of an epoch."""
    size = train.batch_size
    for batch in train_dataset(
        shards,
        task=train.task,
        sampling=sampling,
        batch_size=size,
        epochs=UNLIMITED,
        partners=partner_sampling(sampling, augment),
    ):
        if len(batch["label"]) == size:
            yield batch


def _run(
    step: Callable[[Batch], Any], next_batch: Callable[[], Batch], num_steps: int
) -> tuple[float, float]:
    """Return how long some steps took, and how much of it was waiting for batches."""
    waited = 0.0
    start = time.perf_counter()
    for _ in range(num_steps):
        wait_start = time.perf_counter()
        batch = next_batch()
        waited += time.perf_counter() - wait_start
        step(batch)
    tf.test.experimental.sync_devices()
    return time.perf_counter() - start, waited

"""What streaming its batches costs a training step, by precision and compiler."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from drtf.bench.read import check_batch_size
from drtf.config import Config
from drtf.data.pipeline import train_dataset
from drtf.models.device import dtype_policy
from drtf.models.network import build_network
from drtf.progress import progress
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.trainer import Trainer

NEVER = 10**9
NUM_WARM = 2

Batch = dict[str, tf.Tensor]


@dataclass
class StepResult:
    """How fast one kind of step is.

    Attributes:
        precision: the dtype policy.
        jit_compile: whether XLA compiles the whole step.
        resident: steps a second from one batch that stays on the device, a value a
            repetition; so the next ones.
        streamed: steps a second from the pipeline.
        wait_share: of the time, spent until the pipeline gave a batch.
        first_step_seconds: what tracing and compiling took.
        missing: why it could not be run; empty where it could.
    """

    precision: str
    jit_compile: bool
    resident: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    wait_share: list[float] = field(default_factory=list)
    first_step_seconds: float = 0.0
    missing: str = ""


def bench_train(
    shards: Path,
    *,
    config: Config,
    precisions: Sequence[str],
    seconds: float,
    num_repeats: int,
) -> list[StepResult]:
    """Measure the whole training step: augmentation, forward, backward, update.

    Args:
        shards: a set; its train split is streamed.
        config: its sections `sampling`, `augment`, `model` and `train` are used; the
            weights are random.
        precisions: dtype policies, each tried without and with XLA.
        seconds: of each measurement, and at least one step.
        num_repeats: repetitions, each of the resident batch and then of the stream.

    Raises:
        DrtfError: if the set is smaller than a batch.
    """
    results = [StepResult(x, y) for x in precisions for y in (False, True)]
    with (
        ShardDataset(shards) as shard_set,
        progress("Measuring", len(results) * num_repeats) as advance,
    ):
        check_batch_size(
            shard_set, config.train.task, config.sampling, config.train.batch_size
        )
        for result in results:
            try:
                _measure(
                    result,
                    shard_set,
                    config=config,
                    seconds=seconds,
                    num_repeats=num_repeats,
                    advance=lambda: advance(result.precision),  # noqa: B023
                )
            except (tf.errors.OpError, ValueError) as error:
                result.missing = str(error).strip().splitlines()[0]
    return results


def _measure(
    result: StepResult,
    shards: ShardDataset,
    *,
    config: Config,
    seconds: float,
    num_repeats: int,
    advance: Callable[[], None],
) -> None:
    with dtype_policy(result.precision):
        network = build_network(
            config.model,
            task=TASKS[config.train.task],
            image_size=shards.manifest.image_size,
            load_weights=False,
        )
    trainer = Trainer(network, config, num_steps=NEVER)
    step = tf.function(trainer.train_step, jit_compile=result.jit_compile)
    streamed = _whole_batches(shards, config)
    resident = {name: tf.identity(value) for name, value in next(streamed).items()}
    start = time.perf_counter()
    _run(step, lambda: resident, 1)
    result.first_step_seconds = time.perf_counter() - start
    took, _ = _run(step, lambda: resident, NUM_WARM)
    num_steps = max(1, round(seconds * NUM_WARM / took))
    for _ in range(num_repeats):
        took, _ = _run(step, lambda: resident, num_steps)
        result.resident.append(num_steps / took)
        took, waited = _run(step, lambda: next(streamed), num_steps)
        result.streamed.append(num_steps / took)
        result.wait_share.append(waited / took)
        advance()


def _whole_batches(shards: ShardDataset, config: Config) -> Iterator[Batch]:
    """Stream without end, without the smaller batch that ends an epoch."""
    size = config.train.batch_size
    for batch in train_dataset(
        shards,
        task=config.train.task,
        sampling=config.sampling,
        batch_size=size,
        epochs=NEVER,
    ):
        if len(batch["label"]) == size:
            yield batch


def _run(
    step: Callable[[Batch], Any], next_batch: Callable[[], Batch], num_steps: int
) -> tuple[float, float]:
    """Return the seconds that some steps took, and those waited for their batches."""
    waited = 0.0
    start = time.perf_counter()
    for _ in range(num_steps):
        asked = time.perf_counter()
        batch = next_batch()
        waited += time.perf_counter() - asked
        step(batch)
    tf.test.experimental.sync_devices()
    return time.perf_counter() - start, waited

"""What a training will do and take, told before it begins."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from drtf.config import Config, parse_config
from drtf.data.pipeline import (
    BATCHES_READY,
    NUM_CALLS,
    binary_labels,
    count_examples,
    count_steps,
)
from drtf.data.sampling import count_draws
from drtf.errors import ConfigError
from drtf.models.device import (
    choose_compiler,
    choose_precision,
    choose_strategy,
    dtype_policy,
)
from drtf.models.losses import class_weights
from drtf.models.network import build_network, count_parameters
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS

_log = logging.getLogger(__name__)

FLOAT_BYTES = 4
# Variables that an optimizer has for each one that it trains.
SLOTS = {"adam": 2, "adamw": 2, "sgd": 1}


@dataclass(frozen=True)
class TrainPlan:
    """What a training will do.

    Attributes:
        image_size: in px.
        num_photographs: by split, then by class of the task.
        num_drawn: photographs of an epoch, by class.
        num_steps: of an epoch.
        num_trained: trained parameters.
        num_frozen: frozen parameters.
        precision: the dtype policy.
        batches_mb: memory of the batches that are held at a time, beside TensorFlow's.
        variables_mb: of weights, gradients and the optimizer's variables, on the
            device.
        activations_mb: of what the layers of one step put out, on the device; an
            estimate, since what is kept and what is worked in depends on the device.
    """

    image_size: int
    num_photographs: dict[str, list[int]]
    num_drawn: list[int]
    num_steps: int
    num_trained: int
    num_frozen: int
    precision: str
    batches_mb: float
    variables_mb: float
    activations_mb: float


def adopt_settings(config: Config, shards: ShardDataset) -> Config:
    """Return a config whose sections that shape a set are those that made this one.

    A warning names what was asked for otherwise.
    """
    made = {"images": shards.manifest.preprocessing} | shards.manifest.settings
    adopted = parse_config(config.model_dump() | made, where=str(shards.folder))
    unlike = []
    for section, settings in made.items():
        given, taken = getattr(config, section), getattr(adopted, section)
        for name in settings.keys() & given.model_fields_set:
            wanted, found = getattr(given, name), getattr(taken, name)
            if wanted != found:
                unlike.append(f"{section}.{name}={found!r} in place of {wanted!r}")
    if unlike:
        _log.warning(
            "%s was built with %s, and is trained on as it is",
            shards.folder,
            ", ".join(sorted(unlike)),
        )
    return adopted


def positive_prior(shards: ShardDataset, config: Config) -> float:
    """Find the share of positive photographs in the loss: as drawn, and as weighted.

    Raises:
        DrtfError: if training or validation would have one class only.
    """
    task = config.train.task
    for split in ("train", config.train.validation_split):
        binary_labels(shards, split, task)
    drawn = count_draws(count_examples(shards, "train", task), config.sampling)
    weighted = np.multiply(drawn, class_weights(config.train))
    share = float(weighted[TASKS[task].first_positive_class :].sum() / weighted.sum())
    if not 0 < share < 1:
        raise ConfigError(
            "sampling.weights, train.class_weights or train.focal_alpha leave "
            "photographs of one class only: healthy and diseased ones are both needed"
        )
    return share


def plan_training(shards: Path, *, config: Config) -> TrainPlan:
    """Plan a training without a step of it.

    Args:
        shards: the set's folder.
        config: as for `train`.

    Raises:
        DrtfError: for what `train` would refuse too: a set without a split or a class,
            weights that don't fit or can't be loaded, devices that are not there.
    """
    settings = config.train
    strategy = choose_strategy(settings.num_devices, batch_size=settings.batch_size)
    num_devices = strategy.num_replicas_in_sync
    choose_compiler(settings.jit_compile, num_devices=num_devices)
    with ShardDataset(shards) as shard_set:
        positive_prior(shard_set, config)
        image_size = adopt_settings(config, shard_set).images.size
        counts = {
            split: count_examples(shard_set, split, settings.task)
            for split in ("train", settings.validation_split)
        }
        num_steps = count_steps(
            shard_set,
            split="train",
            task=settings.task,
            sampling=config.sampling,
            batch_size=settings.batch_size,
            num_parts=num_devices,
        )
    num_drawn = count_draws(counts["train"], config.sampling)
    precision = choose_precision(settings.precision)
    with dtype_policy(precision):
        network = build_network(
            config.model,
            task=TASKS[settings.task],
            image_size=image_size,
            # A file is looked into; Keras's own would be downloaded.
            load_weights=config.model.weights != "imagenet",
        )
    num_trained, num_frozen = count_parameters(network)
    batch_size = min(settings.batch_size, sum(num_drawn))
    image_bytes = 3 * image_size**2
    variables = num_trained * (2 + SLOTS[settings.optimizer]) + num_frozen
    if settings.ema_momentum:
        variables += num_trained + num_frozen
    return TrainPlan(
        image_size=image_size,
        num_photographs={split: found.tolist() for split, found in counts.items()},
        num_drawn=num_drawn,
        num_steps=num_steps,
        num_trained=num_trained,
        num_frozen=num_frozen,
        precision=precision,
        # One more is what the step works on.
        batches_mb=(BATCHES_READY + NUM_CALLS + 1) * batch_size * image_bytes / 1e6,
        variables_mb=FLOAT_BYTES * variables / 1e6,
        activations_mb=batch_size * _count_activation_bytes(network) / 1e6,
    )


def _count_activation_bytes(network: keras.Model) -> int:
    """Count what all layers put out for one photograph."""
    return sum(
        math.prod(layer.output.shape[1:]) * np.dtype(_find_numpy_dtype(layer)).itemsize
        for layer in network.layers
    )


def _find_numpy_dtype(layer: keras.Layer) -> str:
    # NumPy has no bfloat16; float16 is as large.
    return layer.compute_dtype.replace("bfloat16", "float16")

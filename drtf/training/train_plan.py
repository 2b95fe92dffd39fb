"""The plan of a training run: its steps, parameters and memory, before it starts."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from drtf.cluster import Cluster
from drtf.config import (
    AugmentConfig,
    Config,
    SamplingConfig,
    TrainConfig,
    parse_config,
)
from drtf.data.examples import binary_labels, count_examples
from drtf.data.sampling import partner_sampling
from drtf.data.sampling_groups import group_photographs
from drtf.data.stream import NUM_PARALLEL_LOADS, NUM_PREFETCHED
from drtf.errors import ConfigError
from drtf.labels.soft_labels import SoftLabels, load_soft_labels
from drtf.models.backbones import check_model
from drtf.models.device import (
    choose_compiler,
    choose_devices,
    choose_precision,
    use_dtype_policy,
)
from drtf.models.losses import class_weights
from drtf.models.network import count_parameters
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS, TaskName
from drtf.training.parent import (
    adopt_network,
    build_initial_network,
    describe_start,
    load_parent,
    warn_of_parent,
)
from drtf.training.validation_groups import validation_groups

_log = logging.getLogger(__name__)

FLOAT_BYTES = 4
# Variables that an optimizer has for each trained variable.
NUM_SLOTS = {"adam": 2, "adamw": 2, "sgd": 1}


@dataclass(frozen=True)
class TrainPlan:
    """The steps, parameters and memory of a training run.

    Attributes:
        backbone: Name of the backbone.
        image_size: In px.
        num_photographs: By split, then by class of the task.
        num_drawn: Photographs drawn in an epoch, by class.
        groups: By group of `sampling.by`, its photographs and how many are drawn in an
            epoch.
        num_steps: Steps in an epoch.
        num_trained: Trained parameters.
        num_frozen: Frozen parameters.
        precision: The dtype policy.
        start: Which weights it takes from the run that it starts from; empty if there
            is no such run.
        soft_labels: The soft labels that it uses; empty if there are none.
        batches_mb: Host memory for batches, in addition to TensorFlow's own.
        variables_mb: Device memory for weights, gradients and the optimizer.
        activations_mb: Device memory for the outputs of all layers in one step. An
            estimate: the device decides what it keeps and how much it works in.
    """

    backbone: str
    image_size: int
    num_photographs: dict[str, list[int]]
    num_drawn: list[int]
    groups: dict[str, list[int]]
    num_steps: int
    num_trained: int
    num_frozen: int
    precision: str
    start: str
    soft_labels: str
    batches_mb: float
    variables_mb: float
    activations_mb: float


def adopt_settings(config: Config, shards: ShardDataset) -> Config:
    """Replace the sections of a config that shape a dataset by the dataset's own.

    A warning names the settings that were given with another value.
    """
    built_with = {"images": shards.manifest.preprocessing} | shards.manifest.settings
    adopted = parse_config(config.model_dump() | built_with, where=str(shards.folder))
    differences = []
    for section, settings in built_with.items():
        given, used = getattr(config, section), getattr(adopted, section)
        for name in settings.keys() & given.model_fields_set:
            wanted, actual = getattr(given, name), getattr(used, name)
            if wanted != actual:
                differences.append(f"{section}.{name}={actual!r} instead of {wanted!r}")
    if differences:
        _log.warning(
            "%s was built with %s; training uses the dataset as it is",
            shards.folder,
            ", ".join(sorted(differences)),
        )
    return adopted


def positive_prior(
    shards: ShardDataset,
    *,
    sampling: SamplingConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    soft_labels: SoftLabels | None = None,
) -> float:
    """Return the fraction of positive photographs in the loss.

    Photographs count as they are drawn, mixed and weighted, and soft labels as they
    are.

    Args:
        shards: An open dataset.
        sampling: The `sampling` section.
        augment: The `augment` section.
        train: The `train` section.
        soft_labels: The targets, if they are not the labels.

    Raises:
        DrtfError: If training or validation would have one class only.
    """
    task = train.task
    for split in ("train", train.validation_split):
        binary_labels(shards, split, task)
    common: dict[str, Any] = {"task": task, "soft_labels": soft_labels}
    drawn = _class_fractions(shards, sampling=sampling, **common)
    partners = partner_sampling(sampling, augment)
    if partners and partners != sampling:
        mixed_in = _class_fractions(shards, sampling=partners, **common)
        # The mean of Beta(alpha, 1).
        fraction = augment.balanced_mixup / (augment.balanced_mixup + 1)
        drawn = (1 - fraction) * drawn + fraction * mixed_in
    weighted = np.multiply(drawn, class_weights(train))
    prior = float(weighted[TASKS[task].first_positive_class :].sum() / weighted.sum())
    if not 0 < prior < 1:
        raise ConfigError(
            "sampling.weights, train.class_weights or train.focal_alpha leave only one "
            "class with a weight above 0: both negative and positive photographs are "
            "required"
        )
    return prior


def _class_fractions(
    shards: ShardDataset,
    *,
    task: TaskName,
    sampling: SamplingConfig,
    soft_labels: SoftLabels | None,
) -> np.ndarray:
    """Return how often each class is drawn in an epoch of training, float64 [C]."""
    groups = group_photographs(shards, "train", task=task, sampling=sampling)
    if soft_labels is None:
        return np.divide(groups.num_drawn_by_class, sum(groups.num_drawn_by_class))
    draws = np.divide(groups.num_drawn, np.maximum(groups.num_photographs, 1))
    draws = draws[groups.numbers]
    positive = draws @ soft_labels.targets / draws.sum()
    return np.array([1 - positive, positive])


def plan_training(
    shards: Path,
    *,
    config: Config,
    table: Path | None = None,
    cluster: Cluster | None = None,
) -> TrainPlan:
    """Plan a training run without running a step.

    Args:
        shards: The dataset's folder.
        config: As for `train`.
        table: As for `train`.
        cluster: As for `train`; the other hosts are not contacted.

    Raises:
        DrtfError: For everything that `train` refuses at its start: a dataset without a
            split or class, weights that cannot be loaded, missing devices.
    """
    settings = config.train
    parent = load_parent(config.model.weights)
    config = adopt_network(config, parent)
    check_model(config.model, head_epochs=settings.head_epochs)
    devices = choose_devices(
        settings.num_devices, batch_size=settings.batch_size, cluster=cluster
    )
    num_devices = len(devices) * (cluster.num_hosts if cluster else 1)
    choose_compiler(settings.jit_compile, num_devices=num_devices)
    with ShardDataset(shards) as dataset:
        dataset.check_fits_cache("train", config.sampling.window_shards)
        soft_labels = load_soft_labels(dataset, settings, table)
        positive_prior(
            dataset,
            sampling=config.sampling,
            augment=config.augment,
            train=settings,
            soft_labels=soft_labels,
        )
        config = adopt_settings(config, dataset)
        warn_of_parent(parent, config, dataset)
        counts = {
            split: count_examples(dataset, split, settings.task)
            for split in ("train", settings.validation_split)
        }
        validation_groups(dataset, settings)  # fails as the training would
        groups = group_photographs(
            dataset, "train", task=settings.task, sampling=config.sampling
        )
        num_steps = groups.count_steps(settings.batch_size, num_parts=num_devices)
    image_size = config.images.size
    precision = choose_precision(settings.precision)
    with use_dtype_policy(precision):
        # Weights that exist are checked. Keras's weights would be downloaded.
        network = build_initial_network(
            config, parent, load_weights=config.model.weights != "imagenet"
        )
    num_trained, num_frozen = count_parameters(network)
    batch_size = min(settings.batch_size, groups.images_per_epoch)
    batch_bytes = batch_size * 3 * image_size**2
    # One more is the batch that the step works on.
    num_batches = NUM_PREFETCHED + NUM_PARALLEL_LOADS + 1
    if partner_sampling(config.sampling, config.augment):
        num_batches *= 2
    variables = num_trained * (2 + NUM_SLOTS[settings.optimizer]) + num_frozen
    if settings.ema_momentum:
        variables += num_trained + num_frozen
    return TrainPlan(
        backbone=config.model.name,
        image_size=image_size,
        num_photographs={split: count.tolist() for split, count in counts.items()},
        num_drawn=groups.num_drawn_by_class,
        groups={
            name: counts
            for name, *counts in zip(
                groups.names, groups.num_photographs, groups.num_drawn, strict=True
            )
            if any(counts)
        },
        num_steps=num_steps,
        num_trained=num_trained,
        num_frozen=num_frozen,
        precision=precision,
        start=describe_start(parent, config),
        soft_labels=soft_labels.describe(settings) if soft_labels else "",
        batches_mb=num_batches * batch_bytes / 1e6,
        variables_mb=FLOAT_BYTES * variables / 1e6,
        activations_mb=batch_size * _activation_bytes(network) / 1e6,
    )


def _activation_bytes(network: keras.Model) -> int:
    """Return the bytes that all layers put out for one photograph."""
    return sum(
        math.prod(layer.output.shape[1:]) * np.dtype(_numpy_dtype(layer)).itemsize
        for layer in network.layers
    )


def _numpy_dtype(layer: keras.Layer) -> str:
    # NumPy has no bfloat16; float16 has the same size.
    return layer.compute_dtype.replace("bfloat16", "float16")

"""The parent of a training: the earlier run that `model.weights` names."""

import logging
from dataclasses import dataclass
from pathlib import Path

import keras

from drtf.config import Config, ModelConfig, parse_config
from drtf.errors import ConfigError, DrtfError, RunError
from drtf.locations import check_location, is_remote
from drtf.models.backbones import OWN_MODEL
from drtf.models.compatibility import preprocessing_differences
from drtf.models.losses import LOSSES
from drtf.models.network import build_network
from drtf.models.run import Ancestor, Run, load_run, load_run_config
from drtf.models.stored_run import fetch_run
from drtf.models.training_photographs import count_training_photographs
from drtf.models.weights import copy_weights, is_run_folder
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.identity import load_ancestors

# Settings of the `model` section that the weights of a backbone depend on.
BACKBONE_SETTINGS = ("name", "alpha", "input_range")
# Settings that decide which layers a head has.
HEAD_SETTINGS = ("head_units", "head_batch_norm")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """The run that a training starts from.

    Attributes:
        model: The `model` section of its config.
        ancestors: The run itself, then the runs that it started from.
        run: The run; None if it was deleted before the training was resumed.
    """

    model: ModelConfig
    ancestors: tuple[Ancestor, ...]
    run: Run | None


def load_parent(weights: str, *, resumed: Path | None = None) -> Parent | None:
    """Load the run that `model.weights` names.

    Args:
        weights: The value of `model.weights`; a run may be in a store.
        resumed: The folder of a training that is resumed. It names the parent, in case
            that was deleted meanwhile.

    Returns:
        None if `model.weights` does not name a run.

    Raises:
        RunError: If the run is unfinished, damaged or changed, or if drtf cannot train
            its network.
    """
    saved = _load_saved(resumed, weights) if resumed else None
    check_location(weights)
    if is_remote(weights):
        try:
            folder = fetch_run(weights)
        except RunError:
            if saved:
                return saved
            raise
    elif is_run_folder(weights):
        folder = Path(weights).expanduser()
    else:
        return saved
    run = load_run(folder)
    _check_trainable(run)
    itself = Ancestor(
        dataset_name=run.info.dataset_name, model_sha256=run.info.model_sha256
    )
    return Parent(run.config.model, (itself, *run.info.ancestors), run)


def _load_saved(resumed: Path, weights: str) -> Parent | None:
    """Load the parent that a training's folder holds, if it had the same path."""
    ancestors = load_ancestors(resumed)
    if not ancestors:
        return None
    model = load_run_config(resumed).model
    return Parent(model, ancestors, None) if model.weights == weights else None


def _check_trainable(run: Run) -> None:
    if run.info.members:
        raise RunError(
            f"model.weights: {run.folder} is an ensemble, which cannot be trained: "
            "start from one of its members"
        )
    if run.config.model.name == OWN_MODEL.name:
        raise RunError(
            f"model.weights: the network of {run.folder} is your own, so drtf cannot "
            "train it: train it with your own code, or start from a run of drtf train"
        )


def adopt_network(config: Config, parent: Parent | None) -> Config:
    """Take the settings of the network that a config does not give from the parent.

    Raises:
        ConfigError: If the config gives another value of a setting that the weights of
            the backbone depend on.
    """
    if parent is None:
        return config
    given = config.model.model_fields_set
    weights = config.model.weights
    for name in BACKBONE_SETTINGS:
        wanted, actual = getattr(config.model, name), getattr(parent.model, name)
        if name in given and wanted != actual:
            raise ConfigError(
                f"model.{name}={wanted!r} does not fit the run model.weights="
                f"{weights!r}, which has {actual!r}: set model.{name}={actual!r}, or "
                "start from another run"
            )
    adopted = {*BACKBONE_SETTINGS, "upsampling"} - given
    if not given & set(HEAD_SETTINGS):
        adopted.update(HEAD_SETTINGS)
    settings = {
        **config.model.model_dump(exclude_unset=True),
        **{name: getattr(parent.model, name) for name in adopted},
    }
    checked = parse_config({"model": settings}, where=f"model.weights={weights!r}")
    return config.model_copy(update={"model": checked.model})


def build_initial_network(
    config: Config, parent: Parent | None, *, load_weights: bool
) -> keras.Model:
    """Build the network of a training, with the weights that it starts from.

    Args:
        config: The config of the training, with the settings of its parent.
        parent: The run whose weights are taken.
        load_weights: False leaves the weights random.

    Raises:
        DrtfError: If the weights cannot be loaded.
    """
    run = parent.run if parent else None
    if parent and run is None and load_weights:
        raise RunError(
            f"model.weights: the run {config.model.weights} was deleted, and the "
            "training that started from it has no checkpoint yet: restore the run, or "
            "start from other weights with another --out"
        )
    source = run.network if run and load_weights else None
    try:
        network = build_network(
            config.model,
            task=TASKS[config.train.task],
            loss=config.train.loss,
            image_size=config.images.size,
            load_weights=load_weights,
            source=source,
        )
        if run and source and not _head_difference(run, config):
            copy_weights(source, network.layers)
    except DrtfError as error:
        if run is None:
            raise
        raise DrtfError(
            f"model.weights: {run.folder}, trained at {run.info.image_size} px, does "
            f"not fit {config.model.name} at {config.images.size} px: {error}. Build a "
            "dataset of the same size, or start from another run"
        ) from error
    return network


def describe_start(parent: Parent | None, config: Config) -> str:
    """Return which weights a training takes from its parent; empty if it has none."""
    if parent is None or parent.run is None:
        return ""
    run = parent.run
    difference = _head_difference(run, config)
    taken = (
        f"the backbone is taken; the head is new, because {difference}"
        if difference
        else "the backbone and the head are taken"
    )
    return (
        f"Starting from {run.folder}, which was trained on {run.info.dataset_name} "
        f"({run.describe()}): {taken}"
    )


def _head_difference(run: Run, config: Config) -> str:
    """Return why the parent's head cannot be taken; empty if it can."""
    keys = ["train.task", *(f"model.{name}" for name in HEAD_SETTINGS)]
    losses = run.config.train.loss, config.train.loss
    if len({LOSSES[loss].output for loss in losses}) > 1:
        keys.append("train.loss")
    for key in keys:
        section, _, name = key.partition(".")
        there, here = (getattr(getattr(x, section), name) for x in (run.config, config))
        if there != here:
            return f"{key} is {here!r} instead of {there!r}"
    return ""


def warn_of_parent(parent: Parent | None, config: Config, shards: ShardDataset) -> None:
    """Warn if a parent does not fit a dataset well, or has seen photographs of it.

    Args:
        parent: The parent.
        config: The config of the training, with the settings of the dataset.
        shards: The dataset, open.
    """
    if parent is None or parent.run is None:
        return
    run = parent.run
    changes = [
        f"images.{name}={here!r} instead of {there!r}"
        for name, there, here in preprocessing_differences(run, shards)
    ]
    if run.config.model.upsampling != config.model.upsampling:
        here, there = config.model.upsampling, run.config.model.upsampling
        changes.append(f"model.upsampling={here!r} instead of {there!r}")
    if changes:
        _log.warning(
            "%s was trained on other images than those of %s, which have %s; training "
            "adapts the weights to them",
            run.folder,
            shards.folder,
            ", ".join(changes),
        )
    for split in shards.manifest.num_records:
        num_known = count_training_photographs(run.folder, shards, split)
        if num_known and split != "train":
            _log.warning(
                "%s was trained or chosen on %s of the %s photographs in split %r of "
                "%s, so results on them are optimistic",
                run.folder,
                f"{num_known:,}",
                f"{len(shards.split_rows(split)):,}",
                split,
                shards.folder,
            )

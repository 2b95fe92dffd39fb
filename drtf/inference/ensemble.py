"""Ensembles: several runs joined into one, which is a run like any other."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

import keras
from keras import ops

from drtf.errors import RunError
from drtf.files import hash_file, replacing
from drtf.models.head import LOGITS, add_score
from drtf.models.run import (
    CONFIG_FILE,
    MODEL_FILE,
    Run,
    RunInfo,
    load_run,
    save_config,
    save_info,
    save_model,
)
from drtf.tasks import Task

Mean = Literal["scores", "logits"]


def combine(run_folders: Sequence[Path], *, out: Path, mean: Mean) -> RunInfo:
    """Join runs into an ensemble, and write it as a run folder of its own.

    The mean of the scores is the mixture of Lakshminarayanan et al., 2017,
    https://arxiv.org/abs/1612.01474; the mean of the logits is the geometric one, which
    lets a member that is sure of itself say more.

    Args:
        run_folders: of two or more runs of one task, trained on one set.
        out: the folder to write; it has no threshold yet.
        mean: of what the members say.

    Raises:
        RunError: if `out` exists, or the runs don't fit together.
    """
    if out.exists():
        raise RunError(f"{out} exists already: name another folder")
    if len(run_folders) < 2:
        raise RunError(f"an ensemble needs at least 2 runs; got {len(run_folders)}")
    runs = [load_run(folder) for folder in run_folders]
    for run in runs:
        if run.info.members:
            raise RunError(f"{run.folder} is an ensemble itself: name its members")
        _check_alike(runs[0], run)
    hashes = [run.info.model_sha256 for run in runs]
    for run in runs:
        first = runs[hashes.index(run.info.model_sha256)]
        if first is not run:
            raise RunError(
                f"{first.folder} and {run.folder} are the same model: give each run "
                "once"
            )
    network = build_ensemble(
        [run.network for run in runs], mean=mean, task=runs[0].task
    )
    infos = [run.info for run in runs]
    with replacing(out) as folder:
        folder.mkdir()
        save_config(folder, runs[0].config)
        save_model(folder, network)
        info = infos[0].model_copy(
            update={
                "model_sha256": hash_file(folder / MODEL_FILE),
                "config_sha256": hash_file(folder / CONFIG_FILE),
                "members": tuple(hashes),
                "train_prior": fmean(info.train_prior for info in infos),
                "num_trained": sum(info.num_trained for info in infos),
                "num_frozen": sum(info.num_frozen for info in infos),
                "seconds": sum(info.seconds for info in infos),
                "peak_memory_mb": max(info.peak_memory_mb for info in infos),
            }
        )
        save_info(folder, info)
    return info


def build_ensemble(
    networks: Sequence[keras.Model], *, mean: Mean, task: Task
) -> keras.Model:
    """Build one network of several; its logits are those of their mean.

    Args:
        networks: from `build_network`, alike in input and output.
        mean: of what they say.
        task: what they were trained for.

    Returns:
        A model like its members, which are nested in it.
    """
    image = keras.Input(networks[0].input.shape[1:], name="image")
    found = []
    for number, network in enumerate(networks):
        logits = network.get_layer(LOGITS).output
        member = keras.Model(network.input, logits, name=f"member_{number}")
        found.append(member(image))
    logits = ops.stack(found)  # [N, B, C]
    if mean == "logits":
        joined = ops.mean(logits, axis=0)
    elif task.predicts_grades:
        joined = _log_mean(ops.log_softmax(logits, axis=-1))
    else:
        joined = _log_mean(ops.log_sigmoid(logits))
        joined -= _log_mean(ops.log_sigmoid(-logits))
    joined = keras.layers.Identity(name=LOGITS, dtype="float32")(joined)
    return keras.Model(image, add_score(joined, task), name="ensemble")


def _log_mean(logs: keras.KerasTensor) -> keras.KerasTensor:
    """Return the logarithm of the mean over the first axis, but for a constant."""
    return ops.logsumexp(logs, axis=0)


def _check_alike(first: Run, other: Run) -> None:
    tasks = first.config.train.task, other.config.train.task
    if tasks[0] != tasks[1]:
        raise RunError(
            f"{other.folder} was trained for the task {tasks[1]!r}, {first.folder} for "
            f"{tasks[0]!r}: only runs of one task can be joined"
        )
    names = first.config.model.name, other.config.model.name
    if names[0] != names[1]:
        raise RunError(
            f"{other.folder} has the backbone {names[1]!r}, {first.folder} "
            f"{names[0]!r}: an ensemble requires runs with the same backbone"
        )
    splits = tuple(run.config.train.validation_split for run in (first, other))
    if splits[0] != splits[1]:
        raise RunError(
            f"{other.folder} was validated on split {splits[1]!r}, {first.folder} on "
            f"{splits[0]!r}: no split would be unseen by both"
        )
    if first.info.dataset_sha256 != other.info.dataset_sha256:
        raise RunError(
            f"{other.folder} was trained on another set than {first.folder}: only runs "
            "of one set can be joined, or one's test split would have taught the other"
        )

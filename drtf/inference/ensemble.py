"""Ensembles: several runs combined into one run."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import keras
from keras import ops

from drtf.errors import RunError
from drtf.files import hash_file, replacing
from drtf.models.head import LOGITS, add_score
from drtf.models.run import (
    CONFIG_FILE,
    INFO_FILE,
    MODEL_FILE,
    Mean,
    Run,
    RunInfo,
    load_info,
    load_run,
    save_config,
    save_info,
    save_model,
)
from drtf.models.training_photographs import (
    PHOTOGRAPHS_FILE,
    merge_training_photographs,
)
from drtf.tasks import Task


def combine(run_folders: Sequence[Path], *, out: Path, mean: Mean) -> RunInfo:
    """Combine runs into an ensemble and write it as a run folder.

    The mean of the scores is the mixture of Lakshminarayanan et al., 2017,
    https://arxiv.org/abs/1612.01474. The mean of the logits is the geometric mean,
    which gives more weight to members that are certain.

    Args:
        run_folders: Two or more runs with the same task and training dataset.
        out: The run folder to write. It has no threshold until it is evaluated. If it
            is the same ensemble already, it is left as it is.
        mean: What to average, the members' scores or their logits.

    Raises:
        RunError: If `out` is something else, or the runs do not fit together.
    """
    if len(run_folders) < 2:
        raise RunError(f"an ensemble needs at least 2 runs; got {len(run_folders)}")
    if out.exists():
        return _load_complete(out, run_folders, mean)
    runs = [load_run(folder) for folder in run_folders]
    for run in runs:
        if run.info.members:
            raise RunError(
                f"{run.folder} is already an ensemble: give its members instead"
            )
        _check_compatible(runs[0], run)
    hashes = [run.info.model_sha256 for run in runs]
    for run in runs:
        first = runs[hashes.index(run.info.model_sha256)]
        if first is not run:
            raise RunError(
                f"{first.folder} and {run.folder} are the same model: give each run "
                "only once"
            )
    network = build_ensemble(
        [run.network for run in runs], mean=mean, task=runs[0].task
    )
    infos = [run.info for run in runs]
    with replacing(out) as folder:
        folder.mkdir()
        save_config(folder, runs[0].config)
        save_model(folder, network)
        # They may differ if members started from earlier runs.
        merge_training_photographs(folder, [run.folder for run in runs])
        info = infos[0].model_copy(
            update={
                "model_sha256": hash_file(folder / MODEL_FILE),
                "config_sha256": hash_file(folder / CONFIG_FILE),
                "history_sha256": "",
                "photographs_sha256": hash_file(folder / PHOTOGRAPHS_FILE),
                "ancestors": tuple(
                    dict.fromkeys(x for info in infos for x in info.ancestors)
                ),
                "members": tuple(hashes),
                "mean": mean,
                "train_prior": fmean(info.train_prior for info in infos),
                "num_trained": sum(info.num_trained for info in infos),
                "num_frozen": sum(info.num_frozen for info in infos),
                "seconds": sum(info.seconds for info in infos),
                "peak_memory_mb": max(info.peak_memory_mb for info in infos),
            }
        )
        save_info(folder, info)
    return info


def _load_complete(out: Path, run_folders: Sequence[Path], mean: Mean) -> RunInfo:
    """Return the contents of run.json if a folder is an ensemble of these runs."""
    members = tuple(load_info(folder).model_sha256 for folder in run_folders)
    info = load_info(out) if (out / INFO_FILE).exists() else None
    if info is None or (info.members, info.mean) != (members, mean):
        raise RunError(
            f"{out} already exists and is not the mean of the {mean} of these runs: "
            "choose another folder"
        )
    return info


def build_ensemble(
    networks: Sequence[keras.Model], *, mean: Mean, task: Task
) -> keras.Model:
    """Build a network that averages several networks.

    Args:
        networks: From `build_network`, with equal input and output shapes.
        mean: What to average, scores or logits.
        task: The task that they were trained for.

    Returns:
        A model with the members' input and output, in which they are nested. Its layer
        `logits` holds the logits of the mean.
    """
    image = keras.Input(networks[0].input.shape[1:], name="image")
    outputs = []
    for number, network in enumerate(networks):
        logits = network.get_layer(LOGITS).output
        member = keras.Model(network.input, logits, name=f"member_{number}")
        outputs.append(member(image))
    logits = ops.stack(outputs)  # [N, B, C]
    if mean == "logits":
        averaged = ops.mean(logits, axis=0)
    elif task.predicts_grades:
        averaged = _log_mean(ops.log_softmax(logits, axis=-1))
    else:
        averaged = _log_mean(ops.log_sigmoid(logits))
        averaged -= _log_mean(ops.log_sigmoid(-logits))
    averaged = keras.layers.Identity(name=LOGITS, dtype="float32")(averaged)
    return keras.Model(image, add_score(averaged, task), name="ensemble")


def _log_mean(logs: keras.KerasTensor) -> keras.KerasTensor:
    """Return the logarithm of the mean over the first axis, up to a constant."""
    return ops.logsumexp(logs, axis=0)


def _check_compatible(first: Run, other: Run) -> None:
    tasks = first.config.train.task, other.config.train.task
    if tasks[0] != tasks[1]:
        raise RunError(
            f"{other.folder} has the task {tasks[1]!r}, but {first.folder} has "
            f"{tasks[0]!r}: all runs of an ensemble must have the same task"
        )
    names = first.config.model.name, other.config.model.name
    if names[0] != names[1]:
        raise RunError(
            f"{other.folder} has the backbone {names[1]!r}, but {first.folder} has "
            f"{names[0]!r}: all runs of an ensemble must have the same backbone"
        )
    splits = tuple(run.config.train.validation_split for run in (first, other))
    if splits[0] != splits[1]:
        raise RunError(
            f"{other.folder} was validated on split {splits[1]!r}, but {first.folder} "
            f"on {splits[0]!r}: no split would be unseen by both"
        )
    if first.info.dataset_sha256 != other.info.dataset_sha256:
        raise RunError(
            f"{other.folder} and {first.folder} were trained on different datasets: a "
            "test photograph of one may be a training photograph of the other"
        )

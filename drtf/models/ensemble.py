"""Ensembles: several runs combined into one run."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import keras
from keras import ops

from drtf.errors import RunError
from drtf.files import hash_file, replacing
from drtf.models.head import LOGITS, add_score
from drtf.models.network import shrink_image
from drtf.models.run import (
    CONFIG_FILE,
    INFO_FILE,
    MODEL_FILE,
    Mean,
    Member,
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
    count_shared_photographs,
    merge_training_photographs,
)
from drtf.tasks import Task


def combine(run_folders: Sequence[Path], *, out: Path, mean: Mean) -> RunInfo:
    """Combine runs into an ensemble and write it as a run folder.

    The mean of the scores is the mixture of Lakshminarayanan et al., 2017,
    https://arxiv.org/abs/1612.01474. The mean of the logits is the geometric mean,
    which gives more weight to members that are certain.

    The ensemble takes images of the largest member's size; within the network they are
    shrunk for smaller members. The order of the runs makes no difference.

    Args:
        run_folders: Two or more runs with the same task, whose datasets have the same
            photographs in each split and were preprocessed with the same settings,
            except for the size.
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
    for number, run in enumerate(runs):
        if run.info.members:
            raise RunError(
                f"{run.folder} is already an ensemble: give its members instead"
            )
        for other in runs[:number]:
            _check_compatible(other, run)
    runs.sort(key=lambda run: _order(run.info))
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
                "num_adapted": 0,
                "members": tuple(map(_describe_member, runs)),
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
    members = sorted(map(load_info, run_folders), key=_order)
    hashes = [member.model_sha256 for member in members]
    info = load_info(out) if (out / INFO_FILE).exists() else None
    if (
        info is None
        or info.mean != mean
        or [member.model_sha256 for member in info.members] != hashes
    ):
        raise RunError(
            f"{out} already exists and is not the mean of the {mean} of these runs: "
            "choose another folder"
        )
    return info


def _order(info: RunInfo) -> tuple[int, str]:
    """Return a sort key: the largest images first, and no two models are equal."""
    return -info.image_size, info.model_sha256


def _describe_member(run: Run) -> Member:
    return Member(
        backbone=run.config.model.name,
        image_size=run.info.image_size,
        model_sha256=run.info.model_sha256,
    )


def build_ensemble(
    networks: Sequence[keras.Model], *, mean: Mean, task: Task
) -> keras.Model:
    """Build a network that averages several networks.

    Args:
        networks: From `build_network`, with equal output shapes.
        mean: What to average, scores or logits.
        task: The task that they were trained for.

    Returns:
        A model with the largest member's input and the members' output, in which they
        are nested. Its layer `logits` holds the logits of the mean.
    """
    sizes = [network.input.shape[1] for network in networks]
    largest = max(sizes)
    image = keras.Input((largest, largest, 3), name="image")
    images = {
        size: image if size == largest else shrink_image(image, size)
        for size in sorted(set(sizes))
    }
    outputs = []
    for number, (network, size) in enumerate(zip(networks, sizes, strict=True)):
        logits = network.get_layer(LOGITS).output
        member = keras.Model(network.input, logits, name=f"member_{number}")
        outputs.append(member(images[size]))
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
    """Refuse two runs that cannot be members of one ensemble."""
    if first.info.model_sha256 == other.info.model_sha256:
        raise RunError(
            f"{first.folder} and {other.folder} are the same model: give each run only "
            "once"
        )
    tasks = first.config.train.task, other.config.train.task
    if tasks[0] != tasks[1]:
        raise RunError(
            f"{other.folder} has the task {tasks[1]!r}, but {first.folder} has "
            f"{tasks[0]!r}: all runs of an ensemble must have the same task"
        )
    images = [run.config.images.model_dump(exclude={"size"}) for run in (first, other)]
    differences = [
        f"images.{name}={images[1][name]!r} instead of {value!r}"
        for name, value in images[0].items()
        if images[1][name] != value
    ]
    if differences:
        raise RunError(
            f"the images of {other.folder} were preprocessed differently from those "
            f"of {first.folder}: {', '.join(differences)}. The members of an ensemble "
            "may differ only in images.size"
        )
    splits = tuple(run.config.train.validation_split for run in (first, other))
    if splits[0] != splits[1]:
        raise RunError(
            f"{other.folder} was validated on split {splits[1]!r}, but {first.folder} "
            f"on {splits[0]!r}: no split would be unseen by both"
        )
    num_shared, num_different = count_shared_photographs(first.folder, other.folder)
    if not num_shared:
        raise RunError(
            f"{other.folder} and {first.folder} were trained on datasets without a "
            "common photograph, so their splits cannot be compared: build the datasets "
            "from the same files"
        )
    if num_different:
        raise RunError(
            f"{num_different:,} of the {num_shared:,} photographs that {other.folder} "
            f"and {first.folder} have in common were in different splits, so "
            "photographs that one run is tested on may be training photographs of the "
            "other: train the runs on datasets with the same splits"
        )

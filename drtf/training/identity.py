"""The identity of a training run: the settings and data that shape its weights.

This module does not load TensorFlow, so that `drtf train` refuses a folder at once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from drtf.config import Config
from drtf.errors import DrtfError, RunError
from drtf.files import (
    check_absent,
    encode_json,
    parse_json,
    partial_path,
    read_regular,
    write_atomic,
)
from drtf.models.run import RUN_FORMAT_VERSION, Ancestor
from drtf.models.run_files import IDENTITY_FILE, INFO_FILE
from drtf.training.checkpoint import list_checkpoints

ANCESTORS_KEY = "ancestors"
# Sections that shape the weights, given the dataset.
SECTIONS = ("sampling", "augment", "model", "train")
# Settings of `train` that may change when training resumes. They do not affect the
# weights, or the identity holds the value that they were resolved to.
CHANGEABLE_SETTINGS = {
    "checkpoint_minutes",
    "num_checkpoints",
    "num_devices",
    "precision",
    "steps_per_execution",
}


def training_identity(
    config: Config,
    *,
    precision: str,
    num_devices: int,
    num_hosts: int,
    dataset_sha256: str,
    ancestors: Sequence[Ancestor] = (),
    targets_sha256: str = "",
) -> dict[str, Any]:
    """Return everything that shapes the weights of a training run, by name.

    Args:
        config: Its sections `sampling`, `augment`, `model` and `train` are used.
        precision: The dtype policy, resolved from `train.precision`.
        num_devices: Devices that share each step, over all hosts, resolved from
            `train.num_devices`.
        num_hosts: Hosts that train together.
        dataset_sha256: The hash of the dataset's manifest.
        ancestors: The run that the training starts from, and those before it. The run
            may be moved, so its hash counts and not its path.
        targets_sha256: The hash of the targets made with soft labels.
    """
    settings = config.model_dump(mode="json")
    if ancestors:
        settings["model"]["weights"] = str(ancestors[0])
    return {
        "run_format_version": RUN_FORMAT_VERSION,
        **{
            f"{section}.{name}": value
            for section in SECTIONS
            for name, value in settings[section].items()
            if name not in CHANGEABLE_SETTINGS
        },
        "precision": precision,
        "num_devices": num_devices,
        "num_hosts": num_hosts,
        "dataset_sha256": dataset_sha256,
        "targets_sha256": targets_sha256,
        ANCESTORS_KEY: [ancestor.model_dump() for ancestor in ancestors],
    }


def save_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write identity.json into a run folder."""
    write_atomic(folder / IDENTITY_FILE, encode_json(identity))


def check_out(out: Path, *, resume: bool) -> None:
    """Check that a training may write to a folder.

    Raises:
        DrtfError: If the folder has other files, or has a training and `resume` is
            False.
    """
    identity_file = out / IDENTITY_FILE
    if not identity_file.exists():
        # A process killed at the very start leaves an empty folder or a partial file.
        files = list(out.iterdir()) if out.is_dir() else [out]
        if files not in ([], [partial_path(identity_file)]):
            check_absent(out)
    elif resume:
        return
    elif (out / INFO_FILE).exists():
        raise DrtfError(f"{out} has a finished training: choose another --out")
    # A training run that failed before its first checkpoint may start again.
    elif list_checkpoints(out):
        raise DrtfError(
            f"{out} has an unfinished training: resume it with --resume, or choose "
            "another --out"
        )


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Check that a run folder was started with the same identity.

    Raises:
        RunError: Names the first setting that differs.
    """
    saved = _load_identity(folder)
    for name, value in identity.items():
        if saved.get(name) != value:
            raise RunError(
                f"{folder} was started with {name}={saved.get(name)!r}, but this "
                f"command has {value!r}: use the original settings, choose another "
                "--out, or remove the folder"
            )


def load_ancestors(folder: Path) -> tuple[Ancestor, ...]:
    """Load the ancestors of the training in a run folder.

    Raises:
        RunError: If its identity.json cannot be read.
    """
    saved = _load_identity(folder).get(ANCESTORS_KEY, ())
    try:
        return tuple(Ancestor(**ancestor) for ancestor in saved)
    except (TypeError, ValidationError) as error:
        raise RunError(f"cannot read {folder / IDENTITY_FILE}: {error}") from error


def _load_identity(folder: Path) -> dict[str, Any]:
    path = folder / IDENTITY_FILE
    try:
        saved = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(saved, dict):
        raise RunError(f"cannot read {path}: it is not a JSON object")
    return saved

"""The identity of a training run: the settings and data that shape its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drtf.config import Config
from drtf.errors import RunError
from drtf.files import parse_json, read_regular, write_atomic
from drtf.models.run import RUN_FORMAT_VERSION

IDENTITY_FILE = "identity.json"
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
    config: Config, *, precision: str, num_devices: int, dataset_sha256: str
) -> dict[str, Any]:
    """Return everything that shapes the weights of a training run, by name.

    Args:
        config: Its sections `sampling`, `augment`, `model` and `train` are used.
        precision: The dtype policy, resolved from `train.precision`.
        num_devices: Devices that share each step, resolved from `train.num_devices`.
        dataset_sha256: The hash of the dataset's manifest.
    """
    settings = config.model_dump(mode="json")
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
        "dataset_sha256": dataset_sha256,
    }


def save_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write identity.json into a run folder."""
    write_atomic(folder / IDENTITY_FILE, json.dumps(identity, indent=2) + "\n")


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Check that a run folder was started with the same identity.

    Raises:
        RunError: Names the first setting that differs.
    """
    path = folder / IDENTITY_FILE
    try:
        saved = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    for name, value in identity.items():
        if saved.get(name) != value:
            raise RunError(
                f"{folder} was started with {name}={saved.get(name)!r}, but this "
                f"command has {value!r}: use the original settings, choose another "
                "--out, or remove the folder"
            )

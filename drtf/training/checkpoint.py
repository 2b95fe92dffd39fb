"""Checkpoints: the complete state of training after a step, written atomically."""

import hashlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drtf.errors import RunError
from drtf.files import parse_json, partial_path, read_regular, sync_folder, write_atomic
from drtf.models.run_files import IDENTITY_FILE

FOLDER = "checkpoints"
SUFFIX = ".checkpoint"
DAMAGED_SUFFIX = ".damaged"
HEADER_KEY = "header"
MODEL_KEY = "model"
# Attributes of a checkpoint that are lists of arrays.
ARRAY_KEYS = ("arrays", "metric_sums")
# Far above the checkpoint of any network that drtf builds.
MAX_CHECKPOINT_BYTES = 1 << 34

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state that a training resumes from.

    Attributes:
        num_steps: Steps since the start of the training.
        state: Everything that is not an array, as JSON values.
        arrays: The values of the trainer's variables, in their order.
        metric_sums: The sums of the epoch's metrics, each [num_devices, *shape].
        model: The bytes of model.keras, the best model so far; empty if there is none.
    """

    num_steps: int
    state: dict[str, Any]
    arrays: list[np.ndarray]
    metric_sums: list[np.ndarray]
    model: bytes


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, num_kept: int) -> Path:
    """Write a checkpoint into a run folder, and remove all but the newest `num_kept`.

    The file is an npz of NumPy, followed by the SHA-256 of the training's identity and
    the npz. So a checkpoint of another training is never resumed.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for partial in folder.glob(partial_path(folder / f"*{SUFFIX}").name):
        partial.unlink()  # left by a process that was killed while saving
    data = encode_checkpoint(checkpoint)
    path = folder / f"step-{checkpoint.num_steps:010d}{SUFFIX}"
    write_atomic(path, data + _digest(run, data))
    sync_folder(folder)
    for old in list_checkpoints(run)[num_kept:]:
        old.unlink()
    return path


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as an npz of NumPy."""
    header = json.dumps({"num_steps": checkpoint.num_steps, "state": checkpoint.state})
    entries = {
        HEADER_KEY: np.frombuffer(header.encode(), np.uint8),
        MODEL_KEY: np.frombuffer(checkpoint.model, np.uint8),
    }
    for key in ARRAY_KEYS:
        for number, array in enumerate(getattr(checkpoint, key)):
            entries[f"{key}.{number}"] = array
    file = io.BytesIO()
    np.savez(file, **entries)
    return file.getvalue()


def parse_checkpoint(data: bytes) -> Checkpoint:
    """Return the checkpoint in an npz from `encode_checkpoint`.

    Raises:
        ValueError: If it is no such npz; also KeyError.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        header = parse_json(file[HEADER_KEY].tobytes())
        model = file[MODEL_KEY].tobytes()
        arrays, metric_sums = (
            [file[name] for name in file.files if name.startswith(f"{key}.")]
            for key in ARRAY_KEYS
        )
    return Checkpoint(header["num_steps"], header["state"], arrays, metric_sums, model)


def list_checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run, newest first."""
    return sorted((run / FOLDER).glob(f"step-*{SUFFIX}"), reverse=True)


def load_newest_checkpoint(run: Path) -> Checkpoint | None:
    """Load the newest intact checkpoint, and rename the damaged ones after it.

    Returns:
        None if there are no checkpoints.

    Raises:
        RunError: If all checkpoints are damaged.
    """
    damaged: list[Path] = []
    for path in list_checkpoints(run):
        try:
            checkpoint = _load(run, path)
        except (OSError, ValueError, KeyError) as error:
            _log.warning("%s is damaged: %s", path, error)
            damaged.append(path)
            continue
        for newer in damaged:
            newer.rename(newer.with_suffix(DAMAGED_SUFFIX))
        if damaged:
            _log.warning("resuming from %s, the newest intact checkpoint", path)
        return checkpoint
    if damaged:
        raise RunError(
            f"all {len(damaged)} checkpoints in {run / FOLDER} are damaged: train into "
            f"another folder, or remove {run} to start again"
        )
    return None


def _load(run: Path, path: Path) -> Checkpoint:
    data = read_regular(path, MAX_CHECKPOINT_BYTES)
    size = hashlib.sha256().digest_size
    if _digest(run, data[:-size]) != data[-size:]:
        raise ValueError(
            "its content does not match its SHA-256, or it belongs to another training"
        )
    return parse_checkpoint(data[:-size])


def _digest(run: Path, data: bytes) -> bytes:
    identity = run / IDENTITY_FILE
    prefix = read_regular(identity) if identity.exists() else b""
    return hashlib.sha256(prefix + data).digest()

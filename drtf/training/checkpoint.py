"""Checkpoints: all that a training is after a step, in files whole or absent."""

import hashlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drtf.errors import RunError
from drtf.files import partial_path, sync_folder, write_atomic

FOLDER = "checkpoints"
SUFFIX = ".checkpoint"
DAMAGED_SUFFIX = ".damaged"
FACTS = "facts"
MODEL = "model"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from.

    Attributes:
        num_steps: done since its beginning.
        facts: all that is no array, as JSON knows it.
        arrays: the values of its variables, in their order.
        model: the file of the best model so far; empty where there is none.
    """

    num_steps: int
    facts: dict[str, Any]
    arrays: list[np.ndarray]
    model: bytes


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, num_kept: int) -> Path:
    """Write a checkpoint below a run folder, and remove those too old to be kept.

    The file is NumPy's npz, then its SHA-256.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for left_over in folder.glob(partial_path(folder / f"*{SUFFIX}").name):
        left_over.unlink()  # of a save that was killed
    file = io.BytesIO()
    facts = np.frombuffer(json.dumps(checkpoint.facts).encode(), np.uint8)
    model = np.frombuffer(checkpoint.model, np.uint8)
    arrays = {str(number): x for number, x in enumerate(checkpoint.arrays)}
    np.savez(file, **{FACTS: facts, MODEL: model}, **arrays)
    data = file.getvalue()
    path = folder / f"step-{checkpoint.num_steps:010d}{SUFFIX}"
    write_atomic(path, data + hashlib.sha256(data).digest())
    sync_folder(folder)
    for old in list_checkpoints(run)[num_kept:]:
        old.unlink()
    return path


def list_checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints, the newest first."""
    return sorted((run / FOLDER).glob(f"step-*{SUFFIX}"), reverse=True)


def load_newest(run: Path) -> Checkpoint | None:
    """Load the newest checkpoint that is whole, and set aside those newer than it.

    Returns:
        None where there is none at all.

    Raises:
        RunError: if there are some, and none is whole.
    """
    damaged: list[Path] = []
    for path in list_checkpoints(run):
        try:
            checkpoint = _load(path)
        except (OSError, ValueError, KeyError) as error:
            _log.warning("%s is damaged: %s", path, error)
            damaged.append(path)
            continue
        for newer in damaged:
            newer.rename(newer.with_suffix(DAMAGED_SUFFIX))
            _log.warning("going on from %s, the one before", path)
        return checkpoint
    if damaged:
        raise RunError(
            f"none of the {len(damaged)} checkpoints in {run / FOLDER} is whole: train "
            f"into another folder, or remove {run} to begin anew"
        )
    return None


def _load(path: Path) -> Checkpoint:
    data = path.read_bytes()
    size = hashlib.sha256().digest_size
    if hashlib.sha256(data[:-size]).digest() != data[-size:]:
        raise ValueError("its bytes have not the hash that ends them")
    with np.load(io.BytesIO(data[:-size]), allow_pickle=False) as file:
        facts = json.loads(file[FACTS].tobytes())
        model = file[MODEL].tobytes()
        arrays = [file[str(number)] for number in range(len(file.files) - 2)]
    return Checkpoint(int(path.stem.removeprefix("step-")), facts, arrays, model)

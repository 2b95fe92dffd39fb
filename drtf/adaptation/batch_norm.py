"""Adaptation of a run to another camera, with photographs that need no labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from drtf import page
from drtf.config import ScoreConfig
from drtf.errors import DrtfError, RunError
from drtf.files import check_absent, hash_file, replacing
from drtf.models.decision_rule import save_decision_rule
from drtf.models.history import HISTORY_FILE
from drtf.models.network import scale_images
from drtf.models.run import Ancestor, Run, load_run, save_info, save_model
from drtf.models.run_files import CONFIG_FILE, MODEL_FILE
from drtf.models.training_photographs import PHOTOGRAPHS_FILE
from drtf.photographs.listing import list_photographs
from drtf.photographs.prepare import NetworkInput
from drtf.progress import progress
from drtf.scoring.photograph_scores import prepare_photographs

# The fraction of the statistics that the photographs contribute, and how many of them
# are used: docs/results/other_collections.md.
WEIGHT = 0.5
MIN_PHOTOGRAPHS, MAX_PHOTOGRAPHS = 30, 500
BATCH_SIZE = 32

BatchNorms = Sequence[keras.layers.BatchNormalization]


@dataclass(frozen=True)
class Adaptation:
    """How a run was adapted.

    Attributes:
        num_photographs: Number of photographs whose statistics were used.
        num_rejected: Number of photographs that could not be read, or may be
            ungradable.
        num_unused: Number of photographs that were not needed.
        keeps_rule: Whether the run had a decision rule, which was copied.
        drops_gate: Whether the run had a quality gate. It is not copied, because it
            does not fit the adapted network.
    """

    num_photographs: int
    num_rejected: int
    num_unused: int
    keeps_rule: bool
    drops_gate: bool

    def notes(self) -> Iterator[str]:
        """Yield a sentence for whatever was not used or not adapted."""
        if self.num_rejected:
            yield (
                f"{self.num_rejected:,} photographs were not used, because they cannot "
                "be read or may be ungradable; drtf score reports what is wrong with "
                "them"
            )
        if self.num_unused:
            yield (
                f"{self.num_unused:,} photographs were not used, because "
                f"{MAX_PHOTOGRAPHS:,} are enough"
            )
        if self.keeps_rule:
            yield (
                "threshold and calibration are those of the run before it was adapted. "
                "With labels of some of these photographs, choose new ones with drtf "
                "recalibrate"
            )
        if self.drops_gate:
            yield "the quality gate was not copied; drtf fit-gate fits a new one"

    def _repr_html_(self) -> str:
        """Show in a notebook how the run was adapted."""
        facts = {"Adapted to": f"{self.num_photographs:,} photographs"}
        facts |= {f"Note {n}": note for n, note in enumerate(self.notes(), start=1)}
        return page.format_facts("Adaptation", facts)


def adapt(
    run_folder: Path, images: Path | str, *, out: Path, config: ScoreConfig
) -> Adaptation:
    """Write a run whose batch normalization is adapted to other photographs.

    Its statistics are those of the run, mixed with those of the photographs: Schneider
    et al., 2020, https://arxiv.org/abs/2006.16971. The weights and the decision rule
    are those of the run; a quality gate is not copied.

    Args:
        run_folder: The run.
        images: Photographs of the other camera, as for `score`.
        out: The run folder to write.
        config: Number of workers, and whether photographs that may be ungradable are
            used (`on_ungradable` is `predict`).

    Raises:
        RunError: If the run cannot be loaded, is an ensemble, or has no batch
            normalization.
        LabelError: If there are no photographs.
        DrtfError: If `out` exists, or there are too few photographs.
    """
    check_absent(out)
    run = load_run(run_folder)
    if run.info.members:
        raise RunError(
            f"{run_folder} is an ensemble: adapt its members, and combine them again"
        )
    if not batch_norms(run.network):
        raise RunError(
            f"{run_folder} has no batch normalization, so it cannot be adapted; drtf "
            "recalibrate corrects its probabilities"
        )
    photographs = list_photographs(images).photographs
    order = np.random.default_rng(0).permutation(len(photographs))
    chosen = [photographs[number] for number in order[:MAX_PHOTOGRAPHS]]
    takes_flagged = config.on_ungradable == "predict"
    pixels: list[np.ndarray] = []
    with progress("Reading photographs", len(chosen)) as advance:
        for item in prepare_photographs(run, chosen, num_workers=config.num_workers):
            if isinstance(item, NetworkInput) and (takes_flagged or not item.flags):
                pixels.append(item.image)
            advance()
    if len(pixels) < MIN_PHOTOGRAPHS:
        raise DrtfError(
            f"only {len(pixels):,} of {len(chosen):,} photographs in {images} can be "
            f"used; at least {MIN_PHOTOGRAPHS} are required. Add photographs; drtf "
            "score reports what is wrong with the others"
        )
    adapt_batch_norms(run.network, np.stack(pixels))
    _save_adapted(run, out, num_photographs=len(pixels))
    return Adaptation(
        num_photographs=len(pixels),
        num_rejected=len(chosen) - len(pixels),
        num_unused=len(photographs) - len(chosen),
        keeps_rule=run.decision_rule is not None,
        drops_gate=run.quality_gate is not None,
    )


def batch_norms(network: keras.Model) -> BatchNorms:
    """Return the layers of a network that are batch normalization."""
    kind = keras.layers.BatchNormalization
    return [layer for layer in network.layers if isinstance(layer, kind)]


def adapt_batch_norms(
    network: keras.Model, pixels: np.ndarray, *, weight: float = WEIGHT
) -> None:
    """Mix the statistics of batch normalization with those of photographs.

    Args:
        network: The network.
        pixels: uint8 [n, H, W, 3].
        weight: The fraction that the photographs contribute.
    """
    layers = batch_norms(network)
    before = _statistics(layers)
    num_batches = -(-len(pixels) // BATCH_SIZE)
    with _measuring(network), progress("Adapting", num_batches) as advance:
        for number, batch in enumerate(np.array_split(pixels, num_batches)):
            for layer in layers:
                # The statistics become the mean of those of all batches so far.
                layer.momentum = number / (number + 1)
            network(scale_images(tf.constant(batch)), training=True)
            advance()
    for layer, old, new in zip(layers, before, _statistics(layers), strict=True):
        layer.moving_mean.assign((1 - weight) * old[0] + weight * new[0])
        layer.moving_variance.assign((1 - weight) * old[1] + weight * new[1])


def _statistics(layers: BatchNorms) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.moving_mean.numpy(), x.moving_variance.numpy()) for x in layers]


@contextmanager
def _measuring(network: keras.Model) -> Iterator[None]:
    """Let a network in training mode only measure statistics.

    Nothing is dropped, and frozen layers measure too.
    """
    changed = [
        (layer, name, value)
        for layer in network.layers
        for kind, name, value in (
            (keras.layers.Dropout, "rate", 0.0),
            (keras.layers.BatchNormalization, "trainable", True),
            (keras.layers.BatchNormalization, "momentum", 0.0),
        )
        if isinstance(layer, kind)
    ]
    kept = [(layer, name, getattr(layer, name)) for layer, name, _ in changed]
    for layer, name, value in changed:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)


def _save_adapted(run: Run, out: Path, *, num_photographs: int) -> None:
    info = run.info
    parent = Ancestor(dataset_name=info.dataset_name, model_sha256=info.model_sha256)
    with replacing(out) as folder:
        folder.mkdir(parents=True)
        names = [CONFIG_FILE, PHOTOGRAPHS_FILE, *([HISTORY_FILE] * run.has_history)]
        for name in names:
            (folder / name).write_bytes((run.folder / name).read_bytes())
        save_model(folder, run.network)
        sha256 = hash_file(folder / MODEL_FILE)
        if run.decision_rule:
            rule = run.decision_rule.model_copy(update={"model_sha256": sha256})
            save_decision_rule(folder, rule)
        changes = {
            "model_sha256": sha256,
            "ancestors": (parent, *info.ancestors),
            "num_adapted": num_photographs,
        }
        save_info(folder, info.model_copy(update=changes))

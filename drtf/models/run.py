"""The run folder: all that scoring needs, in one place that can be checked."""

import contextlib
import csv
import io
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, TypeVar

import keras
import tensorflow as tf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drtf import __version__
from drtf.config import (
    Config,
    Encoding,
    Tta,
    dump_config,
    load_config,
)
from drtf.errors import ConfigError, RunError
from drtf.files import hash_file, write_atomic
from drtf.models.backbones import BACKBONES, Backbone, check_model
from drtf.models.calibration import Calibration
from drtf.models.device import device_name
from drtf.models.head import LOGITS
from drtf.models.network import ensemble_members
from drtf.tasks import TASKS, Task

RUN_FORMAT_VERSION = 5
CONFIG_FILE = "config.toml"
MODEL_FILE = "model.keras"
INFO_FILE = "run.json"
DECISION_RULE_FILE = "decision_rule.json"
HISTORY_FILE = "history.csv"
HISTORY_FIGURE = "history.png"


Contents = TypeVar("Contents", bound=BaseModel)


class RunInfo(BaseModel):
    """The contents of run.json.

    Attributes:
        format_version: of the run folder.
        dataset_name: the shards trained on.
        dataset_sha256: the hash of their manifest.
        encoding: of their images: `raw`, `png` or `jpeg`.
        jpeg_quality: of these, for `jpeg`.
        image_size: in px.
        train_prior: of positive photographs in training, as they were drawn and
            weighted.
        model_sha256: of model.keras.
        config_sha256: of config.toml.
        best_epoch: from 1; the one whose weights are in model.keras.
        num_epochs: that were run.
        num_trained: trained parameters.
        num_frozen: frozen parameters.
        num_damaged: records that were skipped, each for another one.
        num_skipped_steps: whose gradients were not finite in half precision.
        precision: the dtype policy trained in.
        num_devices: that shared each step.
        seconds: spent on steps.
        peak_memory_mb: of the process, resident.
        versions: of what it was trained with.
        members: of an ensemble, the hashes of their models; the first one's config is
            its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: int = RUN_FORMAT_VERSION
    dataset_name: str
    dataset_sha256: str
    encoding: Encoding
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    image_size: int
    train_prior: Annotated[float, Field(gt=0, lt=1)]
    model_sha256: str
    config_sha256: str
    best_epoch: int
    num_epochs: int
    num_trained: int
    num_frozen: int
    num_damaged: int
    num_skipped_steps: int
    precision: str
    num_devices: int
    seconds: float
    peak_memory_mb: float
    versions: dict[str, str]
    members: tuple[str, ...] = ()


class Versioned(BaseModel):
    """What run.json of any version has."""

    format_version: int


class Threshold(BaseModel):
    """The score from which a photograph is positive.

    Attributes:
        value: in [0, 1].
        rule: how it was chosen.
        split: on which split.
        tta: with which views.
        num_photographs: on how many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[float, Field(ge=0, le=1)]
    rule: str
    split: str
    tta: Tta
    num_photographs: int


class DecisionRule(BaseModel):
    """The contents of decision_rule.json: how a score becomes a label.

    Attributes:
        threshold: the score from which a photograph is positive.
        calibration: turns scores into probabilities.
        model_sha256: hash of the model whose scores these apply to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Threshold
    calibration: Calibration
    model_sha256: str

    @model_validator(mode="after")
    def _has_one_tta(self) -> Self:
        if self.threshold.tta != self.calibration.tta:
            raise ValueError("threshold and calibration were chosen with different TTA")
        return self


@dataclass(frozen=True)
class Run:
    """An opened run folder.

    Attributes:
        folder: where it lies.
        config: as it was resolved for training.
        info: run.json.
        network: the trained model, from float32 RGB in [0, 1] to scores.
        decision_rule: None until an evaluation has chosen a threshold.
    """

    folder: Path
    config: Config
    info: RunInfo
    network: keras.Model
    decision_rule: DecisionRule | None

    @property
    def task(self) -> Task:
        """The task that the network was trained for."""
        return TASKS[self.config.train.task]

    @property
    def backbone(self) -> Backbone:
        """The backbone of the network, or of all members of an ensemble."""
        return BACKBONES[self.config.model.name]

    @property
    def threshold(self) -> Threshold | None:
        """Threshold of the decision rule, or None."""
        return self.decision_rule.threshold if self.decision_rule else None

    @property
    def cutoff(self) -> float:
        """The score from which a photograph is positive; 0.5 until one is chosen."""
        return self.threshold.value if self.threshold else 0.5

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the decision rule, or None."""
        return self.decision_rule.calibration if self.decision_rule else None

    @property
    def tta(self) -> Tta:
        """The views that the threshold was chosen with; one where there is none."""
        return self.threshold.tta if self.threshold else "none"


def save_model(folder: Path, network: keras.Model) -> None:
    """Write model.keras aside, then rename it into place."""
    aside = folder / f".partial.{MODEL_FILE}"  # Keras looks at the name's end
    try:
        network.save(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)  # on a full disk its room is wanted
        raise
    aside.replace(folder / MODEL_FILE)


def save_config(folder: Path, config: Config) -> None:
    """Write the resolved config."""
    write_atomic(folder / CONFIG_FILE, dump_config(config))


def save_info(folder: Path, info: RunInfo) -> None:
    """Write run.json; from then on the folder is a run."""
    write_atomic(folder / INFO_FILE, info.model_dump_json(indent=2) + "\n")


def save_decision_rule(folder: Path, rule: DecisionRule) -> None:
    """Write decision_rule.json."""
    write_atomic(folder / DECISION_RULE_FILE, rule.model_dump_json(indent=2) + "\n")


def load_run_config(
    folder: Path,
    source: str = "",
    overrides: Iterable[str] = (),
    *,
    sections: Iterable[str] = tuple(Config.model_fields),
) -> Config:
    """Load the settings to use a run with: its own, where `source` names no others.

    Args:
        folder: of the run; without a config the defaults stand in for it.
        source: a preset's name, the path of a TOML file, or empty.
        overrides: as `load_config` takes them.
        sections: likewise.

    Raises:
        ConfigError: as `load_config` raises it.
        RunError: if the run's config has settings from elsewhere.
    """
    path = folder / CONFIG_FILE
    if not source and path.exists():
        source = str(path)
        with contextlib.suppress(ValueError):  # for whoever reads it whole
            if "extends" in tomllib.loads(path.read_bytes().decode()):
                raise RunError(
                    f"{path} extends another file: a run's config stands alone"
                )
    return load_config(source, overrides, sections=sections)


def save_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write what each epoch measured, a row each."""
    file = io.StringIO(newline="")
    rows = csv.DictWriter(file, list(history[0]), lineterminator="\n")
    rows.writeheader()
    rows.writerows(history)
    write_atomic(folder / HISTORY_FILE, file.getvalue())


def load_history(folder: Path) -> list[dict[str, float]]:
    """Load what each epoch measured.

    Raises:
        RunError: if it is missing or damaged.
    """
    path = folder / HISTORY_FILE
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            epochs = [{key: float(x) for key, x in row.items()} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"can't read {path}: {error}") from error
    if not epochs or "val_loss" not in epochs[0]:
        raise RunError(f"{path} is not what drtf train wrote: it has no validation")
    return epochs


def load_info(folder: Path) -> RunInfo:
    """Load run.json.

    Raises:
        RunError: if it is missing, damaged, or of another version.
    """
    version = _load_json(folder, INFO_FILE, Versioned).format_version
    if version != RUN_FORMAT_VERSION:
        raise RunError(
            f"{folder} has run format version {version}, but this drtf reads only "
            f"version {RUN_FORMAT_VERSION}: train the run again"
        )
    return _load_json(folder, INFO_FILE, RunInfo)


def training_versions() -> dict[str, str]:
    """Return the versions that shape a trained model, and the device."""
    return {
        "device": device_name(),
        "drtf": __version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }


def load_run(folder: Path) -> Run:
    """Open a run folder, and load its model in Keras's safe mode.

    Raises:
        RunError: if a part is missing, damaged, changed, or of another version.
    """
    if not folder.is_dir():
        raise RunError(f"no run folder {folder}: drtf train makes one")
    info = load_info(folder)
    for name, expected in (
        (CONFIG_FILE, info.config_sha256),
        (MODEL_FILE, info.model_sha256),
    ):
        path = folder / name
        if not path.is_file():
            raise RunError(f"{folder} is not a whole run: it has no {name}")
        if hash_file(path) != expected:
            raise RunError(
                f"{path} was changed: it is not the one that {INFO_FILE} names. Other "
                "settings are given with --set or --config"
            )
    model_path = folder / MODEL_FILE
    try:
        config = load_run_config(folder)
        check_model(config.model)
    except ConfigError as error:
        raise RunError(f"{folder} is not a whole run: {error}") from error
    try:
        network = keras.saving.load_model(model_path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras raises many kinds for a file that it can't load or doesn't trust.
        reason = str(error).splitlines()[0]
        raise RunError(f"can't load {model_path}: {reason}") from error
    _check_network(folder, config, info, network)
    rule = None
    if (folder / DECISION_RULE_FILE).exists():
        rule = _load_json(folder, DECISION_RULE_FILE, DecisionRule)
        if rule.model_sha256 != info.model_sha256:
            raise RunError(
                f"{folder / DECISION_RULE_FILE} belongs to another model: remove it "
                "and run drtf evaluate to choose a new threshold"
            )
    return Run(folder, config, info, network, rule)


def _check_network(
    folder: Path, config: Config, info: RunInfo, network: keras.Model
) -> None:
    """Refuse parts that are each whole and do not fit together."""
    size, task = config.images.size, config.train.task
    # What Keras loads may be a layer, or a model that was never built.
    ends = *getattr(network, "inputs", ()), *getattr(network, "outputs", ())
    shapes = [tuple(x.shape[1:]) for x in ends]
    fits = (
        info.image_size == size
        and shapes == [(size, size, 3), (TASKS[task].num_logits,)]
        and len(ensemble_members(network)) == max(len(info.members), 1)
        and all(map(_ends_in_logits, [network, *ensemble_members(network)]))
    )
    if not fits:
        raise RunError(
            f"{folder}: {MODEL_FILE} ({' to '.join(map(str, shapes))}), {CONFIG_FILE} "
            f"({size} px, task {task}) and {INFO_FILE} "
            f"({info.image_size} px, {len(info.members)} members) are not of one run"
        )


def _ends_in_logits(network: keras.Model) -> bool:
    logits = [x.output.shape for x in network.layers if x.name == LOGITS]
    return logits == [x.shape for x in network.outputs]


def _load_json(folder: Path, name: str, kind: type[Contents]) -> Contents:
    path = folder / name
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is not a finished run: it has no {name}; drtf train makes one"
        ) from error
    except ValidationError as error:
        found = error.errors()[0]
        reason = ": ".join([*map(str, found["loc"]), found["msg"]])
        raise RunError(f"{path} is not what drtf wrote: {reason}") from error
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror}") from error

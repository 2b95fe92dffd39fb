"""The run folder: a trained model with everything that is needed to use it.

TensorFlow is loaded only with a network, so that commands refuse a wrong folder at
once.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drtf import page
from drtf.config import (
    Config,
    Encoding,
    Tta,
    dump_config,
    load_config,
    load_toml,
)
from drtf.errors import ConfigError, RunError
from drtf.files import (
    hash_file,
    move_into_place,
    parse_json,
    read_regular,
    sync_file,
    write_atomic,
)
from drtf.models.backbones import (
    BACKBONES,
    OWN_MODEL,
    Backbone,
    backbone_of,
    check_model,
)
from drtf.models.calibration import Calibration
from drtf.models.decision_rule import DecisionRule, Threshold
from drtf.models.fellow_eye import FellowEye
from drtf.models.history import HISTORY_FIGURE, HISTORY_FILE
from drtf.models.quality_gate import QualityGate
from drtf.models.run_files import (
    CONFIG_FILE,
    DECISION_RULE_FILE,
    INFO_FILE,
    MODEL_FILE,
    QUALITY_GATE_FILE,
)
from drtf.models.stored_run import location_of
from drtf.models.training_photographs import PHOTOGRAPHS_FILE
from drtf.seals import SEAL, dump_sealed, is_intact
from drtf.tasks import TASKS, Task

if TYPE_CHECKING:
    import keras

RUN_FORMAT_VERSION = 11
RULE_ADVICE = "remove it and run drtf evaluate to choose a new threshold"
GATE_ADVICE = "remove it and run drtf fit-gate to fit a new one"

Mean = Literal["scores", "logits"]
Contents = TypeVar("Contents", bound=BaseModel)


class Ancestor(BaseModel):
    """A run that another run started from, directly or through further runs.

    Attributes:
        dataset_name: Name of the dataset that it was trained on.
        model_sha256: Hash of its model.keras.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    dataset_name: str
    model_sha256: str

    def __str__(self) -> str:
        """Return both in one phrase."""
        return f"a run on {self.dataset_name} (model {self.model_sha256})"


class Distillation(BaseModel):
    """The soft labels that a run was trained with.

    Attributes:
        column: Their column, the value of `train.soft_labels`.
        weight: The value of `train.soft_weight`.
        num_photographs: Number of training photographs with a soft label.
        targets_sha256: Hash of the targets of all training photographs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    column: str
    weight: float
    num_photographs: int
    targets_sha256: str

    def __str__(self) -> str:
        """Return all but the hash in one phrase."""
        return (
            f"column {self.column!r}, weight {self.weight:g}, for "
            f"{self.num_photographs:,} photographs"
        )


class Member(BaseModel):
    """A run that is part of an ensemble.

    Attributes:
        backbone: Name of its backbone.
        image_size: Height and width of its network's input, in px.
        model_sha256: Hash of its model.keras.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    backbone: str
    image_size: int
    model_sha256: str


class RunInfo(BaseModel):
    """The contents of run.json.

    Attributes:
        format_version: Version of the run folder's format.
        dataset_name: Name of the dataset that the model was trained on.
        dataset_sha256: Hash of this dataset's manifest.
        encoding: Encoding of its images: `raw`, `png` or `jpeg`.
        jpeg_quality: JPEG quality of its images, 1 to 100, for `jpeg`.
        image_size: Height and width of the model's input, in px.
        train_prior: Fraction of positive photographs in training, after sampling and
            class weights, above 0 and below 1.
        model_sha256: Hash of model.keras.
        config_sha256: Hash of config.toml.
        history_sha256: Hash of history.csv; empty if drtf did not train this network
            itself, so that there is none.
        photographs_sha256: Hash of photographs.bin.
        best_epoch: The epoch whose weights are in model.keras, counted from 1.
        num_epochs: Number of epochs that were run.
        num_trained: Number of trained parameters.
        num_frozen: Number of frozen parameters.
        num_damaged: Number of damaged records that were replaced by others.
        num_skipped_steps: Number of steps skipped in half precision because their
            gradients were not finite.
        precision: Keras dtype policy of the training.
        num_devices: Number of devices that shared each step, over all hosts.
        num_hosts: Number of hosts that trained together.
        seconds: Time spent on training steps, in seconds.
        peak_memory_mb: Peak resident memory of the training process, in MB.
        versions: Versions of the software and name of the device, by name.
        ancestors: The runs that this one started from, the nearest first: the run that
            `model.weights` named, the one that this run had started from, and so on.
        distillation: The soft labels that the model was trained with; None: the labels
            only.
        num_adapted: Number of photographs of another camera that `adapt` used; 0 for
            other runs.
        members: The members of an ensemble, the largest images first. Its config and
            its dataset are those of the first one.
        mean: What an ensemble averages, `scores` or `logits`; None for other runs.
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
    history_sha256: str
    photographs_sha256: str
    best_epoch: int
    num_epochs: int
    num_trained: int
    num_frozen: int
    num_damaged: int
    num_skipped_steps: int
    precision: str
    num_devices: int
    num_hosts: int
    seconds: float
    peak_memory_mb: float
    versions: dict[str, str]
    ancestors: tuple[Ancestor, ...] = ()
    distillation: Distillation | None = None
    num_adapted: int = 0
    members: tuple[Member, ...] = ()
    mean: Mean | None = None


@dataclass(frozen=True)
class Run:
    """A loaded run folder.

    Attributes:
        folder: Path of the folder.
        config: The complete config of the training.
        info: Contents of run.json.
        decision_rule: None until an evaluation has chosen a threshold.
        quality_gate: None until `drtf fit-gate` has fitted one.
    """

    folder: Path
    config: Config
    info: RunInfo
    decision_rule: DecisionRule | None
    quality_gate: QualityGate | None

    @functools.cached_property
    def network(self) -> "keras.Model":
        """The trained model, from float32 RGB in [0, 1] to probabilities.

        It is loaded when it is first used, which takes seconds.

        Raises:
            RunError: If it cannot be loaded, or does not fit the rest of the run.
        """
        return _load_network(self.folder, self.config, self.info)

    def with_network(self, network: "keras.Model") -> "Run":
        """Return the run with another network."""
        run = replace(self)
        vars(run)["network"] = network  # where the property keeps it
        return run

    @property
    def task(self) -> Task:
        """The task that the network was trained for."""
        return TASKS[self.config.train.task]

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The backbone of the network, or of each member of an ensemble."""
        names = [member.backbone for member in self.info.members]
        return tuple(map(backbone_of, names or [self.config.model.name]))

    @property
    def name(self) -> str:
        """The last two parts of the folder's path: many runs are called `run`."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def has_history(self) -> bool:
        """Whether drtf trained this network itself, so that history.csv exists."""
        return bool(self.info.history_sha256)

    def describe(self) -> str:
        """Describe the model in one line.

        It names the backbone with its settings, the image size, the best epoch and the
        dataset of the run that it started from.
        """
        if members := self.info.members:
            kinds = Counter(f"{x.backbone} at {x.image_size} px" for x in members)
            listed = " and ".join(f"{n} x {kind}" for kind, n in kinds.items())
            return f"ensemble of {listed}, mean of {self.info.mean}"
        size = f"{self.info.image_size} px"
        parts = [backbone_of(self.config.model.name).describe(self.config.model), size]
        if self.has_history:
            parts.append(f"epoch {self.info.best_epoch}")
            parts.append(f"trained in {self.info.precision}")
        if self.info.ancestors:
            parts.append(f"started from a run on {self.info.ancestors[0].dataset_name}")
        if self.info.num_adapted:
            parts.append(f"adapted to {self.info.num_adapted:,} photographs")
        return ", ".join(parts)

    def lineage_facts(self) -> dict[str, str]:
        """Return which other models this one learned from, by the name of the fact.

        It is empty if there are none.
        """
        facts = {
            "Started from": "; ".join(map(str, self.info.ancestors)),
            "Soft labels": str(self.info.distillation or ""),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def gate_facts(self) -> dict[str, str]:
        """Return the facts of the quality gate by name.

        It is empty if there is no gate.
        """
        return (
            {"Quality gate": self.quality_gate.describe()} if self.quality_gate else {}
        )

    def __repr__(self) -> str:
        """Return the folder and the description of the model."""
        return f"<Run {location_of(self.folder)}: {self.describe()}>"

    def _repr_html_(self) -> str:
        """Show the run in a notebook: its facts, and its learning curves."""
        facts = {
            "Model": self.describe(),
            "Task": self.task.name,
            "Trained on": self.info.dataset_name,
            **self.lineage_facts(),
            "Parameters": f"{self.info.num_trained:,} trained, "
            f"{self.info.num_frozen:,} frozen",
            "Threshold": "none yet; evaluate the run to choose one"
            if self.threshold is None
            else f"{self.threshold.value:.4f} by {self.threshold.rule}",
            **self.gate_facts(),
        }
        curves = self.folder / HISTORY_FIGURE
        return page.format_facts(self.folder.name, facts) + (
            page.format_figures("", [curves], wide=True) if curves.exists() else ""
        )

    @property
    def threshold(self) -> Threshold | None:
        """Threshold of the decision rule, or None."""
        return self.decision_rule.threshold if self.decision_rule else None

    @property
    def effective_threshold(self) -> float:
        """The score from which a photograph is positive; 0.5 without a threshold."""
        return self.threshold.value if self.threshold else 0.5

    @property
    def cut_points(self) -> tuple[float, ...]:
        """The cut points of the decision rule; without one they round to a grade."""
        if self.decision_rule:
            return self.decision_rule.cut_points
        return self.task.neutral_cut_points

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the decision rule, or None."""
        return self.decision_rule.calibration if self.decision_rule else None

    @property
    def fellow_eye(self) -> FellowEye | None:
        """How both eyes are combined, by the decision rule; None predicts each eye."""
        return self.decision_rule.fellow_eye if self.decision_rule else None

    @property
    def tta(self) -> Tta:
        """TTA that the threshold was chosen with; `none` without a threshold."""
        return self.threshold.tta if self.threshold else "none"


def save_model(folder: Path, network: "keras.Model") -> None:
    """Write model.keras to a partial file, then rename it."""
    partial = folder / f".partial.{MODEL_FILE}"  # Keras requires the suffix .keras
    try:
        network.save(partial)
        with partial.open("rb") as file:
            sync_file(file)
    except OSError:
        partial.unlink(missing_ok=True)  # free the space of a full disk
        raise
    move_into_place(partial, folder / MODEL_FILE)


def save_config(folder: Path, config: Config) -> None:
    """Write the complete config to config.toml."""
    write_atomic(folder / CONFIG_FILE, dump_config(config))


def save_info(folder: Path, info: RunInfo) -> None:
    """Write run.json, which makes the folder a finished run."""
    write_atomic(folder / INFO_FILE, dump_sealed(info.model_dump(mode="json")))


def load_run_config(
    folder: Path,
    source: str = "",
    overrides: Iterable[str] = (),
    *,
    sections: Iterable[str] = tuple(Config.model_fields),
) -> Config:
    """Load the config to use a run with: its own one unless `source` names another.

    Args:
        folder: The run folder. If it has no config, the defaults are used.
        source: Name of a preset, path of a TOML file, or empty.
        overrides: `section.key=value`, as in `load_config`.
        sections: Sections that may be overridden, as in `load_config`.

    Raises:
        ConfigError: If the config is invalid, as in `load_config`.
        RunError: If the run's config extends another file.
    """
    path = folder / CONFIG_FILE
    if not source and path.exists():
        source = str(path)
        if "extends" in load_toml(path):
            raise RunError(
                f"{path} extends another file, but the config of a run must be complete"
            )
    return load_config(source, overrides, sections=sections)


def load_info(folder: Path) -> RunInfo:
    """Load run.json.

    Raises:
        RunError: If it is missing, changed, or has another format version.
    """
    text, contents = _read_json(folder, INFO_FILE)
    version = contents.get("format_version", RUN_FORMAT_VERSION)
    if version != RUN_FORMAT_VERSION:
        raise RunError(
            f"{folder} has run format version {version}, but this drtf reads only "
            f"version {RUN_FORMAT_VERSION}: train the run again"
        )
    path = folder / INFO_FILE
    return _parse_sealed(path, text, contents, RunInfo, "restore it, or train again")


def load_decision_rule(folder: Path) -> DecisionRule | None:
    """Load decision_rule.json; None if no evaluation has written it yet.

    Raises:
        RunError: If it is damaged or changed.
    """
    path = folder / DECISION_RULE_FILE
    if not path.exists():
        return None
    text, contents = _read_json(folder, DECISION_RULE_FILE)
    return _parse_sealed(path, text, contents, DecisionRule, RULE_ADVICE)


def load_quality_gate(folder: Path, info: RunInfo) -> QualityGate | None:
    """Load quality_gate.json; None if none was fitted yet.

    Raises:
        RunError: If it is damaged or changed, or belongs to another model.
    """
    path = folder / QUALITY_GATE_FILE
    if not path.exists():
        return None
    text, contents = _read_json(folder, QUALITY_GATE_FILE)
    gate = _parse_sealed(path, text, contents, QualityGate, GATE_ADVICE)
    if gate.model_sha256 != info.model_sha256:
        raise RunError(
            f"{path} belongs to another model than that of {folder}: {GATE_ADVICE}"
        )
    return gate


def check_files(folder: Path, info: RunInfo) -> None:
    """Check that the files of a run are those that run.json was written for.

    Raises:
        RunError: Names the first file that is missing or was changed.
    """
    hashes = {
        CONFIG_FILE: info.config_sha256,
        MODEL_FILE: info.model_sha256,
        PHOTOGRAPHS_FILE: info.photographs_sha256,
    }
    if info.history_sha256:
        hashes[HISTORY_FILE] = info.history_sha256
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"the run {folder} is incomplete: {name} is missing")
        if hash_file(path) != expected:
            raise RunError(
                f"{path} was changed: its hash differs from the one in {INFO_FILE}. To "
                "use other settings, give --set or --config"
            )


def load_run(folder: Path, *, rule_folder: Path | None = None) -> Run:
    """Load a run folder, except for its network.

    Args:
        folder: The run folder.
        rule_folder: The folder of an evaluation of this run, whose decision rule is
            used instead of the one stored in the run folder.

    Raises:
        RunError: If a file is missing, damaged, changed or of another format version.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}: create one with drtf train")
    info = load_info(folder)
    check_files(folder, info)
    rule = load_decision_rule(rule_folder or folder)
    if rule is None and rule_folder:
        raise RunError(
            f"{rule_folder} has no {DECISION_RULE_FILE}: name the folder of an "
            f"evaluation of {folder}"
        )
    if rule and rule.model_sha256 != info.model_sha256:
        path = (rule_folder or folder) / DECISION_RULE_FILE
        raise RunError(
            f"{path} belongs to another model than that of {folder}: {RULE_ADVICE}"
        )
    try:
        config = load_run_config(folder)
        if config.model.name != OWN_MODEL.name:
            check_model(config.model)
    except ConfigError as error:
        raise RunError(f"the config of the run {folder} is invalid: {error}") from error
    for member in info.members:
        if member.backbone not in (OWN_MODEL.name, *BACKBONES):
            raise RunError(
                f"{folder} has a member with the backbone {member.backbone!r}; "
                f"backbones are {', '.join(BACKBONES)}"
            )
    return Run(folder, config, info, rule, load_quality_gate(folder, info))


def _load_network(folder: Path, config: Config, info: RunInfo) -> "keras.Model":
    """Load the network of a run. It runs no code, even if it is a stranger's."""
    import keras
    import tensorflow as tf

    from drtf.models.device import use_keras_settings
    from drtf.models.model_file import check_model_file

    model_path = folder / MODEL_FILE
    use_keras_settings()
    check_model_file(model_path)
    try:
        # Loaded while a tf.function is traced, it would have random weights.
        with tf.init_scope():
            network = keras.saving.load_model(model_path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras raises many error types for a file that it cannot load or trust.
        reason = str(error).splitlines()[0]
        raise RunError(f"cannot load {model_path}: {reason}") from error
    _check_network(folder, config, info, network)
    return network


def _check_network(
    folder: Path, config: Config, info: RunInfo, network: "keras.Model"
) -> None:
    """Refuse files that are each valid but do not belong together."""
    from drtf.models.network import ensemble_members

    size, task = config.images.size, config.train.task
    # Keras may also load a layer, or a model that was never built.
    ends = *getattr(network, "inputs", ()), *getattr(network, "outputs", ())
    shapes = [tuple(x.shape[1:]) for x in ends]
    fits = (
        info.image_size == size
        and shapes == [(size, size, 3), (TASKS[task].num_logits,)]
        and [_input_shapes(member) for member in ensemble_members(network)]
        == [[(x.image_size, x.image_size, 3)] for x in info.members or [info]]
        and all(map(_ends_in_logits, [network, *ensemble_members(network)]))
    )
    if not fits:
        raise RunError(
            f"{folder}: {MODEL_FILE} ({' to '.join(map(str, shapes))}), {CONFIG_FILE} "
            f"({size} px, task {task}) and {INFO_FILE} "
            f"({info.image_size} px, {len(info.members)} members) do not belong to one "
            "run"
        )


def _input_shapes(network: "keras.Model") -> list[tuple[int, ...]]:
    return [tuple(x.shape[1:]) for x in getattr(network, "inputs", None) or ()]


def _ends_in_logits(network: "keras.Model") -> bool:
    from drtf.models.head import LOGITS

    logits = [x.output.shape for x in network.layers if x.name == LOGITS]
    return logits == [x.shape for x in network.outputs]


def _read_json(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    """Return the text of a JSON file in a run folder, and its contents."""
    path = folder / name
    try:
        text = read_regular(path).decode()
        contents = parse_json(text)
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is not a finished run: {name} is missing; drtf train writes it"
        ) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(contents, dict):
        raise RunError(f"{path} was not written by drtf: it is not a JSON object")
    return text, contents


def _parse_sealed(
    path: Path,
    text: str,
    contents: Mapping[str, Any],
    kind: type[Contents],
    advice: str,
) -> Contents:
    """Check the seal of a file in a run folder, then its values."""
    if not is_intact(text, contents):
        raise RunError(
            f"{path} was changed after it was written: its hash differs; {advice}"
        )
    try:
        return kind.model_validate({k: x for k, x in contents.items() if k != SEAL})
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise RunError(f"{path} is damaged: {reason}; {advice}") from error

"""The settings by section, with their defaults and the checks on their values."""

import re
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from drtf.tasks import TASKS, TaskName

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Tta = Literal["none", "flips5", "dihedral8"]
ThresholdRule = Annotated[
    str, Field(pattern=r"^(sensitivity|specificity)>=(0\.\d+|1(\.0+)?)$")
]
Monitor = Literal[
    "auto",
    "loss",
    "roc_auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "kappa",
]
MapMethod = Literal["gradcam", "gradcam++", "layercam", "scorecam", "saliency"]
Encoding = Literal["raw", "png", "jpeg"]
CalibrationMethod = Literal["none", "temperature", "isotonic"]
OnCorrupt = Literal["error", "skip"]
OnUngradable = Literal["flag", "reject"]
Conflicts = Literal["keep", "drop", "error"]

# Keras has its ImageNet weights for these.
IMAGENET_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
# Settings of `train` that are read where another one says so.
READ_WITH = {
    "focal_gamma": ("loss", "focal"),
    "focal_alpha": ("loss", "focal"),
    "label_smoothing": ("loss", "crossentropy"),
    "momentum": ("optimizer", "sgd"),
    "weight_decay": ("optimizer", "adamw"),
    "warmup_share": ("schedule", "cosine"),
    "plateau_monitor": ("schedule", "plateau"),
    "plateau_factor": ("schedule", "plateau"),
    "plateau_patience": ("schedule", "plateau"),
}

Value = TypeVar("Value")
# One value for all, or one for each class of the task, or each layer of the head.
OneOrEach = Annotated[
    Annotated[Value, Tag("all")] | Annotated[tuple[Value, ...], Tag("each")],
    Discriminator(lambda value: "each" if isinstance(value, list | tuple) else "all"),
]


class Section(BaseModel):
    """A frozen table of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LabelsConfig(Section):
    """Which columns of the label file to read; empty means: by its header.

    `conflicts` says what becomes of identical photographs with different grades.
    """

    image_column: str = ""
    grade_column: str = ""
    patient_column: str = ""
    patient_pattern: str = r"^(.+)_(?:left|right)$"
    conflicts: Conflicts = "keep"

    @field_validator("patient_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"needs exactly one group, the patient; it has {groups}")
        return pattern


class SplitConfig(Section):
    """How photographs are divided; the sizes are shares of the whole."""

    by: Literal["patient", "image"] = "patient"
    stratify: Literal["grade", "binary", "none"] = "grade"
    val_size: Fraction = 0.1
    test_size: Fraction = 0.2
    seed: Seed = 42

    @model_validator(mode="after")
    def _leaves_photographs_to_train_on(self) -> Self:
        if self.val_size + self.test_size >= 1:
            raise ValueError("val_size and test_size together must be below 1")
        return self


class ImagesConfig(Section):
    """From a photograph's bytes to square RGB pixels."""

    size: Annotated[int, Field(ge=32, le=2048)] = 96
    decode: Literal["scaled", "exact"] = "scaled"
    crop: Literal["none", "retina"] = "retina"
    mask: bool = False
    contrast: Literal["clahe", "graham", "none"] = "clahe"
    clahe_clip_limit: Annotated[float, Field(gt=0, le=1000)] = 2.0
    clahe_tiles: Annotated[int, Field(ge=1, le=64)] = 8
    reject_blank: bool = True


class BuildConfig(Section):
    """How the pixels are laid down in shards."""

    encoding: Encoding = "raw"
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    shard_size_mb: Annotated[float, Field(gt=0)] = 96
    seed: Seed = 42
    num_workers: Annotated[int, Field(ge=0)] = 0


class SamplingConfig(Section):
    """Which share of an epoch each class gets; weights are per class of the task.

    `on_corrupt` says what becomes of a damaged record: an error, or another photograph
    of its class in its place, logged and counted.
    """

    mode: Literal["natural", "balanced", "weights"] = "balanced"
    weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    on_corrupt: OnCorrupt = "error"

    @model_validator(mode="after")
    def _reads_its_weights(self) -> Self:
        if self.weights and self.mode != "weights":
            raise ValueError("weights goes with mode 'weights' alone")
        return self


class AugmentConfig(Section):
    """The bounds of the random changes to training images.

    Each is one value, or a list of one for each class of the task: with `max_degrees =
    [0, 180]` the diseased alone are turned.
    """

    horizontal_flip: OneOrEach[bool] = True
    vertical_flip: OneOrEach[bool] = True
    max_degrees: OneOrEach[Annotated[float, Field(ge=0, le=180)]] = 180.0
    zoom: OneOrEach[Fraction] = 0.2
    shift: OneOrEach[Fraction] = 0.0
    brightness: OneOrEach[Fraction] = 0.2
    contrast: OneOrEach[Fraction] = 0.2
    saturation: OneOrEach[Fraction] = 0.2


class ModelConfig(Section):
    """The network: its backbone, what of it is trained, and its head.

    `trainable_layers` counts from the backbone's end; -1 is all of them, 0 none.
    `upsampling` is how many times as large the backbone gets the photographs: its
    ImageNet weights know shapes at the size that they have in 224 px.
    `batch_norm_momentum` is of the backbone; the head's is Keras's, 0.99.
    `head_units` are of the head's dense layers before the last one. `dropout` and
    `head_batch_norm` stand before each of them and before the last one: one value for
    all, or a list with one more than `head_units` has.
    """

    name: Literal["mobilenetv2", "eyenet"] = "mobilenetv2"
    weights: str = "imagenet"
    alpha: Annotated[float, Field(gt=0, le=2)] = 1.0
    input_range: Literal["unit", "symmetric"] = "symmetric"
    upsampling: Annotated[float, Field(ge=1, le=4)] = 1.0
    trainable_layers: Annotated[int, Field(ge=-1)] = -1
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    head_units: tuple[Positive, ...] = ()
    head_batch_norm: OneOrEach[bool] = False
    dropout: OneOrEach[Fraction] = 0.2

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("head_batch_norm", "dropout"):
            value, expected = getattr(self, name), len(self.head_units) + 1
            if isinstance(value, tuple) and len(value) != expected:
                raise ValueError(
                    f"a list for {name} needs {expected} values, one more than "
                    f"head_units has; got {list(value)}"
                )
        if self.name == "eyenet":
            fixed = ModelConfig.model_fields.keys() - {"name", "weights", "input_range"}
            for name in sorted(fixed):
                if getattr(self, name) != ModelConfig.model_fields[name].default:
                    raise ValueError(
                        f"{name} is of mobilenetv2; the network eyenet is always as it "
                        "was published"
                    )
        elif self.weights == "imagenet" and self.alpha not in IMAGENET_ALPHAS:
            raise ValueError(
                f"Keras has ImageNet weights for alpha of "
                f"{', '.join(map(str, IMAGENET_ALPHAS))}; got {self.alpha}; weights "
                "of a file, or none, go with any"
            )
        return self


class TrainConfig(Section):
    """The training run.

    The head alone is trained for `head_epochs`, then what `model.trainable_layers`
    says. `label_smoothing` is of the crossentropy, `momentum` of sgd, `weight_decay` of
    adamw; `class_weights` has one weight for each class of the task, or none.
    `ema_momentum` above 0 has a moving average of the weights validated and kept in
    their place. `monitor` is what validation measures and the best epoch is chosen by,
    `auto` the ROC AUC or, of grades, the kappa; `plateau_monitor`, of the schedule
    `plateau`, is what lowers the learning rate where it gets no better. `num_devices` 0
    is all GPUs.
    """

    task: TaskName = "binary"
    epochs: Positive = 12
    head_epochs: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 256
    loss: Literal["crossentropy", "focal"] = "crossentropy"
    focal_gamma: Annotated[float, Field(ge=0)] = 1.5
    focal_alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    label_smoothing: Fraction = 0.0
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    momentum: Fraction = 0.9
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    ema_momentum: Fraction = 0.0
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    warmup_share: Fraction = 0.05
    plateau_monitor: Monitor = "loss"
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_patience: Positive = 3
    early_stopping_patience: Annotated[int, Field(ge=0)] = 0
    monitor: Monitor = "auto"
    validation_split: Literal["val", "test"] = "val"
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    max_skipped_steps: Annotated[int, Field(ge=0)] = 20
    num_devices: Annotated[int, Field(ge=0)] = 0
    steps_per_execution: Literal["auto"] | Positive = "auto"
    jit_compile: Literal["auto"] | bool = "auto"
    deterministic: bool = False
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    num_checkpoints: Positive = 2
    seed: Seed = 42

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, (other, needed) in READ_WITH.items():
            unlike = getattr(self, name) != TrainConfig.model_fields[name].default
            if unlike and getattr(self, other) != needed:
                raise ValueError(f"{name} goes with {other} {needed!r} alone")
        predicts_grades = TASKS[self.task].predicts_grades
        if predicts_grades and self.loss != "crossentropy":
            raise ValueError("task 'grades' goes with loss 'crossentropy' alone")
        if "kappa" in (self.monitor, self.plateau_monitor) and not predicts_grades:
            raise ValueError("monitor 'kappa' goes with task 'grades' alone")
        if self.head_epochs >= self.epochs:
            raise ValueError(
                f"head_epochs={self.head_epochs} must be below epochs={self.epochs}"
            )
        if self.class_weights and not any(self.class_weights):
            raise ValueError("class_weights must not all be zero")
        return self


class EvaluateConfig(Section):
    """How a trained model is judged.

    `threshold` is a rule (`youden`, `accuracy`, `sensitivity>=0.85`,
    `specificity>=0.95`) for the validation split, or a number. `calibration` is fitted
    there too, after the prior of the training was put right. With `stored` both are
    those that the run has, and no validation split is needed.
    """

    tta: Tta = "flips5"
    threshold: (
        Literal["youden", "accuracy", "stored"]
        | ThresholdRule
        | Annotated[float, Field(ge=0, le=1)]
    ) = "youden"
    calibration: CalibrationMethod = "temperature"
    num_resamples: Annotated[int, Field(ge=100)] = 1000
    batch_size: Positive = 256
    seed: Seed = 42


class ScoreConfig(Section):
    """How a folder of photographs is scored.

    `on_ungradable` says what becomes of one that can hardly be graded, because it is
    dark, blurred or no fundus at all: it is flagged, or gets no score either.
    """

    on_ungradable: OnUngradable = "flag"
    batch_size: Positive = 64
    num_workers: Annotated[int, Field(ge=0)] = 0


class GradcamConfig(Section):
    """How heat maps are made and painted.

    The three figures show `num_per_class` photographs of each class; the mean map of a
    grade is that of `num_averaged` photographs, 0 for none.
    """

    method: MapMethod = "gradcam"
    layer: str = "auto"
    num_per_class: Annotated[int, Field(ge=1, le=20)] = 3
    num_averaged: Annotated[int, Field(ge=0)] = 64
    overlay_alpha: Annotated[float, Field(gt=0, le=1)] = 0.4
    colormap: str = "viridis"


class Config(Section):
    """All settings of drtf, by section."""

    labels: LabelsConfig = LabelsConfig()
    split: SplitConfig = SplitConfig()
    images: ImagesConfig = ImagesConfig()
    build: BuildConfig = BuildConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    score: ScoreConfig = ScoreConfig()
    gradcam: GradcamConfig = GradcamConfig()

    @model_validator(mode="after")
    def _has_a_backbone_to_freeze(self) -> Self:
        if self.train.head_epochs and self.model.name == "eyenet":
            raise ValueError("train.head_epochs is of mobilenetv2; eyenet has no head")
        return self

    @model_validator(mode="after")
    def _has_a_value_for_each_class(self) -> Self:
        num_classes = TASKS[self.train.task].num_classes
        lists = {f"augment.{name}": value for name, value in self.augment}
        if self.sampling.mode == "weights":
            lists["sampling.weights"] = self.sampling.weights
        if self.train.class_weights:
            lists["train.class_weights"] = self.train.class_weights
        for name, value in lists.items():
            if isinstance(value, tuple) and len(value) != num_classes:
                raise ValueError(
                    f"a list for {name} needs {num_classes} values, one for each class "
                    f"of train.task={self.train.task!r}; got {list(value)}"
                )
        return self

"""The settings by section, with their defaults and the checks on their values."""

import re
from typing import Annotated, ClassVar, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from drtf.config.requirements import REQUIREMENTS
from drtf.tasks import NUM_GRADES, TASKS, TaskName

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Tta = Literal["none", "flips5", "dihedral8"]
ThresholdRule = Annotated[
    str,
    Field(
        pattern=r"^(sensitivity|specificity)>=(0\.\d+|1(\.0+)?)$",
        description='`"sensitivity>=X"`, `"specificity>=X"`',
    ),
]
Monitor = Literal[
    "auto",
    "loss",
    "roc_auc",
    "worst_roc_auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "kappa",
]
MapMethod = Literal["gradcam", "gradcam++", "layercam", "scorecam", "saliency"]
Encoding = Literal["raw", "png", "jpeg"]
CalibrationMethod = Literal["none", "logistic", "isotonic"]
LossName = Literal["crossentropy", "focal", "mse", "coral"]
OnDamaged = Literal["error", "skip"]
OnUngradable = Literal["flag", "predict", "reject"]
Conflicts = Literal["keep", "drop", "error"]

Value = TypeVar("Value")
# A list of texts; a number stands for its digits, and one value for a list of one.
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (
            tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
        )
    ),
]
TextOrTexts = Annotated[
    str | tuple[str, ...],
    BeforeValidator(
        lambda value: (
            tuple(map(str, value)) if isinstance(value, list | tuple) else value
        )
    ),
]
# One value for all, or one for each class of the task, or each layer of the head.
OneOrEach = Annotated[
    Annotated[Value, Tag("all")] | Annotated[tuple[Value, ...], Tag("each")],
    Discriminator(lambda value: "each" if isinstance(value, list | tuple) else "all"),
]


class Section(BaseModel):
    """A frozen table of settings that refuses unknown keys.

    The docstring below each setting is its description in `drtf settings`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
    section_name: ClassVar[str] = ""

    @model_validator(mode="after")
    def _meets_requirements(self) -> Self:
        for requirement in REQUIREMENTS:
            section, _, name = requirement.key.partition(".")
            if section != self.section_name:
                continue
            value = getattr(self, name)
            default = type(self).model_fields[name].default
            applies = (
                value != default
                if requirement.applies_to is None
                else value == requirement.applies_to
            )
            other = getattr(self, requirement.other.partition(".")[2])
            if applies and other not in requirement.values:
                raise ValueError(f"{requirement} (got {other!r})")
        return self


class LabelsConfig(Section):
    """How photographs are labeled."""

    section_name = "labels"

    image_column: TextOrTexts = ""
    """Column with the photograph's name. Empty: the columns are recognized by the
    file's header. A number names a column of a file without a header, from 1. A list
    such as `[left_image, right_image]`: each row has several photographs, and
    `labels.grade_column` lists the grade of each."""
    grade_column: TextOrTexts = ""
    """Column with the grade, 0 to 4. Of several columns, such as one for each eye, the
    first one that is filled is used."""
    grade_values: Texts = ()
    """Values of the grade column that mean grade 0, 1 and so on. Several values of one
    grade are separated by `|`, as in `["R0M0|R0M1", "R1M0|R1M1"]`. Empty: numbers from
    0 to 4, and English words such as `mild`."""
    ungraded: Texts = ()
    """Further values of the grade column that mean that a photograph has no grade. Such
    photographs are rejected. An empty cell, `NA` and -1 always mean this, and so does
    5 in a column that has a 0."""
    patient_column: str = ""
    """Column with the patient. Empty: a column with a usual name, such as `patient_id`,
    or else `labels.patient_pattern`."""
    patient_pattern: str = ""
    """Regular expression whose one group is the patient in a photograph's name (with
    class folders, in its path below the class folder). A photograph that does not match
    counts as its own patient. Empty: the name without its eye, such as `_left`, `-OD`
    or `_r2`, and without the date, the time and the field of view of the photograph,
    such as `_macula`."""
    split_column: str = ""
    """Column with a published split: train, val or test. Empty: photographs are split
    at random."""
    keep_columns: Texts = ()
    """Further columns of the label file to keep in the dataset, such as `age`, `sex` or
    `camera`. `drtf evaluate --by` reports results for each of their values. Of DICOM
    files, `dicom_camera` and `dicom_date` are the camera and the day in their tags."""
    conflicts: Conflicts = "keep"
    """What to do with identical photographs that have different grades: keep all of
    them, drop all of them, or stop with an error."""

    @field_validator("patient_pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        if not pattern:
            return pattern
        try:
            num_groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if num_groups != 1:
            raise ValueError(f"must have exactly one group, it has {num_groups}")
        return pattern

    @model_validator(mode="after")
    def _names_both_columns(self) -> Self:
        if self.grade_column and not self.image_column:
            raise ValueError("labels.grade_column requires labels.image_column")
        if isinstance(self.image_column, tuple):
            named = self.grade_column if isinstance(self.grade_column, tuple) else ()
            if not len(self.image_column) == len(named) > 0:
                raise ValueError(
                    "labels.image_column with several columns requires a list of as "
                    "many columns for labels.grade_column"
                )
        return self

    @field_validator("grade_values")
    @classmethod
    def _check_grade_values(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if len(texts) > NUM_GRADES:
            raise ValueError(f"there are only {NUM_GRADES} grades, 0 to 4")
        return texts


class SplitConfig(Section):
    """How photographs are divided into train, val and test."""

    section_name = "split"

    by: Literal["patient", "image"] = "patient"
    """The unit that stays in one split. `image` lets one patient's two eyes end up in
    different splits."""
    stratify: Literal["grade", "binary", "none"] = "grade"
    """The classes that all splits have in the same proportions: the grades, grade 0
    against the others, or nothing. If a group is too small, `grade` falls back to
    `binary`, and `binary` to `none`."""
    val_size: Fraction = 0.1
    """Fraction of patients (or images) in the validation split; 0: no such split. With
    a published split without one, this fraction of its training part."""
    test_size: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Fraction of patients (or images) in the test split; 0: no such split. 1: all
    photographs are for testing."""
    seed: Seed = 42
    """Seed of the random split."""

    @model_validator(mode="after")
    def _leaves_photographs_to_train_on(self) -> Self:
        total = self.val_size + self.test_size
        if self.test_size < 1 <= total:
            raise ValueError(
                f"split.val_size and split.test_size must be below 1 together; got "
                f"{total:g}"
            )
        return self


class ImagesConfig(Section):
    """How a photograph becomes square RGB pixels."""

    section_name = "images"

    size: Annotated[int, Field(ge=32, le=2048)] = 96
    """Width and height of the processed image, in pixels."""
    decode: Literal["scaled", "exact"] = "scaled"
    """`scaled` decodes a JPEG file at the smallest scale that leaves enough pixels.
    `exact` decodes at full size and resizes bilinearly, as the notebook did, and is
    about 15 times slower."""
    crop: Literal["none", "retina"] = "retina"
    """`retina` crops to the square around the bright field. `none` squeezes the whole
    photograph into a square."""
    mask: bool = False
    """Whether everything outside the bright field is blacked out."""
    contrast: Literal["clahe", "graham", "none"] = "clahe"
    """How contrast is equalized. `clahe` is CLAHE on L of CIELAB. `graham` subtracts
    the local average, as the winner of the 2015 Kaggle competition did."""
    clahe_clip_limit: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """Clip limit of CLAHE: higher is stronger."""
    clahe_tiles: Annotated[int, Field(ge=1, le=64)] = 8
    """Number of CLAHE tiles per side."""
    reject_blank: bool = True
    """Whether black and evenly colored photographs are rejected."""


class BuildConfig(Section):
    """How images are written to shards."""

    section_name = "build"

    encoding: Encoding = "raw"
    """How each image is stored. `raw` is fastest to read; `png` (lossless) and `jpeg`
    save much space at 224 px and above."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Quality of the stored images with `build.encoding="jpeg"`."""
    shard_size_mb: Annotated[float, Field(gt=0)] = 96
    """Approximate size of one shard, in MB (1,000,000 bytes)."""
    seed: Seed = 42
    """Seed of the random order of the records."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Number of processes that convert photographs; 0: one per CPU, as far as memory
    allows; 1: none but the command's own. The dataset does not depend on it."""


class SamplingConfig(Section):
    """How often each class, or each group of photographs, appears in an epoch."""

    section_name = "sampling"

    mode: Literal["natural", "balanced", "weights"] = "balanced"
    """`natural`: each photograph once. `balanced`: all groups equally often, and each
    photograph of the largest group once. `weights`: the classes in the proportions of
    `sampling.weights`."""
    by: Annotated[Texts, Field(min_length=1)] = ("class",)
    """The groups that `balanced` draws equally often: `class` (of `train.task`), or the
    photographs with each value of a column, as in `evaluate.by`. With several, each
    combination is a group: `["class", "source"]` balances the classes within each
    source."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Relative frequency of each class of `train.task`."""
    window_shards: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """How many shards are shuffled together; 0 shuffles the whole dataset. An epoch
    reads one window of shards after the other, in an order that changes with each
    epoch. Use it for a dataset in an object store that is larger than the cache, or
    on a disk that is slow at random reads."""
    on_damaged: OnDamaged = "error"
    """What to do with a damaged record: stop with an error, or skip it. Skipped records
    are logged, and another photograph of the same group takes their place."""


class AugmentConfig(Section):
    """Bounds of the random changes to training images.

    Each bound is one value, or a list with one value for each class of `train.task`:
    `max_degrees = [0, 180]` rotates only the diseased photographs. `mixup`,
    `balanced_mixup` and `cutmix` are no bounds, and have one value for all classes.
    """

    section_name = "augment"

    horizontal_flip: OneOrEach[bool] = True
    """Whether half of the images are flipped left to right."""
    vertical_flip: OneOrEach[bool] = True
    """Whether half of the images are flipped upside down."""
    max_degrees: OneOrEach[Annotated[float, Field(ge=0, le=180)]] = 180.0
    """Largest rotation in either direction, in degrees. Uncovered corners are black."""
    zoom: OneOrEach[Fraction] = 0.2
    """Largest change of scale: 0.2 shows between 0.8 and 1.2 times the image's
    width."""
    shift: OneOrEach[Fraction] = 0.0
    """Largest shift along each axis, as a fraction of the image's side."""
    brightness: OneOrEach[Fraction] = 0.2
    """Largest value added to or subtracted from all pixels, which are in [0, 1]."""
    contrast: OneOrEach[Fraction] = 0.2
    """Largest change of contrast: 0.2 multiplies the distance from the mean of each
    channel by 0.8 to 1.2."""
    saturation: OneOrEach[Fraction] = 0.2
    """Largest change of saturation: 0.2 multiplies the distance from gray by 0.8 to
    1.2."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """MixUp: mixes each photograph with another one, and their labels alike. The
    fraction of the other one follows the distribution Beta(`mixup`, `mixup`). 0: off;
    0.2 is usual. Any mixing reads a second photograph for each one."""
    balanced_mixup: Annotated[float, Field(ge=0)] = 0.0
    """Balanced-MixUp: mixes each photograph with one of balanced classes. The fraction
    of the other one follows Beta(`balanced_mixup`, 1). 0: off; 0.1 to 0.3 are usual.
    Requires `sampling.mode="natural"`."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """CutMix: replaces a rectangle by that of another photograph, and mixes their
    labels by area. The fraction of the area follows Beta(`cutmix`, `cutmix`). 0: off;
    1 is usual."""


class ModelConfig(Section):
    """The network: its backbone, which of its layers are trained, and its head."""

    section_name = "model"

    name: str = "mobilenetv2"
    """The backbone: `mobilenetv2`, `mobilenetv3-large`, `efficientnetv2-b0` or
    `eyenet`. A setting that a backbone does not have must keep its default: `eyenet`
    has only `model.weights` (not `imagenet`) and `model.input_range`."""
    weights: str = "imagenet"
    """Initial weights of the backbone: `imagenet` (downloaded by Keras), `none`
    (random), or the path of a file: `.weights.h5`, or `_no_top.h5` as Keras publishes
    it. For a folder, such as `~/.keras/models`, the file of the backbone is read. For a
    run folder, the backbone of this run is taken, and its head too if it has the same
    task and layers. Settings of the network that are not given are those of the run."""
    alpha: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Width multiplier of `mobilenetv2` and `mobilenetv3-large`. ImageNet weights exist
    for 0.35, 0.5, 0.75, 1.0, 1.3 and 1.4, or for 0.75 and 1.0."""
    input_range: Literal["unit", "symmetric"] = "symmetric"
    """Range of the pixels that the backbone gets: `symmetric` is [-1, 1], the range
    that the ImageNet weights of both MobileNets were trained with; `unit` is [0, 1].
    `efficientnetv2-b0` always standardizes pixels to ImageNet's mean and deviation."""
    upsampling: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Factor by which images are enlarged within the network. The ImageNet weights were
    trained at 224 px and expect shapes of that size."""
    trainable_layers: Annotated[int, Field(ge=-1)] = -1
    """Number of backbone layers to train, counted from its end; -1: all, 0: none."""
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of the batch normalization in the backbone. The head has Keras's
    default, 0.99."""
    head_units: tuple[Positive, ...] = ()
    """Units of each hidden dense layer of the head; empty: none, only the output
    layer."""
    head_batch_norm: OneOrEach[bool] = False
    """Whether batch normalization comes before each dense layer of the head. A list has
    one value for each layer of `model.head_units` and one for the output layer."""
    dropout: OneOrEach[Fraction] = 0.2
    """Dropout rate before each dense layer of the head. A list has one value for each
    layer of `model.head_units` and one for the output layer."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("head_batch_norm", "dropout"):
            value, expected = getattr(self, name), len(self.head_units) + 1
            if isinstance(value, tuple) and len(value) != expected:
                raise ValueError(
                    f"model.{name} must have {expected} values, one more than "
                    f"model.head_units; got {list(value)}"
                )
        return self


class TrainConfig(Section):
    """The training run."""

    section_name = "train"

    task: TaskName = "binary"
    """The classes to predict. `binary`: grade 1 and above. `referable`: grade 2 and
    above. `grades`: each of the five grades."""
    epochs: Positive = 12
    """Number of epochs, including `train.head_epochs`."""
    head_epochs: Annotated[int, Field(ge=0)] = 0
    """Number of epochs at the start that train only the head; the backbone is
    frozen."""
    batch_size: Positive = 256
    """Number of photographs per step, over all devices and hosts."""
    loss: LossName = "crossentropy"
    """Loss function. `focal` gives photographs that are easy to predict less weight.
    `mse` and `coral` use the order of the grades: the squared error of the expected
    grade, and a binary cross-entropy for each grade that may be reached.
    `train.class_weights` apply to all."""
    focal_gamma: Annotated[float, Field(ge=0)] = 1.5
    """Exponent of the focal loss. Higher values give easy photographs less weight."""
    focal_alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of diseased photographs in the focal loss; healthy ones get 1 - alpha."""
    label_smoothing: Fraction = 0.0
    """Fraction of each label that is spread evenly over the classes; 0: none."""
    soft_labels: str = ""
    """Distillation: the column with the predictions of another model, the teacher, for
    the training photographs, such as `score`. It is one of `labels.keep_columns`, or of
    `drtf train --table`. A photograph without a value keeps its label. Validation never
    uses them. Empty: none."""
    soft_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of the soft labels. The target is (1 - `soft_weight`) x label +
    `soft_weight` x soft label."""
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Weight of each class of `train.task` in the loss; empty: 1 for each."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """Optimizer."""
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate; with `train.schedule="cosine"` the highest one."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of AdamW; 0: none."""
    ema_momentum: Fraction = 0.0
    """Momentum of the moving average of the weights, updated at each step. Above 0, the
    average is validated and saved instead of the weights themselves; 0: no average."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """How the learning rate changes: not at all; linear warm-up, then half a cosine to
    zero; or lower whenever `train.plateau_monitor` stops improving."""
    warmup_fraction: Fraction = 0.05
    """Fraction of all steps in which the learning rate rises linearly; 0: none."""
    plateau_monitor: Monitor = "loss"
    """Validation metric that lowers the learning rate; `auto` as in `train.monitor`."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor by which the learning rate is lowered."""
    plateau_patience: Positive = 3
    """Number of epochs without improvement before the learning rate is lowered."""
    early_stopping_patience: Annotated[int, Field(ge=0)] = 0
    """Number of epochs without improvement before training ends; 0: no limit."""
    monitor: Monitor = "auto"
    """Validation metric that chooses the best epoch. `auto` is `kappa` for the task
    `grades`, and `roc_auc` otherwise. `worst_roc_auc` is the lowest among the groups of
    `train.validate_by`."""
    validate_by: str = "source"
    """Column whose values, such as the sources, are validated separately too: the
    history has the ROC AUC of each group and the lowest one, if there are several.
    Columns are those of `evaluate.by`. Empty: none."""
    validation_split: Literal["val", "test"] = "val"
    """Split that is evaluated after each epoch. `test` chooses the epoch on test
    photographs, as the notebook did."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """Keras dtype policy. `auto` is `float32` on CPUs and on GPUs below compute
    capability 7.0, `mixed_float16` on 7.x, and `mixed_bfloat16` from 8.0."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 20
    """Number of consecutive non-finite steps that `mixed_float16` may skip before
    training stops with an error."""
    num_devices: Annotated[int, Field(ge=0)] = 0
    """Number of GPUs of each host that share each batch; 0: all."""
    steps_per_execution: Literal["auto"] | Positive = "auto"
    """Number of steps per call of the compiled loop. `auto`: so many that a call takes
    about 0.25 s."""
    jit_compile: Literal["auto"] | bool = "auto"
    """Whether XLA compiles the training step. `auto`: on one GPU, yes; on CPUs, only
    the augmentation."""
    deterministic: bool = False
    """Whether GPUs use only deterministic operations, which are slower but make runs
    repeatable bit for bit."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """Minutes between checkpoints within an epoch; 0: after every call of the compiled
    loop. There is also one after each epoch."""
    num_checkpoints: Positive = 2
    """Number of checkpoints to keep."""
    seed: Seed = 42
    """Seed of the initial weights, the order of photographs, augmentation and
    dropout."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.head_epochs >= self.epochs:
            raise ValueError(
                f"train.head_epochs must be below train.epochs={self.epochs}; got "
                f"{self.head_epochs}"
            )
        if self.soft_weight != 0.5 and not self.soft_labels:
            raise ValueError("train.soft_weight requires train.soft_labels")
        for name in ("monitor", "plateau_monitor"):
            if getattr(self, name) == "worst_roc_auc" and not self.validate_by:
                raise ValueError(
                    f"train.{name}='worst_roc_auc' requires train.validate_by"
                )
        if self.class_weights and not any(self.class_weights):
            raise ValueError("train.class_weights must not all be zero")
        return self


class EvaluateConfig(Section):
    """How a trained model is evaluated."""

    section_name = "evaluate"

    tta: Tta = "flips5"
    """Views of each photograph whose scores are averaged (test-time augmentation).
    `flips5`: identity, left-right, up-down, both, and brighter by 10 %. `dihedral8`:
    all flips and rotations by 90 degrees. `none`: only the photograph itself."""
    threshold: (
        Literal["youden", "accuracy"]
        | ThresholdRule
        | Annotated[float, Field(ge=0, le=1)]
    ) = "youden"
    """A score at or above the threshold counts as diseased. A number, or the rule that
    chooses it on the validation split: the highest Youden index or accuracy, or the
    stated sensitivity or specificity."""
    calibration: CalibrationMethod = "logistic"
    """How scores become probabilities: by a logistic curve, by isotonic regression
    or not at all. It is fitted on the validation split, after a correction for the
    class proportions of training."""
    fellow_eye: bool = True
    """Combine the score of a photograph with the score of the patient's other eye, if
    there is one in the same split. The weights are fitted on the validation split."""
    by: Texts = ()
    """Columns by which results are reported for subgroups too: `source`, `eye`,
    `grade`, a measure of quality, or one of `labels.keep_columns`. A column with more
    than 10 different numbers is cut into quartiles; `age:40,60` cuts it at 40 and 60,
    and `site:each` does not cut it."""
    min_group_patients: Positive = 20
    """Subgroups with fewer patients are listed without metrics."""
    num_resamples: Annotated[int, Field(ge=100)] = 1000
    """Number of bootstrap resamples for the confidence intervals."""
    batch_size: Positive = 256
    """Number of images per prediction step."""
    seed: Seed = 42
    """Seed of the bootstrap."""


class ScoreConfig(Section):
    """How new photographs are scored."""

    section_name = "score"

    threshold: Literal["stored"] | Annotated[float, Field(ge=0, le=1)] = "stored"
    """A score at or above the threshold is predicted positive. A number, or `stored`:
    the threshold in the run folder, which `drtf evaluate` chose."""
    on_ungradable: OnUngradable = "flag"
    """What to do with a photograph that may be ungradable (dark, blurred, not a fundus,
    or flagged by the run's quality gate): `flag` scores it without predicting a label,
    grade or probability, `predict` predicts them as for any other, and `reject` gives
    it no score."""
    batch_size: Positive = 64
    """Number of views per prediction step."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Number of processes that prepare photographs; 0: one per CPU, as far as memory
    allows; 1: none but the command's own."""


class GradcamConfig(Section):
    """How heat maps are computed and drawn."""

    section_name = "gradcam"

    method: MapMethod = "gradcam"
    """Method that computes the maps."""
    layer: str = "auto"
    """Name of the layer whose activations are mapped. `auto`: the deepest one whose
    cells are at most 16 px wide, if it has 6 cells per side. `saliency` uses no
    layer."""
    num_per_class: Annotated[int, Field(ge=1, le=20)] = 3
    """Number of photographs of each class in the three figures."""
    num_averaged: Annotated[int, Field(ge=0)] = 64
    """Number of photographs of each grade in its mean heat map; 0: no mean maps."""
    scale: Literal["common", "image"] = "common"
    """`common`: all maps of a figure or folder have the same colors for the same heat.
    `image`: the colors of each map end at its own maximum."""
    overlay_alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Opacity of the heat map in overlays where the heat is highest. Elsewhere the
    opacity is proportional to the heat."""
    colormap: str = "viridis"
    """Name of the matplotlib colormap."""


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
                    f"{name} must have {num_classes} values, one for each class of "
                    f"train.task={self.train.task!r}; got {list(value)}"
                )
        return self

    @model_validator(mode="after")
    def _balances_once(self) -> Self:
        mode = self.sampling.mode
        if self.augment.balanced_mixup and mode != "natural":
            raise ValueError(
                "augment.balanced_mixup mixes photographs of balanced classes into "
                f"others, which requires sampling.mode='natural' (got {mode!r})"
            )
        return self


def section_model(name: str) -> type[Section]:
    """Return the class of a section.

    Raises:
        KeyError: If there is no such section.
    """
    return cast(type[Section], Config.model_fields[name].annotation)

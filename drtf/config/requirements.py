"""Which settings require a certain value of another setting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """A setting that is only allowed together with certain values of another setting.

    Attributes:
        key: Dotted key of the setting.
        other: Dotted key of the setting that it requires, in the same section.
        values: What the other setting may be.
        applies_to: The requirement holds if the setting has this value; None: if it
            has any value but its default.
    """

    key: str
    other: str
    values: tuple[str | float, ...]
    applies_to: str | None = None

    def __str__(self) -> str:
        applies_to = "" if self.applies_to is None else f"={self.applies_to!r}"
        values = " or ".join(map(repr, self.values))
        return f"{self.key}{applies_to} requires {self.other}={values}"


REQUIREMENTS = (
    Requirement("images.clahe_clip_limit", "images.contrast", ("clahe",)),
    Requirement("images.clahe_tiles", "images.contrast", ("clahe",)),
    Requirement("build.jpeg_quality", "build.encoding", ("jpeg",)),
    Requirement("sampling.by", "sampling.mode", ("balanced",)),
    Requirement("sampling.weights", "sampling.mode", ("weights",)),
    Requirement("augment.mixup", "augment.balanced_mixup", (0.0,)),
    Requirement("augment.cutmix", "augment.balanced_mixup", (0.0,)),
    Requirement(
        "train.task",
        "train.loss",
        ("crossentropy", "mse", "coral"),
        applies_to="grades",
    ),
    Requirement("train.loss", "train.task", ("grades",), applies_to="mse"),
    Requirement("train.loss", "train.task", ("grades",), applies_to="coral"),
    Requirement("train.focal_gamma", "train.loss", ("focal",)),
    Requirement("train.focal_alpha", "train.loss", ("focal",)),
    Requirement("train.soft_labels", "train.task", ("binary", "referable")),
    Requirement("train.label_smoothing", "train.loss", ("crossentropy",)),
    Requirement("train.momentum", "train.optimizer", ("sgd",)),
    Requirement("train.weight_decay", "train.optimizer", ("adamw",)),
    Requirement("train.warmup_fraction", "train.schedule", ("cosine",)),
    Requirement("train.plateau_monitor", "train.schedule", ("plateau",)),
    Requirement("train.plateau_monitor", "train.task", ("grades",), applies_to="kappa"),
    Requirement("train.plateau_factor", "train.schedule", ("plateau",)),
    Requirement("train.plateau_patience", "train.schedule", ("plateau",)),
    Requirement("train.monitor", "train.task", ("grades",), applies_to="kappa"),
)

"""Backbones by name: how each one is built, and which settings it has.

This module does not load TensorFlow, so that commands can list and check the names.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from drtf.config import ModelConfig
from drtf.config.messages import did_you_mean
from drtf.errors import ConfigError

if TYPE_CHECKING:
    import keras

# The range of the pixels that a backbone takes: [0, 1], [-1, 1], or scaled to the mean
# and standard deviation of ImageNet's channels.
InputRange = Literal["unit", "symmetric", "standardized"]
Build = Callable[["keras.KerasTensor", ModelConfig, str | None], "keras.KerasTensor"]

# Kinds of layers and of other operations that Keras names with a number.
NUMBERED_LAYERS = frozenset({"activation", "add", "multiply", "re_lu"})
NUMBERED_OPERATIONS = frozenset({"concatenate", "cumsum", "get_item", "log_sigmoid"})
NUMBERED_OPERATIONS |= {"negative", "softplus", "split", "subtract"}
HEAD_OPTIONS = {"dropout", "head_batch_norm", "head_units"}
COMMON_OPTIONS = HEAD_OPTIONS | {
    "batch_norm_momentum",
    "trainable_layers",
    "upsampling",
}


@dataclass(frozen=True)
class Backbone:
    """A network without its head.

    Attributes:
        name: The value of `model.name`.
        build: Builds the layers from an image tensor, float32 [B, H, W, 3] in the input
            range, and returns their features. It takes the image, the `model` section
            and "imagenet", or None for random weights.
        options: The settings of the `model` section, apart from `name` and `weights`,
            that apply to it.
        input_range: The range of pixels that its pretrained weights take. If `options`
            has `input_range`, the config can choose another one.
        imagenet_alphas: Values of `model.alpha` for which Keras has ImageNet weights.
            Empty if the backbone has no pretrained weights.
        imagenet_file: Path of the file of these weights on Keras's server, with
            `{alpha}` and `{size}`, the width of the photographs that it was trained on.
        imagenet_sizes: The values of `{size}` that there are.
        map_layers: Kinds of layer whose output heat maps can show.
        head: The kind of head, a key of `drtf.models.head.HEADS`.
    """

    name: str
    build: Build
    options: frozenset[str]
    input_range: InputRange
    map_layers: tuple[str, ...]
    imagenet_alphas: tuple[float, ...] = ()
    imagenet_file: str = ""
    imagenet_sizes: tuple[int, ...] = (224,)
    head: Literal["pooled", "softmax"] = "pooled"

    @property
    def can_freeze(self) -> bool:
        """Whether the head can be trained without the backbone."""
        return "trainable_layers" in self.options

    def choose_input_range(self, config: ModelConfig) -> InputRange:
        """Return the range of pixels that a network with this config takes."""
        return config.input_range if "input_range" in self.options else self.input_range

    def imagenet_path(self, config: ModelConfig, *, image_size: int) -> str:
        """Return the path of the ImageNet weights on Keras's server."""
        side = round(config.upsampling * image_size)
        size = side if side in self.imagenet_sizes else 224
        return self.imagenet_file.format(alpha=float(config.alpha), size=size)

    def describe(self, config: ModelConfig) -> str:
        """Return the name and the settings that tell trained backbones apart."""
        parts = [self.name]
        if "alpha" in self.options:
            parts.append(f"alpha {config.alpha}")
        if self.imagenet_alphas:
            parts.append(f"weights {Path(config.weights).name}")
        return ", ".join(parts)


def check_model(config: ModelConfig, *, head_epochs: int = 0) -> None:
    """Check that a backbone exists and supports the settings of the `model` section.

    Args:
        config: The `model` section.
        head_epochs: The value of `train.head_epochs`.

    Raises:
        ConfigError: If the name is unknown, or a setting does not apply to the
            backbone.
    """
    name = config.name
    if name not in BACKBONES:
        raise ConfigError(
            f"model.name={name!r} is not a backbone{did_you_mean(name, BACKBONES)}; "
            f"backbones are {', '.join(BACKBONES)}"
        )
    backbone = BACKBONES[name]
    for option, field in ModelConfig.model_fields.items():
        applies = option in ("name", "weights") or option in backbone.options
        if not applies and getattr(config, option) != field.default:
            others = [x.name for x in BACKBONES.values() if option in x.options]
            raise ConfigError(
                f"model.{option} applies only to {', '.join(others)}; with "
                f"model.name={name!r} leave it at its default, {field.default!r}"
            )
    if config.weights == "imagenet" and not backbone.imagenet_alphas:
        raise ConfigError(
            f"model.weights={config.weights!r}: {name} has no ImageNet weights; set "
            'model.weights to "none", a file or a run folder'
        )
    if config.weights == "imagenet" and config.alpha not in backbone.imagenet_alphas:
        raise ConfigError(
            f"model.alpha={config.alpha}: Keras has ImageNet weights of {name} only "
            f"for {', '.join(map(str, backbone.imagenet_alphas))}; choose one of them, "
            'or set model.weights to "none", a file or a run folder'
        )
    if head_epochs and not backbone.can_freeze:
        raise ConfigError(
            f"train.head_epochs={head_epochs}: {name} cannot be trained without its "
            "backbone; set train.head_epochs=0"
        )


def _build_mobilenetv2(
    x: "keras.KerasTensor", config: ModelConfig, weights: str | None
) -> "keras.KerasTensor":
    import keras

    return keras.applications.MobileNetV2(
        input_tensor=x,
        input_shape=x.shape[1:],
        alpha=config.alpha,
        include_top=False,
        weights=weights,
    ).output


def _build_mobilenetv3_large(
    x: "keras.KerasTensor", config: ModelConfig, weights: str | None
) -> "keras.KerasTensor":
    import keras

    backbone = keras.applications.MobileNetV3Large(
        input_tensor=x,
        input_shape=x.shape[1:],
        alpha=config.alpha,
        include_top=False,
        include_preprocessing=False,
        weights=weights,
    )
    number_names(backbone)
    return backbone.output


def _build_efficientnetv2_b0(
    x: "keras.KerasTensor", config: ModelConfig, weights: str | None
) -> "keras.KerasTensor":
    import keras

    return keras.applications.EfficientNetV2B0(
        input_tensor=x,
        input_shape=x.shape[1:],
        include_top=False,
        include_preprocessing=False,
        weights=weights,
    ).output


def _build_eyenet(
    x: "keras.KerasTensor", config: ModelConfig, weights: str | None
) -> "keras.KerasTensor":
    """Build EyeNet: three convolutions with pooling, then a dense layer."""
    import keras

    for number in (1, 2, 3):
        x = keras.layers.Conv2D(32, 3, activation="relu", name=f"conv_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(128, activation="relu", name="dense")(x)


def _refuse_to_build(
    x: "keras.KerasTensor", config: ModelConfig, weights: str | None
) -> "keras.KerasTensor":
    raise ConfigError(f"model.name={config.name!r}: drtf cannot build your own model")


def number_names(model: "keras.Model") -> None:
    """Number the operations that Keras named automatically, from 0 in this model.

    Keras numbers them within the process, so that the second network would have other
    names than the first, and another model.keras.
    """
    counts: Counter[str] = Counter()
    for operation in model.operations:
        kind = re.sub(r"_\d+$", "", operation.name)
        if kind in NUMBERED_LAYERS:
            operation.name = f"{kind}_{counts[kind]}"
        elif kind in NUMBERED_OPERATIONS:
            # A model that adds operations to a loaded network gets other names.
            operation.name = f"network_{kind}_{counts[kind]}"
        counts[kind] += 1


BACKBONES: Mapping[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="mobilenetv2",
            build=_build_mobilenetv2,
            options=frozenset(COMMON_OPTIONS | {"alpha", "input_range"}),
            input_range="symmetric",
            imagenet_alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
            imagenet_file="mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels"
            "_{alpha}_{size}_no_top.h5",
            imagenet_sizes=(96, 128, 160, 192, 224),
            map_layers=("Conv2D", "ReLU"),
        ),
        Backbone(
            name="mobilenetv3-large",
            build=_build_mobilenetv3_large,
            options=frozenset(COMMON_OPTIONS | {"alpha", "input_range"}),
            input_range="symmetric",
            imagenet_alphas=(0.75, 1.0),
            imagenet_file="mobilenet_v3/weights_mobilenet_v3_large_224_{alpha}_float"
            "_no_top_v2.h5",
            # Its hard swish is an Activation.
            map_layers=("Activation", "ReLU"),
        ),
        Backbone(
            name="efficientnetv2-b0",
            build=_build_efficientnetv2_b0,
            options=frozenset(COMMON_OPTIONS),
            input_range="standardized",
            imagenet_alphas=(1.0,),
            imagenet_file="efficientnet_v2/efficientnetv2-b0_notop.h5",
            # Its swish is an Activation.
            map_layers=("Activation",),
        ),
        Backbone(
            name="eyenet",
            build=_build_eyenet,
            options=frozenset({"input_range"}),
            input_range="unit",
            map_layers=("Conv2D",),
            head="softmax",
        ),
    )
}

# A user's own network, saved by `drtf.save_run`. drtf can use it, but not build it.
OWN_MODEL = Backbone(
    name="own-model",
    build=_refuse_to_build,
    options=frozenset(),
    input_range="unit",
    map_layers=("Activation", "Conv2D", "LeakyReLU", "ReLU"),
)


def backbone_of(name: str) -> Backbone:
    """Return the backbone with a checked `model.name`, or that of a user's network."""
    return OWN_MODEL if name == OWN_MODEL.name else BACKBONES[name]

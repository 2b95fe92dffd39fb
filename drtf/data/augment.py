"""Augmentation: a list of random operations on a batch, run on the device.

`OPERATIONS` is the list. Geometric operations compose one affine map per image, so that
each image is resampled once. Color operations then follow one after the other.

The draws of an operation depend on the seed of the image and on the operation's name
only, so adding an operation changes no other operation's draws. All code is batched
arithmetic and gathers, which XLA compiles and which have kernels on GPUs.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import tensorflow as tf

from drtf.config import AugmentConfig
from drtf.data.resampling import affine_map, compose, resample

# The increment of SplitMix64.
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Geometric:
    """A random operation that moves pixels.

    Attributes:
        name: Keys the operation's draws. Renaming it changes them.
        setting: The key of its bound in the `augment` section. It does nothing where
            the bound is 0 or false.
        affine: Takes draws, float32 [B, num_draws] in [0, 1), and the bound, a scalar
            or [B]. Returns affine maps, float32 [B, 2, 3].
        num_draws: Draws that it needs for each image.
    """

    name: str
    setting: str
    affine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    num_draws: int = 1


@dataclass(frozen=True)
class Color:
    """A random operation that changes colors in place.

    Attributes:
        name: Keys the operation's draws. Renaming it changes them.
        setting: The key of its bound in the `augment` section. It does nothing where
            the bound is 0.
        change: Takes images, floating [B, H, W, 3], draws, float32 [B, num_draws] in
            [0, 1), and the bound, a scalar or [B]. Returns images. Images are clipped
            to [0, 1] only after the last operation, so earlier ones can leave values
            outside.
        num_draws: Draws that it needs for each image.
    """

    name: str
    setting: str
    change: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
    num_draws: int = 1


Operation = TypeVar("Operation", Geometric, Color)


def flip_horizontally(draws: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """Mirror left and right in half of the images."""
    return affine_map(_flip_sign(draws, allowed), 0, 0, 1)


def flip_vertically(draws: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """Mirror top and bottom in half of the images."""
    return affine_map(1, 0, 0, _flip_sign(draws, allowed))


def rotate(draws: tf.Tensor, max_degrees: tf.Tensor) -> tf.Tensor:
    """Rotate about the center by at most `max_degrees` in either direction."""
    angle = _amounts(draws, max_degrees)[:, 0] * (np.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return affine_map(cos, -sin, sin, cos)


def zoom(draws: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Show a region of 1 - bound to 1 + bound times the image's size."""
    scale = 1 + _amounts(draws, bound)[:, 0]
    return affine_map(scale, 0, 0, scale)


def shift(draws: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Move by at most `bound` times the image's height, along x and along y."""
    fractions = _amounts(draws, bound)
    return affine_map(1, 0, 0, 1, shift_x=fractions[:, 0], shift_y=fractions[:, 1])


def change_contrast(images: tf.Tensor, draws: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Scale the distance from each channel's mean by 1 - bound to 1 + bound."""
    factor = 1 + _color_amounts(draws, bound, images.dtype)
    # In float32, since half precision cannot add up an image; one axis after the other,
    # which XLA divides among cores.
    mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=2, keepdims=True)
    mean = tf.cast(tf.reduce_mean(mean, axis=1, keepdims=True), images.dtype)
    return images * factor + mean * (1 - factor)


def change_saturation(
    images: tf.Tensor, draws: tf.Tensor, bound: tf.Tensor
) -> tf.Tensor:
    """Scale the distance from each pixel's gray by 1 - bound to 1 + bound."""
    factor = 1 + _color_amounts(draws, bound, images.dtype)
    gray = tf.reduce_mean(images, axis=-1, keepdims=True)
    return images * factor + gray * (1 - factor)


def change_brightness(
    images: tf.Tensor, draws: tf.Tensor, bound: tf.Tensor
) -> tf.Tensor:
    """Add the same number from -bound to bound to each channel."""
    return images + _color_amounts(draws, bound, images.dtype)


OPERATIONS = (
    Geometric("horizontal_flip", "horizontal_flip", flip_horizontally),
    Geometric("vertical_flip", "vertical_flip", flip_vertically),
    Geometric("rotation", "max_degrees", rotate),
    Geometric("zoom", "zoom", zoom),
    Geometric("shift", "shift", shift, num_draws=2),
    Color("contrast", "contrast", change_contrast),
    Color("saturation", "saturation", change_saturation),
    Color("brightness", "brightness", change_brightness),
)


def augment(
    images: tf.Tensor,
    seeds: tf.Tensor,
    classes: tf.Tensor,
    config: AugmentConfig,
    *,
    operations: Sequence[Geometric | Color] = OPERATIONS,
) -> tf.Tensor:
    """Change each image at random, within the bounds of the config.

    For your own model, on the batches of `train_dataset`:

        bounds = drtf.load_config("").augment
        augmented = batches.map(
            lambda x: (
                augment(
                    tf.cast(x["image"], tf.float32) / 255, x["seed"], x["label"], bounds
                ),
                x["label"],
            )
        )

    Args:
        images: float32, float16 or bfloat16 [B, H, W, 3] in [0, 1].
        seeds: int32 [B, 2]. Equal seeds give equal changes.
        classes: integers [B], of the task. They select from bounds that are lists.
        config: The `augment` section.
        operations: In the order in which they are applied, geometric ones first.

    Returns:
        As `images`: same shape, dtype and range.
    """
    geometric = [op for op in operations if isinstance(op, Geometric)]
    affine = sample_affine(seeds, classes, config, operations=geometric)
    if affine is not None:
        images = resample(images, affine)
    color = [op for op in operations if isinstance(op, Color)]
    for operation, draws, bound in _sample(color, seeds, classes, config):
        images = operation.change(images, draws, bound)
    return tf.clip_by_value(images, 0, 1)


def sample_affine(
    seeds: tf.Tensor,
    classes: tf.Tensor,
    config: AugmentConfig,
    *,
    operations: Sequence[Geometric],
) -> tf.Tensor | None:
    """Compose the geometric operations into one affine map per image.

    Args:
        seeds: int32 [B, 2].
        classes: integers [B].
        config: The `augment` section.
        operations: In the order in which they are applied to the coordinates.

    Returns:
        float32 [B, 2, 3], as `affine_map`; None if the config allows no operation.
    """
    composed = None
    for operation, draws, bound in _sample(operations, seeds, classes, config):
        affine = operation.affine(draws, bound)
        composed = affine if composed is None else compose(affine, composed)
    return composed


def counters(name: str, num_draws: int = 1) -> np.ndarray:
    """Return the counters of an operation's draws, uint64 [num_draws].

    They start at a place of their own for each name: the first 8 bytes of its SHA-256.
    """
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    steps = np.arange(1, num_draws + 1, dtype=np.uint64) * GOLDEN_GAMMA
    return np.uint64(start) + steps


def uniform(seeds: tf.Tensor, counters: np.ndarray) -> tf.Tensor:
    """Draw a number for each seed and counter.

    The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over the sum of
    seed and counter; the upper 24 bits become the float.

    Args:
        seeds: int32 [B, 2].
        counters: uint64 [n].

    Returns:
        float32 [B, n] uniform in [0, 1).
    """
    words = tf.bitwise.bitwise_and(tf.cast(seeds, tf.int64), 0xFFFFFFFF)
    state = tf.bitwise.left_shift(words[:, :1], 32) + words[:, 1:] + _signed(counters)
    for num_bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, _shift_right(state, num_bits))
        state *= _signed(np.uint64(factor))
    state = tf.bitwise.bitwise_xor(state, _shift_right(state, 31))
    return tf.cast(_shift_right(state, 40), tf.float32) / 2**24


def _sample(
    operations: Sequence[Operation],
    seeds: tf.Tensor,
    classes: tf.Tensor,
    config: AugmentConfig,
) -> Iterator[tuple[Operation, tf.Tensor, tf.Tensor]]:
    """Yield each operation that the config allows, with its draws and its bound."""
    allowed = [op for op in operations if np.any(getattr(config, op.setting))]
    if not allowed:
        return
    # One call for all, since each draw is a dozen kernels where XLA is not available.
    every = uniform(
        seeds, np.concatenate([counters(op.name, op.num_draws) for op in allowed])
    )
    split = tf.split(every, [op.num_draws for op in allowed], axis=1)
    for operation, draws in zip(allowed, split, strict=True):
        yield operation, draws, _bounds(getattr(config, operation.setting), classes)


def _bounds(
    setting: float | bool | tuple[float, ...] | tuple[bool, ...], classes: tf.Tensor
) -> tf.Tensor:
    """Return the bound of all images, or [B] the bound of each image's class."""
    values = tf.constant(setting)
    if not isinstance(setting, tuple):
        return values
    return tf.gather(values, tf.cast(classes, tf.int64))


def _amounts(draws: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Map draws in [0, 1) to [-bound, bound), float32 [B, n]."""
    return (2 * draws - 1) * tf.reshape(tf.cast(bound, tf.float32), [-1, 1])


def _color_amounts(draws: tf.Tensor, bound: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return one amount per image in the images' dtype, [B, 1, 1, 1]."""
    return tf.cast(_amounts(draws, bound), dtype)[:, :, None, None]


def _flip_sign(draws: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    return tf.where((draws[:, 0] < 0.5) & allowed, -1.0, 1.0)


def _signed(words: np.ndarray | np.uint64) -> np.ndarray:
    return np.asarray(words).astype(np.int64)


def _shift_right(state: tf.Tensor, num_bits: int) -> tf.Tensor:
    """Shift bits to the right and fill with zeros, unlike the shift of int64."""
    return tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(state, num_bits), (1 << (64 - num_bits)) - 1
    )

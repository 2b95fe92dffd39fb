"""Augmentation of a batch on the device: one resampling, then one colour pass.

All of it is plain batched arithmetic and gathers, which XLA compiles and which have
kernels on GPUs; randomness is computed from per-example seeds and from nothing else.
"""

import numpy as np
import tensorflow as tf

from drtf.config import AugmentConfig

NUM_DRAWS = 9


def augment(images: tf.Tensor, seeds: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Change each image at random, within the config's bounds.

    Args:
        images: float32, float16 or bfloat16 [B, H, W, 3] in [0, 1].
        seeds: int32 [B, 2]; equal seeds give equal changes.
        config: the `augment` section.

    Returns:
        As `images`: same shape, dtype and range.
    """
    draws = uniform(seeds, NUM_DRAWS)
    images = transform(images, sample_affine(draws[:, :6], config))
    return adjust_color(images, draws[:, 6:], config)


def sample_affine(draws: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Compose flips, rotation, zoom and shift into one map from output to input.

    Args:
        draws: float32 [B, 6] uniform in [0, 1).
        config: the `augment` section.

    Returns:
        float32 [B, 2, 3]: rows of x and y; the last column is a shift in shares of
        the image's width and height, and coordinates are counted from its centre.
    """
    flip_x = tf.where((draws[:, 0] < 0.5) & config.horizontal_flip, -1.0, 1.0)
    flip_y = tf.where((draws[:, 1] < 0.5) & config.vertical_flip, -1.0, 1.0)
    angle = (2 * draws[:, 2] - 1) * (config.max_degrees * np.pi / 180)
    scale = 1 + (2 * draws[:, 3] - 1) * config.zoom
    shift_x = (2 * draws[:, 4] - 1) * config.shift
    shift_y = (2 * draws[:, 5] - 1) * config.shift
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    row_x = tf.stack([flip_x * cos, -flip_x * sin, shift_x], axis=-1)
    row_y = tf.stack([flip_y * sin, flip_y * cos, shift_y], axis=-1)
    return tf.stack([row_x, row_y], axis=1)


def transform(images: tf.Tensor, affine: tf.Tensor) -> tf.Tensor:
    """Resample each image bilinearly through its affine map; outside it is black.

    Args:
        images: floating [B, H, W, C].
        affine: float32 [B, 2, 3], as `sample_affine` gives it.

    Returns:
        As `images`.
    """
    batch, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    x = tf.range(width, dtype=tf.float32) - (width - 1) / 2
    y = tf.range(height, dtype=tf.float32) - (height - 1) / 2
    cells = affine[:, :, :, None, None]  # [B, 2, 3, 1, 1]
    source = cells[:, :, 0] * x + cells[:, :, 1] * y[:, None]  # [B, 2, H, W]
    source_x = source[:, 0] + cells[:, 0, 2] * width + (width - 1) / 2
    source_y = source[:, 1] + cells[:, 1, 2] * height + (height - 1) / 2

    # A black border of one pixel stands for all that lies outside.
    source_x = tf.clip_by_value(source_x, -1.0, float(width))
    source_y = tf.clip_by_value(source_y, -1.0, float(height))
    left, top = tf.floor(source_x), tf.floor(source_y)
    right_share = tf.cast(source_x - left, images.dtype)[..., None]  # [B, H, W, 1]
    lower_share = tf.cast(source_y - top, images.dtype)[..., None]
    bordered = tf.pad(images, [[0, 0], [1, 2], [1, 2], [0, 0]])
    stride = width + 3
    pixels = tf.reshape(bordered, [-1, channels])
    start = tf.range(batch)[:, None, None] * ((height + 3) * stride)
    corner = start + (tf.cast(top, tf.int32) + 1) * stride + tf.cast(left, tf.int32) + 1

    def blend(corner: tf.Tensor) -> tf.Tensor:
        near, far = tf.gather(pixels, corner), tf.gather(pixels, corner + 1)
        return near + (far - near) * right_share

    upper, lower = blend(corner), blend(corner + stride)
    return upper + (lower - upper) * lower_share


def adjust_color(
    images: tf.Tensor, draws: tf.Tensor, config: AugmentConfig
) -> tf.Tensor:
    """Change contrast about each channel's mean, saturation about grey, brightness.

    Args:
        images: floating [B, H, W, 3] in [0, 1].
        draws: float32 [B, 3] uniform in [0, 1).
        config: the `augment` section.

    Returns:
        As `images`, clipped to [0, 1].
    """
    changes = tf.cast(2 * draws - 1, images.dtype)[:, :, None, None, None]
    if config.contrast:
        mean = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
        images = mean + (images - mean) * (1 + changes[:, 0] * config.contrast)
    if config.saturation:
        grey = tf.reduce_mean(images, axis=-1, keepdims=True)
        images = grey + (images - grey) * (1 + changes[:, 1] * config.saturation)
    if config.brightness:
        images += changes[:, 2] * config.brightness
    return tf.clip_by_value(images, 0, 1)


def uniform(seeds: tf.Tensor, num_draws: int) -> tf.Tensor:
    """Draw numbers for each example from its own seed.

    The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over the seed and
    the draw's number; the upper 24 bits make the float.

    Args:
        seeds: int32 [B, 2].
        num_draws: numbers for each example.

    Returns:
        float32 [B, num_draws] uniform in [0, 1).
    """
    words = tf.bitwise.bitwise_and(tf.cast(seeds, tf.int64), 0xFFFFFFFF)
    steps = np.arange(1, num_draws + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = tf.bitwise.left_shift(words[:, :1], 32) + words[:, 1:] + _signed(steps)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, _shift_right(state, shift))
        state *= _signed(np.uint64(factor))
    state = tf.bitwise.bitwise_xor(state, _shift_right(state, 31))
    return tf.cast(_shift_right(state, 40), tf.float32) / 2**24


def _signed(words: np.ndarray | np.uint64) -> np.ndarray:
    return np.asarray(words).astype(np.int64)


def _shift_right(state: tf.Tensor, bits: int) -> tf.Tensor:
    """Shift in zeros from the left, which int64 by itself does not."""
    return tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(state, bits), (1 << (64 - bits)) - 1
    )

"""Augmentation of a batch on the device: one resampling, then one colour pass.

All of it is plain batched arithmetic and gathers, which XLA compiles and which have
kernels on GPUs; randomness is computed from per-example seeds and from nothing else.
"""

import numpy as np
import tensorflow as tf

from drtf.config import AugmentConfig

NUM_DRAWS = 9


def augment(
    images: tf.Tensor, seeds: tf.Tensor, classes: tf.Tensor, config: AugmentConfig
) -> tf.Tensor:
    """Change each image at random, within the config's bounds.

    Args:
        images: float32, float16 or bfloat16 [B, H, W, 3] in [0, 1].
        seeds: int32 [B, 2]; equal seeds give equal changes.
        classes: integers [B], of the task; they choose among bounds that are lists.
        config: the `augment` section.

    Returns:
        As `images`: same shape, dtype and range.
    """
    draws = uniform(seeds, NUM_DRAWS)
    images = transform(images, sample_affine(draws[:, :6], classes, config))
    return adjust_color(images, draws[:, 6:], classes, config)


def sample_affine(
    draws: tf.Tensor, classes: tf.Tensor, config: AugmentConfig
) -> tf.Tensor:
    """Compose flips, rotation, zoom and shift into one map from output to input.

    Args:
        draws: float32 [B, 6] uniform in [0, 1).
        classes: integers [B].
        config: the `augment` section.

    Returns:
        float32 [B, 2, 3]: rows of x and y; the last column is a shift in shares of
        the image's width and height, and coordinates are counted from its centre.
    """

    def flip(number: int, allowed: bool | tuple[bool, ...]) -> tf.Tensor:
        flipped = (draws[:, number] < 0.5) & _choose(allowed, classes, tf.bool)
        return tf.where(flipped, -1.0, 1.0)

    def change(number: int, bound: float | tuple[float, ...]) -> tf.Tensor:
        return (2 * draws[:, number] - 1) * _choose(bound, classes, tf.float32)

    flip_x, flip_y = flip(0, config.horizontal_flip), flip(1, config.vertical_flip)
    angle = change(2, config.max_degrees) * (np.pi / 180)
    scale = 1 + change(3, config.zoom)
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    row_x = tf.stack([flip_x * cos, -flip_x * sin, change(4, config.shift)], axis=-1)
    row_y = tf.stack([flip_y * sin, flip_y * cos, change(5, config.shift)], axis=-1)
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
    size = tf.constant([[width], [height]], tf.float32)
    along_x = affine[:, :, 0, None] * x  # [B, 2, W]
    along_y = affine[:, :, 1, None] * y + affine[:, :, 2, None] * size + (size - 1) / 2
    source = along_x[:, :, None] + along_y[..., None]  # [B, 2, H, W]

    # Between a pixel and the next one; what lies outside weighs nothing.
    pixel, last = tf.floor(source), size[..., None] - 1
    share = source - pixel
    weight = tf.where((pixel >= 0) & (pixel <= last), 1 - share, 0.0)
    next_weight = tf.where((pixel >= -1) & (pixel < last), share, 0.0)
    left_weight, top_weight = _spread(weight, images.dtype)
    right_weight, bottom_weight = _spread(next_weight, images.dtype)
    left, top = _clip_to_index(pixel, last)
    right, bottom = _clip_to_index(pixel + 1, last)

    first_row = tf.range(batch)[:, None, None] * height
    pixels = tf.reshape(images, [-1, channels])

    def blend(row: tf.Tensor) -> tf.Tensor:
        start = (first_row + row) * width
        at_left = tf.gather(pixels, start + left)
        at_right = tf.gather(pixels, start + right)
        return at_left * left_weight + at_right * right_weight

    return blend(top) * top_weight + blend(bottom) * bottom_weight


def adjust_color(
    images: tf.Tensor, draws: tf.Tensor, classes: tf.Tensor, config: AugmentConfig
) -> tf.Tensor:
    """Change contrast about each channel's mean, saturation about grey, brightness.

    Args:
        images: floating [B, H, W, 3] in [0, 1].
        draws: float32 [B, 3] uniform in [0, 1).
        classes: integers [B].
        config: the `augment` section.

    Returns:
        As `images`, clipped to [0, 1].
    """

    def change(number: int, bound: float | tuple[float, ...]) -> tf.Tensor:
        changes = (2 * draws[:, number] - 1) * _choose(bound, classes, tf.float32)
        return tf.cast(changes, images.dtype)[:, None, None, None]

    if np.any(config.contrast):
        factor = 1 + change(0, config.contrast)
        # In float32, since half precision can't add up an image; one axis after the
        # other, which XLA divides among cores.
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=2, keepdims=True)
        mean = tf.cast(tf.reduce_mean(mean, axis=1, keepdims=True), images.dtype)
        images = images * factor + mean * (1 - factor)
    if np.any(config.saturation):
        factor = 1 + change(1, config.saturation)
        grey = tf.reduce_mean(images, axis=-1, keepdims=True)
        images = images * factor + grey * (1 - factor)
    if np.any(config.brightness):
        images += change(2, config.brightness)
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


def _spread(weight: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
    """Return the weights along x and along y, [B, H, W, 1] each."""
    return tf.unstack(tf.cast(weight, dtype)[..., None], axis=1)


def _clip_to_index(pixel: tf.Tensor, last: tf.Tensor) -> list[tf.Tensor]:
    """Return int32 [B, H, W] of x and of y, within the image."""
    return tf.unstack(tf.cast(tf.clip_by_value(pixel, 0.0, last), tf.int32), axis=1)


def _choose(
    bound: float | tuple[float, ...], classes: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """Return the bound of all, or [B] the bound of each one's class."""
    values = tf.constant(bound, dtype)
    if not isinstance(bound, tuple):
        return values
    return tf.gather(values, tf.cast(classes, tf.int32))


def _signed(words: np.ndarray | np.uint64) -> np.ndarray:
    return np.asarray(words).astype(np.int64)


def _shift_right(state: tf.Tensor, bits: int) -> tf.Tensor:
    """Shift in zeros from the left, which int64 by itself does not."""
    return tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(state, bits), (1 << (64 - bits)) - 1
    )

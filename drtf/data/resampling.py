"""Affine maps, and resampling a batch of images through them."""

import tensorflow as tf


def affine_map(
    xx: tf.Tensor | float,
    xy: tf.Tensor | float,
    yx: tf.Tensor | float,
    yy: tf.Tensor | float,
    *,
    shift_x: tf.Tensor | float = 0.0,
    shift_y: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Return affine maps from output to input coordinates, float32 [B, 2, 3].

    The output at (x, y) shows the input at
    (xx * x + xy * y + shift_x, yx * x + yy * y + shift_y). Coordinates are counted from
    the image's center, and their unit is the image's height. Each argument is a number
    or float32 [B]; at least one is a tensor.
    """
    values = (xx, xy, shift_x, yx, yy, shift_y)
    batch = next(value for value in values if isinstance(value, tf.Tensor))
    rows = [value + tf.zeros_like(batch) for value in values]
    return tf.reshape(tf.stack(rows, axis=-1), [-1, 2, 3])


def compose(outer: tf.Tensor, inner: tf.Tensor) -> tf.Tensor:
    """Return the map that applies `inner` and then `outer`.

    Args:
        outer: float32 [B, 2, 3], from `affine_map`.
        inner: Likewise.

    Returns:
        float32 [B, 2, 3].
    """
    # Not a matrix multiplication, which GPUs may compute in TF32.
    linear = tf.reduce_sum(outer[:, :, :2, None] * inner[:, None], axis=2)
    return tf.concat([linear[:, :, :2], linear[:, :, 2:] + outer[:, :, 2:]], axis=2)


def resample(images: tf.Tensor, affine: tf.Tensor) -> tf.Tensor:
    """Resample each image bilinearly through its affine map.

    Pixels from outside the input are black.

    Args:
        images: floating [B, H, W, C].
        affine: float32 [B, 2, 3], from `affine_map`.

    Returns:
        As `images`.
    """
    batch, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    x = tf.range(width, dtype=tf.float32) - (width - 1) / 2
    y = tf.range(height, dtype=tf.float32) - (height - 1) / 2
    last = tf.constant([[width - 1], [height - 1]], tf.float32)
    along_x = affine[:, :, 0, None] * x  # [B, 2, W]
    shift = affine[:, :, 2, None] * height + last / 2
    along_y = affine[:, :, 1, None] * y + shift
    source = along_x[:, :, None] + along_y[..., None]  # [B, 2, H, W]

    # Interpolate between a pixel and the next one; pixels outside have no weight.
    last = last[..., None]
    pixel = tf.floor(source)
    fraction = source - pixel
    weight = tf.where((pixel >= 0) & (pixel <= last), 1 - fraction, 0.0)
    next_weight = tf.where((pixel >= -1) & (pixel < last), fraction, 0.0)
    left_weight, top_weight = _channel_weights(weight, images.dtype)
    right_weight, bottom_weight = _channel_weights(next_weight, images.dtype)
    left, top = _pixel_indices(pixel, last)
    right, bottom = _pixel_indices(pixel + 1, last)

    first_row = tf.range(batch)[:, None, None] * height
    pixels = tf.reshape(images, [-1, channels])

    def blend_row(row: tf.Tensor) -> tf.Tensor:
        start = (first_row + row) * width
        at_left = tf.gather(pixels, start + left)
        at_right = tf.gather(pixels, start + right)
        return at_left * left_weight + at_right * right_weight

    return blend_row(top) * top_weight + blend_row(bottom) * bottom_weight


def _channel_weights(weight: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
    """Return the weights along x and along y, [B, H, W, 1] each."""
    return tf.unstack(tf.cast(weight, dtype)[..., None], axis=1)


def _pixel_indices(pixel: tf.Tensor, last: tf.Tensor) -> list[tf.Tensor]:
    """Return the indices along x and along y, clipped to the image, int32 [B, H, W]."""
    return tf.unstack(tf.cast(tf.clip_by_value(pixel, 0.0, last), tf.int32), axis=1)

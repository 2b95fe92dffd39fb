"""Mixing: training images made of two photographs each, on the device.

Each image of a batch has a partner, the image at its place in a second batch. `MIXES`
is the list of ways to mix the two. The draws depend on the seed of the image and on the
name of the mix only. A mixed image has two labels, and its loss is the mean of their
losses, weighted by their parts of the pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy import stats

from drtf.config import AugmentConfig
from drtf.data.augment import counters, uniform

NUM_QUANTILES = 4096  # the draws of a beta distribution are the middles of as many


@dataclass(frozen=True)
class Mix:
    """A way to mix images with their partners.

    Attributes:
        name: Keys the draws, and is the key of its setting in the `augment` section. At
            0 it is off.
        weigh: Takes draws, float32 [B, num_draws] in [0, 1), the setting, and the
            images' height and width. Returns the weight of the partner in each pixel,
            float32 [B, H, W, 1], or [B, 1, 1, 1] for equal weights.
        num_draws: Draws that it needs for each image.
    """

    name: str
    weigh: Callable[[tf.Tensor, float, tuple[int, int]], tf.Tensor]
    num_draws: int = 1


def mix_evenly(draws: tf.Tensor, alpha: float, shape: tuple[int, int]) -> tf.Tensor:
    """Mix all pixels with a weight from Beta(alpha, alpha).

    MixUp: Zhang et al., 2017, https://arxiv.org/abs/1710.09412.
    """
    return beta_draws(draws, alpha, alpha)[:, :, None, None]


def mix_in_balanced(
    draws: tf.Tensor, alpha: float, shape: tuple[int, int]
) -> tf.Tensor:
    """Mix all pixels with a weight of the partner from Beta(alpha, 1).

    Balanced-MixUp: Galdran, Carneiro and Gonzalez Ballester, 2021,
    https://arxiv.org/abs/2109.09850. The partners come from balanced classes.
    """
    return beta_draws(draws, alpha, 1.0)[:, :, None, None]


def paste_rectangle(
    draws: tf.Tensor, alpha: float, shape: tuple[int, int]
) -> tf.Tensor:
    """Replace a rectangle, whose area is a fraction from Beta(alpha, alpha).

    CutMix: Yun et al., 2019, https://arxiv.org/abs/1905.04899. The rectangle has the
    shape of the image, and its center is anywhere in it. What lies outside is cut off.
    """
    side = tf.sqrt(beta_draws(draws[:, :1], alpha, alpha))
    rows, columns = (
        tf.abs((np.arange(size, dtype=np.float32) + 0.5) / size - center) < side / 2
        for size, center in zip(shape, (draws[:, 1:2], draws[:, 2:]), strict=True)
    )
    return tf.cast(rows[:, :, None, None] & columns[:, None, :, None], tf.float32)


MIXES = (
    Mix("mixup", mix_evenly),
    Mix("balanced_mixup", mix_in_balanced),
    Mix("cutmix", paste_rectangle, num_draws=3),
)


def mix(
    images: tf.Tensor, partners: tf.Tensor, seeds: tf.Tensor, config: AugmentConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image with its partner, in each way that the config allows.

    Args:
        images: float32, float16 or bfloat16 [B, H, W, 3] in [0, 1].
        partners: As `images`.
        seeds: int32 [B, 2], of the images. Equal seeds give equal mixtures.
        config: The `augment` section.

    Returns:
        The mixed images, as `images`, and the fraction of each that is its partner's,
        float32 [B].
    """
    kept = tf.ones([1, 1, 1, 1])
    for way in MIXES:
        alpha = getattr(config, way.name)
        if alpha:
            draws = uniform(seeds, counters(way.name, way.num_draws))
            kept *= 1 - way.weigh(draws, alpha, tuple(images.shape[1:3]))
    fractions = tf.reduce_mean(1 - kept, axis=[1, 2, 3])
    mixed = tf.cast(kept, images.dtype) * images
    return mixed + tf.cast(1 - kept, images.dtype) * partners, fractions


def beta_draws(draws: tf.Tensor, a: float, b: float) -> tf.Tensor:
    """Turn uniform draws into draws of Beta(a, b), from a table of its quantiles.

    A table gives every device the same numbers, and XLA can compile it.

    Args:
        draws: float32 [...] in [0, 1).
        a: Above 0.
        b: Above 0.

    Returns:
        float32 [...] in [0, 1].
    """
    middles = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    quantiles = stats.beta.ppf(middles, a, b).astype(np.float32)
    return tf.gather(quantiles, tf.cast(draws * NUM_QUANTILES, tf.int32))

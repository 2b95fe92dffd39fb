"""What augmenting a batch costs, beside Keras's own layers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from drtf.config import AugmentConfig
from drtf.data.augment import augment
from drtf.models.device import can_compile

# What the defaults of the section `augment` do, by Keras's names.
CONFIG = AugmentConfig()
SEED = 0

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class AugmentResult:
    """What one way to augment costs.

    Attributes:
        name: of the way.
        ms: a batch, a value a repetition.
        missing: why it could not be run; empty where it could.
    """

    name: str
    ms: list[float] = field(default_factory=list)
    missing: str = ""


def bench_augment(
    *, image_size: int, batch_size: int, dtype: Dtype, num_repeats: int
) -> list[AugmentResult]:
    """Measure flips, any rotation, zoom and colours of one batch on this device.

    Keras has a layer for each, and resamples twice; drtf composes them into one
    resampling and one pass over the colours.

    Args:
        image_size: height and width, in px.
        batch_size: images in the batch.
        dtype: to compute in.
        num_repeats: repetitions, each of all ways in turn.

    Returns:
        First drtf's way as training goes it.
    """
    rng = np.random.default_rng(SEED)
    pixels = rng.random((batch_size, image_size, image_size, 3), np.float32)
    images = tf.cast(pixels, dtype)
    seeds = tf.constant(rng.integers(0, 2**31, (batch_size, 2)), tf.int32)
    classes = tf.constant(rng.integers(0, 2, batch_size), tf.int32)

    def ours() -> tf.Tensor:
        return augment(images, seeds, classes, CONFIG)

    layers = [
        keras.layers.RandomFlip(dtype=dtype),
        keras.layers.RandomRotation(0.5, fill_mode="constant", dtype=dtype),
        keras.layers.RandomZoom(CONFIG.zoom, fill_mode="constant", dtype=dtype),
        keras.layers.RandomContrast(CONFIG.contrast, dtype=dtype),
        keras.layers.RandomBrightness(
            CONFIG.brightness, value_range=(0, 1), dtype=dtype
        ),
        keras.layers.RandomSaturation(
            (0.4, 0.6),  # by whose measure 0.5 changes nothing, and 0.1 is our 0.2
            value_range=(0, 1),
            dtype=dtype,
        ),
    ]

    def keras_layers() -> tf.Tensor:
        changed = images
        for layer in layers:
            changed = layer(changed, training=True)
        return changed

    ways: dict[str, Callable[[], tf.Tensor]] = {
        "drtf": tf.function(ours, jit_compile=True),
        "drtf without XLA": tf.function(ours),
        "Keras's layers": tf.function(keras_layers),
    }
    results = [AugmentResult(name) for name in ways]
    if not can_compile():
        results[0] = AugmentResult("drtf", missing="XLA can't compile here")
    runs = [
        (result.ms, way)
        for result, way in zip(results, ways.values(), strict=True)
        if not result.missing
    ]
    for _, way in runs:
        way()  # traced and compiled
    for _ in range(num_repeats):
        for ms, way in runs:
            start = time.perf_counter()
            way()[0, 0, 0, 0].numpy()  # waits for the device
            ms.append(1000 * (time.perf_counter() - start))
    return results

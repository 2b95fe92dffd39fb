"""Measure how long augmenting a batch takes, compared with Keras's own layers."""

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

# The Keras layers below do the same as these defaults.
CONFIG = AugmentConfig()
SEED = 0

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class AugmentResult:
    """The measurements of one method.

    Attributes:
        name: Name of the method.
        ms: Time per batch in ms, one value per repetition.
        failure: Why the method could not run; empty if it could.
    """

    name: str
    ms: list[float] = field(default_factory=list)
    failure: str = ""


def bench_augment(
    *, image_size: int, batch_size: int, dtype: Dtype, num_repeats: int
) -> list[AugmentResult]:
    """Measure flips, rotation, zoom and color changes of one batch on this device.

    Keras has a layer for each of them and resamples twice. drtf composes them to one
    resampling and one pass over the colors.

    Args:
        image_size: Height and width of the images, in px.
        batch_size: Number of images in the batch.
        dtype: Dtype to compute in.
        num_repeats: Number of repetitions; each one measures all methods in turn.

    Returns:
        A result for each method. The first one is what training does.
    """
    rng = np.random.default_rng(SEED)
    pixels = rng.random((batch_size, image_size, image_size, 3), np.float32)
    images = tf.cast(pixels, dtype)
    seeds = tf.constant(rng.integers(0, 2**31, (batch_size, 2)), tf.int32)
    classes = tf.constant(rng.integers(0, 2, batch_size), tf.int32)

    def drtf_augment() -> tf.Tensor:
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
            (0.4, 0.6),  # 0.5 changes nothing; 0.1 is equivalent to drtf's 0.2
            value_range=(0, 1),
            dtype=dtype,
        ),
    ]

    def keras_layers() -> tf.Tensor:
        changed = images
        for layer in layers:
            changed = layer(changed, training=True)
        return changed

    methods: dict[str, Callable[[], tf.Tensor]] = {
        "drtf": tf.function(drtf_augment, jit_compile=True),
        "drtf without XLA": tf.function(drtf_augment),
        "Keras's layers": tf.function(keras_layers),
    }
    results = [AugmentResult(name) for name in methods]
    if not can_compile():
        results[0] = AugmentResult("drtf", failure="XLA cannot compile on this device")
    runs = [
        (result.ms, method)
        for result, method in zip(results, methods.values(), strict=True)
        if not result.failure
    ]
    for _, method in runs:
        method()  # traces and compiles
    for _ in range(num_repeats):
        for ms, method in runs:
            start = time.perf_counter()
            method()[0, 0, 0, 0].numpy()  # waits for the device
            ms.append(1000 * (time.perf_counter() - start))
    return results

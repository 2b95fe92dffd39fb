"""What the device can do: its number formats, and whether XLA compiles for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf


def choose_precision(requested: str) -> str:
    """Return the Keras dtype policy to use.

    `auto` is float32 on CPUs and on GPUs below compute capability 7.0, which gain
    nothing from half precision; mixed_float16 on 7.x; mixed_bfloat16 from 8.0, which
    needs no loss scale.
    """
    if requested != "auto":
        return requested
    capabilities = [capability for _, capability in find_gpus()]
    if not capabilities or min(capabilities) < (7, 0):
        return "float32"
    return "mixed_float16" if min(capabilities) < (8, 0) else "mixed_bfloat16"


def can_compile() -> bool:
    """Tell whether XLA works here; beside some CUDA installations it lacks files."""
    try:
        with _silence():
            tf.function(tf.cos, jit_compile=True)(tf.zeros([1]))
    except tf.errors.OpError:
        return False
    return True


@contextmanager
def _silence() -> Iterator[None]:
    """Let no C++ code write to stderr; XLA greets there when it is first used."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)


def find_gpus() -> list[tuple[str, tuple[int, int]]]:
    """List the GPUs that TensorFlow can use: name and CUDA compute capability."""
    gpus = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name", device.name)
        gpus.append((name, details.get("compute_capability", (0, 0))))
    return gpus


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Build the layers of a block under a Keras dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

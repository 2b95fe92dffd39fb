"""Small computations that show what works on a device, and what fits its memory."""

from collections.abc import Callable, Iterator
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.client import device_lib

from drtf.models.device import can_prefetch, silence_stderr

MAX_RELATIVE_ERROR = 0.02
DTYPES = ("float32", "float16", "bfloat16")
# The rest is for TensorFlow itself, and lost between the blocks that are in use.
USABLE_FRACTION = 0.85
# A weight in float32, its gradient, two moments of the optimizer and its average.
BYTES_PER_WEIGHT = 5 * 4


def check_device(device: str) -> dict[str, str]:
    """Run small computations on a device.

    Args:
        device: Its name, such as `GPU:0`.

    Returns:
        The error of each computation, by its name; empty if it works.
    """
    errors = {}
    for name, compute in _computations(device):
        errors[name] = ""
        try:
            with silence_stderr(), tf.device(device):
                compute()
        except (tf.errors.OpError, RuntimeError) as error:
            errors[name] = str(error).strip().splitlines()[0]
    return errors


def _computations(device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype in DTYPES:
        yield f"convolution in {dtype}", partial(_convolve, dtype)
        yield (
            f"depthwise convolution in {dtype}",
            partial(_convolve, dtype, is_depthwise=True),
        )
    yield "XLA", lambda: tf.function(tf.cos, jit_compile=True)(tf.zeros([8])).numpy()
    yield "sending batches ahead", partial(_check_prefetch, device)


def _convolve(dtype: str, *, is_depthwise: bool = False) -> None:
    """Compute a convolution and its gradients, and compare it with its known result."""
    convolve = tf.nn.depthwise_conv2d if is_depthwise else tf.nn.conv2d
    images = tf.ones([2, 16, 16, 8], dtype)
    kernel = tf.ones([3, 3, 8, 1], dtype)
    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        output = convolve(images, kernel, strides=[1, 1, 1, 1], padding="VALID")
        total = tf.reduce_sum(tf.cast(output, tf.float32))
    for gradient in tape.gradient(total, [images, kernel]):
        gradient.numpy()  # waits for the device, which reports errors late
    expected = 9 if is_depthwise else 9 * 8
    found = float(output[0, 0, 0, 0])
    if abs(found - expected) > MAX_RELATIVE_ERROR * expected:
        raise RuntimeError(f"the result is {found} instead of {expected}")


def _check_prefetch(device: str) -> None:
    if not can_prefetch(device):
        raise RuntimeError("TensorFlow cannot copy a batch ahead of its use")


def memory_bytes(device: str) -> int:
    """Return the memory that TensorFlow may use on a device, in bytes."""
    return next(
        found.memory_limit
        for found in device_lib.list_local_devices()
        if found.name.endswith(device)
    )


def image_bytes(network: keras.Model, *, precision: str) -> int:
    """Estimate the memory that a training step takes for each image, in bytes.

    The output of each layer is kept for the gradients. On a CPU, a step of the preset
    mobilenetv2-96 took 0.73 times as much as this estimate, in float32.
    """
    num_values = sum(
        int(np.prod(layer.output.shape[1:]))
        for layer in network.layers
        if layer.output is not None
    )
    return num_values * (4 if precision == "float32" else 2)


def largest_batch(network: keras.Model, *, precision: str, num_bytes: int) -> int:
    """Estimate how many images a training step can take.

    Args:
        network: The network.
        precision: Keras's dtype policy.
        num_bytes: The memory of the device.
    """
    usable = USABLE_FRACTION * num_bytes - BYTES_PER_WEIGHT * network.count_params()
    return max(0, int(usable // image_bytes(network, precision=precision)))

"""What the device can do: its number formats, and whether XLA compiles for it."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from drtf.errors import DrtfError
from drtf.workers import count_cores

CPU_INFO = Path("/proc/cpuinfo")


def choose_precision(requested: str) -> str:
    """Return the Keras dtype policy to use.

    `auto` is float32 on CPUs and on GPUs below compute capability 7.0, which gain
    nothing from half precision; mixed_float16 on 7.x; mixed_bfloat16 from 8.0, which
    needs no loss scale.
    """
    if requested != "auto":
        return requested
    capabilities = [capability for _, capability in list_gpus()]
    if not capabilities or min(capabilities) < (7, 0):
        return "float32"
    return "mixed_float16" if min(capabilities) < (8, 0) else "mixed_bfloat16"


def choose_strategy(num_devices: int, *, batch_size: int) -> tf.distribute.Strategy:
    """Return how a step is shared: by mirrored devices, or not for a single one.

    Args:
        num_devices: GPUs, or logical CPUs where there is none; 0 is all.
        batch_size: of a step.

    Raises:
        DrtfError: if there are fewer devices, or more than photographs in a batch.
    """
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if num_devices > len(devices):
        raise DrtfError(
            f"train.num_devices={num_devices}, and TensorFlow finds {len(devices)} "
            f"{devices[0].device_type}; 0 takes all"
        )
    chosen = devices[: num_devices or None]
    if batch_size < len(chosen):
        raise DrtfError(
            f"train.batch_size={batch_size} leaves some of {len(chosen)} devices "
            "without a photograph: raise it, or set train.num_devices"
        )
    if len(chosen) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in chosen])


def choose_compiler(requested: str | bool, *, num_devices: int) -> bool:
    """Tell whether XLA shall compile the whole step; `auto` is on one GPU.

    On CPUs XLA's convolutions are up to ten times slower, and several devices add up
    their gradients by what XLA can't compile.
    """
    if requested == "auto":
        return bool(list_gpus()) and num_devices == 1 and can_compile()
    if requested and num_devices > 1:
        raise DrtfError("train.jit_compile=true goes with one device alone")
    return bool(requested)


def can_compile() -> bool:
    """Tell whether XLA works here; beside some CUDA installations it lacks files."""
    try:
        # It greets where it is first used.
        with silence():
            tf.function(tf.cos, jit_compile=True)(tf.zeros([1]))
    except tf.errors.OpError:
        return False
    return True


@contextmanager
def silence() -> Iterator[None]:
    """Let no C++ code write to stderr."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)


def device_name() -> str:
    """Name what networks run on: a GPU, or CPUs and how many.

    Another number of cores adds up in another order, and so rounds otherwise.
    """
    gpus = list_gpus()
    if gpus:
        return gpus[0][0]
    found = re.search(r"^model name\s*: (.*)$", CPU_INFO.read_text(), re.MULTILINE)
    name = found[1] if found else platform.machine()
    return f"{name}, {count_cores()} cores"


def list_gpus() -> list[tuple[str, tuple[int, int]]]:
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

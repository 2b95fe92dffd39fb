"""The device: its precision, how steps are distributed, and whether XLA works."""

import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import context

from drtf import __version__
from drtf.cluster import Cluster
from drtf.errors import DrtfError
from drtf.resources import count_cores

# Within this time a host notices that another one has gone.
HEARTBEAT_SECONDS = 10
REGISTER_SECONDS = 60
# While a step takes one batch, the copy of another one may wait for that step to end.
NUM_BATCHES_ON_DEVICE = 2
CPU_INFO = Path("/proc/cpuinfo")
# TensorFlow takes GPU memory as it needs it, and leaves the rest to other programs. It
# reads this when it first uses a GPU.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
OUT_OF_MEMORY = re.compile(
    "out of memory|OUT_OF_MEMORY|OOM when|ALLOC_FAILED|No algorithm worked"
)
# The order of an image's axes, and the default type of numbers.
KERAS_SETTINGS = ("channels_last", "float32")

_log = logging.getLogger(__name__)


def choose_precision(requested: str) -> str:
    """Return the Keras dtype policy to use.

    `auto` is float32 on CPUs and on GPUs below compute capability 7.0, which gain
    nothing from half precision. It is mixed_float16 on 7.x, and mixed_bfloat16 from
    8.0, which needs no loss scaling.
    """
    if requested != "auto":
        return requested
    capabilities = [capability for _, capability in list_gpus()]
    if not capabilities or min(capabilities) < (7, 0):
        return "float32"
    return "mixed_float16" if min(capabilities) < (8, 0) else "mixed_bfloat16"


def choose_devices(
    num_devices: int, *, batch_size: int, cluster: Cluster | None = None
) -> list[str]:
    """Return the names of this host's devices that share the training steps.

    Args:
        num_devices: Number of GPUs, or of logical CPUs if there is no GPU. 0 uses all.
        batch_size: Images per step, over all hosts.
        cluster: The hosts; None if there is only this one. Each has as many devices.

    Raises:
        DrtfError: If there are fewer devices, or fewer images than devices.
    """
    if cluster:
        # Listing logical devices would start TensorFlow before the strategy is made.
        devices = tf.config.list_physical_devices("GPU")
        devices = devices or tf.config.list_physical_devices("CPU")[:1]
    else:
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
    if num_devices > len(devices):
        raise DrtfError(
            f"train.num_devices={num_devices}: TensorFlow finds only {len(devices)} "
            f"{devices[0].device_type}; set train.num_devices=0 to use all"
        )
    chosen = [device.name for device in devices[: num_devices or None]]
    num_hosts = cluster.num_hosts if cluster else 1
    if batch_size < num_hosts * len(chosen):
        raise DrtfError(
            f"train.batch_size={batch_size} is too small for "
            f"{num_hosts * len(chosen)} devices: increase it, or lower "
            "train.num_devices"
        )
    return chosen


def build_strategy(
    devices: Sequence[str], *, cluster: Cluster | None = None
) -> tf.distribute.Strategy:
    """Build the strategy that distributes training steps over devices.

    Args:
        devices: From `choose_devices`.
        cluster: The hosts; None if there is only this one. All hosts must call this at
            about the same time, before TensorFlow has run anything.
    """
    if cluster:
        return _multi_host_strategy(devices, cluster)
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(devices)


def _multi_host_strategy(
    devices: Sequence[str], cluster: Cluster
) -> tf.distribute.Strategy:
    gpus = [x for x in tf.config.list_physical_devices("GPU") if x.name in devices]
    tf.config.set_visible_devices(gpus, "GPU")
    settings = tf.compat.v1.ConfigProto().experimental.coordination_config
    settings.coordinated_job_list.add(name="worker", num_tasks=cluster.num_hosts)
    # TensorFlow's own default would wait for an hour for a host that has gone.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * REGISTER_SECONDS,
        heartbeat_timeout_in_ms=1000 * HEARTBEAT_SECONDS,
        coordinated_jobs=list(settings.coordinated_job_list),
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


def device_batches(
    build_dataset: Callable[[], tf.data.Dataset],
) -> Iterable[dict[str, Any]]:
    """Send the batches of a dataset to the devices ahead of the steps that take them.

    Args:
        build_dataset: Builds the dataset, with one element for each device of this
            host and step. The devices are those of the strategy in whose scope this is
            called.
    """
    strategy = tf.distribute.get_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    if strategy.num_replicas_in_sync == 1 and gpus and can_prefetch(gpus[0].name):
        return build_dataset().apply(_prefetch(gpus[0].name))
    # With several devices, TensorFlow does the same.
    return strategy.distribute_datasets_from_function(lambda context: build_dataset())


def can_prefetch(device: str) -> bool:
    """Return whether TensorFlow can send batches to a device ahead of their use."""
    batches = tf.data.Dataset.from_tensors(tf.zeros([1], tf.uint8))
    try:
        next(iter(batches.apply(_prefetch(device))))
    except tf.errors.OpError:
        return False
    return True


def _prefetch(device: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    return tf.data.experimental.prefetch_to_device(device, NUM_BATCHES_ON_DEVICE)


def choose_compiler(requested: str | bool, *, num_devices: int) -> bool:
    """Return whether XLA is to compile the whole training step.

    `auto` compiles it on a single GPU. On CPUs XLA's convolutions are up to ten times
    slower, and with several devices XLA cannot compile how gradients are summed.

    Raises:
        DrtfError: If compilation is requested for several devices.
    """
    if requested == "auto":
        return bool(list_gpus()) and num_devices == 1 and can_compile()
    if requested and num_devices > 1:
        raise DrtfError(
            f"train.jit_compile=true requires one device, got {num_devices}; set "
            "train.jit_compile=auto"
        )
    return bool(requested)


def can_compile() -> bool:
    """Return whether XLA works here; some CUDA installations miss its files."""
    try:
        # XLA writes a message to stderr when it is first used.
        with silence_stderr():
            tf.function(tf.cos, jit_compile=True)(tf.zeros([1]))
    except tf.errors.OpError:
        return False
    return True


@contextmanager
def translate_exhaustion(setting: str, batch_size: int) -> Iterator[None]:
    """Turn TensorFlow's errors about a device's memory into one line.

    Args:
        setting: The key of the batch size.
        batch_size: Its value.

    Raises:
        DrtfError: If the device has too little memory.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # cuDNN and CUDA have other types of errors than TensorFlow's own allocator.
        is_exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
        if not is_exhausted and not OUT_OF_MEMORY.search(str(error)):
            raise
        advice = (
            f"set {setting}={batch_size // 2}"
            if batch_size > 1
            else "close other programs that use the device"
        )
        raise DrtfError(
            f"the device has too little memory for {setting}={batch_size}: {advice}"
        ) from error


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Discard what is written to stderr, also by C++ code."""
    sys.stderr.flush()
    stderr = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(devnull)
        os.close(stderr)


def device_name() -> str:
    """Return the name of the GPU, or of the CPU with its number of cores.

    The number of cores changes the order of sums, and so the last bits of results.
    """
    gpus = list_gpus()
    if gpus:
        return gpus[0][0]
    match = re.search(r"^model name\s*: (.*)$", CPU_INFO.read_text(), re.MULTILINE)
    name = match[1] if match else platform.machine()
    num_cores = count_cores()
    return f"{name}, {num_cores} {'core' if num_cores == 1 else 'cores'}"


def training_versions() -> dict[str, str]:
    """Return the versions of the software, and the device, that shape a model."""
    return {
        "device": device_name(),
        "drtf": __version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }


def list_gpus() -> list[tuple[str, tuple[int, int]]]:
    """List name and CUDA compute capability of each GPU that TensorFlow can use."""
    gpus = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name", device.name)
        gpus.append((name, details.get("compute_capability", (0, 0))))
    return gpus


@contextmanager
def use_dtype_policy(name: str) -> Iterator[None]:
    """Use a Keras dtype policy for the layers that a block builds."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def use_keras_settings() -> None:
    """Set Keras's settings that drtf requires, whatever ~/.keras/keras.json has.

    A warning names the settings that it changes.

    Raises:
        DrtfError: If Keras was imported with another backend than TensorFlow.
    """
    if keras.config.backend() != "tensorflow":
        raise DrtfError(
            f"Keras runs on {keras.config.backend()!r}, but drtf's networks require "
            "TensorFlow: set KERAS_BACKEND=tensorflow before Keras is imported"
        )
    found = keras.config.image_data_format(), keras.config.floatx()
    if found != KERAS_SETTINGS:
        _log.warning(
            "Keras is set to %s images and %s; drtf sets it to %s and %s",
            *found,
            *KERAS_SETTINGS,
        )
        keras.config.set_image_data_format(KERAS_SETTINGS[0])
        keras.config.set_floatx(KERAS_SETTINGS[1])

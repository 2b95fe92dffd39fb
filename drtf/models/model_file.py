"""The contents of a model.keras, checked before Keras builds anything from it.

Keras refuses the dangerous classes that it knows of. drtf allows only the harmless
ones that networks are made of, so that a class with an unknown danger is refused too.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import tensorflow as tf

from drtf.errors import RunError
from drtf.files import parse_json

CONFIG_MEMBER = "config.json"
WEIGHTS_MEMBER = "model.weights.h5"
MEMBERS = {"metadata.json", CONFIG_MEMBER, WEIGHTS_MEMBER}
MAX_CONFIG_BYTES = 64 << 20
# Earlier versions of Keras run code of a hostile model in spite of the safe mode.
MIN_KERAS = (3, 15, 1)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The classes that a model may be made of, by Keras's module.
CLASSES: Mapping[str | None, frozenset[str]] = {
    None: frozenset({"__keras_tensor__", "__numpy__", "__slice__", "__ellipsis__"}),
    "keras": frozenset({"DTypePolicy", "Sequential"}),
    "keras.layers": _names(
        """
        Activation Add AlphaDropout Average AveragePooling2D
        BatchNormalization CenterCrop Concatenate Conv2D Conv2DTranspose
        Cropping2D Dense DepthwiseConv2D Dot Dropout ELU Flatten
        GaussianDropout GaussianNoise GlobalAveragePooling2D
        GlobalMaxPooling2D GroupNormalization Identity InputLayer
        LayerNormalization LeakyReLU MaxPooling2D Maximum Minimum
        MultiHeadAttention Multiply Normalization PReLU Permute
        RandomBrightness RandomContrast RandomFlip RandomRotation
        RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape
        Resizing SeparableConv2D Softmax SpatialDropout2D Subtract
        UnitNormalization UpSampling2D ZeroPadding2D
        """
    ),
    "keras.initializers": _names(
        """
        Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity
        LecunNormal LecunUniform Ones Orthogonal RandomNormal RandomUniform
        TruncatedNormal VarianceScaling Zeros
        """
    ),
    "keras.regularizers": frozenset({"L1", "L2", "L1L2", "OrthogonalRegularizer"}),
    "keras.constraints": frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}),
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.src.models.sequential": frozenset({"Sequential"}),
    "keras.src.ops.core": frozenset({"Cast", "ConvertToTensor"}),
    "keras.src.ops.math": frozenset({"Logsumexp"}),
    "keras.src.ops.nn": _names(
        """
        Elu Gelu HardSigmoid HardSilu LeakyRelu LogSigmoid LogSoftmax Relu
        Relu6 Selu Sigmoid Silu Softmax Softplus Softsign
        """
    ),
    "keras.src.ops.numpy": _names(
        """
        Abs Absolute Add Clip Concatenate Cumsum Divide Exp ExpandDims GetItem Log
        Matmul Max Maximum Mean Min Minimum Multiply Negative Pad Power Reshape
        Split Sqrt Square Squeeze Stack Std Subtract Sum Tanh Transpose
        TrueDivide Var
        """
    ),
}
# Functions that may be named as an activation.
ACTIVATIONS = _names(
    """
        elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu
        linear log_softmax mish relu relu6 selu sigmoid silu softmax softplus
        softsign swish tanh
        """
)


def check_keras_version(installed: str = keras.__version__) -> None:
    """Refuse a Keras that runs code of a hostile model.

    Raises:
        RunError: If Keras is older than `MIN_KERAS`.
    """
    if tuple(map(int, re.findall(r"\d+", installed)[:3])) < MIN_KERAS:
        required = ".".join(map(str, MIN_KERAS))
        raise RunError(
            f"Keras {installed} cannot load models safely; Keras {required} or later "
            f"is required: pip install 'keras>={required}'"
        )


def check_model_file(path: Path) -> None:
    """Check the parts of a model.keras, its classes and the size of its network.

    Raises:
        RunError: If it has anything that drtf does not write.
    """
    check_keras_version()
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path.stat().st_size)
            contents = parse_json(archive.read(CONFIG_MEMBER))
            _check_config(contents)
            weights = archive.read(WEIGHTS_MEMBER)
        with h5py.File(io.BytesIO(weights), "r") as file:
            stored_bytes = check_weights(file, len(weights))
        num_bytes = _count_network_bytes(contents)
    except Exception as error:
        # Keras raises many error types for a config that it cannot build.
        reason = str(error).splitlines()[0]
        raise RunError(f"cannot load {path}: {reason}") from error
    if num_bytes > stored_bytes:
        raise RunError(
            f"cannot load {path}: the weights of its network have {num_bytes} bytes, "
            f"but its {WEIGHTS_MEMBER} has {stored_bytes} bytes"
        )


def check_classes(network: keras.Model) -> None:
    """Check that a network could be loaded again from a run folder.

    Raises:
        RunError: Names the first class that is not allowed.
    """
    try:
        _check_config(keras.saving.serialize_keras_object(network))
    except ValueError as error:
        raise RunError(f"the model cannot be saved as a run: {error}") from error


def _check_members(archive: zipfile.ZipFile, file_bytes: int) -> None:
    """Refuse other members than Keras's, and those that grow when they are unpacked."""
    members = archive.infolist()
    names = sorted(member.filename for member in members)
    if names != sorted(MEMBERS):
        raise ValueError(f"expected the members {sorted(MEMBERS)}, found {names}")
    for member in members:
        limit = file_bytes if member.filename == WEIGHTS_MEMBER else MAX_CONFIG_BYTES
        if member.file_size > limit:
            raise ValueError(
                f"its {member.filename} has {member.file_size} bytes unpacked; the "
                f"limit is {limit}"
            )


def check_weights(file: h5py.File, num_bytes: int) -> int:
    """Refuse weights that lie in another file, or are larger than the file they are in.

    Args:
        file: The open file.
        num_bytes: Its size.

    Returns:
        The size of all weights, in bytes.

    Raises:
        ValueError: Names such a group or dataset.
    """
    num_seen = 0
    places = set()
    for name, item in _walk(file):
        place = h5py.h5o.get_info(item.id).addr
        if place in places:  # such as a group that holds itself
            raise ValueError(f"it has the weights {name!r} twice")
        places.add(place)
        if isinstance(item, h5py.Group):
            continue
        if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
            raise ValueError(f"its weights {name!r} are in another file")
        num_seen += item.nbytes
        if num_seen > num_bytes:
            raise ValueError(
                f"its weights have {num_seen} bytes up to {name!r}, more than the "
                f"{num_bytes} bytes of their file"
            )
    return num_seen


def _walk(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Yield the items below a group, through hard links only.

    Raises:
        ValueError: At a link to another name or file.
    """
    for name in group:
        if type(group.get(name, getlink=True)) is not h5py.HardLink:
            raise ValueError(f"its weights {name!r} are a link to another place")
        item = group[name]
        yield item.name or name, item
        if isinstance(item, h5py.Group):
            yield from _walk(item)


def _count_network_bytes(contents: Any) -> int:
    """Return the size of the weights of the network that a Keras config describes."""
    # Variables of a graph have shapes, but no values that would take memory.
    with tf.Graph().as_default():
        network = keras.saving.deserialize_keras_object(contents, safe_mode=True)
        return sum(
            math.prod(weight.shape) * tf.as_dtype(weight.dtype).size
            for weight in network.weights
        )


def _check_config(contents: Any) -> None:
    """Refuse a Keras config that names a class which is not allowed, at any depth.

    Raises:
        ValueError: Names the class.
    """
    pending = [contents]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            if "class_name" in value and not _is_allowed(value):
                module, name = value.get("module"), value["class_name"]
                registered = value.get("registered_name")
                also = "" if registered in (None, name) else f" ({registered!r})"
                raise ValueError(
                    f"it uses {name!r}{also} of {module!r}, which is not one of the "
                    "built-in Keras layers that a run may hold"
                )
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value


def _is_allowed(value: Mapping[str, Any]) -> bool:
    name, module = value["class_name"], value.get("module")
    registered = value.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None):
        return False
    if name == "function":
        function = value.get("config")
        return (
            module in ("builtins", "keras.activations")
            and isinstance(function, str)
            and function in ACTIVATIONS
            and registered in (None, function)
        )
    return name in CLASSES.get(module, ()) and registered in (None, name)

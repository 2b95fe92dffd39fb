"""Initial weights: from Keras's server, from a file or from another network.

Finding out does not load TensorFlow, so that commands can warn before hours of work.
"""

import os
import tempfile
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from drtf.config import ModelConfig
from drtf.errors import DrtfError
from drtf.files import open_regular
from drtf.models.backbones import BACKBONES
from drtf.models.run_files import CONFIG_FILE, INFO_FILE, MODEL_FILE

if TYPE_CHECKING:
    import keras

SERVER = "https://storage.googleapis.com/tensorflow/keras-applications"
TIMEOUT_SECONDS = 3
KEYWORDS = ("imagenet", "none")  # values of model.weights that are not paths


def imagenet_problem(config: ModelConfig, *, image_size: int) -> str:
    """Return why a training could not load its ImageNet weights.

    Args:
        config: The `model` section.
        image_size: Height and width of the photographs, in px.

    Returns:
        A sentence with the next step. Empty if the config asks for no such weights, or
        if they are in Keras's cache or can be downloaded.
    """
    backbone = BACKBONES.get(config.name)
    if config.weights != "imagenet" or not (backbone and backbone.imagenet_alphas):
        return ""
    path = backbone.imagenet_path(config, image_size=image_size)
    cached = keras_cache() / Path(path).name
    if cached.is_file():
        try:
            with open_regular(cached) as file, h5py.File(file):
                return ""
        except OSError:
            return f"{cached} is damaged, so training would fail; remove it"
    url = f"{SERVER}/{path}"
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return (
            f"training will need the ImageNet weights of {config.name}, which cannot "
            f"be downloaded here ({reason}). Copy {url} to {cached}, give it with "
            "--set model.weights=FILE, or use random weights, model.weights=none"
        )


def keras_cache() -> Path:
    """Return the folder where Keras keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models"


def is_run_folder(weights: str) -> bool:
    """Return whether `model.weights` names a run folder, finished or not."""
    folder = Path(weights).expanduser()
    return weights not in KEYWORDS and any(
        (folder / name).exists() for name in (INFO_FILE, CONFIG_FILE, MODEL_FILE)
    )


def copy_weights(source: "keras.Model", layers: Sequence["keras.Layer"]) -> None:
    """Copy weights from the layers of another network that have the same names.

    Args:
        source: The other network.
        layers: The layers to copy to.

    Raises:
        DrtfError: Names the first layer whose weights have other shapes, or that the
            other network does not have.
    """
    values = {layer.name: layer.get_weights() for layer in source.layers}
    for layer in layers:
        if not layer.weights:
            continue
        there = [value.shape for value in values.get(layer.name, ())]
        here = [tuple(weight.shape) for weight in layer.weights]
        if there != here:
            raise DrtfError(
                f"the layer {layer.name!r} needs weights of the shapes {here}, but "
                f"found {there}"
            )
        layer.set_weights(values[layer.name])


def load_weights(model: "keras.Model", config: ModelConfig, *, image_size: int) -> None:
    """Load the weights of a backbone from the file that `model.weights` names.

    Keras's two layouts are read: that of `save_weights` (.weights.h5), and that of the
    files that Keras publishes (_no_top.h5), whatever the file is called. In a folder,
    the file that Keras publishes for this backbone is read.

    Args:
        model: The backbone.
        config: The `model` section.
        image_size: Height and width of the photographs, in px.

    Raises:
        DrtfError: If the file does not exist, is not one of weights or does not fit.
    """
    path = _find_file(config, image_size)
    from drtf.models.model_file import check_weights

    try:
        with open_regular(path) as data, h5py.File(data, "r") as file:
            num_bytes = path.stat().st_size
            num_weights = check_weights(file, num_bytes) // 4
            is_legacy = "layer_names" in file.attrs
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DrtfError(
            f"model.weights: {path} is not a file of Keras weights "
            f"(.weights.h5 or _no_top.h5): {str(reason).splitlines()[0]}"
        ) from error
    try:
        # Keras chooses the layout by the file's name.
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / ("x.h5" if is_legacy else "x.weights.h5")
            link.symlink_to(path.resolve())
            _load_without_warnings(model, link)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        hint = ""
        if "alpha" in BACKBONES[config.name].options:
            hint = f" with model.alpha={config.alpha}"
        num_expected = model.count_params()
        reason = (
            f"the file has {num_weights:,} weights, the backbone has {num_expected:,}"
            if num_weights != num_expected
            else "its layers have other names or shapes"
        )
        raise DrtfError(
            f"model.weights: {path} does not fit the backbone {config.name}{hint}: "
            f"{reason}. Set the model section to what the file was trained with; the "
            "file must not contain Keras's classification layer"
        ) from error


def _load_without_warnings(model: "keras.Model", path: Path) -> None:
    # Keras only warns if the file has no weights for a layer.
    with warnings.catch_warnings(action="error", category=UserWarning):
        model.load_weights(path)


def _find_file(config: ModelConfig, image_size: int) -> Path:
    path = Path(config.weights).expanduser()
    if path.is_dir():
        backbone = BACKBONES[config.name]
        name = Path(backbone.imagenet_path(config, image_size=image_size)).name
        if not (name and (path / name).exists()):
            file = f"{name}, which Keras publishes" if name else "weights"
            raise DrtfError(
                f"model.weights: the folder {path} has no {file} for {config.name}, "
                f"and no {INFO_FILE}, so it is not a run; name a file in it"
            )
        return path / name
    if not path.exists():
        raise DrtfError(
            'model.weights must be "imagenet", "none", a run folder, a file of Keras '
            f"weights (.weights.h5 or _no_top.h5) or its folder; {config.weights} does "
            "not exist"
        )
    if is_run_folder(str(path.parent)):
        raise DrtfError(
            f"model.weights: {path} is part of a run; to start from this run, set "
            f"model.weights={path.parent}"
        )
    return path

import io
import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest

from drtf.errors import RunError
from drtf.models.model_file import (
    CONFIG_MEMBER,
    MIN_KERAS,
    WEIGHTS_MEMBER,
    check_classes,
    check_keras_version,
    check_model_file,
)
from naming import raises_naming

DENSE = {"module": "keras.layers", "class_name": "Dense", "registered_name": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The members of a model.keras, as Keras writes them."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3, kernel_regularizer="l2")(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling([2.0] * 2)(x))
    path = tmp_path_factory.mktemp("models") / "whole.keras"
    keras.Model(image, keras.layers.Dense(1, name="logits")(x)).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def write(whole, tmp_path):
    """Write a model.keras in which some members are others."""

    def write_members(changes=None, *, more=(), compression=zipfile.ZIP_STORED):
        path = tmp_path / "changed.keras"
        members = [*(whole | (changes or {})).items(), *more]
        with (
            zipfile.ZipFile(path, "w", compression) as archive,
            warnings.catch_warnings(action="ignore"),  # of a name that comes twice
        ):
            for name, data in members:
                archive.writestr(name, data)
        return path

    return write_members


def test_a_model_of_keras_is_accepted(write):
    check_model_file(write())


@pytest.mark.parametrize(
    "changes",
    [
        {"class_name": name}
        for name in (
            "Lambda",
            "TFSMLayer",
            "StringLookup",
            "TextVectorization",
            "TorchModuleWrapper",
            "FlaxLayer",
            "JaxLayer",
            "TimeDistributed",
            "__lambda__",
            "__typespec__",
            "dense",
            ["Dense"],
        )
    ]
    + [
        {"registered_name": "mine>Dense"},
        {"registered_name": "Lambda"},
        {"module": "os", "class_name": "system"},
        {"module": "keras.src.layers.core.lambda_layer", "class_name": "Lambda"},
        {"module": "keras.src.ops.core", "class_name": "Map"},
        {"module": "keras.utils", "class_name": "get_file"},
        {"module": None},
        {"module": ["keras.layers"]},
        {"module": "builtins", "class_name": "function", "config": "eval"},
        {"module": "keras.config", "class_name": "function", "config": "relu"},
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["layers", "kernel_initializer"])
def test_a_foreign_class_is_named_wherever_it_is(whole, write, changes, key):
    config = json.loads(whole[CONFIG_MEMBER])
    foreign = DENSE | {"config": {"name": "x"}} | changes
    layers = config["config"]["layers"]
    if key == "layers":
        layers.append(foreign)
    else:
        layers[1]["config"][key] = {"deep": [foreign]}
    path = write({CONFIG_MEMBER: json.dumps(config).encode()})
    with raises_naming(RunError, path, foreign["class_name"]) as error:
        check_model_file(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"class_name": "Model"}']
)
def test_a_damaged_config_is_refused(write, data):
    path = write({CONFIG_MEMBER: data})
    with raises_naming(RunError, path):
        check_model_file(path)


@pytest.mark.parametrize(
    ("changes", "more", "facts"),
    [
        ({CONFIG_MEMBER: bytes(65 << 20)}, (), (CONFIG_MEMBER, 65 << 20)),
        ({WEIGHTS_MEMBER: bytes(1 << 20)}, (), (WEIGHTS_MEMBER, 1 << 20)),
        ({}, [("../outside.py", b"")], ("../outside.py",)),
        ({}, [("assets/tokens.txt", b"")], ("assets/tokens.txt",)),
        ({}, [(CONFIG_MEMBER, b"{}")], (CONFIG_MEMBER,)),
    ],
    ids=["config", "weights", "outside", "assets", "twice"],
)
def test_members_that_keras_does_not_write_are_refused(write, changes, more, facts):
    path = write(changes, more=more, compression=zipfile.ZIP_DEFLATED)
    with raises_naming(RunError, path, *facts):
        check_model_file(path)


def link_outside(file, folder):
    file["evil"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def link_inside(file, folder):
    file["evil"] = h5py.SoftLink("/layers")


def hold_itself(file, folder):
    file["evil"] = file["/"]


def store_outside(file, folder):
    outside = [(str(folder / "other"), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("evil", (4,), "f4", external=outside)


def map_outside(file, folder):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (4,))
    file.create_virtual_dataset("evil", layout)


def grow(file, folder):
    file.create_dataset("evil", (1 << 40,), "f4", chunks=(1 << 20,))


def compress(file, folder):
    file.create_dataset("evil", data=np.zeros(1 << 20), compression="gzip")


@pytest.mark.parametrize(
    "change",
    [
        link_outside,
        link_inside,
        hold_itself,
        store_outside,
        map_outside,
        grow,
        compress,
    ],
)
def test_weights_in_another_place_or_larger_than_their_file_are_refused(
    whole, write, tmp_path, change
):
    data = io.BytesIO(whole[WEIGHTS_MEMBER])
    with h5py.File(data, "r+") as file:
        change(file, tmp_path)
    path = write({WEIGHTS_MEMBER: data.getvalue()})
    with raises_naming(RunError, path) as error:
        check_model_file(path)
    assert "evil" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layer", "key", "num_weights"),
    [
        ("Conv2D", "filters", 29 * (1 << 40) + 1),
        ("Dense", "units", 3 * (1 << 40) + 56),
    ],
)
def test_a_network_with_more_weights_than_its_file_is_refused(
    whole, write, layer, key, num_weights
):
    config = json.loads(whole[CONFIG_MEMBER])
    for other in config["config"]["layers"]:
        other.pop("build_config", None)
        if other["class_name"] == "Rescaling":
            other["config"]["scale"] = 2.0
        if other["class_name"] == layer:
            other["config"][key] = 1 << 40  # building it would take terabytes
    path = write({CONFIG_MEMBER: json.dumps(config).encode()})
    with raises_naming(RunError, path, WEIGHTS_MEMBER, 4 * num_weights):
        check_model_file(path)


@pytest.mark.parametrize("installed", ["3.13.1", "3.15.0", "2.15.0"])
def test_an_older_keras_is_refused(installed):
    required = ".".join(map(str, MIN_KERAS))
    with raises_naming(RunError, installed, required):
        check_keras_version(installed)


@pytest.mark.parametrize("installed", ["3.15.1", "3.16.0.dev2026", "4.0"])
def test_a_newer_keras_is_accepted(installed):
    check_keras_version(installed)


def test_a_model_of_many_built_in_layers_may_be_saved():
    image = keras.Input((8, 8, 3))
    x = keras.layers.RandomFlip()(image)
    x = keras.layers.SeparableConv2D(4, 3, activation="gelu", padding="same")(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Concatenate()([x, keras.layers.UpSampling2D(1)(x * 2 + 1)])
    x = keras.layers.Dropout(0.1, seed=1)(x)
    x = keras.ops.mean(x[:, 1:], axis=(1, 2))
    check_classes(keras.Model(image, keras.layers.Dense(1)(x)))


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.parametrize(
    "layer", [keras.layers.Lambda(lambda x: x), Doubled()], ids=["Lambda", "Doubled"]
)
def test_a_model_with_a_foreign_layer_may_not_be_saved(layer):
    model = keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(1)])
    with raises_naming(RunError, type(layer).__name__):
        check_classes(model)

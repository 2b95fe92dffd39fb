import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from drtf.config import ModelConfig, load_config
from drtf.errors import DrtfError
from drtf.models.backbones import BACKBONES
from drtf.models.model_file import check_model_file
from drtf.models.network import (
    build_disease_logit_model,
    build_logit_model,
    build_network,
    count_parameters,
    set_trainable,
)
from drtf.tasks import TASKS
from naming import assert_names, raises_naming

SMALL = ModelConfig(weights="none", alpha=0.35)
NOTEBOOK = load_config("notebook-96").model


def build(config, size=96):
    return build_network(config, image_size=size, load_weights=False)


@pytest.fixture(scope="module")
def small():
    return build(SMALL, 32)


def test_mobilenetv2_has_the_parameters_of_keras_and_one_output(small):
    backbone = keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    assert small.count_params() == backbone.count_params() + 1280 + 1
    assert small.output_shape == (None, 1)


def test_the_backbone_is_not_nested(small):
    assert not any(isinstance(layer, keras.Model) for layer in small.layers)
    assert small.get_layer("Conv_1").output.shape[1:] == (1, 1, 1280)


def describe(layers):
    """List class, output shape, parameters, and activation or dropout of layers."""
    return [
        (
            type(layer).__name__,
            layer.output.shape[1:],
            layer.count_params(),
            getattr(layer, "rate", None)
            or getattr(getattr(layer, "activation", None), "__name__", None),
        )
        for layer in layers
    ]


def test_the_head_of_the_notebook_preset():
    network = build(NOTEBOOK)
    assert describe(network.layers[-10:]) == [
        ("GlobalAveragePooling2D", (1280,), 0, None),
        ("BatchNormalization", (1280,), 1280 * 4, None),
        ("Dropout", (1280,), 0, 0.5),
        ("Dense", (256,), 1280 * 256 + 256, "relu"),
        ("BatchNormalization", (256,), 256 * 4, None),
        ("Dropout", (256,), 0, 0.3),
        ("Dense", (128,), 256 * 128 + 128, "relu"),
        ("Dropout", (128,), 0, 0.2),
        ("Dense", (1,), 128 + 1, "linear"),
        ("Activation", (1,), 0, "sigmoid"),
    ]
    backbone = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(96, 96, 3)
    )
    # The first layer of both is the input.
    assert describe(network.layers[1:-10]) == describe(backbone.layers[1:])


def test_the_notebook_preset_trains_the_last_fifty_layers():
    network = build(NOTEBOOK)
    names = [layer.name for layer in network.layers]
    backbone = network.layers[: names.index("pool")]
    assert [layer.trainable for layer in backbone[-50:]] == [True] * 50
    frozen = [layer for layer in backbone[:-50] if layer.weights]
    assert frozen
    assert not any(layer.trainable for layer in frozen)


def test_the_notebook_preset_does_not_rescale_images():
    assert "rescaling" not in [layer.name for layer in build(NOTEBOOK).layers]


def test_the_layers_of_the_eyenet_preset():
    network = build(load_config("eyenet-256").model, 256)
    assert describe(network.layers) == [
        ("InputLayer", (256, 256, 3), 0, None),
        ("Conv2D", (254, 254, 32), 3 * 3 * 3 * 32 + 32, "relu"),
        ("MaxPooling2D", (127, 127, 32), 0, None),
        ("Conv2D", (125, 125, 32), 3 * 3 * 32 * 32 + 32, "relu"),
        ("MaxPooling2D", (62, 62, 32), 0, None),
        ("Conv2D", (60, 60, 32), 3 * 3 * 32 * 32 + 32, "relu"),
        ("MaxPooling2D", (30, 30, 32), 0, None),
        ("Flatten", (28_800,), 0, None),
        ("Dense", (128,), 28_800 * 128 + 128, "relu"),
        ("Dense", (2,), 128 * 2 + 2, "linear"),
        ("Identity", (1,), 0, None),
        ("Activation", (1,), 0, "sigmoid"),
    ]


def test_the_score_of_eyenet_is_its_softmax_probability_of_disease():
    network = build(load_config("eyenet-256").model, 64)
    images = np.random.default_rng(0).random((3, 64, 64, 3), np.float32)
    dense = network.get_layer("class_logits")
    softmax = keras.Model(network.input, keras.layers.Softmax()(dense.output))
    expected = softmax(images).numpy()[:, 1:]
    assert expected.std() > 1e-4
    np.testing.assert_allclose(network(images), expected, atol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_is_the_same_however_many_were_built_before(name):
    config = ModelConfig(name=name, weights="none")
    first, second = (build(config, 64).to_json() for _ in range(2))
    assert first == second
    coral = {"task": TASKS["grades"], "loss": "coral", "load_weights": False}
    first, second = (
        build_network(config, image_size=32, **coral).to_json() for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("binary", "crossentropy"),
        ("grades", "crossentropy"),
        ("grades", "mse"),
        ("grades", "coral"),
    ],
)
def test_the_score_is_the_sigmoid_of_the_logit(name, task, loss):
    config = ModelConfig(name=name, weights="none")
    network = build_network(
        config, image_size=32, load_weights=False, task=TASKS[task], loss=loss
    )
    images = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    # As in a new process, Keras numbers the names of operations from the start.
    keras.utils.clear_session(free_memory=False)
    logits = build_disease_logit_model(network, TASKS[task])(images).numpy()
    probabilities = network(images).numpy()
    scores = TASKS[task].disease_scores(probabilities)
    assert logits.shape == (3, 1)
    assert scores == pytest.approx(1 / (1 + np.exp(-logits[:, 0])), abs=1e-6)
    if task == "grades":
        assert probabilities.shape == (3, 5)
        referable = probabilities[:, 2:].sum(axis=1)
        assert scores == pytest.approx(referable, abs=1e-6)


@pytest.mark.parametrize("name", ["eyenet", "mobilenetv2"])
def test_coral_has_one_severity_and_the_trained_distances_of_grades(name):
    task, config = TASKS["grades"], ModelConfig(name=name, weights="none")
    network = build_network(
        config, image_size=32, load_weights=False, task=task, loss="coral"
    )
    steps = np.array([[-1.0, 0.5, 2.0]], np.float32)
    network.get_layer("steps").set_weights([steps])
    layer = network.get_layer("severity")
    weights, _ = layer.get_weights()
    layer.set_weights([20 * weights, np.array([3.0], np.float32)])
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    severity = keras.Model(network.input, layer.output)(images).numpy()
    distances = np.cumsum([0, *np.log1p(np.exp(steps[0]))])
    reached = 1 / (1 + np.exp(distances - severity))  # of grade 1, 2, 3 and 4
    edges = np.concatenate([np.ones((4, 1)), reached, np.zeros((4, 1))], axis=1)
    np.testing.assert_allclose(network(images), -np.diff(edges), atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "coral"])
def test_a_network_of_ordered_grades_is_the_same_after_loading(tmp_path, loss):
    network = build_network(
        SMALL, image_size=32, load_weights=False, task=TASKS["grades"], loss=loss
    )
    network.save(tmp_path / "model.keras")
    check_model_file(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.output_shape == (None, 5)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    assert (loaded(images).numpy() == network(images).numpy()).all()


def test_the_expected_grade_of_an_mse_network_rises_with_its_single_output():
    network = build_network(
        SMALL, image_size=32, load_weights=False, task=TASKS["grades"], loss="mse"
    )
    severity = network.get_layer("severity")
    assert severity.units == 1
    output = keras.Model(severity.output, network.output)
    values = np.linspace(-20, 30, 51, dtype=np.float32)[:, None]
    expected = TASKS["grades"].expected_classes(output(values).numpy())
    assert (np.diff(expected) > -1e-6).all()
    assert expected[[0, -1]] == pytest.approx([0, 4], abs=1e-5)


def test_the_logit_model_has_one_output_or_one_per_grade():
    for task, units in (("binary", 1), ("grades", 5)):
        network = build_network(
            SMALL, image_size=32, load_weights=False, task=TASKS[task]
        )
        assert build_logit_model(network).output_shape == (None, units)


def test_the_head_has_the_layers_of_the_config():
    config = SMALL.model_copy(
        update={"head_units": (7, 5), "head_batch_norm": True, "dropout": 0.0}
    )
    head = build(config, 32).layers[-7:]
    assert [type(layer).__name__ for layer in head] == [
        *["BatchNormalization", "Dense"] * 3,
        "Activation",
    ]
    units = [x.units for x in head if isinstance(x, keras.layers.Dense)]
    assert units == [7, 5, 1]


@pytest.mark.parametrize(("num_layers", "head_only"), [(-1, True), (0, False)])
def test_the_backbone_can_be_frozen(num_layers, head_only):
    config = SMALL.model_copy(update={"trainable_layers": num_layers})
    network = build(config, 32)
    set_trainable(network, config, head_only=head_only)
    assert count_parameters(network)[0] == 1281
    set_trainable(network, SMALL)
    assert count_parameters(network)[1] < count_parameters(network)[0]


def test_the_symmetric_input_range_is_minus_one_to_one(small):
    rescaling = small.get_layer("rescaling")
    assert rescaling(np.array([0.0, 0.5, 1.0])).numpy().tolist() == [-1, 0, 1]


def test_upsampling_enlarges_images_within_the_network():
    network = build(SMALL.model_copy(update={"upsampling": 1.5}), 64)
    images = np.random.default_rng(1).random((2, 64, 64, 3), np.float32)
    enlarged = tf.image.resize(images, (96, 96))
    other = build(SMALL, 96)
    other.set_weights(network.get_weights())
    assert network.input_shape == (None, 64, 64, 3)
    assert network.get_layer("Conv1").input.shape == (None, 96, 96, 3)
    outputs = network(images, training=False)
    np.testing.assert_allclose(outputs, other(enlarged, training=False), atol=1e-6)


def test_batch_normalization_has_the_momentum_of_the_config(small):
    momenta = {
        layer.momentum
        for layer in small.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert momenta == {0.9}


def build_backbone(alpha):
    return keras.applications.MobileNetV2(
        alpha=alpha, include_top=False, weights=None, input_shape=(64, 64, 3)
    )


def test_a_weights_file_is_loaded_into_the_backbone(tmp_path):
    backbone = build_backbone(0.35)
    path = tmp_path / "backbone.weights.h5"
    backbone.save_weights(path)
    config = SMALL.model_copy(update={"weights": str(path)})
    network = build_network(config, image_size=32, load_weights=True)
    for layer in backbone.layers:
        for expected, loaded in zip(
            layer.get_weights(),
            network.get_layer(layer.name).get_weights() if layer.weights else [],
            strict=True,
        ):
            assert (expected == loaded).all()


def save_legacy(backbone, path):
    """Save weights in the layout of the files that Keras publishes."""
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, backbone)


def first_kernel(network):
    return network.get_layer("Conv1").get_weights()[0]


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5", "a.hdf5", "folder"])
def test_weights_are_loaded_in_the_layout_that_keras_publishes(tmp_path, name):
    backbone = build_backbone(0.35)
    path = tmp_path / name
    file = path
    if name == "folder":
        path.mkdir()
        # Of 224 px, since there are none of 32 px.
        file = path / Path(BACKBONES["mobilenetv2"].imagenet_file).name.format(
            alpha=0.35, size=224
        )
    save_legacy(backbone, file)
    config = SMALL.model_copy(update={"weights": str(path)})
    network = build_network(config, image_size=32, load_weights=True)
    assert (first_kernel(network) == first_kernel(backbone)).all()


@pytest.mark.parametrize("weights", ["no/such.weights.h5", "imagnet"])
def test_weights_are_refused_when_they_are_not_a_file(weights):
    config = SMALL.model_copy(update={"weights": weights})
    allowed = ("imagenet", "none", ".weights.h5")
    with raises_naming(DrtfError, "model.weights", weights, *allowed):
        build_network(config, image_size=32, load_weights=True)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_weights_are_refused_when_alpha_differs(tmp_path, is_legacy):
    path = tmp_path / "other.weights.h5"
    backbone = build_backbone(0.5)
    if is_legacy:
        save_legacy(backbone, path)
    else:
        backbone.save_weights(path)
    config = SMALL.model_copy(update={"weights": str(path)})
    counts = (
        f"{backbone.count_params():,}",
        f"{build_backbone(0.35).count_params():,}",
    )
    with raises_naming(DrtfError, path, "model.alpha", config.alpha, *counts) as error:
        build_network(config, image_size=32, load_weights=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["text", "empty", "link", "folder", "pipe"])
def test_weights_are_refused_when_the_file_is_not_one_of_weights(tmp_path, kind):
    path = tmp_path / "fake.weights.h5"
    if kind == "link":
        with h5py.File(path, "w") as file:
            file["evil"] = h5py.ExternalLink("/etc/passwd", "/")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"not HDF5" if kind == "text" else b"")
    config = SMALL.model_copy(update={"weights": str(path)})
    with raises_naming(DrtfError, path, "model.weights") as error:
        build_network(config, image_size=32, load_weights=True)
    assert "\n" not in str(error.value)


def test_a_failed_download_names_the_alternatives(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("URL fetch failure on https://example.org: None")

    monkeypatch.setattr(keras.applications, "MobileNetV2", fail)
    config = SMALL.model_copy(update={"weights": "imagenet"})
    facts = ("https://example.org", "--set model.weights", "model.weights=none")
    with raises_naming(DrtfError, *facts):
        build_network(config, image_size=96, load_weights=True)


def test_trained_and_frozen_parameters_sum_to_all():
    network = build(NOTEBOOK)
    trained, frozen = count_parameters(network)
    assert trained + frozen == network.count_params()
    assert trained == sum(w.numpy().size for w in network.trainable_weights)


def test_a_network_is_built_whatever_keras_is_set_to(caplog):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    network = build(SMALL, 32)
    assert network.output_shape == (None, 1)
    assert {x.dtype for x in network.weights} == {"float32"}
    assert_names(caplog.messages[0], "channels_first", "float16")
    settings = keras.config.image_data_format(), keras.config.floatx()
    assert settings == ("channels_last", "float32")


def test_another_backend_of_keras_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with raises_naming(DrtfError, "'jax'", "KERAS_BACKEND=tensorflow") as error:
        build(SMALL, 32)
    assert "\n" not in str(error.value)

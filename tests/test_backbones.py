import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet_v2

from drtf.config import GradcamConfig, ModelConfig, load_config
from drtf.data.loader import read_batch
from drtf.errors import ConfigError, DrtfError, RunError
from drtf.export.export import export
from drtf.heatmaps.heatmaps import build_map_function, choose_layer, mappable_layers
from drtf.models.backbones import BACKBONES, check_model
from drtf.models.network import build_network
from drtf.models.run import load_run
from drtf.training import loop
from drtf.training.checkpoint import load_newest_checkpoint
from drtf.training.run import train
from drtf.training.train_plan import plan_training
from naming import assert_names, raises_naming


@dataclass(frozen=True)
class Application:
    """A network of keras.applications that a backbone must be equal to.

    Attributes:
        build: Builds the network.
        preprocess: Keras's preprocessing for it, of pixels in [0, 255].
        settings: Settings that make a training of the backbone quick.
    """

    build: Callable[..., keras.Model]
    preprocess: Callable[[np.ndarray], np.ndarray]
    settings: tuple[str, ...] = ()


# All backbones from keras.applications but mobilenetv2, which other files test.
APPLICATIONS = {
    "efficientnetv2-b0": Application(
        keras.applications.EfficientNetV2B0,
        keras.applications.efficientnet_v2.preprocess_input,
    ),
    "mobilenetv3-large": Application(
        keras.applications.MobileNetV3Large,
        keras.applications.mobilenet_v3.preprocess_input,
        settings=("model.alpha=0.35",),
    ),
}


def build(name, size=64, **settings):
    config = ModelConfig(name=name, weights="none", **settings)
    return build_network(config, image_size=size, load_weights=False)


def refuse(*overrides, head_epochs=0):
    config = load_config("", overrides).model
    with pytest.raises(ConfigError) as error:
        check_model(config, head_epochs=head_epochs)
    return error.value


def test_backbones_are_named_by_their_keys():
    assert all(backbone.name == name for name, backbone in BACKBONES.items())


def test_every_backbone_is_in_the_description_of_its_setting():
    assert_names(ModelConfig.model_fields["name"].description, *BACKBONES)


def test_backbones_are_listed_without_tensorflow():
    code = (
        "import sys, drtf.models.backbones; "
        "assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_backbone_is_refused_with_the_nearest_and_the_list():
    message = refuse("model.name=efficientnetv2_b0")
    assert_names(message, "model.name", "'efficientnetv2_b0'", *BACKBONES)
    assert str(message).count("efficientnetv2-b0") == 2
    with raises_naming(ConfigError, "model.name", "'resnet'"):
        build_network(ModelConfig(name="resnet"), image_size=32, load_weights=False)


@pytest.mark.parametrize(
    ("name", "override", "key", "others"),
    [
        ("eyenet", "model.upsampling=2", "model.upsampling", ["mobilenetv2"]),
        ("eyenet", "model.dropout=0.5", "model.dropout", ["mobilenetv2"]),
        (
            "efficientnetv2-b0",
            "model.alpha=0.5",
            "model.alpha",
            ["mobilenetv2", "mobilenetv3-large"],
        ),
        (
            "efficientnetv2-b0",
            "model.input_range=unit",
            "model.input_range",
            ["mobilenetv2", "eyenet"],
        ),
    ],
)
def test_a_setting_is_refused_by_backbones_without_it(name, override, key, others):
    message = refuse(f"model.name={name}", "model.weights=none", override)
    assert_names(message, key, f"'{name}'", *others)


def test_imagenet_weights_are_refused_by_eyenet():
    message = refuse("model.name=eyenet", "model.weights=imagenet")
    assert_names(message, "model.weights", "'imagenet'", "eyenet", '"none"')


@pytest.mark.parametrize(
    ("name", "alpha", "alphas"),
    [("mobilenetv2", 0.6, (0.35, 1.4)), ("mobilenetv3-large", 0.35, (0.75, 1.0))],
)
def test_imagenet_weights_are_refused_for_other_alphas(name, alpha, alphas):
    settings = f"model.name={name}", f"model.alpha={alpha}"
    assert_names(refuse(*settings), "model.alpha", alpha, name, *alphas)
    check_model(load_config("", [*settings, "model.weights=none"]).model)


def test_head_epochs_are_refused_without_a_pooled_head():
    settings = "model.name=eyenet", "model.weights=none"
    assert_names(refuse(*settings, head_epochs=2), "train.head_epochs", 2, "eyenet")


@pytest.mark.parametrize("start", [train, plan_training])
def test_training_checks_the_backbone_first(start, config, tmp_path):
    model = config.model.model_copy(update={"alpha": 0.5})
    wrong = config.model_copy(update={"model": model})
    out = {"out": tmp_path / "run"} if start is train else {}
    with raises_naming(ConfigError, "model.alpha"):
        start(tmp_path / "missing", config=wrong, **out)


def test_a_run_of_an_unknown_backbone_is_refused(run_folder, monkeypatch):
    monkeypatch.delitem(BACKBONES, "eyenet")
    with raises_naming(RunError, run_folder, "'eyenet'"):
        load_run(run_folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "mobilenetv2", "alpha": 0.5}, "mobilenetv2, alpha 0.5, weights none"),
        ({"name": "efficientnetv2-b0"}, "efficientnetv2-b0, weights none"),
        ({"name": "eyenet"}, "eyenet"),
    ],
)
def test_a_description_has_only_what_the_backbone_has(settings, expected):
    config = ModelConfig(weights="none", **settings)
    assert BACKBONES[config.name].describe(config) == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_is_flat_and_its_layer_names_repeat(name):
    first, second = (build(name) for _ in range(2))
    assert not any(isinstance(layer, keras.Model) for layer in first.layers)
    names = [layer.name for layer in first.layers]
    assert names == [layer.name for layer in second.layers]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_features_are_those_of_keras_with_its_preprocessing(name):
    application = APPLICATIONS[name]
    keras.utils.set_random_seed(0)
    network = build(name)
    features = keras.Model(network.input, network.get_layer("pool").input)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    # So that random weights give features that are neither close to zero nor huge.
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0
    features(images, training=True)
    shape = images.shape[1:]
    expected = application.build(include_top=False, weights=None, input_shape=shape)
    expected.set_weights(features.get_weights())
    outputs = features(images).numpy()
    assert outputs.std() > 1e-3
    scale = float(np.abs(outputs).max())
    pixels = application.preprocess(images * 255)
    assert expected(pixels).numpy() == pytest.approx(outputs, abs=1e-4 * scale)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_heat_maps_show_only_outputs_of_activations(name):
    network, backbone = build(name, 96), BACKBONES[name]
    layers = mappable_layers(network, backbone)
    assert {type(layer).__name__ for layer in layers} <= {"Activation", "ReLU"}
    assert {layer.output.shape[1] for layer in layers} == {48, 24, 12, 6, 3}
    # The last one is the input of the head.
    assert layers[-1].output is network.get_layer("pool").input
    for size, cells in ((96, 6), (224, 14)):
        layer = choose_layer(build(name, size), "auto", backbone=backbone)
        assert layer.output.shape[1] == cells


@pytest.mark.parametrize("name", APPLICATIONS)
def test_weights_of_another_backbone_are_refused(name, tmp_path):
    path = tmp_path / "other.weights.h5"
    application = keras.applications.MobileNetV2
    application(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(
        path
    )
    config = ModelConfig(name=name, weights=str(path))
    with raises_naming(DrtfError, path, name) as error:
        build_network(config, image_size=32, load_weights=True)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def shallow():
    """Build EfficientNetV2 with 8 of its 21 blocks, among them each kind of block."""
    blocks = efficientnet_v2.DEFAULT_BLOCKS_ARGS["efficientnetv2-b0"]
    with pytest.MonkeyPatch.context() as patch:
        for block, num_repeat in zip(blocks, (1, 2, 1, 2, 1, 1), strict=True):
            patch.setitem(block, "num_repeat", num_repeat)
        yield


@pytest.fixture(scope="module", params=APPLICATIONS)
def settings(request, config, shallow):
    """The settings of a short training of a backbone."""
    quick = APPLICATIONS[request.param].settings
    overrides = f"model.name={request.param}", "model.weights=none", *quick
    model = load_config("", overrides).model
    train_config = config.train.model_copy(update={"epochs": 2})
    return config.model_copy(update={"model": model, "train": train_config})


@pytest.fixture(scope="module")
def trained(settings, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    train(shards, out=out, config=settings)
    return out


def test_a_backbone_is_trained_mapped_and_exported(
    trained, shards, shard_dataset, tmp_path
):
    run = load_run(trained)
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    maps = build_map_function(run, GradcamConfig(method="layercam"))(images).heat
    assert maps.shape == images.shape[:3]
    assert np.isfinite(maps).all()
    assert maps.any()
    for target in ("tflite", "onnx"):
        exported = export(trained, shards, out=tmp_path / target, target=target)
        assert exported.measured.comparison.max_difference < 1e-4


@pytest.mark.slow
def test_a_backbone_is_resumed_bit_for_bit(
    trained, settings, shards, tmp_path, monkeypatch
):
    def interrupt(*args):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    often = settings.train.model_copy(update={"checkpoint_minutes": 0})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_history", interrupt)
        train(shards, out=out, config=settings.model_copy(update={"train": often}))
    resumed = train(shards, out=out, config=settings, resume=True)
    assert resumed.num_epochs == 2
    first, second = load_newest_checkpoint(trained), load_newest_checkpoint(out)
    for one, other in zip(first.arrays, second.arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    runs = load_run(trained), load_run(out)
    for one, other in zip(*(x.network.get_weights() for x in runs), strict=True):
        np.testing.assert_array_equal(one, other)

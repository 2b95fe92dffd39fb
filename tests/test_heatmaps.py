from typing import get_args
from unittest import mock

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from drawing import draw_fundus
from drtf.config import GradcamConfig, MapMethod, ModelConfig
from drtf.data.loader import read_batch
from drtf.errors import DrtfError
from drtf.heatmaps import heatmaps
from drtf.heatmaps.heatmaps import (
    HEAT_UNITS,
    build_map_function,
    check_settings,
    choose_layer,
)
from drtf.models.backbones import BACKBONES
from drtf.models.network import build_disease_logit_model, build_network
from drtf.models.run import Run, load_run
from drtf.tasks import TASKS
from naming import raises_naming

BINARY = TASKS["binary"]
EYENET, MOBILENET = BACKBONES["eyenet"], BACKBONES["mobilenetv2"]


@pytest.fixture(scope="module")
def known():
    """A network with a known map: red raises the logit, green lowers it."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.AveragePooling2D(4, name="cells")(image)
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(1, name="logits")(x)
    network = keras.Model(image, keras.layers.Activation("sigmoid")(logits))
    kernel = np.array([[1, 0], [0, 1], [0, 0]], np.float32).reshape(1, 1, 3, 2)
    network.get_layer("features").set_weights([kernel])
    weights = [np.array([[40.0], [-40.0]], np.float32), np.array([20.0], np.float32)]
    network.get_layer("logits").set_weights(weights)
    return network


def image_with(*, red=None, green=None):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    for channel, cell in ((0, red), (1, green)):
        if cell is not None:
            y, x = cell
            image[0, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8, channel] = 255
    return image


def compute_heat(network, images, *, layer="auto", method="gradcam", model="eyenet"):
    """Compute the heat [B, H, W] of a network of a backbone, for the task binary."""
    run = mock_run(network, model)
    config = GradcamConfig(layer=layer, method=method)
    return build_map_function(run, config)(images).heat


def mock_run(network, *models):
    """Return a run of the task binary: a network of a backbone, or an ensemble."""
    backbones = tuple(BACKBONES[model] for model in models)
    return mock.Mock(spec=Run, network=network, task=BINARY, backbones=backbones)


@pytest.mark.parametrize("method", get_args(MapMethod))
def test_every_method_locates_the_decisive_cell(known, method, capsys):
    images = np.concatenate([image_with(red=cell) for cell in ((0, 0), (1, 2))])
    maps = compute_heat(known, images, layer="features", method=method)
    assert maps.shape == (2, 32, 32)
    assert maps.min() >= 0
    assert (maps.max(axis=(1, 2)) > 0).all()
    assert capsys.readouterr().out == ""
    if method != "saliency":  # which of a linear network is the same everywhere
        for values, cell in zip(maps, ((0, 0), (1, 2)), strict=True):
            y, x = np.unravel_index(values.argmax(), values.shape)
            assert (y // 8, x // 8) == cell


def test_saliency_finds_the_pixels_that_change_the_score():
    image = keras.Input((8, 8, 3))
    mask = np.zeros((1, 8, 8, 3), np.float32)
    mask[0, 2, 5] = 1
    x = keras.layers.Flatten()(image)
    logits = keras.layers.Dense(1, use_bias=False, name="logits")(x)
    network = keras.Model(image, keras.layers.Activation("sigmoid")(logits))
    network.get_layer("logits").set_weights([mask.reshape(-1, 1)])
    images = np.full((3, 8, 8, 3), 100, np.uint8)
    maps = compute_heat(network, images, method="saliency")
    assert (maps / maps.max() == mask[..., 0]).all()


def test_maps_are_computed_in_batches(known, monkeypatch):
    images = np.concatenate([image_with(red=(x % 4, x // 4)) for x in range(7)])
    expected = compute_heat(known, images, layer="features")
    monkeypatch.setattr(heatmaps, "BATCH_SIZE", 3)
    maps = compute_heat(known, images, layer="features")
    assert maps == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", get_args(MapMethod))
def test_a_map_does_not_depend_on_other_images(run_folder, shard_dataset, method):
    network = load_run(run_folder).network
    images = read_batch(shard_dataset, np.arange(5))
    common = {"layer": "conv_1", "method": method}
    with (
        mock.patch.object(heatmaps, "BATCH_SIZE", 3),
        mock.patch.object(heatmaps, "NUM_CHANNELS", 4),
    ):
        maps = compute_heat(network, images, **common)
        one_by_one = [compute_heat(network, image[None], **common) for image in images]
    assert maps.any()
    # Grad-CAM++ divides by sums of gradients, which may be near zero.
    tolerance = 1e-2 if method == "gradcam++" else 1e-5
    scale = maps.max()
    assert maps / scale == pytest.approx(
        np.concatenate(one_by_one) / scale, abs=tolerance
    )


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 3)])
def test_the_map_is_high_where_the_logit_is_raised(known, cell):
    values = compute_heat(known, image_with(red=cell), layer="features")[0]
    y, x = np.unravel_index(values.argmax(), values.shape)
    assert (y // 8, x // 8) == cell
    far = np.delete(np.arange(4), cell[0])
    assert all(values[8 * row + 4, :].max() < 0.5 * values.max() for row in far)


def test_the_map_is_low_where_the_logit_is_lowered(known):
    image = image_with(red=(0, 0), green=(3, 3))
    values = compute_heat(known, image, layer="features")[0]
    assert values[28, 28] == 0
    assert values[4, 4] > 0.9 * values.max()


def test_heat_of_a_linear_network_adds_up_to_the_logit(known):
    """Heat is per 1 % of the picture, so its mean times 100 is what it adds."""
    images = image_with(red=(1, 2))
    bias = 20
    logit = build_disease_logit_model(known, BINARY)(images / np.float32(255))
    for method in HEAT_UNITS:
        heat = compute_heat(known, images, layer="features", method=method)
        assert 100 * heat.mean() == pytest.approx(float(logit[0, 0]) - bias, rel=1e-4)


def test_nothing_is_hot_outside_the_retina(known):
    fundus = cv2.resize(draw_fundus(seed=1), (32, 32))[None]
    fundus[fundus.max(axis=-1) < 20] = (6, 0, 0)  # red raises the logit
    config = GradcamConfig(layer="features")
    compute_maps = build_map_function(mock_run(known, "eyenet"), config)
    maps = compute_maps(fundus)
    assert maps.heat[0, 16, 16] > 0
    assert not maps.heat[0, ::31, ::31].any()  # the corners
    assert 0 < maps.outside[0] < 0.2
    everywhere = np.full((1, 32, 32, 3), 90, np.uint8)
    assert compute_maps(everywhere).outside == 0


def test_the_map_is_zero_when_nothing_raises_the_logit(known):
    values = compute_heat(known, image_with(green=(1, 1)), layer="features")
    assert not values.any()


def test_the_map_does_not_vanish_when_the_sigmoid_saturates(known):
    image = image_with(red=(2, 1))
    assert float(known(image / np.float32(255))[0, 0]) == 1.0
    assert compute_heat(known, image, layer="features").max() > 0.1


def test_gradcam_equals_the_formula_on_conv_1():
    config = ModelConfig(weights="none", alpha=0.35)
    keras.utils.set_random_seed(3)
    network = build_network(config, image_size=96, load_weights=False)
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    logit_model = build_disease_logit_model(network, BINARY)
    both = keras.Model(
        network.input, [network.get_layer("Conv_1").output, logit_model.output]
    )
    with tf.GradientTape() as tape:
        activations, logits = both(images.astype(np.float32) / 255)
        total = tf.reduce_sum(logits)
    weights = tf.reduce_mean(tape.gradient(total, activations), axis=(1, 2))
    expected = np.maximum(np.einsum("bhwc,bc->bhw", activations, weights), 0)
    assert expected.any()
    enlarged = [cv2.resize(heat, (96, 96)) for heat in expected * 9 / 100]
    maps = compute_heat(network, images, layer="Conv_1", model="mobilenetv2")
    assert maps == pytest.approx(np.stack(enlarged), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "upsampling", "expected", "cells"),
    [
        (64, 1, "block_6_expand_relu", 8),  # later layers have 4 cells
        (96, 1, "block_13_expand_relu", 6),
        (96, 1.5, "block_13_expand_relu", 9),
        (96, 2, "block_13_expand_relu", 12),
        (224, 1, "block_13_expand_relu", 14),
        (512, 1, "block_13_expand_relu", 32),
    ],
)
def test_auto_is_the_deepest_layer_with_cells_of_16_px(
    size, upsampling, expected, cells
):
    config = ModelConfig(weights="none", alpha=0.35, upsampling=upsampling)
    network = build_network(config, image_size=size, load_weights=False)
    layer = choose_layer(network, "auto", backbone=MOBILENET)
    assert (layer.name, layer.output.shape[1]) == (expected, cells)


def test_auto_is_the_last_convolution_of_eyenet():
    config = ModelConfig(name="eyenet", weights="none")
    network = build_network(config, image_size=256, load_weights=False)
    assert choose_layer(network, "auto", backbone=EYENET).name == "conv_3"


def test_an_unknown_layer_is_refused_with_layers_to_choose_from(known):
    with raises_naming(DrtfError, "Conv_9", "features"):
        choose_layer(known, "Conv_9", backbone=EYENET)
    assert choose_layer(known, "features", backbone=EYENET).name == "features"


def test_settings_are_refused_when_no_map_can_be_computed(known):
    usual = GradcamConfig(layer="features")
    run = mock_run(known, "eyenet")
    assert [layer.name for layer in check_settings(run, usual)] == ["features"]
    with raises_naming(DrtfError, "gradcam.colormap", "jett"):
        check_settings(run, usual.model_copy(update={"colormap": "jett"}))
    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    network = keras.Model(image, keras.layers.Dense(1, name="logits")(flat))
    with raises_naming(DrtfError, network.name):
        check_settings(mock_run(network, "eyenet"), GradcamConfig())


def test_the_map_depends_on_the_weights(run_folder, shard_dataset):
    """The sanity check of Adebayo et al., 2018, https://arxiv.org/abs/1810.03292."""
    network = load_run(run_folder).network
    rows = np.flatnonzero(shard_dataset.grades >= 2)[:8]
    images = read_batch(shard_dataset, rows)
    common = {"layer": "conv_1", "method": "layercam"}
    trained = compute_heat(network, images, **common)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, x.std() + 1e-3, x.shape) for x in network.get_weights()]
    network.set_weights(weights)
    random = compute_heat(network, images, **common)
    assert trained.any()
    assert random.any()
    assert np.corrcoef(trained.ravel(), random.ravel())[0, 1] < 0.8

from dataclasses import astuple

import keras
import numpy as np
import pytest

from drtf.bench import heatmaps
from drtf.bench.heatmaps import bench_heatmaps
from drtf.config import ModelConfig
from drtf.errors import DrtfError
from drtf.inference.heatmaps import last_layers_by_grid
from drtf.models.backbones import BACKBONES
from drtf.models.network import build_network
from naming import raises_naming


def test_maps_are_compared_with_chance_and_random_weights(run_folder):
    results = bench_heatmaps(
        run_folder,
        num_photographs=6,
        seed=3,
        methods=("layercam", "saliency"),
        num_workers=1,
    )
    layers = [(result.method, result.layer, result.cells) for result in results]
    assert layers == [
        ("layercam", "conv_1", 30),
        ("layercam", "conv_2", 13),
        ("layercam", "conv_3", 4),
        ("saliency", "", 32),
    ]
    for result in results:
        assert 0 < result.measures.pointing_by_chance < 1
        assert 0 <= result.measures.pointing_fraction <= 1
        assert result.measures.correlation_with_random < 1


def test_a_map_of_the_lesions_scores_best_and_one_outside_scores_worst():
    rng = np.random.default_rng(0)
    lesions, near = np.zeros((2, 5, 32, 32), bool)
    lesions[:, 10:14, 10:14] = near[:, 9:15, 9:15] = True
    fields = np.ones_like(near)
    fields[:, :2] = False
    noise = rng.random(near.shape)

    def measure(maps):
        measures = heatmaps.measure_maps(
            maps, noise, lesions=lesions, near_lesions=near, fields=fields
        )
        return astuple(measures)[:-1]

    by_chance = 36 / (30 * 32), 16 / (30 * 32)
    on_lesions = measure(lesions * (1 + noise))
    assert on_lesions == pytest.approx((1, by_chance[0], 1, by_chance[1], 0))
    next_to_lesions = measure((near & ~lesions) * (1 + noise))
    assert next_to_lesions == pytest.approx((1, by_chance[0], 0, by_chance[1], 0))
    elsewhere = measure((fields & ~near) * (1 + noise))
    assert elsewhere == pytest.approx((0, by_chance[0], 0, by_chance[1], 0))
    assert measure(1.0 * ~fields)[0] == 0


def test_drawn_lesions_and_field_match_the_preprocessed_image(config):
    images = config.images.model_copy(update={"size": 96, "contrast": "none"})
    for example in heatmaps.draw_examples(images, 4, 0, 1):
        assert example.image.shape == (96, 96, 3)
        assert not (example.lesions & ~example.field).sum() > 5
        visible = example.image.max(axis=2) > 30
        assert (visible == example.field).mean() > 0.95


def test_layers_are_the_last_of_each_grid_size():
    config = ModelConfig(weights="none", alpha=0.35)
    network = build_network(config, image_size=96, load_weights=False)
    layers = last_layers_by_grid(
        network, backbone=BACKBONES["mobilenetv2"], min_cells=3
    )
    assert [layer.output.shape[1] for layer in layers] == [48, 24, 12, 6, 3]
    assert layers[-1].name == "out_relu"


def test_shuffled_weights_are_the_same_values_in_another_order():
    config = ModelConfig(weights="none", alpha=0.35)
    network = build_network(config, image_size=32, load_weights=False)
    random = keras.models.clone_model(network)
    heatmaps.set_shuffled_weights(random, network, seed=0)
    for a, b in zip(network.get_weights(), random.get_weights(), strict=True):
        assert np.sort(a.ravel()) == pytest.approx(np.sort(b.ravel()))


def test_drawing_no_visible_lesion_is_an_error(run_folder):
    with raises_naming(DrtfError, 1, 3):
        bench_heatmaps(run_folder, num_photographs=1, seed=3, num_workers=1)

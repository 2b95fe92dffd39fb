import keras
import numpy as np
import pytest

from drtf.bench import heatmaps
from drtf.bench.heatmaps import bench_heatmaps
from drtf.config import ModelConfig
from drtf.errors import DrtfError
from drtf.inference.heatmaps import list_map_layers
from drtf.models.network import build_network
from naming import raises_naming


def test_maps_are_judged_beside_chance_and_random_weights(run_folder):
    found = bench_heatmaps(
        run_folder,
        num_photographs=6,
        seed=3,
        methods=("layercam", "saliency"),
        num_workers=1,
    )
    layers = [(result.method, result.layer, result.cells) for result in found]
    assert layers == [
        ("layercam", "conv_1", 30),
        ("layercam", "conv_2", 13),
        ("layercam", "conv_3", 4),
        ("saliency", "", 32),
    ]
    for result in found:
        assert 0 < result.pointing_chance < 1
        assert 0 <= result.pointing <= 1
        assert result.likeness < 1


def test_a_map_that_is_the_lesions_wins_and_one_beside_them_loses():
    rng = np.random.default_rng(0)
    lesions, near = np.zeros((2, 5, 32, 32), bool)
    lesions[:, 10:14, 10:14] = near[:, 9:15, 9:15] = True
    fields = np.ones_like(near)
    fields[:, :2] = False
    noise = rng.random(near.shape)

    def judge(maps):
        return heatmaps.measure_maps(maps, noise, lesions, near, fields)[:-1]

    chances = 36 / (30 * 32), 16 / (30 * 32)
    right = judge(lesions * (1 + noise))
    assert right == pytest.approx((1, chances[0], 1, chances[1], 0))
    beside = judge((near & ~lesions) * (1 + noise))
    assert beside == pytest.approx((1, chances[0], 0, chances[1], 0))
    wrong = judge((fields & ~near) * (1 + noise))
    assert wrong == pytest.approx((0, chances[0], 0, chances[1], 0))
    assert judge(1.0 * ~fields)[0] == 0


def test_the_drawn_lesions_lie_where_the_network_sees_them(config):
    images = config.images.model_copy(update={"size": 96, "contrast": "none"})
    for example in heatmaps.draw_examples(images, 4, 0, 1):
        assert example.image.shape == (96, 96, 3)
        assert not (example.lesions & ~example.field).sum() > 5
        seen = example.image.max(axis=2) > 30
        assert (seen == example.field).mean() > 0.95


def test_the_layers_are_the_last_of_each_grid():
    config = ModelConfig(weights="none", alpha=0.35)
    network = build_network(config, image_size=96, load_weights=False)
    found = list_map_layers(network, least_cells=3)
    assert [layer.output.shape[1] for layer in found] == [48, 24, 12, 6, 3]
    assert found[-1].name == "out_relu"


def test_random_weights_are_the_same_in_another_order():
    config = ModelConfig(weights="none", alpha=0.35)
    network = build_network(config, image_size=32, load_weights=False)
    random = keras.models.clone_model(network)
    heatmaps.shuffle_weights(random, network, seed=0)
    for a, b in zip(network.get_weights(), random.get_weights(), strict=True):
        assert np.sort(a.ravel()) == pytest.approx(np.sort(b.ravel()))


def test_too_few_drawn_eyes_are_said(run_folder):
    with raises_naming(DrtfError, 1, 3):
        bench_heatmaps(run_folder, num_photographs=1, seed=3, num_workers=1)

import numpy as np
import pytest
import tensorflow as tf

from drtf.config import ModelConfig
from drtf.data.loader import read_batch
from drtf.models.network import build_network
from drtf.models.prediction import build_predictor, build_views, predict_split
from drtf.models.views import VIEWS, photographs_per_batch

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    config = ModelConfig(name="eyenet", weights="none")
    return build_network(config, image_size=32, load_weights=False)


def test_flips5_predicts_the_five_views_of_the_notebook(network):
    unit = IMAGES.astype(np.float32) / 255
    views = [
        unit,
        unit[:, :, ::-1],
        unit[:, ::-1],
        unit[:, ::-1, ::-1],
        np.clip(unit * 1.1, 0, 1),
    ]
    expected = np.mean([network(view).numpy()[:, -1] for view in views], axis=0)
    probabilities = build_predictor(network, "flips5")(IMAGES).numpy()
    assert probabilities.shape == (3, 5, 1)
    assert probabilities.mean(axis=1)[:, -1] == pytest.approx(expected, abs=1e-6)


def test_dihedral8_has_all_rotations_of_the_image_and_its_mirror_image():
    unit = IMAGES.astype(np.float32) / 255
    views = build_views(tf.constant(unit), "dihedral8").numpy()
    expected = [
        np.rot90(x, turns, axes=(1, 2))
        for x in (unit, unit[:, :, ::-1])
        for turns in range(4)
    ]
    assert (views[0] == unit).all()
    assert {x.tobytes() for x in views} == {x.tobytes() for x in expected}


def test_the_names_of_views_describe_them():
    operations = {
        "unchanged": lambda x: x,
        "rotated by 180 degrees": lambda x: np.rot90(x, 2, axes=(1, 2)),
        "transposed": lambda x: x.transpose(0, 2, 1, 3),
        "flipped horizontally": lambda x: x[:, :, ::-1],
        "flipped vertically": lambda x: x[:, ::-1],
        "1.1 times as bright": lambda x: x * np.float32(1.1),
        "clipped at white": lambda x: np.clip(x, 0, 1),
    }
    unit = IMAGES.astype(np.float32) / 255
    for tta, names in VIEWS.items():
        views = build_views(tf.constant(unit), tta).numpy()
        for view, name in zip(views, names, strict=True):
            expected = unit
            for operation in name.replace(" and ", ", ").split(", "):
                expected = operations[operation](expected)
            assert (view == expected).all(), name


def test_batches_have_fewer_photographs_when_there_are_more_views():
    sizes = [photographs_per_batch(64, tta) for tta in ("none", "flips5", "dihedral8")]
    assert sizes == [64, 12, 8]
    assert photographs_per_batch(2, "flips5") == 1


def test_there_is_one_view_without_tta(network):
    unit = IMAGES.astype(np.float32) / 255
    assert (build_views(tf.constant(unit), "none").numpy() == unit[None]).all()
    probabilities = build_predictor(network, "none")(IMAGES).numpy()
    assert probabilities[:, 0] == pytest.approx(network(unit).numpy(), abs=1e-6)


def test_a_predictor_keeps_the_weights_it_was_built_with(network):
    predict = build_predictor(network, "none")
    before = predict(IMAGES).numpy()
    assert predict.get_concrete_function(IMAGES).variables == ()
    kernel = network.get_layer("class_logits").kernel
    weights = kernel.numpy()
    kernel.assign(weights * 2)
    try:
        assert (predict(IMAGES).numpy() == before).all()
        assert (build_predictor(network, "none")(IMAGES).numpy() != before).all()
    finally:
        kernel.assign(weights)


@pytest.mark.parametrize("batch_size", [2, 7, 100])
def test_a_split_is_predicted_in_index_order(network, shard_dataset, batch_size):
    predict = build_predictor(network, "none")
    probabilities = predict_split(
        predict, shard_dataset, split="test", task="binary", batch_size=batch_size
    )
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    assert probabilities == pytest.approx(predict(images).numpy(), abs=1e-6)

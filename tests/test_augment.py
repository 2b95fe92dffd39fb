import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates
from tensorflow.python.framework import kernels

from drawing import draw_fundus
from drtf.config import AugmentConfig
from drtf.data.augment import (
    adjust_color,
    augment,
    sample_affine,
    transform,
    uniform,
)

NOTHING = AugmentConfig(
    horizontal_flip=False,
    vertical_flip=False,
    max_degrees=0,
    zoom=0,
    shift=0,
    brightness=0,
    contrast=0,
    saturation=0,
)
ALL = AugmentConfig(zoom=0.2, shift=0.1, brightness=0.1, contrast=0.2, saturation=0.2)
CLASSES = np.array([0, 1, 1, 0, 1, 0], np.int32)
BY_CLASS = AugmentConfig(
    horizontal_flip=(True, False),
    vertical_flip=(False, True),
    max_degrees=(0, 180),
    zoom=(0.2, 0),
    shift=(0, 0.1),
    brightness=(0.1, 0),
    contrast=(0, 0.2),
    saturation=(0.2, 0),
)
SEEDS = np.stack([np.full(6, 7), np.arange(6)], axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def images():
    drawn = [cv2.resize(draw_fundus(seed=n, diseased=True), (40, 32)) for n in range(6)]
    return (np.stack(drawn) / 255).astype(np.float32)


def opencv_affine(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = affine[:, :2]
    shift = affine[:, 2] * (width, height)
    to_source = np.column_stack([matrix, center + shift - matrix @ center])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_source, (width, height), flags=flags)


def test_without_changes_images_stay_bit_for_bit(images):
    assert (augment(images, SEEDS, CLASSES, NOTHING).numpy() == images).all()


def test_a_horizontal_flip_mirrors_exactly(images):
    config = NOTHING.model_copy(update={"horizontal_flip": True})
    changed = augment(images, SEEDS, CLASSES, config).numpy()
    flipped = (uniform(SEEDS, 1)[:, 0] < 0.5).numpy()
    assert 0 < flipped.sum() < 6
    for before, after, is_flipped in zip(images, changed, flipped, strict=True):
        assert (after == (before[:, ::-1] if is_flipped else before)).all()


def test_a_quarter_turn_of_a_square_is_exact():
    square = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    quarter = np.array([[[0, -1, 0], [1, 0, 0]]], np.float32)
    turned = transform(tf.constant(square), tf.constant(quarter)).numpy()
    assert (turned[0] == np.rot90(square[0], -1)).all() or (
        turned[0] == np.rot90(square[0], 1)
    ).all()


def scipy_affine(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    size = np.array([width, height])
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    places = np.stack([x, y], axis=-1) - (size - 1) / 2
    source = places @ affine[:, :2].T + affine[:, 2] * size + (size - 1) / 2
    return np.stack(
        [
            map_coordinates(
                image[..., channel],
                source[..., ::-1].transpose(2, 0, 1),
                order=1,
                mode="grid-constant",
            )
            for channel in range(channels)
        ],
        axis=-1,
    )


def test_resampling_equals_a_plain_reference(images):
    affine = sample_affine(uniform(SEEDS, 6), CLASSES, ALL).numpy()
    changed = transform(tf.constant(images), tf.constant(affine)).numpy()
    for before, after, matrix in zip(images, changed, affine, strict=True):
        exact = scipy_affine(before.astype(float), matrix.astype(float))
        assert np.abs(after - exact).max() < 1e-4
        # OpenCV interpolates on a grid of 1/32 px.
        assert np.abs(after - opencv_affine(before, matrix)).max() < 0.04
        assert np.abs(after - opencv_affine(before, matrix)).mean() < 0.002


def test_what_turns_into_view_is_black():
    white = tf.ones([1, 20, 20, 3])
    shifted = tf.constant([[[1.0, 0, 0.5], [0, 1, 0]]])
    result = transform(white, shifted).numpy()[0, :, :, 0]
    assert (result[:, :10] == 1).all()
    assert (result[:, 10:] == 0).all()


def test_bounds_are_kept():
    seeds = np.stack([np.zeros(4000), np.arange(4000)], axis=1).astype(np.int32)
    config = NOTHING.model_copy(update={"max_degrees": 30.0, "zoom": 0.2, "shift": 0.1})
    affine = sample_affine(uniform(seeds, 6), np.zeros(4000, int), config).numpy()
    scale = np.hypot(affine[:, 0, 0], affine[:, 0, 1])
    degrees = np.degrees(np.arctan2(affine[:, 1, 0], affine[:, 0, 0]))
    for values, low, high in (
        (scale, 0.8, 1.2),
        (degrees, -30, 30),
        (affine[:, 0, 2], -0.1, 0.1),
    ):
        span = high - low
        assert low - 1e-5 <= values.min() < low + 0.01 * span
        assert high - 0.01 * span < values.max() <= high + 1e-5
        assert abs(values.mean() - (low + high) / 2) < 0.02 * span


def test_color_follows_its_formula(images):
    draws = np.array([[0.9, 0.2, 0.7]] * 6, np.float32)
    changed = adjust_color(images, draws, CLASSES, ALL).numpy()
    mean = images.mean(axis=(1, 2), keepdims=True)
    expected = mean + (images - mean) * (1 + 0.8 * 0.2)
    grey = expected.mean(axis=3, keepdims=True)
    expected = grey + (expected - grey) * (1 - 0.6 * 0.2) + 0.4 * 0.1
    assert np.abs(changed - expected.clip(0, 1)).max() < 1e-5


def test_a_change_depends_on_its_seed_alone(images):
    whole = augment(images, SEEDS, CLASSES, ALL).numpy()
    part = augment(images[2:4], SEEDS[2:4], CLASSES[2:4], ALL).numpy()
    assert (whole[2:4] == part).all()
    same = augment(images[[0, 0]], SEEDS[[0, 1]], CLASSES[[0, 0]], ALL).numpy()
    assert (same[0] != same[1]).any()


def test_draws_are_uniform_and_independent():
    seeds = np.stack([np.full(20_000, 3), np.arange(20_000)], axis=1).astype(np.int32)
    draws = uniform(seeds, 4).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    histogram = [np.histogram(column, 10, (0, 1))[0] for column in draws.T]
    assert np.abs(np.array(histogram) - 2000).max() < 200
    correlation = np.corrcoef(np.column_stack([draws[:-1], draws[1:]]).T)
    assert np.abs(correlation - np.eye(8)).max() < 0.03


def split_mix(state: int) -> float:
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return ((state ^ (state >> 31)) >> 40) / 2**24


def test_draws_are_split_mixs():
    seeds = np.array([[-1, 2], [2**31 - 1, -5]], np.int32)
    expected = [
        [
            split_mix(((high << 32) + low + k * 0x9E3779B97F4A7C15) % 2**64)
            for k in (1, 2, 3)
        ]
        for high, low in seeds.view(np.uint32).tolist()
    ]
    assert uniform(seeds, 3).numpy().tolist() == expected


def test_each_class_has_its_own_bounds(images):
    changed = augment(images, SEEDS, CLASSES, BY_CLASS).numpy()
    for of_class in (0, 1):
        bounds = {name: value[of_class] for name, value in BY_CLASS}
        alone = augment(images, SEEDS, CLASSES, AugmentConfig(**bounds)).numpy()
        own = of_class == CLASSES
        assert np.abs(changed[own] - alone[own]).max() < 1e-6
        assert np.abs(changed[~own] - alone[~own]).max() > 0.1


def test_the_healthy_can_be_left_as_they_are(images):
    diseased_alone = NOTHING.model_copy(update={"max_degrees": (0.0, 180.0)})
    changed = augment(images, SEEDS, CLASSES, diseased_alone).numpy()
    same = [(a == b).all() for a, b in zip(changed, images, strict=True)]
    assert same == (CLASSES == 0).tolist()


@pytest.mark.parametrize("config", [ALL, BY_CLASS])
def test_xla_compiles_it_to_the_same_result(images, config):
    compiled = tf.function(lambda x, s, c: augment(x, s, c, config), jit_compile=True)
    eager = augment(images, SEEDS, CLASSES, config).numpy()
    assert np.abs(compiled(images, SEEDS, CLASSES).numpy() - eager).max() < 1e-4


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_gives_nearly_the_same(images, dtype):
    half = augment(tf.cast(images, dtype), SEEDS, CLASSES, ALL)
    assert half.dtype == dtype
    exact = augment(images, SEEDS, CLASSES, ALL)
    assert np.abs(tf.cast(half, tf.float32) - exact).max() < 0.05


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_an_even_image_keeps_its_color_in_half_precision(dtype):
    even = tf.fill([1, 224, 224, 3], tf.constant(0.9, dtype))
    config = NOTHING.model_copy(update={"contrast": 0.9})
    changed = augment(even, SEEDS[:1], CLASSES[:1], config)
    assert np.abs(tf.cast(changed - even, tf.float32)).max() < 0.005


@pytest.mark.parametrize("config", [ALL, BY_CLASS])
def test_every_op_has_a_gpu_kernel(config):
    function = tf.function(lambda *batch: augment(*batch, config))
    graph = function.get_concrete_function(
        tf.TensorSpec([None, 32, 32, 3]),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None], tf.int32),
    )
    lacking = {
        operation.type
        for operation in graph.graph.get_operations()
        if operation.type not in ("Placeholder", "NoOp")
        and not any(
            kernel.device_type in ("GPU", "DEFAULT")
            for kernel in kernels.get_registered_kernels_for_op(operation.type).kernel
        )
    }
    assert not lacking

import hashlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates
from tensorflow.python.framework import kernels

from drawing import draw_fundus
from drtf.config import AugmentConfig
from drtf.data.augment import (
    OPERATIONS,
    Color,
    Geometric,
    augment,
    counters,
    sample_affine,
    uniform,
)
from drtf.data.mixing import MIXES
from drtf.data.resampling import affine_map, compose, resample

NONE = AugmentConfig(**dict.fromkeys(AugmentConfig.model_fields, 0))
ALL = AugmentConfig(zoom=0.2, shift=0.1, brightness=0.1, contrast=0.2, saturation=0.2)
CLASSES = np.array([0, 1, 1, 0, 1, 0])
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
GEOMETRIC = [operation for operation in OPERATIONS if isinstance(operation, Geometric)]
# The first draw of each operation for SEEDS[1]; saved seeds must keep their meaning.
GOLDEN_DRAWS = {
    "horizontal_flip": 0.2190978,
    "vertical_flip": 0.9571915,
    "rotation": 0.9258457,
    "zoom": 0.8082715,
    "shift": 0.9881384,
    "contrast": 0.3997201,
    "saturation": 0.1616030,
    "brightness": 0.9867761,
}


def change_one(images, seeds=SEEDS, classes=CLASSES, **bounds):
    """Augment with the bounds given and no other operation."""
    return augment(images, seeds, classes, NONE.model_copy(update=bounds)).numpy()


def many_seeds(num_seeds):
    numbers = np.arange(num_seeds)
    return np.stack([np.zeros_like(numbers), numbers], axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def images():
    drawn = [cv2.resize(draw_fundus(seed=n, diseased=True), (40, 32)) for n in range(6)]
    return (np.stack(drawn) / 255).astype(np.float32)


def opencv_resample(image, affine):
    height, width = image.shape[:2]
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = affine[:, :2]
    shift = affine[:, 2] * height
    to_source = np.column_stack([matrix, center + shift - matrix @ center])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_source, (width, height), flags=flags)


def scipy_resample(image, affine):
    height, width, channels = image.shape
    center = (np.array([width, height]) - 1) / 2
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    points = np.stack([x, y], axis=-1) - center
    source = points @ affine[:, :2].T + affine[:, 2] * height + center
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


def test_images_are_unchanged_when_no_operation_is_allowed(images):
    assert (change_one(images) == images).all()


@pytest.mark.parametrize(
    ("setting", "mirror"),
    [("horizontal_flip", np.s_[:, ::-1]), ("vertical_flip", np.s_[::-1])],
)
def test_flip_mirrors_exactly(images, setting, mirror):
    changed = change_one(images, **{setting: True})
    flipped = (uniform(SEEDS, counters(setting))[:, 0] < 0.5).numpy()
    assert 0 < flipped.sum() < 6
    for before, after, is_flipped in zip(images, changed, flipped, strict=True):
        assert (after == (before[mirror] if is_flipped else before)).all()


def test_resample_is_exact_for_a_quarter_turn_of_a_square():
    square = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    quarter = affine_map(tf.zeros(1), -1, 1, 0)
    turned = resample(tf.constant(square), quarter).numpy()
    assert (turned[0] == np.rot90(square[0], 1)).all()


def test_resample_equals_scipy_and_opencv(images):
    affine = sample_affine(SEEDS, CLASSES, ALL, operations=GEOMETRIC).numpy()
    changed = resample(tf.constant(images), tf.constant(affine)).numpy()
    for before, after, matrix in zip(images, changed, affine, strict=True):
        exact = scipy_resample(before.astype(float), matrix.astype(float))
        assert np.abs(after - exact).max() < 1e-4
        # OpenCV interpolates on a grid of 1/32 px.
        assert np.abs(after - opencv_resample(before, matrix)).max() < 0.04
        assert np.abs(after - opencv_resample(before, matrix)).mean() < 0.002


def test_resample_fills_with_black_when_the_source_is_outside():
    white = tf.ones([1, 20, 20, 3])
    shifted = affine_map(tf.ones(1), 0, 0, 1, shift_x=0.5)
    result = resample(white, shifted).numpy()[0, :, :, 0]
    assert (result[:, :10] == 1).all()
    assert (result[:, 10:] == 0).all()


def test_compose_applies_the_inner_map_first():
    rng = np.random.default_rng(0)
    outer, inner = rng.random((2, 5, 2, 3), np.float32)
    points = rng.random((5, 2, 1), np.float32)

    def apply(affine, points):
        return affine[:, :, :2] @ points + affine[:, :, 2:]

    composed = compose(tf.constant(outer), tf.constant(inner)).numpy()
    expected = apply(outer, apply(inner, points))
    assert apply(composed, points) == pytest.approx(expected, abs=1e-5)


def test_geometric_operations_fill_their_bounds_and_keep_to_them():
    config = NONE.model_copy(update={"max_degrees": 30.0, "zoom": 0.2, "shift": 0.1})
    affine = sample_affine(
        many_seeds(4000), np.zeros(4000, int), config, operations=GEOMETRIC
    ).numpy()
    scale = np.hypot(affine[:, 0, 0], affine[:, 0, 1])
    degrees = np.degrees(np.arctan2(affine[:, 1, 0], affine[:, 0, 0]))
    for values, low, high in (
        (scale, 0.8, 1.2),
        (degrees, -30, 30),
        (affine[:, 0, 2], -0.1, 0.1),
        (affine[:, 1, 2], -0.1, 0.1),
    ):
        span = high - low
        assert low - 1e-5 <= values.min() < low + 0.01 * span
        assert high - 0.01 * span < values.max() <= high + 1e-5
        assert abs(values.mean() - (low + high) / 2) < 0.02 * span


def amounts(name, bound):
    return (2 * uniform(SEEDS, counters(name)).numpy() - 1)[..., None, None] * bound


def test_contrast_scales_the_distance_from_the_mean_of_the_channel(images):
    mean = images.mean(axis=(1, 2), keepdims=True)
    expected = mean + (images - mean) * (1 + amounts("contrast", 0.3))
    assert np.abs(change_one(images, contrast=0.3) - expected.clip(0, 1)).max() < 1e-5


def test_saturation_scales_the_distance_from_gray(images):
    gray = images.mean(axis=3, keepdims=True)
    expected = gray + (images - gray) * (1 + amounts("saturation", 0.3))
    assert np.abs(change_one(images, saturation=0.3) - expected.clip(0, 1)).max() < 1e-5


def test_brightness_is_added(images):
    expected = images + amounts("brightness", 0.3)
    assert np.abs(change_one(images, brightness=0.3) - expected.clip(0, 1)).max() < 1e-5


def test_colors_change_one_after_the_other_after_the_geometry(images):
    grayish = 0.25 + images / 2  # so that nothing is clipped in between
    bounds = {"contrast": 0.2, "saturation": 0.2, "brightness": 0.1}
    step = change_one(grayish, horizontal_flip=True)
    for name, bound in bounds.items():
        step = change_one(step, **{name: bound})
    together = change_one(grayish, horizontal_flip=True, **bounds)
    assert np.abs(together - step).max() < 1e-5


class WithDummy(AugmentConfig):
    dummy: float = 1.0


def unchanged_positions(draws, bound):
    ones = tf.ones_like(draws[:, 0])
    return affine_map(ones, 0, 0, ones)


def unchanged_colors(images, draws, bound):
    return images


@pytest.mark.parametrize("config", [ALL, BY_CLASS])
@pytest.mark.parametrize("place", range(len(OPERATIONS) + 1))
@pytest.mark.parametrize(
    "dummy",
    [
        Geometric("dummy", "dummy", unchanged_positions, num_draws=3),
        Color("dummy", "dummy", unchanged_colors),
    ],
)
def test_another_operation_changes_no_draws_of_the_others(images, config, place, dummy):
    operations = [*OPERATIONS[:place], dummy, *OPERATIONS[place:]]
    longer = WithDummy(**dict(config))
    changed = augment(images, SEEDS, CLASSES, longer, operations=operations).numpy()
    assert (changed == augment(images, SEEDS, CLASSES, config).numpy()).all()


@pytest.mark.parametrize("setting", [operation.setting for operation in OPERATIONS])
def test_an_operation_that_is_off_changes_no_draws_of_the_others(setting):
    received = {}

    def record(operation):
        def affine(draws, bound):
            received[operation.name] = draws.numpy()
            return unchanged_positions(draws, bound)

        return Geometric(operation.name, operation.setting, affine, operation.num_draws)

    recorders = [record(operation) for operation in OPERATIONS]
    sample_affine(SEEDS, CLASSES, ALL, operations=recorders)
    every = dict(received)
    received.clear()
    off = ALL.model_copy(update={setting: getattr(NONE, setting)})
    sample_affine(SEEDS, CLASSES, off, operations=recorders)
    assert len(received) == len(every) - 1
    for name, draws in received.items():
        assert (draws == every[name]).all()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_operation_is_in_the_configs_of_these_tests(operation):
    assert operation.name in GOLDEN_DRAWS
    for config in (ALL, BY_CLASS):
        assert np.any(getattr(config, operation.setting))


def test_names_of_operations_are_unique_and_settings_are_all_used():
    names = [operation.name for operation in (*OPERATIONS, *MIXES)]
    assert len(set(names)) == len(names)
    settings = {operation.setting for operation in OPERATIONS}
    settings |= {way.name for way in MIXES}
    assert settings == AugmentConfig.model_fields.keys()


def test_changes_depend_only_on_the_seed(images):
    whole = augment(images, SEEDS, CLASSES, ALL).numpy()
    part = augment(images[2:4], SEEDS[2:4], CLASSES[2:4], ALL).numpy()
    assert (whole[2:4] == part).all()
    same = augment(images[[0, 0]], SEEDS[[0, 1]], CLASSES[[0, 0]], ALL).numpy()
    assert (same[0] != same[1]).any()


def test_draws_are_uniform_and_independent():
    names = [operation.name for operation in OPERATIONS]
    numbers = np.concatenate([*map(counters, names), counters("shift", 2)[1:]])
    draws = uniform(many_seeds(20_000), numbers).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    histogram = [np.histogram(column, 10, (0, 1))[0] for column in draws.T]
    assert np.abs(np.array(histogram) - 2000).max() < 200
    correlation = np.corrcoef(np.column_stack([draws[:-1], draws[1:]]).T)
    assert np.abs(correlation - np.eye(2 * len(numbers))).max() < 0.03


def split_mix(state):
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return ((state ^ (state >> 31)) >> 40) / 2**24


def test_draws_are_those_of_splitmix64():
    seeds = np.array([[-1, 2], [2**31 - 1, -5]], np.int32)
    start = int(hashlib.sha256(b"zoom").hexdigest()[:16], 16)
    expected = [
        [
            split_mix(((high << 32) + low + start + k * 0x9E3779B97F4A7C15) % 2**64)
            for k in (1, 2, 3)
        ]
        for high, low in seeds.view(np.uint32).tolist()
    ]
    assert uniform(seeds, counters("zoom", 3)).numpy().tolist() == expected


def test_golden_draws_of_each_operation():
    draws = {
        operation.name: uniform(SEEDS[1:2], counters(operation.name)).numpy().item()
        for operation in OPERATIONS
    }
    assert draws == pytest.approx(GOLDEN_DRAWS, abs=1e-7)


def test_each_class_has_its_own_bounds_when_bounds_are_lists(images):
    changed = augment(images, SEEDS, CLASSES, BY_CLASS).numpy()
    for number in (0, 1):
        bounds = {x.setting: getattr(BY_CLASS, x.setting)[number] for x in OPERATIONS}
        same_for_all = augment(images, SEEDS, CLASSES, AugmentConfig(**bounds)).numpy()
        own = number == CLASSES
        assert np.abs(changed[own] - same_for_all[own]).max() < 1e-6
        assert np.abs(changed[~own] - same_for_all[~own]).max() > 0.1


def test_a_class_is_unchanged_when_its_bounds_are_zero(images):
    changed = change_one(images, max_degrees=(0.0, 180.0))
    same = [(a == b).all() for a, b in zip(changed, images, strict=True)]
    assert same == (CLASSES == 0).tolist()


@pytest.mark.parametrize("config", [ALL, BY_CLASS])
def test_xla_gives_the_same_result(images, config):
    compiled = tf.function(lambda x, s, c: augment(x, s, c, config), jit_compile=True)
    eager = augment(images, SEEDS, CLASSES, config).numpy()
    assert np.abs(compiled(images, SEEDS, CLASSES).numpy() - eager).max() < 1e-4


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_gives_nearly_the_same_result(images, dtype):
    half = augment(tf.cast(images, dtype), SEEDS, CLASSES, ALL)
    assert half.dtype == dtype
    exact = augment(images, SEEDS, CLASSES, ALL)
    assert np.abs(tf.cast(half, tf.float32) - exact).max() < 0.05


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_a_uniform_image_keeps_its_color_in_half_precision(dtype):
    even = tf.fill([1, 224, 224, 3], tf.constant(0.9, dtype))
    config = NONE.model_copy(update={"contrast": 0.9})
    changed = augment(even, SEEDS[:1], CLASSES[:1], config)
    assert np.abs(tf.cast(changed - even, tf.float32)).max() < 0.005


@pytest.mark.parametrize("config", [ALL, BY_CLASS])
def test_every_tensorflow_op_has_a_gpu_kernel(config):
    function = tf.function(lambda *batch: augment(*batch, config))
    graph = function.get_concrete_function(
        tf.TensorSpec([None, 32, 32, 3]),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None], tf.int64),
    )
    missing = {
        operation.type
        for operation in graph.graph.get_operations()
        if operation.type not in ("Placeholder", "NoOp")
        and not any(
            kernel.device_type in ("GPU", "DEFAULT")
            for kernel in kernels.get_registered_kernels_for_op(operation.type).kernel
        )
    }
    assert not missing

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from drtf.config import AugmentConfig
from drtf.data.augment import counters, uniform
from drtf.data.mixing import MIXES, NUM_QUANTILES, beta_draws, mix

SEEDS = np.stack([np.full(6, 7), np.arange(6)], axis=1).astype(np.int32)
# The first draw of each mix for SEEDS[1]; saved seeds must keep their meaning.
GOLDEN_DRAWS = {"mixup": 0.5072851, "balanced_mixup": 0.9611417, "cutmix": 0.8896733}


def draws_of(name, num_draws=1):
    return uniform(SEEDS, counters(name, num_draws)).numpy()


def quantiles(draws, a, b):
    """Return the quantiles of a beta distribution that a table of them gives."""
    middles = (np.floor(draws * NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    return stats.beta.ppf(middles, a, b)


@pytest.fixture(scope="module")
def pairs():
    """Random images with their partners, each float32 [6, 8, 12, 3]."""
    return np.random.default_rng(0).random((2, 6, 8, 12, 3), np.float32)


@pytest.mark.parametrize("way", MIXES, ids=lambda way: way.name)
def test_each_mix_has_draws_of_its_own(way):
    assert way.name in AugmentConfig.model_fields
    assert draws_of(way.name)[1, 0] == pytest.approx(GOLDEN_DRAWS[way.name], abs=1e-7)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (1, 1), (0.1, 1)])
def test_beta_draws_have_the_distribution(a, b):
    draws = np.random.default_rng(0).random(20_000, np.float32)
    values = beta_draws(draws, a, b).numpy()
    assert values.dtype == np.float32
    assert values == pytest.approx(quantiles(draws, a, b), abs=1e-6)
    assert values.mean() == pytest.approx(a / (a + b), abs=0.01)


@pytest.mark.parametrize(("name", "other"), [("mixup", 0.4), ("balanced_mixup", 1.0)])
def test_mixup_adds_weighted_pixels(pairs, name, other):
    mixed, fractions = mix(*pairs, SEEDS, AugmentConfig(**{name: 0.4}))
    expected = quantiles(draws_of(name)[:, 0], 0.4, other)
    assert fractions.numpy() == pytest.approx(expected, abs=1e-6)
    weights = expected[:, None, None, None]
    images = (1 - weights) * pairs[0] + weights * pairs[1]
    np.testing.assert_allclose(mixed, images, atol=1e-6)


def test_cutmix_pastes_a_rectangle_of_the_drawn_area(pairs):
    mixed, fractions = mix(*pairs, SEEDS, AugmentConfig(cutmix=1.0))
    draws = draws_of("cutmix", 3)
    sides = np.sqrt(quantiles(draws[:, 0], 1, 1))
    for number, side in enumerate(sides):
        y, x = np.mgrid[0.5:8, 0.5:12]
        inside = np.abs(y / 8 - draws[number, 1]) < side / 2
        inside &= np.abs(x / 12 - draws[number, 2]) < side / 2
        expected = np.where(inside[..., None], pairs[1, number], pairs[0, number])
        assert (mixed[number].numpy() == expected).all()
        assert float(fractions[number]) == pytest.approx(inside.mean(), abs=1e-6)
    assert len(np.unique(fractions)) > 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "settings", [{"mixup": 1}, {"balanced_mixup": 1}, {"cutmix": 1, "mixup": 1}]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_label_is_mixed_as_the_pixels_are(dtype, settings, compiled):
    config = AugmentConfig(**settings)
    call = tf.function(lambda *args: mix(*args, config), jit_compile=compiled)
    images = tf.zeros((6, 16, 16, 3), dtype)
    mixed, fractions = call(images, images + 1, SEEDS)
    assert (mixed.dtype, fractions.dtype) == (images.dtype, tf.float32)
    means = tf.reduce_mean(tf.cast(mixed, tf.float32), axis=[1, 2, 3])
    assert fractions.numpy() == pytest.approx(means.numpy(), abs=1e-2)
    if dtype == "float32":
        assert fractions.numpy() == pytest.approx(means.numpy(), abs=1e-6)


def test_an_image_is_mixed_in_the_same_way_in_any_batch(pairs):
    config = AugmentConfig(mixup=0.4, cutmix=1.0)
    mixed, fractions = mix(*pairs, SEEDS, config)
    part, part_fractions = mix(*pairs[:, 2:4], SEEDS[2:4], config)
    assert (part.numpy() == mixed[2:4].numpy()).all()
    assert (part_fractions.numpy() == fractions[2:4].numpy()).all()

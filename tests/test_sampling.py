import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtf.config import SamplingConfig
from drtf.data.sampling import count_draws, plan_epoch, plan_windows
from drtf.errors import ConfigError
from naming import raises_naming

BALANCED = SamplingConfig(mode="balanced")
NATURAL = SamplingConfig(mode="natural")

class_lists = st.lists(st.integers(0, 2), min_size=1, max_size=200).map(np.array)
GOLDEN_BALANCED = [4, 6, 2, 3, 7, 6, 5, 3, 1, 6, 0, 3]
GOLDEN_NATURAL = [4, 1, 3, 2, 7, 0, 6, 5]

GOLDEN_WINDOWS = [7, 6, 1, 6, 0, 6, 5, 3, 2, 3, 4, 3]

seeds = st.integers(0, 2**32 - 1)


@st.composite
def sharded_classes(draw):
    """Classes of examples, and the shard of each."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    shard_numbers = np.repeat(np.arange(len(sizes)) + 3, sizes)
    size = len(shard_numbers)
    classes = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    return np.array(classes), shard_numbers


def windowed(mode, window_shards):
    return SamplingConfig(mode=mode, window_shards=window_shards)


def test_the_golden_order_of_an_epoch():
    classes = np.array([0, 0, 0, 1, 0, 0, 1, 0])
    order = plan_epoch(classes, BALANCED, seed=42, epoch=0)
    assert order.tolist() == GOLDEN_BALANCED
    assert plan_epoch(classes, NATURAL, seed=42, epoch=3).tolist() == GOLDEN_NATURAL
    order = plan_epoch(
        classes,
        windowed("balanced", 2),
        seed=42,
        epoch=0,
        shard_numbers=np.array([0, 0, 1, 1, 2, 2, 3, 3]),
    )
    assert order.tolist() == GOLDEN_WINDOWS


def test_the_notebooks_epoch_has_41294_photographs():
    assert count_draws(np.array([20_647, 7_453]), BALANCED) == [20_647, 20_647]


@given(class_lists, seeds, st.integers(0, 1000))
def test_natural_is_a_permutation(classes, seed, epoch):
    order = plan_epoch(classes, NATURAL, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(len(classes)))


@given(class_lists, seeds, st.integers(0, 1000))
def test_balanced_uses_each_photograph_of_a_class_equally_often(classes, seed, epoch):
    order = plan_epoch(classes, BALANCED, seed=seed, epoch=epoch)
    uses = np.bincount(order, minlength=len(classes))
    counts = np.bincount(classes)
    largest = counts.max()
    for number, count in enumerate(counts):
        own = uses[classes == number]
        if count == largest:
            assert (own == 1).all()
        elif count:
            assert own.sum() == largest
            assert set(own) <= {largest // count, -(-largest // count)}


@given(class_lists, seeds, st.integers(1, 64))
def test_every_batch_has_each_class_in_its_fraction(classes, seed, batch_size):
    order = plan_epoch(classes, BALANCED, seed=seed, epoch=0)
    drawn = classes[order]
    num_classes = len(np.unique(classes))
    for start in range(0, len(order), batch_size):
        batch = drawn[start : start + batch_size]
        for number in np.unique(classes):
            assert abs((batch == number).sum() - len(batch) / num_classes) < 2


@given(class_lists, seeds)
def test_no_photograph_comes_twice_in_a_row_within_its_class(classes, seed):
    order = plan_epoch(classes, BALANCED, seed=seed, epoch=0)
    for number in np.unique(classes):
        own = order[classes[order] == number]
        if (classes == number).sum() > 1:
            assert (np.diff(own) != 0).all()


def test_a_pass_over_the_minority_is_complete_before_the_next_one_starts():
    classes = np.array([0] * 30 + [1] * 7)
    order = plan_epoch(classes, BALANCED, seed=5, epoch=2)
    own = order[classes[order] == 1]
    for start in range(0, 28, 7):
        assert sorted(own[start : start + 7]) == list(range(30, 37))


@given(seeds)
def test_other_epochs_and_seeds_give_other_orders(seed):
    classes = np.array([0, 1] * 50)
    first = plan_epoch(classes, BALANCED, seed=seed, epoch=0)
    assert (first != plan_epoch(classes, BALANCED, seed=seed, epoch=1)).any()
    assert (first != plan_epoch(classes, BALANCED, seed=seed + 1, epoch=0)).any()


def test_weights_set_the_fractions_and_lose_no_photograph():
    classes = np.array([0] * 90 + [1] * 10)
    config = SamplingConfig(mode="weights", weights=(3.0, 1.0))
    order = plan_epoch(classes, config, seed=0, epoch=0)
    assert np.bincount(classes[order]).tolist() == [90, 30]
    assert len(np.unique(order)) == 100


def test_a_class_is_left_out_when_its_weight_is_zero():
    classes = np.array([0] * 9 + [1] * 3)
    config = SamplingConfig(mode="weights", weights=(0.0, 1.0))
    assert sorted(plan_epoch(classes, config, seed=0, epoch=0)) == [9, 10, 11]


def test_weights_are_refused_when_they_make_the_epoch_too_long():
    config = SamplingConfig(mode="weights", weights=(1.0, 1e-10))
    with raises_naming(ConfigError, "sampling.weights", "1e+10", 2):
        plan_epoch(np.array([0, 1]), config, seed=0, epoch=0)


@pytest.mark.parametrize("weights", [(), (1.0,), (0.0, 0.0)])
def test_weights_are_refused_when_they_do_not_fit_the_classes(weights):
    config = SamplingConfig(mode="weights", weights=weights)
    with raises_naming(ConfigError, "sampling.weights", 2, list(weights)):
        plan_epoch(np.array([0, 1]), config, seed=0, epoch=0)


def test_weights_are_allowed_for_a_class_without_photographs():
    classes = np.array([0, 0, 0, 1, 1, 2])
    config = SamplingConfig(mode="weights", weights=(1, 1, 1, 1, 1))
    order = plan_epoch(classes, config, seed=0, epoch=0)
    assert np.bincount(classes[order]).tolist() == [3, 3, 3]


@given(
    sharded_classes(),
    seeds,
    st.integers(1, 14),
    st.sampled_from(["natural", "balanced"]),
)
def test_windows_draw_each_photograph_as_often_as_the_whole(
    sharded, seed, window_shards, mode
):
    classes, shard_numbers = sharded
    config = windowed(mode, window_shards)
    order = plan_epoch(classes, config, seed=seed, epoch=2, shard_numbers=shard_numbers)
    uses = np.bincount(order, minlength=len(classes))
    counts = np.bincount(classes)
    draws = count_draws(counts, config)
    for number, count in enumerate(counts):
        own = uses[classes == number]
        assert own.sum() == draws[number]
        if count:
            assert own.min() >= 1
        if draws[number] == count:
            assert (own == 1).all()
    windows = plan_windows(np.unique(shard_numbers), window_shards, seed=seed, epoch=2)
    start = 0
    for window in windows:
        assert len(window) <= window_shards
        inside = np.isin(shard_numbers, window)
        stop = start + uses[inside].sum()
        drawn = order[start:stop]
        assert np.isin(shard_numbers[drawn], window).all()
        # Each photograph of a class is drawn equally often within the window, and the
        # classes are interleaved evenly.
        for number in np.unique(classes[inside]):
            own = uses[inside & (classes == number)]
            assert own.max() - own.min() <= 1
            half = drawn[: len(drawn) // 2]
            assert abs((classes[half] == number).sum() - own.sum() / 2) < 2
        start = stop
    assert start == len(order)


@given(sharded_classes(), seeds)
def test_a_window_of_all_shards_is_the_order_without_windows(sharded, seed):
    classes, shard_numbers = sharded
    whole = plan_epoch(classes, BALANCED, seed=seed, epoch=1)
    config = windowed("balanced", 12)
    order = plan_epoch(classes, config, seed=seed, epoch=1, shard_numbers=shard_numbers)
    assert (order == whole).all()


def test_windows_change_with_each_epoch_and_are_equally_large():
    shards = np.arange(10)
    windows = [plan_windows(shards, 4, seed=1, epoch=epoch) for epoch in (0, 0, 1)]
    assert [len(window) for window in windows[0]] == [4, 3, 3]
    joined = [np.concatenate(x).tolist() for x in windows]
    assert joined[0] == joined[1] != joined[2]
    assert sorted(joined[2]) == shards.tolist()


def test_windows_require_the_shard_of_each_example():
    with raises_naming(ValueError, "sampling.window_shards"):
        plan_epoch(np.array([0, 1]), windowed("natural", 1), seed=0, epoch=0)

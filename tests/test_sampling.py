import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtf.config import SamplingConfig
from drtf.data.sampling import count_draws, plan_epoch
from drtf.errors import ConfigError
from naming import raises_naming

BALANCED = SamplingConfig(mode="balanced")
NATURAL = SamplingConfig(mode="natural")

class_lists = st.lists(st.integers(0, 2), min_size=1, max_size=200).map(np.array)
GOLDEN_BALANCED = [4, 6, 2, 3, 7, 6, 5, 3, 1, 6, 0, 3]
GOLDEN_NATURAL = [4, 1, 3, 2, 7, 0, 6, 5]

seeds = st.integers(0, 2**32 - 1)


def test_the_golden_order_of_an_epoch():
    classes = np.array([0, 0, 0, 1, 0, 0, 1, 0])
    order = plan_epoch(classes, BALANCED, seed=42, epoch=0)
    assert order.tolist() == GOLDEN_BALANCED
    assert plan_epoch(classes, NATURAL, seed=42, epoch=3).tolist() == GOLDEN_NATURAL


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

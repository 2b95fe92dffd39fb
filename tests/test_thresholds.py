import itertools

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_curve

from drawing import draw_scores
from drtf.evaluation.thresholds import choose_cut_points, choose_threshold
from drtf.tasks import classes_at


@pytest.mark.parametrize("bound", [0.07, 0.55, 0.93])
def test_rule_reaches_its_bound_exactly(bound):
    y_score = np.arange(200) / 200
    y_true = np.repeat([0, 1], 100)
    value = choose_threshold(y_true, y_score, f"sensitivity>={bound}")
    assert (y_score >= value)[y_true == 1].sum() == round(100 * bound)
    value = choose_threshold(y_true, y_score, f"specificity>={bound}")
    assert (y_score < value)[y_true == 0].sum() == round(100 * bound)


@pytest.mark.parametrize("bound", [0.5, 0.85, 1.0])
def test_rule_takes_the_nearest_threshold_to_its_bound(bound):
    y_true, y_score, _ = draw_scores()
    value = choose_threshold(y_true, y_score, f"sensitivity>={bound}")
    assert (y_score >= value)[y_true == 1].mean() >= bound
    higher = y_score >= min(y_score[y_score > value + 0.005])
    assert higher[y_true == 1].mean() < bound
    value = choose_threshold(y_true, y_score, f"specificity>={bound}")
    assert (y_score < value)[y_true == 0].mean() >= bound
    lower = y_score < max(y_score[y_score < value - 0.005])
    assert lower[y_true == 0].mean() < bound


def test_unreachable_specificity_gives_the_highest_threshold():
    y_true, y_score = np.array([0, 0, 1]), np.array([0.2, 1.0, 1.0])
    assert choose_threshold(y_true, y_score, "specificity>=0.9") == 1.0


def test_youden_maximizes_sensitivity_plus_specificity():
    y_true, y_score, _ = draw_scores()
    false_positive, true_positive, _ = roc_curve(y_true, y_score)
    value = choose_threshold(y_true, y_score, "youden")
    predicted = y_score >= value
    reached = predicted[y_true == 1].mean() - predicted[y_true == 0].mean()
    assert reached == pytest.approx((true_positive - false_positive).max())


def test_accuracy_reproduces_the_sweep_of_the_notebook():
    y_true, y_score, _ = draw_scores()
    sweep = [0.30 + 0.01 * step for step in range(41)]
    accuracy = [((y_score >= round(value, 2)) == y_true).mean() for value in sweep]
    expected = round(sweep[int(np.argmax(accuracy))], 2)
    assert choose_threshold(y_true, y_score, "accuracy") == expected


def test_number_is_used_as_the_threshold():
    y_true, y_score, _ = draw_scores()
    assert choose_threshold(y_true, y_score, 0.37) == 0.37


def kappa_at(cut_points, grades, expected):
    predicted = classes_at(expected, cut_points)
    return cohen_kappa_score(grades, predicted, labels=range(5), weights="quadratic")


@pytest.mark.parametrize("seed", range(5))
def test_no_cut_points_have_a_higher_kappa_than_the_chosen_ones(seed):
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, 11, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    grades[:2] = 0, 1
    expected = np.clip(grades + rng.normal(0, 1.2, 11), 0.1, 3.9).round(1)
    found = choose_cut_points(grades, expected.astype(np.float32))
    values = np.unique(expected)
    edges = [0, *(values[1:] + values[:-1]) / 2, 4]
    every = itertools.combinations_with_replacement(edges, 4)
    best = max(kappa_at(cut_points, grades, expected) for cut_points in every)
    assert kappa_at(found, grades, expected) == pytest.approx(best)
    assert list(found) == sorted(found)


def test_cut_points_separate_grades_that_are_in_order():
    grades = np.arange(50) % 5
    found = choose_cut_points(grades, np.float32(0.2) * grades)
    assert found == pytest.approx([0.1, 0.3, 0.5, 0.7])


def test_cut_points_leave_out_a_grade_that_does_not_occur():
    found = choose_cut_points(np.array([0, 0, 2, 2]), np.array([0.1, 0.2, 0.9, 1.0]))
    assert found == pytest.approx([0.55, 0.55, 4, 4])

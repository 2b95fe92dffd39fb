import numpy as np
import pytest
from sklearn.metrics import roc_curve

from drawing import draw_scores
from drtf.inference.thresholds import choose_threshold


@pytest.mark.parametrize("share", [0.07, 0.55, 0.93])
def test_a_rule_takes_what_it_asks_for_to_the_last_digit(share):
    scores = np.arange(200) / 200
    truth = np.repeat([0, 1], 100)
    value = choose_threshold(truth, scores, f"sensitivity>={share}")
    assert (scores >= value)[truth == 1].sum() == round(100 * share)
    value = choose_threshold(truth, scores, f"specificity>={share}")
    assert (scores < value)[truth == 0].sum() == round(100 * share)


@pytest.mark.parametrize("least", [0.5, 0.85, 1.0])
def test_a_rule_keeps_the_least_that_it_asks_for_and_no_more(least):
    truth, scores, _ = draw_scores()
    value = choose_threshold(truth, scores, f"sensitivity>={least}")
    assert (scores >= value)[truth == 1].mean() >= least
    higher = scores >= min(scores[scores > value + 0.005])
    assert higher[truth == 1].mean() < least
    value = choose_threshold(truth, scores, f"specificity>={least}")
    assert (scores < value)[truth == 0].mean() >= least
    lower = scores < max(scores[scores < value - 0.005])
    assert lower[truth == 0].mean() < least


def test_a_specificity_that_no_score_reaches_gets_the_highest_threshold():
    truth, scores = np.array([0, 0, 1]), np.array([0.2, 1.0, 1.0])
    assert choose_threshold(truth, scores, "specificity>=0.9") == 1.0


def test_youden_finds_the_best_sum_of_sensitivity_and_specificity():
    truth, scores, _ = draw_scores()
    false_positive, true_positive, _ = roc_curve(truth, scores)
    value = choose_threshold(truth, scores, "youden")
    decisions = scores >= value
    reached = decisions[truth == 1].mean() - decisions[truth == 0].mean()
    assert reached == pytest.approx((true_positive - false_positive).max())


def test_accuracy_is_the_notebooks_sweep():
    truth, scores, _ = draw_scores()
    sweep = [0.30 + 0.01 * step for step in range(41)]
    accuracy = [((scores >= round(value, 2)) == truth).mean() for value in sweep]
    expected = round(sweep[int(np.argmax(accuracy))], 2)
    assert choose_threshold(truth, scores, "accuracy") == expected


def test_a_number_is_its_own_threshold():
    truth, scores, _ = draw_scores()
    assert choose_threshold(truth, scores, 0.37) == 0.37

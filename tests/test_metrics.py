import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from drtf.inference.metrics import (
    Estimate,
    choose_threshold,
    compare_roc_auc,
    format_interval,
    format_value,
    measure,
    measure_grades,
    measure_mean_roc_auc,
    weighted_chances,
    weighted_metrics,
)


def sample(num=400, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, num)
    # Two decimals make ties.
    scores = np.clip(0.3 * truth + rng.random(num) * 0.7, 0, 1).round(2)
    patients = np.repeat(np.arange(num // 2), 2)
    return truth, scores, patients


def find_calibration_error(truth, scores, weights):
    """Sum over bins of a 15th what their scores and truths differ by."""
    edges = np.linspace(0, 1, 16)[1:-1]
    error = 0.0
    for number in range(15):
        chosen = np.digitize(scores, edges) == number
        share = weights[chosen].sum() / weights.sum()
        if share:
            means = (
                np.average(x[chosen], weights=weights[chosen]) for x in (scores, truth)
            )
            error += share * abs(np.subtract(*means))
    return error


@pytest.mark.parametrize("seed", range(4))
def test_weighted_metrics_equal_scikit_learns(seed):
    truth, scores, _ = sample(seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 400)).astype(np.float32)
    found = weighted_metrics(truth, scores, weights, threshold=0.5)
    found |= weighted_chances(truth, scores, weights)
    decisions = (scores >= 0.5).astype(int)
    for row, weight in enumerate(weights):
        w = {"sample_weight": weight}
        expected = {
            "roc_auc": reference.roc_auc_score(truth, scores, **w),
            "average_precision": reference.average_precision_score(truth, scores, **w),
            "accuracy": reference.accuracy_score(truth, decisions, **w),
            "balanced_accuracy": reference.balanced_accuracy_score(
                truth, decisions, **w
            ),
            "sensitivity": reference.recall_score(truth, decisions, **w),
            "specificity": reference.recall_score(truth, decisions, pos_label=0, **w),
            "precision": reference.precision_score(truth, decisions, **w),
            "f1": reference.f1_score(truth, decisions, **w),
            "negative_predictive_value": reference.precision_score(
                truth, decisions, pos_label=0, **w
            ),
            "f1_negative": reference.f1_score(truth, decisions, pos_label=0, **w),
            "f1_macro": reference.f1_score(truth, decisions, average="macro", **w),
            "f1_weighted": reference.f1_score(
                truth, decisions, average="weighted", **w
            ),
            "cohen_kappa": reference.cohen_kappa_score(truth, decisions, **w),
            "brier_score": reference.brier_score_loss(truth, scores, **w),
            "log_loss": reference.log_loss(truth, scores, **w),
            "expected_calibration_error": find_calibration_error(truth, scores, weight),
        }
        false_positive, true_positive, _ = reference.roc_curve(
            truth, scores, drop_intermediate=False, **w
        )
        for least in (0.8, 0.9, 0.95):
            expected[f"sensitivity_at_specificity_{least:.2f}"] = max(
                true_positive[1 - false_positive >= least - 1e-9]
            )
            expected[f"specificity_at_sensitivity_{least:.2f}"] = max(
                1 - false_positive[true_positive >= least - 1e-9]
            )
        assert {name: values[row] for name, values in found.items()} == pytest.approx(
            expected, abs=1e-6
        )


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=30
    ).filter(lambda rows: len({truth for truth, _ in rows}) == 2)
)
def test_roc_auc_equals_scikit_learns_however_many_ties(rows):
    truth, scores = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 5
    weights = np.ones((1, len(truth)), np.float32)
    found = weighted_metrics(truth, scores, weights, threshold=0.5)["roc_auc"][0]
    assert found == pytest.approx(reference.roc_auc_score(truth, scores))


def test_the_notebooks_confusion_matrix_gives_its_figures():
    truth = np.repeat([0, 0, 1, 1], [4958, 205, 1398, 465])
    scores = np.repeat([0.0, 1.0, 0.0, 1.0], [4958, 205, 1398, 465])
    weights = np.ones((1, len(truth)), np.float32)
    found = weighted_metrics(truth, scores, weights, threshold=0.5)
    assert round(found["accuracy"][0], 4) == 0.7718
    assert round(found["sensitivity"][0], 3) == 0.250
    assert round(found["specificity"][0], 3) == 0.960


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    truth, scores, patients = sample()
    common = {"threshold": 0.5, "patients": patients, "num_resamples": 300}
    first = measure(truth, scores, seed=1, **common)
    assert first == measure(truth, scores, seed=1, **common)
    assert first["roc_auc"] != measure(truth, scores, seed=2, **common)["roc_auc"]
    for estimate in first.values():
        assert estimate.ci_low < estimate.value < estimate.ci_high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 150)
        scores = np.where(rng.random(150) < 0.8, truth, 1 - truth).astype(float)
        estimate = measure(
            truth,
            scores,
            threshold=0.5,
            patients=np.arange(150),
            num_resamples=200,
            seed=seed,
        )["accuracy"]
        covered += estimate.ci_low <= 0.8 <= estimate.ci_high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_bootstrap_takes_patients_whole():
    truth, scores, _ = sample(100)
    doubled_truth, doubled_scores = np.repeat(truth, 8), np.repeat(scores, 8)
    patients = np.repeat(np.arange(100), 8)
    common = {"threshold": 0.5, "num_resamples": 500, "seed": 0}
    whole = measure(truth, scores, patients=np.arange(100), **common)["accuracy"]
    copies = measure(doubled_truth, doubled_scores, patients=patients, **common)
    naive = measure(doubled_truth, doubled_scores, patients=np.arange(800), **common)

    def width(estimate: Estimate) -> float:
        return estimate.ci_high - estimate.ci_low

    assert width(copies["accuracy"]) == pytest.approx(width(whole), rel=0.05)
    assert width(naive["accuracy"]) < 0.5 * width(whole)


def test_what_is_undefined_is_said_and_not_made_up():
    truth, scores = np.array([1, 1, 1]), np.array([0.2, 0.6, 0.9])
    found = measure(
        truth,
        scores,
        threshold=0.5,
        patients=np.arange(3),
        num_resamples=100,
        seed=0,
    )
    assert np.isnan(found["roc_auc"].value)
    assert np.isnan(found["specificity"].value)
    assert found["sensitivity"].value == pytest.approx(2 / 3)
    assert format_value(found["roc_auc"].value) == "undefined"
    assert format_interval(found["roc_auc"]) == ""


def test_grades_are_measured_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, 300)
    decided = np.clip(grades + rng.integers(-1, 2, 300), 0, 4)
    found = measure_grades(
        grades, decided, patients=np.arange(300) // 2, num_resamples=200, seed=0
    )
    expected = {
        "grades_accuracy": reference.accuracy_score(grades, decided),
        "grades_quadratic_kappa": reference.cohen_kappa_score(
            grades, decided, weights="quadratic"
        ),
    }
    recalls = reference.recall_score(grades, decided, average=None)
    expected |= {f"grades_recall_{grade}": x for grade, x in enumerate(recalls)}
    assert {name: found[name].value for name in found} == pytest.approx(expected)
    assert all(x.ci_low < x.value < x.ci_high for x in found.values())


def test_grades_without_a_mistake_have_exact_intervals():
    grades = np.repeat([0, 2, 4], 20)
    found = measure_grades(
        grades, grades, patients=np.arange(60) // 2, num_resamples=50, seed=0
    )
    names = ["grades_accuracy", *(f"grades_recall_{grade}" for grade in (0, 2, 4))]
    assert [*found] == [*names, "grades_quadratic_kappa"]
    # Of ten patients, whose smallest share that all might come from is 0.025 ** 0.1.
    assert found["grades_recall_2"].ci_low == pytest.approx(0.025**0.1)
    assert found["grades_recall_2"].ci_high == 1


def test_where_no_mistake_was_made_the_interval_still_has_a_width():
    truth = np.repeat([0, 1], [40, 20])
    scores = np.where(truth == 1, 0.9, 0.1)
    patients = np.arange(60) // 2  # 20 healthy patients and 10 diseased
    found = measure(
        truth,
        scores,
        threshold=0.5,
        patients=patients,
        num_resamples=100,
        seed=0,
        grades=truth * 2,
    )
    for name, num in {
        "sensitivity": 10,
        "specificity": 20,
        "precision": 10,
        "negative_predictive_value": 20,
        "accuracy": 30,
        "recall_grade_0": 20,
        "recall_grade_2": 10,
        "sensitivity_at_specificity_0.95": 10,
        "specificity_at_sensitivity_0.80": 20,
    }.items():
        # Where all n are right, n * log(bound) = log(0.025).
        expected = Estimate(1.0, pytest.approx(0.025 ** (1 / num)), 1.0)
        assert found[name] == expected
    area = found["roc_auc"]
    assert (area.value, area.ci_high) == (1.0, 1.0)
    low = area.ci_low
    spread = 1 + 14 * ((1 - low) / (2 - low) + low / (1 + low))
    error = np.sqrt(low * (1 - low) * spread / (10 * 20))
    assert 1 - low == pytest.approx(1.959964 * error, abs=1e-6)
    for name in ("average_precision", "f1", "cohen_kappa", "balanced_accuracy"):
        assert found[name].value == 1
        assert np.isnan([found[name].ci_low, found[name].ci_high]).all(), name
    common = {"patients": patients, "num_resamples": 100, "seed": 0}
    both = np.stack([scores, scores])
    assert measure_mean_roc_auc(truth, both, **common) == area
    assert [x for x, _, _ in compare_roc_auc(truth, both, **common)] == [area, area]


def test_the_recall_of_each_grade_is_the_share_decided_rightly():
    truth, scores, patients = sample()
    grades = np.where(truth == 1, 1 + np.arange(400) % 4, 0)
    found = measure(
        truth,
        scores,
        threshold=0.5,
        patients=patients,
        num_resamples=100,
        seed=0,
        grades=grades,
    )
    for grade in range(5):
        chosen = grades == grade
        expected = ((scores >= 0.5) == (grade > 0))[chosen].mean()
        estimate = found[f"recall_grade_{grade}"]
        assert estimate.value == pytest.approx(expected)
        assert estimate.ci_low < estimate.value < estimate.ci_high


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
    truth, scores, _ = sample()
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
    truth, scores, _ = sample()
    false_positive, true_positive, _ = reference.roc_curve(truth, scores)
    value = choose_threshold(truth, scores, "youden")
    decisions = scores >= value
    reached = decisions[truth == 1].mean() - decisions[truth == 0].mean()
    assert reached == pytest.approx((true_positive - false_positive).max())


def test_accuracy_is_the_notebooks_sweep():
    truth, scores, _ = sample()
    sweep = [0.30 + 0.01 * step for step in range(41)]
    accuracy = [((scores >= round(value, 2)) == truth).mean() for value in sweep]
    expected = round(sweep[int(np.argmax(accuracy))], 2)
    assert choose_threshold(truth, scores, "accuracy") == expected


def test_a_number_is_its_own_threshold():
    truth, scores, _ = sample()
    assert choose_threshold(truth, scores, 0.37) == 0.37

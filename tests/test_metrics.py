import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from drawing import draw_scores
from drtf.inference.intervals import format_interval, format_value
from drtf.inference.metrics import (
    measure,
    measure_grades,
    weighted_chances,
    weighted_metrics,
)


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
    truth, scores, _ = draw_scores(seed=seed)
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


def test_the_recall_of_each_grade_is_the_share_decided_rightly():
    truth, scores, patients = draw_scores()
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

import numpy as np
import pytest
from sklearn import metrics as reference

from drawing import draw_scores
from drtf.evaluation.metrics import (
    class_report,
    differences_from_rest,
    disease_metrics,
    grade_metrics,
)
from drtf.evaluation.result import class_rows
from drtf.intervals import format_interval, format_value


def test_metrics_are_undefined_if_a_class_is_missing():
    y_true, y_score = np.array([1, 1, 1]), np.array([0.2, 0.6, 0.9])
    metrics = disease_metrics(
        y_true,
        y_score,
        y_score >= 0.5,
        patients=np.arange(3),
        num_resamples=100,
        seed=0,
    )
    assert np.isnan(metrics["roc_auc"].value)
    assert np.isnan(metrics["specificity"].value)
    assert metrics["sensitivity"].value == pytest.approx(2 / 3)
    assert format_value(metrics["roc_auc"].value) == "undefined"
    assert format_interval(metrics["roc_auc"]) == ""


def test_grade_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, 300)
    y_pred = np.clip(grades + rng.integers(-1, 2, 300), 0, 4)
    metrics = grade_metrics(
        grades, y_pred, patients=np.arange(300) // 2, num_resamples=200, seed=0
    )
    expected = {
        "grades_accuracy": reference.accuracy_score(grades, y_pred),
        "grades_quadratic_kappa": reference.cohen_kappa_score(
            grades, y_pred, weights="quadratic"
        ),
    }
    recalls = reference.recall_score(grades, y_pred, average=None)
    expected |= {f"grades_recall_{grade}": x for grade, x in enumerate(recalls)}
    assert {name: metrics[name].value for name in metrics} == pytest.approx(expected)
    assert all(x.ci_low < x.value < x.ci_high for x in metrics.values())


def test_grade_metrics_have_exact_intervals_without_mistakes():
    grades = np.repeat([0, 2, 4], 20)
    metrics = grade_metrics(
        grades, grades, patients=np.arange(60) // 2, num_resamples=50, seed=0
    )
    names = ["grades_accuracy", *(f"grades_recall_{grade}" for grade in (0, 2, 4))]
    assert [*metrics] == [*names, "grades_quadratic_kappa"]
    # Ten patients: the lower Clopper-Pearson bound is 0.025 ** (1 / 10).
    assert metrics["grades_recall_2"].ci_low == pytest.approx(0.025**0.1)
    assert metrics["grades_recall_2"].ci_high == 1


def test_recall_of_a_grade_is_the_fraction_predicted_correctly():
    y_true, y_score, patients = draw_scores()
    grades = np.where(y_true == 1, 1 + np.arange(400) % 4, 0)
    metrics = disease_metrics(
        y_true,
        y_score,
        y_score >= 0.5,
        patients=patients,
        num_resamples=100,
        seed=0,
        grades=grades,
    )
    for grade in range(5):
        chosen = grades == grade
        expected = ((y_score >= 0.5) == (grade > 0))[chosen].mean()
        estimate = metrics[f"recall_grade_{grade}"]
        assert estimate.value == pytest.approx(expected)
        assert estimate.ci_low < estimate.value < estimate.ci_high


def test_class_report_reproduces_the_notebook():
    counts = [4958, 205, 1398, 465]
    report = class_report(
        np.repeat([0, 0, 1, 1], counts),
        np.repeat([0, 1, 0, 1], counts),
        names=("healthy", "diseased"),
    )
    assert report.confusion_matrix == [[4958, 205], [1398, 465]]
    rounded = {
        name: [
            round(values[key], 4)
            for key in ("precision", "recall", "f1-score", "support")
        ]
        for name, values in report.metrics.items()
    }
    assert rounded == {
        "healthy": [0.7801, 0.9603, 0.8608, 5163],
        "diseased": [0.6940, 0.2496, 0.3672, 1863],
        "macro avg": [0.7370, 0.6049, 0.6140, 7026],
        "weighted avg": [0.7572, 0.7718, 0.7299, 7026],
    }
    assert class_rows(report) == [
        ("healthy", "0.780", "0.960", "0.861", "5,163"),
        ("diseased", "0.694", "0.250", "0.367", "1,863"),
        ("mean of all classes", "0.737", "0.605", "0.614", "7,026"),
        ("mean weighted by class size", "0.757", "0.772", "0.730", "7,026"),
    ]


def test_differences_from_rest_are_those_of_the_two_parts():
    y_true, y_score, patients = draw_scores()
    rng = np.random.default_rng(1)
    members = rng.random(400) < 0.3
    y_score = np.where(members, rng.random(400), y_score)  # worse in the group
    common = {"patients": patients, "num_resamples": 200, "seed": 0}
    found = differences_from_rest(
        y_true, y_score, y_score >= 0.5, members, y_prob=y_score, **common
    )
    own, rest = (
        disease_metrics(
            y_true[part],
            y_score[part],
            y_score[part] >= 0.5,
            **common | {"patients": patients[part]},
        )
        for part in (members, ~members)
    )
    assert found.keys() == own.keys()
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(own[name].value - rest[name].value)
        assert estimate.ci_low < estimate.value < estimate.ci_high
    assert found["roc_auc"].ci_high < 0


def test_differences_from_rest_are_undefined_when_a_part_has_one_class():
    y_true = np.repeat([0, 1, 1], 10)
    members = np.arange(30) >= 20
    y_score = np.linspace(0, 1, 30)
    found = differences_from_rest(
        y_true,
        y_score,
        y_score >= 0.5,
        members,
        y_prob=y_score,
        patients=np.arange(30),
        num_resamples=100,
        seed=0,
    )
    assert np.isnan(found["roc_auc"].value)
    assert np.isnan(found["specificity"].value)
    assert found["sensitivity"].value == pytest.approx(1 - 5 / 10)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from drawing import draw_scores
from drtf.evaluation.weighted_metrics import calibration_metrics, weighted_metrics


def expected_calibration_error(y_true, y_score, weights):
    """Compute the expected calibration error with 15 bins, one by one."""
    edges = np.linspace(0, 1, 16)[1:-1]
    error = 0.0
    for number in range(15):
        members = np.digitize(y_score, edges) == number
        fraction = weights[members].sum() / weights.sum()
        if fraction:
            means = (
                np.average(x[members], weights=weights[members])
                for x in (y_score, y_true)
            )
            error += fraction * abs(np.subtract(*means))
    return error


@pytest.mark.parametrize("seed", range(4))
def test_weighted_metrics_equal_scikit_learn(seed):
    y_true, y_score, _ = draw_scores(seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 400)).astype(np.float32)
    metrics = weighted_metrics(y_true, y_score, y_score >= 0.5, weights)
    metrics |= calibration_metrics(y_true, y_score, weights)
    y_pred = (y_score >= 0.5).astype(int)
    for row, weight in enumerate(weights):
        w = {"sample_weight": weight}
        expected = {
            "roc_auc": reference.roc_auc_score(y_true, y_score, **w),
            "average_precision": reference.average_precision_score(
                y_true, y_score, **w
            ),
            "accuracy": reference.accuracy_score(y_true, y_pred, **w),
            "balanced_accuracy": reference.balanced_accuracy_score(y_true, y_pred, **w),
            "sensitivity": reference.recall_score(y_true, y_pred, **w),
            "specificity": reference.recall_score(y_true, y_pred, pos_label=0, **w),
            "precision": reference.precision_score(y_true, y_pred, **w),
            "f1": reference.f1_score(y_true, y_pred, **w),
            "negative_predictive_value": reference.precision_score(
                y_true, y_pred, pos_label=0, **w
            ),
            "f1_negative": reference.f1_score(y_true, y_pred, pos_label=0, **w),
            "f1_macro": reference.f1_score(y_true, y_pred, average="macro", **w),
            "f1_weighted": reference.f1_score(y_true, y_pred, average="weighted", **w),
            "cohen_kappa": reference.cohen_kappa_score(y_true, y_pred, **w),
            "brier_score": reference.brier_score_loss(y_true, y_score, **w),
            "log_loss": reference.log_loss(y_true, y_score, **w),
            "expected_calibration_error": expected_calibration_error(
                y_true, y_score, weight
            ),
        }
        false_positive, true_positive, _ = reference.roc_curve(
            y_true, y_score, drop_intermediate=False, **w
        )
        for level in (0.8, 0.9, 0.95):
            expected[f"sensitivity_at_specificity_{level:.2f}"] = max(
                true_positive[1 - false_positive >= level - 1e-9]
            )
            expected[f"specificity_at_sensitivity_{level:.2f}"] = max(
                1 - false_positive[true_positive >= level - 1e-9]
            )
        assert {name: values[row] for name, values in metrics.items()} == pytest.approx(
            expected, abs=1e-6
        )


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=30
    ).filter(lambda rows: len({label for label, _ in rows}) == 2)
)
def test_roc_auc_equals_scikit_learn_with_ties(rows):
    y_true, y_score = (np.array(column) for column in zip(*rows, strict=True))
    y_score = y_score / 5
    weights = np.ones((1, len(y_true)), np.float32)
    roc_auc = weighted_metrics(y_true, y_score, y_score >= 0.5, weights)["roc_auc"]
    assert roc_auc[0] == pytest.approx(reference.roc_auc_score(y_true, y_score))


def test_weighted_metrics_reproduce_the_notebook():
    y_true = np.repeat([0, 0, 1, 1], [4958, 205, 1398, 465])
    y_score = np.repeat([0.0, 1.0, 0.0, 1.0], [4958, 205, 1398, 465])
    weights = np.ones((1, len(y_true)), np.float32)
    metrics = weighted_metrics(y_true, y_score, y_score >= 0.5, weights)
    assert round(metrics["accuracy"][0], 4) == 0.7718
    assert round(metrics["sensitivity"][0], 3) == 0.250
    assert round(metrics["specificity"][0], 3) == 0.960

import numpy as np
import pytest

from drawing import draw_scores
from drtf.evaluation.metrics import compare_roc_auc, disease_metrics, mean_roc_auc
from drtf.intervals import Estimate


def test_intervals_contain_the_value_and_depend_only_on_the_seed():
    y_true, y_score, patients = draw_scores()
    data = y_true, y_score, y_score >= 0.5
    first, again, other = (
        disease_metrics(*data, patients=patients, num_resamples=300, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["roc_auc"] != other["roc_auc"]
    for estimate in first.values():
        assert estimate.ci_low < estimate.value < estimate.ci_high


def test_interval_covers_the_true_value_with_its_confidence():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y_true = rng.integers(0, 2, 150)
        y_score = np.where(rng.random(150) < 0.8, y_true, 1 - y_true).astype(float)
        estimate = disease_metrics(
            y_true,
            y_score,
            y_score >= 0.5,
            patients=np.arange(150),
            num_resamples=200,
            seed=seed,
        )["accuracy"]
        covered += estimate.ci_low <= 0.8 <= estimate.ci_high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_resamples_whole_patients():
    y_true, y_score, _ = draw_scores(100)

    def width(num_copies, patients):
        labels, scores = np.repeat(y_true, num_copies), np.repeat(y_score, num_copies)
        metrics = disease_metrics(
            labels,
            scores,
            scores >= 0.5,
            patients=patients,
            num_resamples=500,
            seed=0,
        )
        return metrics["accuracy"].ci_high - metrics["accuracy"].ci_low

    whole = width(1, np.arange(100))
    assert width(8, np.repeat(np.arange(100), 8)) == pytest.approx(whole, rel=0.05)
    assert width(8, np.arange(800)) < 0.5 * whole


def test_intervals_have_a_width_without_mistakes():
    y_true = np.repeat([0, 1], [40, 20])
    y_score = np.where(y_true == 1, 0.9, 0.1)
    patients = np.arange(60) // 2  # 20 healthy patients and 10 diseased
    metrics = disease_metrics(
        y_true,
        y_score,
        y_score >= 0.5,
        patients=patients,
        num_resamples=100,
        seed=0,
        grades=y_true * 2,
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
        # If all n are correct, n * log(bound) = log(0.025).
        expected = Estimate(1.0, pytest.approx(0.025 ** (1 / num)), 1.0)
        assert metrics[name] == expected
    area = metrics["roc_auc"]
    assert (area.value, area.ci_high) == (1.0, 1.0)
    low = area.ci_low
    spread = 1 + 14 * ((1 - low) / (2 - low) + low / (1 + low))
    error = np.sqrt(low * (1 - low) * spread / (10 * 20))
    assert 1 - low == pytest.approx(1.959964 * error, abs=1e-6)
    for name in ("average_precision", "f1", "cohen_kappa", "balanced_accuracy"):
        assert metrics[name].value == 1
        assert np.isnan([metrics[name].ci_low, metrics[name].ci_high]).all(), name
    common = {"patients": patients, "num_resamples": 100, "seed": 0}
    both = np.stack([y_score, y_score])
    assert mean_roc_auc(y_true, both, **common) == area
    assert [x for x, _, _ in compare_roc_auc(y_true, both, **common)] == [area, area]

import numpy as np
import pytest

from drawing import draw_scores
from drtf.inference.intervals import Estimate
from drtf.inference.metrics import compare_roc_auc, measure, measure_mean_roc_auc


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    truth, scores, patients = draw_scores()
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
    truth, scores, _ = draw_scores(100)
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

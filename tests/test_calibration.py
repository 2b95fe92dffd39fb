import numpy as np
import pytest
from scipy.special import expit, logit

from drtf.models.calibration import Calibration, fit_calibration

COMMON = {"split": "val", "tta": "none"}


def sample(num=20000, temperature=1.0, seed=0):
    """Return truth and the scores of who is too sure by a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, num)
    truth = (rng.random(num) < expit(logits)).astype(int)
    return truth, np.clip(expit(logits * temperature), 1e-6, 1 - 1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature):
    truth, scores = sample(temperature=temperature)
    found = fit_calibration(
        truth,
        scores,
        method="temperature",
        train_prior=truth.mean(),
        **COMMON,
    )
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.apply(scores) == pytest.approx(
        expit(logit(scores) / found.temperature), abs=1e-6
    )


def test_the_prior_is_put_right():
    """The scores are of who saw one in two positive, where it is one in ten."""
    rng = np.random.default_rng(0)
    truth = (rng.random(200_000) < 0.1).astype(int)
    evidence = rng.normal(np.where(truth == 1, 1.0, -1.0), 1.0)
    scores = expit(2 * evidence)  # the likelihood ratio's logarithm, at even odds
    found = fit_calibration(truth, scores, method="none", train_prior=0.5, **COMMON)
    probabilities = found.apply(scores)
    assert probabilities.mean() == pytest.approx(0.1, abs=0.003)
    sure = (probabilities > 0.4) & (probabilities < 0.6)
    assert truth[sure].mean() == pytest.approx(probabilities[sure].mean(), abs=0.03)


def test_an_isotonic_curve_mends_any_shape():
    truth, scores = sample()
    bent = scores**3
    found = fit_calibration(truth, bent, method="isotonic", train_prior=0.5, **COMMON)
    assert found.apply(bent) == pytest.approx(scores, abs=0.12)
    assert (np.diff(found.apply(np.linspace(0, 1, 50))) >= 0).all()


@pytest.mark.parametrize("method", ["none", "temperature", "isotonic"])
def test_a_calibration_is_written_and_read_again(method):
    truth, scores = sample(200)
    found = fit_calibration(truth, scores, method=method, train_prior=0.5, **COMMON)
    again = Calibration.model_validate_json(found.model_dump_json())
    values = np.array([0.0, 0.2, 0.7, 1.0], np.float32)
    assert (again.apply(values) == found.apply(values)).all()
    assert np.isfinite(found.apply(values)).all()

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from drtf.models.calibration import Calibration, fit_calibration
from drtf.models.score_histograms import ScoreHistograms, build_histograms

COMMON = {"source": "split val", "tta": "none"}


def sample(num=20000, temperature=1.0, offset=0.0, seed=0):
    """Return labels, and scores that are overconfident and biased."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, num)
    labels = (rng.random(num) < expit(logits)).astype(int)
    return labels, np.clip(expit(logits * temperature + offset), 1e-6, 1 - 1e-6)


@pytest.mark.parametrize(("temperature", "offset"), [(0.5, 0), (1, -2), (3, 1)])
def test_temperature_and_offset_are_recovered(temperature, offset):
    labels, scores = sample(temperature=temperature, offset=offset)
    calibration = fit_calibration(
        labels, scores, method="logistic", train_prior=labels.mean(), **COMMON
    )
    assert calibration.temperature == pytest.approx(temperature, rel=0.05)
    assert calibration.offset == pytest.approx(-offset / temperature, abs=0.06)
    values = logit(scores) / calibration.temperature + calibration.offset
    assert calibration.apply(scores) == pytest.approx(expit(values), abs=1e-6)


def test_few_photographs_change_scores_little():
    """Four photographs that a threshold separates would have a temperature of 0."""
    calibration = fit_calibration(
        np.array([0, 0, 1, 1]),
        np.array([0.2, 0.4, 0.6, 0.8]),
        method="logistic",
        train_prior=0.5,
        **COMMON,
    )
    assert 0.5 < calibration.temperature < 1
    assert calibration.offset == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("num_photographs", [40, 200])
@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_a_logistic_calibration_predicts_better_than_none(num_photographs, offset):
    labels, scores = sample(40_000, temperature=1.5, offset=offset)
    losses = {"none": [], "logistic": []}
    for start in range(0, 100 * num_photographs, num_photographs):
        fitted = slice(start, start + num_photographs)
        for method, values in losses.items():
            calibration = fit_calibration(
                labels[fitted], scores[fitted], method=method, train_prior=0.5, **COMMON
            )
            probabilities = calibration.apply(scores)
            values.append(log_loss(labels, probabilities))
    assert np.mean(losses["logistic"]) < np.mean(losses["none"])


def test_the_prior_is_corrected():
    """The scores assume that 50 % are positive, but 10 % are."""
    rng = np.random.default_rng(0)
    labels = (rng.random(200_000) < 0.1).astype(int)
    evidence = rng.normal(np.where(labels == 1, 1.0, -1.0), 1.0)
    scores = expit(2 * evidence)  # 2 * evidence is the log likelihood ratio
    calibration = fit_calibration(
        labels, scores, method="none", train_prior=0.5, **COMMON
    )
    probabilities = calibration.apply(scores)
    assert probabilities.mean() == pytest.approx(0.1, abs=0.003)
    middle = (probabilities > 0.4) & (probabilities < 0.6)
    assert labels[middle].mean() == pytest.approx(
        probabilities[middle].mean(), abs=0.03
    )


def test_an_isotonic_curve_corrects_a_monotonic_distortion():
    labels, scores = sample()
    distorted = scores**3
    calibration = fit_calibration(
        labels, distorted, method="isotonic", train_prior=0.5, **COMMON
    )
    assert calibration.apply(distorted) == pytest.approx(scores, abs=0.12)
    assert (np.diff(calibration.apply(np.linspace(0, 1, 50))) >= 0).all()


@pytest.mark.parametrize(
    ("num_photographs", "expected"),
    [
        (6, ["0.2", "0.5", "0.8"]),
        (21, ["0.05", "0.50", "0.95"]),
        (998, ["0.001", "0.500", "0.999"]),
        (50_000, ["0.001", "0.500", "0.999"]),
    ],
)
def test_probabilities_are_rounded_to_what_calibration_supports(
    num_photographs, expected
):
    calibration = Calibration(
        method="none",
        prior_shift=0.0,
        source="split val",
        tta="none",
        histograms=ScoreHistograms(
            edges=(), negative=(1,), positive=(num_photographs - 1,)
        ),
    )
    assert calibration.format_probabilities(np.array([0.0, 0.5, 1.0])) == expected


@pytest.mark.parametrize("method", ["none", "logistic", "isotonic"])
def test_a_calibration_is_unchanged_by_writing_and_reading(method):
    labels, scores = sample(200)
    calibration = fit_calibration(
        labels, scores, method=method, train_prior=0.5, **COMMON
    )
    loaded = Calibration.model_validate_json(calibration.model_dump_json())
    values = np.array([0.0, 0.2, 0.7, 1.0], np.float32)
    assert (loaded.apply(values) == calibration.apply(values)).all()
    assert np.isfinite(calibration.apply(values)).all()


@pytest.mark.parametrize("method", ["none", "logistic", "isotonic"])
def test_a_calibration_is_moved_to_another_prevalence(method):
    rng = np.random.default_rng(0)

    def draw(prevalence, num=40_000):
        labels = (rng.random(num) < prevalence).astype(int)
        return labels, expit(rng.normal(2.5 * labels - 1.5, 1.2))

    calibration = fit_calibration(*draw(0.3), method=method, train_prior=0.5, **COMMON)
    assert calibration.prevalence == pytest.approx(0.3, abs=0.01)
    labels, scores = draw(0.8)
    moved = calibration.with_prevalence(0.8)
    assert moved.prevalence == pytest.approx(0.8)
    assert moved.apply(scores).mean() == pytest.approx(0.8, abs=0.02)
    assert log_loss(labels, moved.apply(scores).clip(1e-6, 1 - 1e-6)) < log_loss(
        labels, calibration.apply(scores).clip(1e-6, 1 - 1e-6)
    )
    back = moved.with_prevalence(calibration.prevalence)
    assert back.apply(scores) == pytest.approx(calibration.apply(scores))


def test_equal_scores_have_one_bin_each():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.5, 0.5, 0.5, 0.7])
    histograms = build_histograms(labels, scores)
    assert sum(histograms.negative) == sum(histograms.positive) == 2
    assert histograms.prevalence == 0.5
    assert histograms.count(np.array([0.0, 1.0])).sum() == 2

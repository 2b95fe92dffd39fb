import functools

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from drtf.models.calibration import fit_calibration
from drtf.scoring.score_check import (
    FLAG_NOTES,
    fit_mixture,
    probability_flags,
    probability_notes,
)
from naming import assert_names


def draw(num, prevalence, *, shift=0.0, seed=0):
    """Return labels and scores; `shift` moves all scores, as another camera does."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(num) < prevalence * num).astype(int)
    return labels, expit(rng.normal(2.5 * labels - 1.2 + shift, 1.2))


@functools.cache
def fit(num=600, prevalence=0.3):
    return fit_calibration(
        *draw(num, prevalence, seed=1),
        method="logistic",
        train_prior=0.5,
        source="split val",
        tta="none",
    )


@pytest.mark.parametrize("prevalence", [0.05, 0.3, 0.6, 0.9])
def test_a_mixture_has_the_prevalence_of_the_scores(prevalence):
    _, scores = draw(500, prevalence)
    mixture = fit_mixture(fit().histograms, scores, num_patients=500)
    assert mixture.prevalence.value == pytest.approx(prevalence, abs=0.06)
    assert mixture.prevalence.ci_low <= prevalence <= mixture.prevalence.ci_high
    assert mixture.is_explained


@pytest.mark.parametrize(
    ("num", "prevalence", "shift", "expected"),
    [
        (300, 0.3, 0, []),
        (49, 0.3, 0, ["not_checked"]),
        (0, 0.3, 0, ["not_checked"]),
        (300, 0.7, 0, ["other_prevalence"]),
        (300, 0.3, 3, ["unlike_validation"]),
        (300, 0.3, -3, ["unlike_validation"]),
    ],
)
def test_probabilities_are_flagged(num, prevalence, shift, expected):
    _, scores = draw(num, prevalence, shift=shift)
    assert probability_flags(fit(), scores, num_patients=num) == expected
    assert FLAG_NOTES.keys() >= set(expected)


def test_probabilities_that_few_photographs_calibrated_are_flagged():
    _, scores = draw(300, 0.3)
    flags = probability_flags(fit(60), scores, num_patients=300)
    assert "few_calibrated" in flags


def test_a_network_that_separates_nothing_cannot_be_checked():
    rng = np.random.default_rng(0)
    calibration = fit_calibration(
        np.arange(600) % 2,
        rng.random(600),
        method="logistic",
        train_prior=0.5,
        source="split val",
        tta="none",
    )
    flags = probability_flags(calibration, rng.random(300), num_patients=300)
    assert flags == ["not_checked"]


def test_few_false_alarms_are_raised():
    flags = [
        probability_flags(fit(), draw(200, 0.3, seed=seed)[1], num_patients=200)
        for seed in range(50)
    ]
    assert sum(map(bool, flags)) <= 2


def test_a_recalibrated_collection_is_not_flagged():
    _, scores = draw(300, 0.7)
    moved = fit().with_prevalence(0.7)
    assert probability_flags(moved, scores, num_patients=300) == []


def test_each_photograph_is_checked_by_itself():
    """Validation had both eyes of all patients, the collection only one of each."""
    labels, own = draw(600, 0.3, seed=1)
    combined = expit(2 * logit(own))
    common = {"method": "logistic", "train_prior": 0.5, "source": "", "tta": "none"}
    calibration = fit_calibration(labels, combined, own_scores=own, **common)
    _, scores = draw(300, 0.3)
    assert probability_flags(calibration, scores, num_patients=300) == []
    assert calibration.apply(combined).mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("prevalence", "num_notes"), [(0.3, 0), (0.7, 1)])
def test_a_note_compares_the_mean_probability_with_the_labels(prevalence, num_notes):
    labels, scores = draw(300, prevalence)
    calibration = fit()
    predictions = pd.DataFrame(
        {
            "patient": np.arange(300),
            "label": labels,
            "own_score": scores,
            "probability": calibration.apply(scores),
        }
    )
    notes = probability_notes(calibration, predictions)
    assert len(notes) == num_notes
    for note in notes:
        assert_names(note, "0.70", f"{predictions['probability'].mean():.2f}")

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from drtf.models.calibration import fit_calibration
from drtf.models.fellow_eye import (
    MIN_PAIRS,
    FellowEye,
    combine_eyes,
    fellow_logits,
    fit_fellow_eye,
)


def table(*rows):
    return pd.DataFrame(rows, columns=["patient", "eye", "score"])


def draw_pairs(num_patients, *, seed=0, link=0.8):
    """Draw two eyes per patient whose scores and labels depend on a common cause."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(num_patients, 1)) * link
    disease = common + rng.normal(size=(num_patients, 2)) * (1 - link**2) ** 0.5
    logits = disease + rng.normal(size=disease.shape)
    return pd.DataFrame(
        {
            "patient": np.repeat(np.arange(num_patients), 2).astype(str),
            "eye": ["left", "right"] * num_patients,
            "label": (disease > 0.5).astype(int).ravel(),
            "score": expit(logits).astype(np.float32).ravel(),
        }
    )


def auc_gain(pairs, others):
    """Return the gain in ROC AUC on others by weights that were fitted on pairs."""
    fitted = fit_fellow_eye(pairs, train_prior=0.5)
    own = others["score"].to_numpy()
    combined, _ = combine_eyes(own, fellow_logits(others), fitted)
    labels = others["label"]
    return roc_auc_score(labels, combined) - roc_auc_score(labels, own)


def test_the_fellow_is_the_mean_logit_of_the_other_eyes_photographs():
    photographs = table(
        ("1", "left", 0.2),
        ("2", "right", 0.9),
        ("1", "right", 0.6),
        ("1", "right", 0.7),
        ("2", "right", 0.8),
    )
    both = (logit(0.6) + logit(0.7)) / 2
    expected = [both, np.nan, logit(0.2), logit(0.2), np.nan]
    assert fellow_logits(photographs) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    "rows",
    [
        [("1", "", 0.2), ("1", "", 0.6)],
        [("1", "left", 0.2), ("1", "", 0.6)],
        [("", "left", 0.2), ("", "right", 0.6)],
        [("1", "left", 0.2), ("2", "right", 0.6)],
        [("1", "left", np.nan)],
        [],
    ],
)
def test_there_is_no_fellow_without_both_eyes_of_a_patient(rows):
    assert np.isnan(fellow_logits(table(*rows))).all()


def test_a_score_that_must_not_be_used_is_no_fellow():
    photographs = table(("1", "left", 0.2), ("1", "right", np.nan))
    expected = [np.nan, logit(0.2)]
    assert fellow_logits(photographs) == pytest.approx(expected, nan_ok=True)


def test_a_patient_with_very_many_photographs_has_no_fellows():
    eyes = ("left", "right")
    photographs = table(*(("unknown", eyes[x % 2], 0.5) for x in range(21)))
    assert np.isnan(fellow_logits(photographs)).all()
    assert np.isfinite(fellow_logits(photographs[:20])).all()


def test_the_fellow_eye_raises_the_auc_of_other_patients():
    pairs = draw_pairs(200)
    fitted = fit_fellow_eye(pairs, train_prior=0.5)
    assert fitted.num_pairs == 200
    assert fitted.own > fitted.fellow > 0
    assert auc_gain(pairs, draw_pairs(1000, seed=1)) > 0.01


@pytest.mark.parametrize("num_patients", [MIN_PAIRS, 400])
def test_unrelated_eyes_change_little(num_patients):
    gains = [
        auc_gain(draw_pairs(num_patients, seed=seed, link=0), draw_pairs(500, link=0))
        for seed in range(1, 11)
    ]
    assert np.mean(gains) > -0.005


def test_photographs_with_and_without_a_fellow_have_scores_on_one_scale():
    pairs = draw_pairs(1000)
    own = pairs["score"].to_numpy()
    fitted = fit_fellow_eye(pairs, train_prior=0.5)
    combined, _ = combine_eyes(own, fellow_logits(pairs), fitted)
    assert np.abs(combined - own).max() > 0.2
    of_both, of_own = (
        fit_calibration(
            pairs["label"].to_numpy(),
            scores,
            method="logistic",
            train_prior=0.5,
            source="split val",
            tta="none",
        )
        for scores in (combined, own)
    )
    # The curve of combined scores is right for a single eye's score too.
    scores = np.linspace(0.02, 0.98, 49)
    assert of_both.apply(scores) == pytest.approx(of_own.apply(scores), abs=0.02)


@pytest.mark.parametrize("change", ["few", "one class", "one eye"])
def test_each_eye_is_predicted_by_itself_where_nothing_can_be_fitted(change):
    pairs = draw_pairs(MIN_PAIRS)
    if change == "few":
        pairs = pairs[:-1]
    elif change == "one class":
        pairs["label"] = 0
    else:
        pairs["eye"] = "left"
    fitted = fit_fellow_eye(pairs, train_prior=0.5)
    assert not fitted.is_used
    own = pairs["score"].to_numpy()
    for weights in (fitted, None):
        scores, is_used = combine_eyes(own, fellow_logits(pairs), weights)
        assert (scores == own).all()
        assert not is_used.any()


def test_a_photograph_without_a_fellow_keeps_its_score():
    weights = FellowEye(offset=0.1, own=0.7, fellow=0.5, num_pairs=50)
    own = np.float32([0.2, 0.6, 1.0])
    fellows = np.array([np.nan, logit(0.9), logit(0.9)])
    scores, is_used = combine_eyes(own, fellows, weights)
    assert is_used.tolist() == [False, True, True]
    assert scores[0] == own[0]
    expected = expit(0.1 + 0.7 * logit(0.6) + 0.5 * logit(0.9))
    assert scores[1] == pytest.approx(expected)
    assert 0.99 < scores[2] <= 1

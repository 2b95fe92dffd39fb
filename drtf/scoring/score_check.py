"""Check by the scores of a collection whether its probabilities can be trusted.

A calibration holds for collections whose scores are distributed as in the photographs
that it was fitted on. If only the prevalence differs, the scores are distributed as a
mixture of these photographs' positives and negatives: Saerens et al., Neural
Computation 14(1), 2002. The mixture that explains the scores best has the collection's
prevalence. If no mixture explains them, camera or patients differ too.

The scores are those of each photograph by itself: scores that combine both eyes are
distributed differently if fewer of the patients have photographs of both.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2

from drtf.intervals import Estimate, bootstrap_interval
from drtf.models.calibration import Calibration
from drtf.models.score_histograms import ScoreHistograms

MIN_CHECKED = 50  # patients
# With fewer photographs of a class, one of them changes a calibration noticeably.
MIN_PER_CLASS = 20
PREVALENCES = np.linspace(0.005, 0.995, 199)
NUM_RESAMPLES = 500
SIGNIFICANCE = 0.01
# Smaller differences change probabilities too little to be reported.
MIN_DIFFERENCE = 0.05
MAX_DEVIATIONS = 3.0
# With a wider interval of the prevalence, the scores do not show whether the
# probabilities hold.
MAX_WIDTH = 0.3

FEW_CALIBRATED = "few_calibrated"
NOT_CHECKED = "not_checked"
UNLIKE_VALIDATION = "unlike_validation"
OTHER_PREVALENCE = "other_prevalence"
ADVICE = "drtf recalibrate corrects them"
# A sentence for each flag in the column probability_flags of the score table.
FLAG_NOTES = {
    FEW_CALIBRATED: "The probabilities are rough: they were calibrated on fewer than "
    f"{MIN_PER_CLASS} photographs of the rarer class.",
    NOT_CHECKED: "These scores do not show whether the probabilities hold for these "
    "photographs: there are too few photographs, or the model separates the classes "
    "too poorly.",
    UNLIKE_VALIDATION: "Do not trust the probabilities: the scores differ from those "
    "of the photographs that the probabilities were calibrated on, by more than any "
    "prevalence explains. So the camera or the patients differ. With labels of a few "
    f"hundred photographs, {ADVICE}.",
    OTHER_PREVALENCE: "Do not trust the probabilities: the scores suggest that disease "
    f"is clearly more or less common here than the probabilities assume; {ADVICE}.",
}


@dataclass(frozen=True)
class Mixture:
    """The mixture of positives and negatives that explains scores best.

    Attributes:
        prevalence: Its fraction of positives, as the mean over resamples: that of the
            likeliest mixture itself is often 0 or 1.
        distance: The fraction of the scores that would have to move to another bin of
            the histograms for the mixture to explain all of them.
        is_explained: Whether chance explains this distance.
    """

    prevalence: Estimate
    distance: float
    is_explained: bool

    @property
    def is_vague(self) -> bool:
        """Whether the scores hardly show the prevalence."""
        return self.prevalence.ci_high - self.prevalence.ci_low > MAX_WIDTH

    def differs_from(self, prevalence: float) -> bool:
        """Return whether the prevalence is clearly another one."""
        lowest, highest = prevalence - MIN_DIFFERENCE, prevalence + MIN_DIFFERENCE
        return self.prevalence.ci_low > highest or self.prevalence.ci_high < lowest


def probability_flags(
    calibration: Calibration, own_scores: np.ndarray, *, num_patients: int
) -> list[str]:
    """Return reasons not to trust the probabilities of a collection.

    Args:
        calibration: What turned the scores into probabilities.
        own_scores: float [n], of photographs that the network was not trained on, each
            by itself.
        num_patients: Number of their patients.

    Returns:
        Keys of `FLAG_NOTES`. Empty if nothing was found.
    """
    flags = []
    if calibration.histograms.num_rarer < MIN_PER_CLASS:
        flags.append(FEW_CALIBRATED)
    if num_patients < MIN_CHECKED:
        return [*flags, NOT_CHECKED]
    mixture = fit_mixture(calibration.histograms, own_scores, num_patients=num_patients)
    if not mixture.is_explained:
        flags.append(UNLIKE_VALIDATION)
    elif mixture.differs_from(calibration.prevalence):
        flags.append(OTHER_PREVALENCE)
    elif mixture.is_vague:
        flags.append(NOT_CHECKED)
    return flags


def probability_notes(calibration: Calibration, predictions: pd.DataFrame) -> list[str]:
    """Return sentences on why not to trust the probabilities of labeled photographs.

    Args:
        calibration: What turned the scores into probabilities.
        predictions: One row per photograph, from `apply_decision_rule`.
    """
    flags = probability_flags(
        calibration,
        predictions["own_score"].to_numpy(),
        num_patients=predictions["patient"].nunique(),
    )
    notes = [FLAG_NOTES[flag] for flag in flags if flag == UNLIKE_VALIDATION]
    probabilities, labels = predictions["probability"], predictions["label"]
    difference = probabilities.mean() - labels.mean()
    variance = (probabilities * (1 - probabilities)).sum() / len(labels) ** 2
    if abs(difference) > max(MIN_DIFFERENCE, MAX_DEVIATIONS * np.sqrt(variance)):
        notes.append(
            "Do not trust the probabilities on these photographs: their mean is "
            f"{probabilities.mean():.2f}, but {labels.mean():.2f} of the photographs "
            f"are positive; {ADVICE}."
        )
    return notes


def fit_mixture(
    histograms: ScoreHistograms, scores: np.ndarray, *, num_patients: int
) -> Mixture:
    """Fit the mixture that explains scores best.

    Args:
        histograms: Of the photographs that the calibration was fitted on.
        scores: float [n], n > 0.
        num_patients: Number of patients. Intervals count them, not photographs.
    """
    fractions = histograms.count(scores) / len(scores)
    # Half a photograph more, so that no bin is impossible.
    negative, positive = (
        np.array(counts) + 0.5 for counts in (histograms.negative, histograms.positive)
    )
    rng = np.random.default_rng(0)
    prevalence = float(_best_prevalences(fractions, negative, positive))
    resampled = _best_prevalences(
        rng.multinomial(num_patients, fractions, NUM_RESAMPLES),
        rng.dirichlet(negative, NUM_RESAMPLES),
        rng.dirichlet(positive, NUM_RESAMPLES),
    )
    parts = [
        (1 - prevalence, negative, negative.sum()),
        (prevalence, positive, positive.sum()),
    ]
    expected = sum(weight * counts / total for weight, counts, total in parts)
    variances = expected / num_patients + sum(
        weight**2 * counts / total**2 for weight, counts, total in parts
    )
    differences = fractions - expected
    statistic = (differences**2 / variances).sum()
    distance = float(np.abs(differences).sum() / 2)
    p_value = chi2.sf(statistic, max(len(fractions) - 2, 1))
    return Mixture(
        prevalence=bootstrap_interval(float(resampled.mean()), resampled),
        distance=distance,
        is_explained=bool(p_value >= SIGNIFICANCE or distance < MIN_DIFFERENCE),
    )


def _best_prevalences(
    counts: np.ndarray, negative: np.ndarray, positive: np.ndarray
) -> np.ndarray:
    """Return the prevalence of the likeliest mixture.

    Args:
        counts: float [..., bins], of the scores.
        negative: float [..., bins], relative frequencies of negatives.
        positive: float [..., bins], relative frequencies of positives.

    Returns:
        float [...], each one of `PREVALENCES`.
    """
    weights = PREVALENCES[:, None]
    negative, positive = (
        (x / x.sum(axis=-1, keepdims=True))[..., None, :] for x in (negative, positive)
    )
    mixtures = (1 - weights) * negative + weights * positive  # [..., 199, bins]
    likelihoods = (counts[..., None, :] * np.log(mixtures)).sum(axis=-1)
    return PREVALENCES[likelihoods.argmax(axis=-1)]

"""Calibration: from the scores of a network to probabilities of disease."""

import math
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from drtf.config import CalibrationMethod, Tta
from drtf.models.score_histograms import ScoreHistograms, build_histograms

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_SHIFT = 40.0  # far more than the logits of any two fractions differ by
# The standard deviations that are assumed for the offset of a logistic calibration and
# for the logarithm of its temperature. The smaller they are, the less a few photographs
# change them. docs/results.md compares the curve with one without them.
OFFSET_DEVIATION, LOG_TEMPERATURE_DEVIATION = 1.0, 0.5
# Scores of 0 and 1 have no finite logit. float32 has few values closer to 1.
MARGIN = 1e-7
MAX_DECIMALS = 3
Probability = Annotated[float, Field(ge=0, le=1)]


class Calibration(BaseModel):
    """A fitted mapping from scores to probabilities.

    Attributes:
        method: `none`, `logistic` or `isotonic`.
        prior_shift: Added to the logit of a score first.
        temperature: The shifted logit is divided by it. 1 unless `method` is
            `logistic`.
        offset: Added to the result. 0 unless `method` is `logistic`.
        scores: Shifted scores in ascending order: the x values of the isotonic curve.
        probabilities: The y values of the isotonic curve, in ascending order.
        prevalence_shift: Added to the logit of the probability last. 0 unless the
            calibration was moved to another prevalence.
        histograms: Of the own scores of the photographs that it was fitted on. They do
            not depend on how many of the photographs have a fellow eye.
        source: The photographs that it was fitted on, such as `split val` or a file.
        tta: The test-time augmentation of the scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: CalibrationMethod
    prior_shift: Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)]
    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)] = 1.0
    offset: Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)] = 0.0
    scores: tuple[float, ...] = ()
    probabilities: tuple[Probability, ...] = ()
    prevalence_shift: Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)] = 0.0
    histograms: ScoreHistograms
    source: str
    tta: Tta

    @model_validator(mode="after")
    def _has_a_curve(self) -> Self:
        curve = self.scores, self.probabilities
        rising = all(list(values) == sorted(values) for values in curve)
        if len(self.scores) != len(self.probabilities) or not rising:
            raise ValueError(
                "scores and probabilities must be ascending and equal in number"
            )
        if self.method == "isotonic" and not self.scores:
            raise ValueError("method 'isotonic' requires scores and probabilities")
        return self

    @property
    def num_photographs(self) -> int:
        """Number of photographs that it was fitted on."""
        return self.histograms.num_photographs

    @property
    def prevalence(self) -> float:
        """The fraction of positive photographs that the probabilities assume."""
        fitted = logit(self.histograms.prevalence)
        return float(expit(fitted + self.prevalence_shift))

    def with_prevalence(self, prevalence: float) -> Self:
        """Return the calibration for photographs with another prevalence.

        Only the prevalence may differ: photographs of each class must have scores as in
        those that it was fitted on. Saerens et al., Neural Computation 14(1), 2002, eq.
        2.4.

        Args:
            prevalence: The fraction of positive photographs, above 0 and below 1.
        """
        shift = float(logit(prevalence) - logit(self.histograms.prevalence))
        return self.model_copy(update={"prevalence_shift": shift})

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities.

        Args:
            scores: float [n] in [0, 1].

        Returns:
            float64 [n] in [0, 1].
        """
        shifted = clipped_logits(scores) + self.prior_shift
        if self.method == "isotonic":
            curve = np.interp(expit(shifted), self.scores, self.probabilities)
            return expit(logit(curve) + self.prevalence_shift)
        return expit(shifted / self.temperature + self.offset + self.prevalence_shift)

    @property
    def num_decimals(self) -> int:
        """Decimals of a probability: the number of digits of `num_photographs`."""
        return min(len(str(self.num_photographs)), MAX_DECIMALS)

    @property
    def lowest_probability(self) -> float:
        """The lowest probability that calibration supports; 1 minus it is the highest.

        n photographs cannot show that anything is rarer than about 1 in n + 2, the
        estimate of Laplace's rule of succession for an event that none of them had.
        """
        steps: int = 10**self.num_decimals
        return math.ceil(steps / (self.num_photographs + 2)) / steps

    def apply_rounded(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities with the certainty that calibration supports.

        They are rounded to `num_decimals` and not outside [`lowest_probability`,
        1 - `lowest_probability`].

        Args:
            scores: float [n] in [0, 1].

        Returns:
            float64 [n] in (0, 1).
        """
        rounded = self.apply(scores).round(self.num_decimals)
        return np.clip(rounded, self.lowest_probability, 1 - self.lowest_probability)

    def format_probabilities(self, scores: np.ndarray) -> list[str]:
        """Return the probabilities of `apply_rounded` as text."""
        rounded = self.apply_rounded(scores)
        return [f"{value:.{self.num_decimals}f}" for value in rounded]


def fit_calibration(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    method: CalibrationMethod,
    train_prior: float,
    source: str,
    tta: Tta,
    own_scores: np.ndarray | None = None,
) -> Calibration:
    """Fit a calibration.

    A network trained on balanced classes overestimates how common disease is. The prior
    shift corrects that, by the fraction of positive labels: Saerens et al., Neural
    Computation 14(1), 2002, eq. 2.4. A logistic curve then corrects scores that are too
    confident or not confident enough, and a network that is biased towards one class:
    Platt, Advances in Large Margin Classifiers, 1999. Its temperature and offset have
    normal priors around 1 and 0, so that it needs few photographs. An isotonic curve
    corrects any monotonic distortion, but needs a thousand or more.

    Args:
        labels: int64 [n], 1 for positive. Both classes must occur.
        scores: float [n] in [0, 1].
        method: `none` applies only the prior shift.
        train_prior: The fraction of positive photographs in training, after sampling.
        source: Where the photographs are from, such as `split val` or a file.
        tta: The test-time augmentation of the scores.
        own_scores: float [n], the scores of each eye by itself; None: `scores`.
    """
    shift = float(logit(labels.mean()) - logit(train_prior))
    common: dict[str, Any] = {
        "method": method,
        "prior_shift": shift,
        "source": source,
        "tta": tta,
        "histograms": build_histograms(
            labels, scores if own_scores is None else own_scores
        ),
    }
    shifted = clipped_logits(scores) + shift
    if method == "logistic":
        deviations = np.array([LOG_TEMPERATURE_DEVIATION, OFFSET_DEVIATION])

        def loss(parameters: np.ndarray) -> float:
            log_temperature, offset = parameters
            values = shifted / np.exp(log_temperature) + offset
            errors = np.logaddexp(0, values) - labels * values
            return float(errors.sum() + ((parameters / deviations) ** 2).sum() / 2)

        log_temperature, offset = minimize(loss, [0.0, 0.0], method="Nelder-Mead").x
        temperature = float(np.exp(log_temperature))
        return Calibration(temperature=temperature, offset=float(offset), **common)
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1).fit(expit(shifted), labels)
        return Calibration(
            scores=curve.X_thresholds_.tolist(),
            probabilities=curve.y_thresholds_.tolist(),
            **common,
        )
    return Calibration(**common)


def clipped_logits(scores: np.ndarray) -> np.ndarray:
    """Return the logits of scores, which are finite for 0 and 1 too; float64 [n]."""
    return logit(np.clip(scores.astype(np.float64), MARGIN, 1 - MARGIN))

"""Calibration: scores turned into probabilities that come true as often as they say."""

from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from drtf.config import CalibrationMethod, Tta

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_SHIFT = 40.0  # far more than any two shares are apart
# Scores of 0 and 1 have no logit; float32 scores come no nearer.
MARGIN = 1e-7
Probability = Annotated[float, Field(ge=0, le=1)]


class Calibration(BaseModel):
    """How scores become probabilities.

    Attributes:
        method: `none`, `temperature` or `isotonic`.
        prior_shift: added to a score's logit, first of all.
        temperature: that the logit is then divided by.
        scores: float, rising; of the isotonic curve, after the shift.
        probabilities: float, of the isotonic curve at these.
        split: that it was fitted on.
        tta: with which views.
        num_photographs: on how many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: CalibrationMethod
    prior_shift: Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)]
    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)] = 1.0
    scores: tuple[float, ...] = ()
    probabilities: tuple[Probability, ...] = ()
    split: str
    tta: Tta
    num_photographs: int

    @model_validator(mode="after")
    def _has_a_curve(self) -> Self:
        curve = self.scores, self.probabilities
        rising = all(list(values) == sorted(values) for values in curve)
        if len(self.scores) != len(self.probabilities) or not rising:
            raise ValueError("a curve needs rising scores and as many probabilities")
        if self.method == "isotonic" and not self.scores:
            raise ValueError("method 'isotonic' needs a curve")
        return self

    @property
    def at_bound(self) -> bool:
        """Whether the best temperature is beyond those that are looked through."""
        low, high = 1.01 * MIN_TEMPERATURE, 0.99 * MAX_TEMPERATURE
        return not low < self.temperature < high

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return the probabilities, float64 [n], of scores, [n] in [0, 1]."""
        shifted = _find_logits(scores) + self.prior_shift
        if self.method == "isotonic":
            return np.interp(expit(shifted), self.scores, self.probabilities)
        return expit(shifted / self.temperature)


def fit_calibration(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    method: CalibrationMethod,
    train_prior: float,
    split: str,
    tta: Tta,
) -> Calibration:
    """Fit a calibration.

    A network trained on as many diseased as healthy photographs takes disease for more
    common than it is: Saerens et al., Neural Computation 14(1), 2002, eq. 2.4, put that
    right, here by its share among the photographs fitted on. One temperature then mends
    what is too sure or not sure enough: Guo et al., 2017,
    https://arxiv.org/abs/1706.04599. An isotonic curve mends any shape, and needs many
    photographs.

    Args:
        truth: int64 [n], 1 for positive; both classes are there.
        scores: float [n] in [0, 1].
        method: `none` corrects the prior alone.
        train_prior: of positive photographs among those trained on, as drawn.
        split: that these are of.
        tta: that they were scored with.
    """
    shift = float(logit(truth.mean()) - logit(train_prior))
    common: dict[str, Any] = {
        "method": method,
        "prior_shift": shift,
        "split": split,
        "tta": tta,
        "num_photographs": len(truth),
    }
    shifted = _find_logits(scores) + shift
    if method == "temperature":

        def find_loss(log_temperature: float) -> float:
            values = shifted / np.exp(log_temperature)
            return float(np.mean(np.logaddexp(0, values) - truth * values))

        bounds = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
        found = minimize_scalar(find_loss, bounds=bounds, method="bounded")
        return Calibration(temperature=float(np.exp(found.x)), **common)
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1).fit(expit(shifted), truth)
        return Calibration(
            scores=curve.X_thresholds_.tolist(),
            probabilities=curve.y_thresholds_.tolist(),
            **common,
        )
    return Calibration(**common)


def _find_logits(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores.astype(np.float64), MARGIN, 1 - MARGIN))

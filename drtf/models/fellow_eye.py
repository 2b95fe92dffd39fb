"""The fellow eye: how a photograph's score uses the patient's other eye."""

from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import expit

from drtf.labels.patients import MAX_PHOTOGRAPHS_PER_PATIENT
from drtf.models.calibration import clipped_logits, fit_calibration

MIN_PAIRS = 20  # with fewer patients, each eye is predicted by itself
FELLOWS = {"left": "right", "right": "left"}
# Offset, weight of the photograph and weight of the fellow eye that predict each eye by
# itself. They are the means of normal priors with this standard deviation: the smaller
# it is, the less a few pairs change them.
OWN_ONLY = np.array([0.0, 1.0, 0.0])
DEVIATION = 0.3


class FellowEye(BaseModel):
    """How the scores of both eyes are combined.

    The logit of a combined score is `offset` + `own` * the photograph's logit +
    `fellow` * the mean logit of the fellow eye's photographs.

    Attributes:
        offset: Added to the logit.
        own: Weight of the photograph itself.
        fellow: Weight of the fellow eye; 0 predicts each eye by itself.
        num_pairs: Number of patients with both eyes that the weights were fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    offset: float
    own: Annotated[float, Field(ge=0)]
    fellow: Annotated[float, Field(ge=0)]
    num_pairs: int

    @classmethod
    def unused(cls, num_pairs: int) -> Self:
        """Return the weights that predict each eye by itself."""
        return cls(offset=0, own=1, fellow=0, num_pairs=num_pairs)

    @property
    def is_used(self) -> bool:
        """Whether the fellow eye has any weight."""
        return self.fellow > 0


def combine_eyes(
    scores: np.ndarray, fellows: np.ndarray, fellow_eye: FellowEye | None
) -> tuple[np.ndarray, np.ndarray]:
    """Combine the score of each photograph with those of the fellow eye.

    Args:
        scores: float32 [n] in [0, 1], of each photograph by itself.
        fellows: float64 [n], from `fellow_logits`.
        fellow_eye: The weights; None predicts each eye by itself.

    Returns:
        float32 [n] in [0, 1], the combined scores, or the photographs' own where there
        is no fellow eye; bool [n], whether the fellow eye was used.
    """
    if fellow_eye is None or not fellow_eye.is_used:
        return scores, np.zeros(len(scores), bool)
    is_used = np.isfinite(fellows)
    logits = fellow_eye.own * clipped_logits(scores) + fellow_eye.fellow * fellows
    combined = expit(fellow_eye.offset + logits).astype(np.float32)
    return np.where(is_used, combined, scores), is_used


def fellow_logits(photographs: pd.DataFrame) -> np.ndarray:
    """Return the mean logit of the photographs of each photograph's fellow eye.

    A patient with more photographs than MAX_PHOTOGRAPHS_PER_PATIENT has no fellow eyes:
    the name of this patient is likely shared by several people.

    Args:
        photographs: `patient` and `eye` (`left` or `right`), empty if unknown, and
            `score`, NaN if it must not be used for the other eye.

    Returns:
        float64 [n], NaN for a photograph without a fellow eye.
    """
    sizes = photographs.groupby("patient")["patient"].transform("size")
    is_known = (photographs["patient"] != "") & photographs["eye"].isin(FELLOWS)
    is_known &= sizes <= MAX_PHOTOGRAPHS_PER_PATIENT
    known = photographs[is_known]
    logits = pd.Series(clipped_logits(known["score"].to_numpy()), known.index)
    means = logits.groupby([known["patient"], known["eye"]]).mean()
    fellows = pd.MultiIndex.from_arrays([known["patient"], known["eye"].map(FELLOWS)])
    result = pd.Series(np.nan, photographs.index)
    result[is_known] = means.reindex(fellows).to_numpy()
    return result.to_numpy()


def fit_fellow_eye(photographs: pd.DataFrame, *, train_prior: float) -> FellowEye:
    """Fit the weights of both eyes by a logistic regression of the labels.

    Combined scores are on the scale of single eyes: the same calibration curve turns
    both into probabilities. So one threshold and one calibration fit photographs with
    and without a fellow eye.

    Args:
        photographs: `label` (0 or 1), `score`, `patient` and `eye`.
        train_prior: The fraction of positive photographs in training, after sampling.
    """
    fellows = fellow_logits(photographs)
    has_fellow = np.isfinite(fellows)
    pairs = photographs[has_fellow]
    num_pairs = pairs["patient"].nunique()
    if num_pairs < MIN_PAIRS or pairs["label"].nunique() < 2:
        return FellowEye.unused(num_pairs)
    labels, scores = pairs["label"].to_numpy(), pairs["score"].to_numpy()
    curve = fit_calibration(
        labels,
        scores,
        method="logistic",
        train_prior=train_prior,
        source="",
        tta="none",
    )
    inputs = np.stack(
        [np.ones(len(pairs)), clipped_logits(scores), fellows[has_fellow]], axis=1
    )

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (inputs @ weights + curve.prior_shift) / curve.temperature
        logits += curve.offset
        changes = (weights - OWN_ONLY) / DEVIATION
        errors = np.logaddexp(0, logits) - labels * logits
        gradient = inputs.T @ (expit(logits) - labels) / curve.temperature
        return errors.sum() + (changes**2).sum() / 2, gradient + changes / DEVIATION

    bounds = [(None, None), (0, None), (0, None)]
    offset, own, fellow = minimize(
        loss, OWN_ONLY, jac=True, method="L-BFGS-B", bounds=bounds
    ).x.tolist()
    return FellowEye(offset=offset, own=own, fellow=fellow, num_pairs=num_pairs)

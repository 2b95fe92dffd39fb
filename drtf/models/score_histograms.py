"""Histograms of the scores that a calibration was fitted on, for each class."""

from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_BINS = 10
Counts = tuple[Annotated[int, Field(ge=0)], ...]


class ScoreHistograms(BaseModel):
    """The number of positive and negative photographs in each bin of scores.

    Attributes:
        edges: The scores where one bin ends and the next one starts, in ascending
            order. The first bin has no lower end, the last one no upper end.
        negative: Number of negative photographs in each bin.
        positive: Number of positive photographs in each bin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    edges: tuple[float, ...]
    negative: Counts
    positive: Counts

    @model_validator(mode="after")
    def _has_one_count_per_bin(self) -> Self:
        if list(self.edges) != sorted(self.edges):
            raise ValueError("edges must be in ascending order")
        if not len(self.negative) == len(self.positive) == len(self.edges) + 1:
            raise ValueError("each bin must have one count of each class")
        if not (any(self.negative) and any(self.positive)):
            raise ValueError("both classes must have photographs")
        return self

    @property
    def num_photographs(self) -> int:
        """Number of photographs of both classes."""
        return sum(self.negative) + sum(self.positive)

    @property
    def num_rarer(self) -> int:
        """Number of photographs of the class that has fewer."""
        return min(sum(self.negative), sum(self.positive))

    @property
    def prevalence(self) -> float:
        """The fraction of positive photographs."""
        return sum(self.positive) / self.num_photographs

    def count(self, scores: np.ndarray) -> np.ndarray:
        """Return how many of these scores are in each bin, int64 [bins]."""
        return _count(scores, self.edges)


def build_histograms(labels: np.ndarray, scores: np.ndarray) -> ScoreHistograms:
    """Build histograms with bins that have about the same number of photographs.

    Args:
        labels: int64 [n], 1 for positive. Both classes must occur.
        scores: float [n].
    """
    inner = np.linspace(0, 1, MAX_BINS + 1)[1:-1]
    edges = tuple(np.unique(np.quantile(scores.astype(np.float64), inner)).tolist())
    negative, positive = (_count(scores[labels == label], edges) for label in (0, 1))
    return ScoreHistograms(
        edges=edges,
        negative=tuple(negative.tolist()),
        positive=tuple(positive.tolist()),
    )


def _count(scores: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    bins = np.searchsorted(edges, scores, side="right")
    return np.bincount(bins, minlength=len(edges) + 1)

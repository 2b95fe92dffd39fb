"""The quality gate: from a network's features to the probability of being ungradable.

It is a logistic regression, fitted on photographs that a clinician assessed.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit

from drtf.errors import RunError
from drtf.files import write_atomic
from drtf.models.run_files import QUALITY_GATE_FILE
from drtf.seals import dump_sealed

QUALITY_GATE = "quality_gate"  # the flag of a photograph, in the table of scores
Fraction = Annotated[float, Field(ge=0, le=1)]


class QualityGate(BaseModel):
    """The contents of quality_gate.json.

    Attributes:
        weights: One for each feature of the network.
        bias: Added to the weighted sum of the features. The sigmoid of the result is
            the probability that a clinician calls the photograph ungradable.
        threshold: The probability from which a photograph is flagged.
        max_flagged: The goal of the threshold: the largest fraction of gradable
            photographs that may be flagged.
        dataset_name: The dataset or the folder that it was fitted on.
        splits: The splits of this dataset; empty for a folder.
        num_gradable: Number of gradable photographs that it was fitted on.
        num_ungradable: Number of ungradable ones.
        roc_auc: ROC AUC of the out-of-fold probabilities.
        fraction_caught: The fraction of the ungradable photographs that are flagged, by
            out-of-fold probabilities.
        model_sha256: Hash of the model whose features it takes.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    weights: tuple[float, ...]
    bias: float
    threshold: Fraction
    max_flagged: Fraction
    dataset_name: str
    splits: tuple[str, ...]
    num_gradable: int
    num_ungradable: int
    roc_auc: Fraction
    fraction_caught: Fraction
    model_sha256: str

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that each photograph is ungradable.

        Args:
            features: float [n, F], from `build_feature_predictor`.

        Returns:
            float64 [n] in [0, 1].

        Raises:
            RunError: If the network has another number of features.
        """
        if features.shape[1] != len(self.weights):
            raise RunError(
                f"{QUALITY_GATE_FILE} has {len(self.weights)} weights, but the network "
                f"has {features.shape[1]} features: fit it again with drtf fit-gate"
            )
        return expit(features.astype(np.float64) @ np.array(self.weights) + self.bias)

    @property
    def rule(self) -> dict[str, Any]:
        """The parameters that decide if a photograph is flagged, as JSON values."""
        return self.model_dump(mode="json", include={"weights", "bias", "threshold"})

    def describe(self) -> str:
        """Return the photographs that the gate was fitted on, in one phrase."""
        splits = f" ({', '.join(self.splits)})" if self.splits else ""
        return (
            f"fitted on {self.num_gradable:,} gradable and {self.num_ungradable:,} "
            f"ungradable photographs of {self.dataset_name}{splits}"
        )


def save_quality_gate(folder: Path, gate: QualityGate) -> None:
    """Write quality_gate.json to a run folder."""
    contents = gate.model_dump(mode="json")
    write_atomic(folder / QUALITY_GATE_FILE, dump_sealed(contents))

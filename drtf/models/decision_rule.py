"""The decision rule: how a score becomes a label and a probability."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drtf.config import Tta
from drtf.files import write_atomic
from drtf.models.calibration import Calibration
from drtf.models.fellow_eye import FellowEye
from drtf.models.run_files import DECISION_RULE_FILE
from drtf.seals import dump_sealed
from drtf.tasks import NUM_GRADES

GIVEN = "given"  # the rule of a threshold that was given as a number


class Threshold(BaseModel):
    """The score from which a photograph is predicted positive.

    Attributes:
        value: In [0, 1].
        rule: How it was chosen, such as `youden`; `given` if it was given as a number.
        source: The photographs that it was chosen on, such as `split val` or a file.
        tta: The test-time augmentation of the scores.
        num_photographs: Number of photographs that it was chosen on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[float, Field(ge=0, le=1)]
    rule: str
    source: str
    tta: Tta
    num_photographs: int

    @property
    def setting(self) -> str | float:
        """The `evaluate.threshold` that chooses this threshold."""
        return self.value if self.rule == GIVEN else self.rule


class DecisionRule(BaseModel):
    """The contents of decision_rule.json.

    Attributes:
        fellow_eye: How the scores of both eyes are combined, before threshold and
            calibration; None if each eye is predicted by itself.
        threshold: The score from which a photograph is predicted positive.
        calibration: Turns scores into probabilities.
        cut_points: The expected grades from which grade 1, 2, 3 and 4 are predicted,
            chosen on the same photographs; empty if the run predicts no grades.
        model_sha256: Hash of the model whose scores these apply to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fellow_eye: FellowEye | None
    threshold: Threshold
    calibration: Calibration
    cut_points: tuple[Annotated[float, Field(ge=0, le=NUM_GRADES - 1)], ...]
    model_sha256: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the `evaluate` section that choose this rule, by name."""
        return {
            "tta": self.threshold.tta,
            "threshold": self.threshold.setting,
            "calibration": self.calibration.method,
            "fellow_eye": self.fellow_eye is not None,
        }

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.threshold.tta != self.calibration.tta:
            raise ValueError("threshold and calibration were chosen with different TTA")
        if list(self.cut_points) != sorted(self.cut_points):
            raise ValueError("cut_points must be in ascending order")
        if len(self.cut_points) not in (0, NUM_GRADES - 1):
            raise ValueError(f"cut_points must have {NUM_GRADES - 1} values, or none")
        return self


def save_decision_rule(folder: Path, rule: DecisionRule) -> None:
    """Write decision_rule.json to the folder of a run or of an evaluation."""
    contents = rule.model_dump(mode="json")
    write_atomic(folder / DECISION_RULE_FILE, dump_sealed(contents))

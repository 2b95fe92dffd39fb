"""A run that is ready to score: photographs in, one row per photograph out.

The commands and the service share it, so that they give the same rows.
"""

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drtf.config import ScoreConfig
from drtf.models.quality_gate import QUALITY_GATE
from drtf.models.run import Run, load_run
from drtf.models.training_photographs import (
    is_training_photograph,
    load_training_photographs,
)
from drtf.models.views import photographs_per_batch
from drtf.photographs.prepare import NetworkInput, Rejected
from drtf.photographs.references import PhotographRef
from drtf.scoring.kept_rows import KeptRows, keep_row
from drtf.scoring.patient_rows import complete_rows
from drtf.scoring.photograph_scores import (
    PredictBatch,
    Scored,
    build_batch_predictor,
    score_photographs,
)
from drtf.scoring.score_table import (
    HASH_LENGTH,
    NO_EVALUATION,
    VIEWS_DISAGREE,
    Row,
    common_cells,
    effective_threshold,
    parse_row,
)
from drtf.tasks import classes_at

_log = logging.getLogger(__name__)

# Views of a gradable photograph rarely differ by half of the whole range.
MAX_SPREAD = 0.5


class ScoredPhotograph(NamedTuple):
    """A photograph and its row.

    Attributes:
        prepared: The photograph as the network takes it, or why it was rejected.
        row: Its row, without the cells that depend on other rows.
    """

    prepared: NetworkInput | Rejected
    row: Row


@dataclass(frozen=True)
class Scorer:
    """A loaded run with the settings to score with.

    Attributes:
        run: The run.
        config: How to score.
        patient_pattern: The pattern of patients in photographs' names.
    """

    run: Run
    config: ScoreConfig
    patient_pattern: str

    @functools.cached_property
    def common(self) -> Row:
        """The cells that all rows share, see `common_cells`."""
        return common_cells(self.run, self.config, self.patient_pattern)

    @property
    def threshold(self) -> float:
        """The score from which a photograph is positive."""
        return effective_threshold(self.run, self.config)[0]

    @property
    def threshold_rule(self) -> str:
        """The rule that chose the threshold; `none` if the run was never evaluated."""
        return effective_threshold(self.run, self.config)[1]

    @property
    def has_stored_threshold(self) -> bool:
        """Whether the threshold is that of the run's decision rule.

        Otherwise the run's evaluations do not hold for it.
        """
        return self.run.threshold is not None and self.config.threshold == "stored"

    @functools.cached_property
    def predict_batch(self) -> PredictBatch:
        """The network's function, which is compiled once for all calls of `score`."""
        tta = self.run.tta
        batch_size = photographs_per_batch(self.config.batch_size, tta)
        return build_batch_predictor(self.run, tta=tta, batch_size=batch_size)

    @functools.cached_property
    def _trained_on(self) -> np.ndarray:
        return load_training_photographs(self.run.folder)

    def score(
        self, photographs: Sequence[PhotographRef], *, picture_size: int = 0
    ) -> Iterator[ScoredPhotograph]:
        """Score photographs, in order. `complete_lines` fills in the other cells.

        Args:
            photographs: The photographs to score.
            picture_size: Side in px of an additional picture to display; 0 means none.

        Raises:
            StorageError: If an object store fails.
            DrtfError: If a photograph cannot be read, although nothing is wrong with
                it.
        """
        results = score_photographs(
            self.run,
            photographs,
            config=self.config,
            picture_size=picture_size,
            predict_batch=self.predict_batch,
        )
        for photograph, (prepared, scored) in zip(photographs, results, strict=True):
            yield ScoredPhotograph(prepared, self.row(photograph, prepared, scored))

    def row(
        self,
        photograph: PhotographRef,
        prepared: NetworkInput | Rejected,
        scored: Scored | None,
    ) -> Row:
        """Return the row of a photograph, without the cells that depend on other rows.

        Args:
            photograph: The photograph.
            prepared: The photograph as the network takes it, or why it was rejected.
            scored: Its score; None if it was rejected.
        """
        row = self.common | {
            "id": photograph.id,
            "path": photograph.path,
            "patient": photograph.patient,
            "eye": photograph.eye,
        }
        if isinstance(prepared, Rejected) or scored is None:
            row["error"] = str(prepared)
            sha256 = photograph.sha256()
        else:
            row |= _result_cells(self.run, prepared, scored, self.config)
            sha256 = prepared.sha256
        if sha256:
            row["photograph"] = sha256[:HASH_LENGTH]
            is_known = is_training_photograph(sha256, self._trained_on)
            row["in_training"] = str(int(is_known))
        return row

    def complete_lines(self, lines: Iterable[bytes]) -> list[bytes]:
        """Fill in the cells of photographs that were scored together, in order.

        Args:
            lines: Rows from `score` or `row`, encoded, with different paths.

        Raises:
            ValueError: If a line is incomplete or does not match its checksum.
        """
        rows = [(line, parse_row(line)) for line in lines]
        kept = {row["path"]: keep_row(line, row) for line, row in rows}
        completed = self.complete_kept(kept, {})
        return [completed[path].line for path in kept]

    def complete_kept(
        self, rows: KeptRows, photographs: Mapping[str, PhotographRef]
    ) -> KeptRows:
        """Fill in the cells of lines of a table that depend on other rows.

        Args:
            rows: The lines.
            photographs: As for `complete_rows`.
        """
        return complete_rows(
            rows,
            photographs,
            run=self.run,
            config=self.config,
            patient_pattern=self.patient_pattern,
        )


def load_scorer(
    run_folder: Path,
    config: ScoreConfig,
    *,
    patient_pattern: str | None = None,
    decision_rule: Path | None = None,
) -> Scorer:
    """Load a run to score with; a run that was never evaluated is warned about.

    Args:
        run_folder: The run folder, written by `train` or `ensemble`.
        config: How to score.
        patient_pattern: The pattern of patients in photographs' names; None takes
            `labels.patient_pattern` of the run.
        decision_rule: The folder of an evaluation whose decision rule is used instead
            of the run's.

    Raises:
        RunError: If the run cannot be loaded.
    """
    run = load_run(run_folder, rule_folder=decision_rule)
    if patient_pattern is None:
        patient_pattern = run.config.labels.patient_pattern
    scorer = Scorer(run, config, patient_pattern)
    if scorer.threshold_rule == NO_EVALUATION:
        _log.warning(
            "the run %s was never evaluated, so it has no threshold and no calibration "
            "yet: scoring with the threshold %.1f and one view",
            run_folder,
            scorer.threshold,
        )
    return scorer


def _result_cells(
    run: Run,
    prepared: NetworkInput,
    scored: Scored,
    config: ScoreConfig,
) -> Row:
    """Return the cells that depend only on the photograph's image."""
    flags: list[str] = [*prepared.flags]
    cells = {}
    if run.quality_gate and scored.ungradable_probability is not None:
        cells["ungradable_probability"] = f"{scored.ungradable_probability:.6f}"
        if scored.ungradable_probability >= run.quality_gate.threshold:
            flags.append(QUALITY_GATE)
    if flags and config.on_ungradable == "reject":
        cells["error"] = f"ungradable: {', '.join(flags)}"
        return cells | {"flags": ";".join(flags)}
    cells["own_score"] = f"{scored.score:.9g}"  # exact for float32
    if run.tta != "none":
        cells["spread"] = f"{scored.spread:.6f}"
    is_predicted = not flags or config.on_ungradable == "predict"
    if is_predicted and scored.expected_grade is not None:
        cells["expected_grade"] = f"{scored.expected_grade:.6f}"
        grade = classes_at(np.array(scored.expected_grade), run.cut_points)
        cells["predicted_grade"] = str(grade)
    if scored.spread > MAX_SPREAD:
        flags.append(VIEWS_DISAGREE)
    return cells | {"flags": ";".join(flags)}

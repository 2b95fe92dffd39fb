"""Decision rules for other photographs than those of the training dataset."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from drtf import page
from drtf.config import LabelsConfig
from drtf.errors import DrtfError
from drtf.evaluation.decision_rules import fit_decision_rule
from drtf.evaluation.result import (
    describe_calibration,
    describe_cut_points,
    describe_threshold,
)
from drtf.files import check_absent
from drtf.intervals import format_estimate, format_interval
from drtf.labels.label_files import load_labels
from drtf.labels.matching import match_photographs
from drtf.models.decision_rule import DecisionRule, save_decision_rule
from drtf.models.run import Run, load_run
from drtf.models.run_files import DECISION_RULE_FILE, INFO_FILE, METRICS_FILE
from drtf.models.views import VIEWS
from drtf.scoring.score_check import (
    FEW_CALIBRATED,
    FLAG_NOTES,
    MIN_CHECKED,
    MIN_PER_CLASS,
    Mixture,
    fit_mixture,
)
from drtf.scoring.score_table import HASH_LENGTH, load_rows, parse_path
from drtf.scoring.table_files import Location
from drtf.texts import text_column

# With fewer labeled photographs of a class, a single one decides about the threshold.
MIN_LABELED_PER_CLASS = 10
# Why a photograph of a score table is not used.
NO_PROBABILITY = "photographs without a probability"
OF_TRAINING = "photographs of the training dataset"


@dataclass(frozen=True)
class Recalibration:
    """A decision rule for other photographs, and its source.

    Attributes:
        rule: The decision rule.
        num_photographs: Number of photographs that it was fitted on; 0 if the
            prevalence was given.
        left_out: Number of photographs and labels that were not used, by reason.
        mixture: What their scores show about the prevalence; None if labels or the
            prevalence were given.
    """

    rule: DecisionRule
    num_photographs: int
    left_out: dict[str, int]
    mixture: Mixture | None

    def facts(self) -> dict[str, str]:
        """Return the facts of the rule and its source by name."""
        left_out = [
            f"{count:,} {reason}" for reason, count in self.left_out.items() if count
        ]
        facts = {"Not used": ", ".join(left_out)}
        if self.mixture:
            facts["Estimated prevalence"] = (
                f"{format_estimate(self.mixture.prevalence)}, from "
                f"{self.num_photographs:,} photographs"
            )
        facts["Threshold"] = describe_threshold(self.rule.threshold)
        if self.rule.cut_points:
            facts["Cut points of grades 1 to 4"] = describe_cut_points(self.rule)
        facts["Calibration"] = describe_calibration(self.rule.calibration)
        return {name: fact for name, fact in facts.items() if fact}

    def _repr_html_(self) -> str:
        """Show the decision rule in a notebook."""
        notes = {f"Note {n}": note for n, note in enumerate(self.notes(), start=1)}
        return page.format_facts("Decision rule", self.facts() | notes)

    def notes(self) -> list[str]:
        """Return a sentence for each reason to be careful with the decision rule."""
        is_rough = self.rule.calibration.histograms.num_rarer < MIN_PER_CLASS
        return [FLAG_NOTES[FEW_CALIBRATED]] * is_rough


def recalibrate(
    run_folder: Path,
    *,
    out: Path,
    config: LabelsConfig,
    prevalence: float | None = None,
    scores: Location | None = None,
    labels: Path | None = None,
    overwrite: bool = False,
) -> Recalibration:
    """Write a decision rule for other photographs than those of the training dataset.

    With a prevalence, or the scores of photographs without labels, it has the run's
    threshold, and its calibration is moved to this prevalence or to the one that the
    scores show. With labels, threshold, calibration and cut points are chosen again, by
    the same rules as those of the run.

    Args:
        run_folder: A run that was evaluated.
        out: The folder to write the decision rule to.
        config: How to read the labels.
        prevalence: The fraction of positive photographs, above 0 and below 1.
        scores: A table of scores that `score` wrote with this run. Required without a
            prevalence.
        labels: A label file of photographs in this table.
        overwrite: Whether to replace a decision rule in `out`.

    Raises:
        RunError: If the run cannot be loaded.
        LabelError: If the labels cannot be read, or match no photograph.
        DrtfError: If the arguments do not fit together, the run was never evaluated,
            `out` holds something else, the table is of another model, too few labels
            are of one class, or the scores do not show the prevalence.
    """
    _check_request(prevalence, scores, labels)
    for name, kind in ((INFO_FILE, "run"), (METRICS_FILE, "evaluation")):
        if (out / name).exists():
            raise DrtfError(
                f"{out} is the folder of a {kind}: choose another one with --out"
            )
    check_absent(out / DECISION_RULE_FILE, overwrite=overwrite)
    run = load_run(run_folder)
    rule = run.decision_rule
    if rule is None:
        raise DrtfError(
            f"{run_folder} was never evaluated, so it has no calibration to start "
            "from: run drtf evaluate first"
        )
    if prevalence is not None:
        result = Recalibration(_moved(rule, prevalence), 0, {}, None)
    elif scores is not None:
        table, left_out = _load_scores(scores, run)
        if labels:
            result = _with_labels(
                run, rule, table, left_out, labels=labels, config=config
            )
        else:
            result = _with_shown_prevalence(rule, table, left_out)
    out.mkdir(parents=True, exist_ok=True)
    save_decision_rule(out, result.rule)
    return result


def _check_request(
    prevalence: float | None, scores: Location | None, labels: Path | None
) -> None:
    """Refuse arguments of `recalibrate` that do not fit together."""
    if (prevalence is None) == (scores is None):
        raise DrtfError("give either --prevalence or --scores")
    if labels and scores is None:
        raise DrtfError("--labels requires --scores, a table with these photographs")
    if prevalence is not None and not 0 < prevalence < 1:
        raise DrtfError(
            f"--prevalence must be above 0 and below 1, such as 0.12; got {prevalence}"
        )


def _with_shown_prevalence(
    rule: DecisionRule, table: pd.DataFrame, left_out: dict[str, int]
) -> Recalibration:
    """Move the calibration to the prevalence that the scores show.

    Raises:
        DrtfError: If they do not show it.
    """
    num_patients = table["patient"].nunique()
    if num_patients < MIN_CHECKED:
        raise DrtfError(
            f"the scores are of {num_patients:,} patients; at least {MIN_CHECKED} are "
            "required to estimate the prevalence. Give --prevalence or --labels instead"
        )
    mixture = fit_mixture(
        rule.calibration.histograms,
        table["score"].to_numpy(),
        num_patients=num_patients,
    )
    if not mixture.is_explained:
        raise DrtfError(
            "no prevalence explains these scores: even with the most likely one, "
            f"{mixture.distance:.2f} of them would have to differ to match the "
            "validation split, so the camera or the patients differ too. Give --labels "
            "of a few hundred photographs, or --prevalence, which corrects less"
        )
    if mixture.is_vague:
        raise DrtfError(
            "the scores do not show the prevalence: it may be anything from "
            f"{format_interval(mixture.prevalence)}. Score more photographs, or give "
            "--prevalence or --labels instead"
        )
    rule = _moved(rule, mixture.prevalence.value)
    return Recalibration(rule, len(table), left_out, mixture)


def _with_labels(
    run: Run,
    rule: DecisionRule,
    table: pd.DataFrame,
    left_out: dict[str, int],
    *,
    labels: Path,
    config: LabelsConfig,
) -> Recalibration:
    """Choose threshold, calibration and cut points again on labeled photographs.

    Raises:
        LabelError: If the labels cannot be read, or match no photograph.
        DrtfError: If there are too few of a class.
    """
    loaded = load_labels(labels, config).table
    graded = loaded[loaded["grade"].notna()]
    matches = match_photographs(graded, text_column(table.index))
    grades = matches.table["grade"].astype(int)
    grades = grades.set_axis(table.index[matches.table["row"]])
    table = table.loc[grades.index].assign(
        grade=grades, label=(grades >= run.task.positive_from).astype(int)
    )
    num_positive = int(table["label"].sum())
    num_negative = len(table) - num_positive
    if min(num_positive, num_negative) < MIN_LABELED_PER_CLASS:
        raise DrtfError(
            f"{num_positive:,} of the photographs with a score and a label are "
            f"positive (grade {run.task.positive_from} or higher) and "
            f"{num_negative:,} negative; at least {MIN_LABELED_PER_CLASS} of each are "
            "required, and a few hundred in all are better. Label more of them, or "
            "give --prevalence instead"
        )
    left_out = left_out | {
        "labels without a grade": len(loaded) - len(graded),
        "labels without a score": len(matches.missing),
        "scores without a label": int(matches.is_unlabeled.sum()),
    }
    settings = run.config.evaluate.model_copy(update=rule.settings)
    rule = fit_decision_rule(run, table, settings, source=labels.name)
    return Recalibration(rule, len(table), left_out, None)


def _moved(rule: DecisionRule, prevalence: float) -> DecisionRule:
    calibration = rule.calibration.with_prevalence(prevalence)
    return rule.model_copy(update={"calibration": calibration})


def _load_scores(location: Location, run: Run) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the scores of the photographs that have a probability.

    Returns:
        One row per photograph, by its path: `patient`, `eye`, `score` (without the
        fellow eye's) and `expected_grade`; and the number of the others, by reason.

    Raises:
        DrtfError: If the table is not of this run, or has no such photograph.
    """
    rows: dict[str, tuple[str, str, float, float]] = {}
    left_out = {NO_PROBABILITY: 0, OF_TRAINING: 0}
    num_views = str(len(VIEWS[run.tta]))
    for _, row in load_rows(location):
        if row["model"] != run.info.model_sha256[:HASH_LENGTH]:
            raise DrtfError(
                f"{location} has scores of another model than that of {run.folder}: "
                "score the photographs with this run"
            )
        if row["num_views"] != num_views:
            raise DrtfError(
                f"{location} has scores of {row['num_views']} views, but the threshold "
                f"of {run.folder} is for {num_views}: score the photographs again"
            )
        if not row["probability"]:
            left_out[NO_PROBABILITY] += 1
        elif row["in_training"] == "1":
            left_out[OF_TRAINING] += 1
        else:
            rows[parse_path(row["path"])] = (
                row["patient"] or row["path"],
                row["eye"],
                float(row["own_score"]),
                float(row["expected_grade"] or "nan"),
            )
    if not rows:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise DrtfError(f"{location} has no photograph to calibrate on: {counts}")
    columns = ["patient", "eye", "score", "expected_grade"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns), left_out

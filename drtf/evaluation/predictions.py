"""Predictions: a table with one row per photograph of a split."""

from pathlib import Path
from typing import Any

import pandas as pd

from drtf.config import EvaluateConfig
from drtf.data.examples import binary_labels
from drtf.errors import RunError
from drtf.evaluation.folder import PREDICTIONS_FILE
from drtf.evaluation.metrics import disease_metrics, grade_metrics
from drtf.files import escape_formula, open_regular, write_atomic
from drtf.intervals import Estimate
from drtf.labels.grouping import load_eyes
from drtf.models.decision_rule import DecisionRule
from drtf.models.fellow_eye import combine_eyes, fellow_logits
from drtf.models.prediction import Predict, predict_split
from drtf.models.run import Run
from drtf.records.reader import ShardDataset
from drtf.tasks import classes_at

PHOTOGRAPH_COLUMNS = ["id", "patient", "grade"]
GRADE_COLUMNS = ["expected_grade", "predicted_grade"]


def score_split(
    run: Run, shards: ShardDataset, split: str, *, predict: Predict, batch_size: int
) -> pd.DataFrame:
    """Score each photograph of a split.

    Args:
        run: The run to score with.
        shards: An open dataset.
        split: The split to score.
        predict: From `build_predictor`.
        batch_size: Number of photographs per batch.

    Returns:
        One row per photograph, in the order of the index: `id`, `patient`, `eye`
        (`left`, `right` or an empty text), `grade`, `label` (0 or 1), `score` (mean
        over the views, float32 in [0, 1]), `first_view_score` (without test-time
        augmentation) and, if the run predicts grades, `expected_grade` (from 0 to 4).
    """
    task = run.task
    labels = binary_labels(shards, split, task.name)
    by_view = predict_split(
        predict, shards, split=split, task=task.name, batch_size=batch_size
    )  # [n, V, C]
    rows = shards.split_rows(split)
    table = shards.load_index(PHOTOGRAPH_COLUMNS, rows)
    table["eye"] = load_eyes(shards, rows)
    table["label"] = labels
    probabilities = by_view.mean(axis=1)
    table["score"] = task.disease_scores(probabilities)
    table["first_view_score"] = task.disease_scores(by_view[:, 0])
    if task.predicts_grades:
        table["expected_grade"] = task.expected_classes(probabilities)
    return table


def apply_decision_rule(scores: pd.DataFrame, rule: DecisionRule) -> pd.DataFrame:
    """Add the predictions of a decision rule to scores.

    It is the `score` of both eyes, `fellow_used` (0 or 1), `predicted_label` (0 or 1),
    the calibrated `probability` and, if there is an `expected_grade`,
    `predicted_grade`. The photograph's own score is `own_score`.
    """
    own = scores["score"].to_numpy()
    combined, is_used = combine_eyes(own, fellow_logits(scores), rule.fellow_eye)
    predictions = scores.assign(
        own_score=own,
        fellow_used=is_used.astype(int),
        score=combined,
        predicted_label=(combined >= rule.threshold.value).astype(int),
        probability=rule.calibration.apply(combined),
    )
    if "expected_grade" in scores:
        expected = scores["expected_grade"].to_numpy()
        predictions["predicted_grade"] = classes_at(expected, rule.cut_points)
    return predictions


def patient_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Reduce predictions to one row per patient: the highest value of each column.

    This is the worse eye: the highest grade, and the highest score.
    """
    columns = predictions.drop(columns=["id", "eye"])
    return columns.groupby("patient", as_index=False).max()


def prediction_metrics(
    predictions: pd.DataFrame, config: EvaluateConfig
) -> dict[str, Estimate]:
    """Compute the metrics of predictions, per photograph or per patient."""
    columns = {name: column.to_numpy() for name, column in predictions.items()}
    bootstrap: dict[str, Any] = {
        "patients": columns["patient"],
        "num_resamples": config.num_resamples,
        "seed": config.seed,
    }
    metrics = disease_metrics(
        columns["label"],
        columns["score"],
        columns["predicted_label"],
        grades=columns["grade"],
        y_prob=columns["probability"],
        **bootstrap,
    )
    if "predicted_grade" in columns:
        metrics |= grade_metrics(
            columns["grade"], columns["predicted_grade"], **bootstrap
        )
    return metrics


def save_predictions(folder: Path, predictions: pd.DataFrame) -> None:
    """Write predictions.csv, with names that no spreadsheet runs as a formula."""
    columns = [*PHOTOGRAPH_COLUMNS, "eye", "own_score", "fellow_used", "score"]
    columns += ["probability", "predicted_label"]
    columns += [name for name in GRADE_COLUMNS if name in predictions]
    names = {name: predictions[name].map(escape_formula) for name in ("id", "patient")}
    text = predictions[columns].assign(**names).to_csv(index=False)
    write_atomic(folder / PREDICTIONS_FILE, text)


def load_predictions(folder: Path) -> pd.DataFrame:
    """Load `id`, `patient`, `grade` and `score` from predictions.csv, sorted by id.

    Raises:
        RunError: If the file is missing or damaged.
    """
    path = folder / PREDICTIONS_FILE
    try:
        # A patient may be called NA.
        types = {"id": str, "patient": str}
        with open_regular(path) as file:
            table = pd.read_csv(file, dtype=types, na_filter=False)
        table = table[[*PHOTOGRAPH_COLUMNS, "score"]]
        table = table.astype({"grade": int, "score": float})
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is missing: evaluate the run with drtf evaluate first"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{path} is damaged, or drtf evaluate did not write it: {error}"
        ) from error
    if not len(table) or table["score"].isna().any():
        raise RunError(
            f"{path} is damaged, or drtf evaluate did not write it: scores are missing"
        )
    return table.sort_values(["id", "patient"], ignore_index=True)

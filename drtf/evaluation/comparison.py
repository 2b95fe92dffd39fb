"""Comparison of several runs that were evaluated on the same photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drtf.errors import RunError
from drtf.evaluation.metrics import compare_roc_auc
from drtf.evaluation.predictions import PHOTOGRAPH_COLUMNS, load_predictions
from drtf.files import parse_json, read_regular
from drtf.intervals import Estimate
from drtf.models.run import INFO_FILE
from drtf.models.run_files import METRICS_FILE

# The metrics of each evaluation that are compared; only runs that predict grades have
# the last one.
METRICS = (
    "sensitivity",
    "specificity",
    "average_precision",
    "brier_score",
    "grades_quadratic_kappa",
)


class Summary(NamedTuple):
    """Settings and metrics of an evaluation.

    Attributes:
        positive_from: The lowest grade that counts as positive for this run.
        tta: The test-time augmentation.
        threshold: The run's threshold.
        metrics: The metrics of `METRICS` that this evaluation has.
    """

    positive_from: int
    tta: str
    threshold: float
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """A run compared with the first run.

    Attributes:
        name: Path of the run.
        roc_auc: ROC AUC of its scores.
        difference: Its ROC AUC minus that of the first run. There is no interval if all
            resamples agree.
        p_value: Two-sided p-value of no difference; 1 for the first run itself.
        summary: The run's own evaluation.
    """

    name: str
    roc_auc: Estimate
    difference: Estimate
    p_value: float
    summary: Summary


def evaluation_folder(path: Path, split: str) -> Path:
    """Return the folder of an evaluation.

    Args:
        path: The folder itself, or a run folder that was evaluated on `split`.
        split: The split.

    Raises:
        RunError: If `path` is neither, or the run was not evaluated on this split.
    """
    if (path / METRICS_FILE).exists():
        return path
    if not (path / INFO_FILE).exists():
        raise RunError(
            f"{path} is neither a run folder nor the folder of a complete evaluation"
        )
    folder = path / f"evaluation-{split}"
    if not (folder / METRICS_FILE).exists():
        raise RunError(
            f"{path} has no complete evaluation {folder.name}: first run drtf evaluate "
            f"{path} --shards DATASET --split {split}"
        )
    return folder


def compare(
    evaluations: Sequence[Path], *, min_grade: int, num_resamples: int, seed: int
) -> list[Comparison]:
    """Compare the ROC AUC of several runs on the same photographs.

    Args:
        evaluations: Folders written by `evaluate`, for the same split of the same
            dataset.
        min_grade: The lowest grade that counts as positive, whatever the runs were
            trained for.
        num_resamples: Number of bootstrap resamples of the patients, the same for all
            runs.
        seed: Seed of the resampling.

    Raises:
        RunError: If an evaluation is missing or covers other photographs, or if all
            photographs are of the same class.
    """
    tables = [load_predictions(folder) for folder in evaluations]
    first = tables[0]
    for folder, table in zip(evaluations, tables, strict=True):
        if not first[PHOTOGRAPH_COLUMNS].equals(table[PHOTOGRAPH_COLUMNS]):
            raise RunError(
                f"{folder} and {evaluations[0]} cover different photographs: evaluate "
                "both runs on the same split of the same dataset"
            )
    y_true = (first["grade"] >= min_grade).to_numpy().astype(int)
    if len(set(y_true)) < 2:
        which = "all" if y_true.all() else "none"
        raise RunError(
            f"{which} of the photographs in {evaluations[0]} have grade >= "
            f"{min_grade}, so there is only one class: choose another --grade"
        )
    comparisons = compare_roc_auc(
        y_true,
        np.stack([table["score"].to_numpy() for table in tables]),
        patients=first["patient"].to_numpy(),
        num_resamples=num_resamples,
        seed=seed,
    )
    return [
        Comparison(str(folder.parent), *values, load_summary(folder))
        for folder, values in zip(evaluations, comparisons, strict=True)
    ]


def load_summary(folder: Path) -> Summary:
    """Load settings and metrics from metrics.json.

    Raises:
        RunError: If the file is missing or damaged.
    """
    path = folder / METRICS_FILE
    try:
        contents = parse_json(read_regular(path))
        return Summary(
            positive_from=contents["positive_from_grade"],
            tta=contents["tta"],
            threshold=float(contents["threshold"]["value"]),
            metrics={
                name: _parse_estimate(contents[name])
                for name in METRICS
                if name in contents
            },
        )
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is missing: evaluate the run with drtf evaluate first"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged, or drtf evaluate did not write it: {error}"
        ) from error


def _parse_estimate(values: Mapping[str, float | None]) -> Estimate:
    # JSON has no NaN; save_result writes None instead.
    return Estimate(**{k: np.nan if x is None else float(x) for k, x in values.items()})

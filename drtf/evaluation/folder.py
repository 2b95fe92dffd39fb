"""The folder of an evaluation: its files, and whether an evaluation may write there.

This module does not load TensorFlow, so that `drtf evaluate` refuses at once.
"""

import re
from pathlib import Path

from drtf.config import EvaluateConfig
from drtf.errors import DrtfError
from drtf.evaluation.group_results import GROUPS_FILE
from drtf.evaluation.result import (
    EvaluationResult,
    find_differences,
    load_result,
)
from drtf.files import check_absent, hash_file, is_writable
from drtf.models.history import HISTORY_FIGURE
from drtf.models.run import load_decision_rule, load_info
from drtf.models.run_files import DECISION_RULE_FILE, INFO_FILE, METRICS_FILE
from drtf.records.manifest import hash_manifest, load_manifest

PREDICTIONS_FILE = "predictions.csv"
REPORT_FILE = "report.html"
FIGURES = (
    "roc.png",
    "precision_recall.png",
    "confusion_matrix.png",
    "scores.png",
    "reliability.png",
)
GRADES_FIGURE = "grade_confusion_matrix.png"
MISTAKES_FIGURE = "mistakes.png"
GROUPS_FIGURE = "groups-{number}.png"  # one for each column of evaluate.by, from 1
REPORT_FILES = (REPORT_FILE, *FIGURES, GRADES_FIGURE, MISTAKES_FIGURE, HISTORY_FIGURE)


def find_complete(
    run_folder: Path,
    shards: Path,
    *,
    split: str,
    config: EvaluateConfig,
    table: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    store_threshold: bool = False,
) -> EvaluationResult | None:
    """Return the result of an earlier call of `evaluate` with the same arguments.

    Returns:
        None if there is none, or it shall be overwritten.

    Raises:
        DrtfError: If run or dataset cannot be read, `out` holds something else, cannot
            be written to, or holds this evaluation, whose threshold was not stored.
    """
    info = load_info(run_folder)
    out = out or default_folder(run_folder, shards, split)
    differences = find_differences(
        out,
        model_sha256=info.model_sha256,
        dataset_sha256=hash_manifest(shards),
        split=split,
        config=config,
        table_sha256=hash_table(table, config),
    )
    if not (differences or overwrite):
        return _load_complete(out, run_folder, store_threshold=store_threshold)
    _check_out(out, differences, overwrite=overwrite)
    return None


def hash_table(table: Path | None, config: EvaluateConfig) -> str:
    """Return the SHA-256 of a table of further columns; empty if there is none.

    Raises:
        DrtfError: If it cannot be read, or no column is read.
    """
    if table is None:
        return ""
    if not config.by:
        raise DrtfError(
            f"--table {table} requires --by COLUMN (evaluate.by), which names the "
            "columns to read"
        )
    try:
        return hash_file(table)
    except OSError as error:
        raise DrtfError(f"cannot read --table {table}: {error.strerror}") from error


def default_folder(run_folder: Path, shards: Path, split: str) -> Path:
    """Return the folder that an evaluation is written to by default.

    Its name has the name of the dataset, unless the run was trained on this dataset.

    Args:
        run_folder: The run folder.
        shards: The evaluated dataset.
        split: The evaluated split.
    """
    if hash_manifest(shards) == load_info(run_folder).dataset_sha256:
        return run_folder / f"evaluation-{split}"
    name = re.sub(r"[^\w.-]", "_", load_manifest(shards).name)
    return run_folder / f"evaluation-{name}-{split}"


def _load_complete(
    out: Path, run_folder: Path, *, store_threshold: bool
) -> EvaluationResult:
    """Load the result of a complete evaluation."""
    result = load_result(out)
    if store_threshold and load_decision_rule(run_folder) != result.decision_rule:
        raise DrtfError(
            f"{out} already holds this evaluation, whose threshold is not stored in "
            f"{run_folder}: add --overwrite to evaluate again and store it"
        )
    return result


def _check_out(out: Path, differences: list[str], *, overwrite: bool) -> None:
    """Check that an evaluation may be written to a folder."""
    if (out / INFO_FILE).exists():
        raise DrtfError(
            f"{out} is a run folder: choose another folder for the evaluation with "
            "--out"
        )
    if not overwrite and (out / METRICS_FILE).exists():
        raise DrtfError(
            f"{out} already holds another evaluation: {', '.join(differences)}. Choose "
            "another folder with --out, or pass --overwrite"
        )
    # What an interrupted evaluation left is replaced.
    if not (out / DECISION_RULE_FILE).exists():
        files = (out / name for name in (PREDICTIONS_FILE, GROUPS_FILE, *REPORT_FILES))
        check_absent(*files, overwrite=overwrite)
    if not is_writable(out):
        raise DrtfError(f"cannot write to {out}: choose another folder with --out")

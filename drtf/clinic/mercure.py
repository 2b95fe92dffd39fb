"""The folders of mercure: a processing module's input, settings and result.

mercure starts a module with two environment variables. The first folder has the DICOM
files of a series or study and `task.json`, with the module's settings under `process`
and `settings`. The second takes the module's DICOM files and `result.json`, which
mercure keeps and whose `__mercure_notification` it sends.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drtf import __version__
from drtf.clinic.dicom_results import (
    DicomResults,
    check_can_write_dicom,
    write_dicom_results,
)
from drtf.errors import DrtfError
from drtf.files import encode_json, parse_json, read_regular, write_atomic
from drtf.heatmaps.overlays import LIMITS
from drtf.models.run import Run, load_run, load_run_config
from drtf.photographs.listing import list_photographs
from drtf.scoring.score_table import load_rows
from drtf.scoring.scoring import ScoreReport, score
from drtf.temporary_folders import temporary_folder

INPUT_VARIABLE = "MERCURE_IN_DIR"
OUTPUT_VARIABLE = "MERCURE_OUT_DIR"
TASK_FILE = "task.json"
RESULT_FILE = "result.json"
MAX_TASK_BYTES = 10_000_000
# The cells of a row in the result. A path is a UID here, and a patient has a pseudonym.
RESULT_COLUMNS = (
    "path",
    "patient",
    "eye",
    "score",
    "probability",
    "predicted_label",
    "predicted_grade",
    "flags",
    "error",
)


Notify = Literal["positive", "always", "never"]


class MercureSettings(BaseModel):
    """The settings of the module in mercure.

    Attributes:
        heatmaps: Whether to write heat maps too.
        notify: When to request a notification.
        set: Settings of drtf, such as {"score.threshold": 0.4}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    heatmaps: bool = False
    notify: Notify = "positive"
    set: Mapping[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class MercureTask:
    """The task that mercure gives a module.

    Attributes:
        images: The folder with the DICOM files.
        out: The folder for the results.
        settings: The settings of the module.
    """

    images: Path
    out: Path
    settings: MercureSettings


@dataclass(frozen=True)
class MercureReport:
    """The result of a task for mercure.

    Attributes:
        num_scored: Number of photographs with a score.
        text: The text of the notification.
        results: The DICOM results.
    """

    num_scored: int
    text: str
    results: DicomResults


def load_task(environment: Mapping[str, str]) -> MercureTask:
    """Load the task that mercure gives.

    Args:
        environment: Usually `os.environ`.

    Raises:
        DrtfError: If a variable is missing or names no folder, or task.json cannot be
            read or has settings of another form.
    """
    folders = []
    for variable in (INPUT_VARIABLE, OUTPUT_VARIABLE):
        folder = environment.get(variable, "")
        if not folder or not Path(folder).is_dir():
            raise DrtfError(
                f"--mercure requires the environment variable {variable} to name a "
                f"folder, as mercure sets it; it is {folder!r}"
            )
        folders.append(Path(folder))
    path = folders[0] / TASK_FILE
    try:
        task = parse_json(read_regular(path, MAX_TASK_BYTES))
        settings = MercureSettings.model_validate(_settings_in(task))
    except FileNotFoundError:
        settings = MercureSettings()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("process", "settings", *first["loc"])))
        raise DrtfError(
            f"{path}: {key}: {first['msg']}; the settings of this module are "
            f"{', '.join(MercureSettings.model_fields)}"
        ) from error
    except (OSError, ValueError) as error:
        raise DrtfError(f"cannot read {path}: {error}") from error
    return MercureTask(images=folders[0], out=folders[1], settings=settings)


def score_for_mercure(
    run_folder: Path,
    environment: Mapping[str, str],
    *,
    config_source: str = "",
    overrides: Sequence[str] = (),
    decision_rule: Path | None = None,
) -> MercureReport:
    """Score the DICOM files that mercure hands over, and write the results.

    Args:
        run_folder: The run folder.
        environment: Usually `os.environ`.
        config_source: Name of a preset, path of a TOML file, or empty for the run's
            config.
        overrides: `section.key=value`; those of mercure's settings come after them.
        decision_rule: As for `score`.

    Raises:
        DrtfError: As `load_task`, `score` and `write_dicom_results`.
    """
    check_can_write_dicom()
    task = load_task(environment)
    given = [f"{key}={json.dumps(value)}" for key, value in task.settings.set.items()]
    config = load_run_config(
        run_folder,
        config_source,
        [*overrides, *given],
        sections=("score", "gradcam", "labels.patient_pattern"),
    )
    with temporary_folder() as folder:
        report = score(
            run_folder,
            task.images,
            out=folder / "scores.csv",
            config=config.score,
            patient_pattern=config.labels.patient_pattern,
            decision_rule=decision_rule,
        )
        run = load_run(run_folder, rule_folder=decision_rule)
        results = write_dicom_results(
            run,
            list_photographs(task.images).photographs,
            (row for _, row in load_rows(report.table)),
            folder=task.out,
            heatmaps=config.gradcam if task.settings.heatmaps else None,
            num_workers=config.score.num_workers,
        )
        text = _describe(report, run)
        result = _encode_result(report, run, text=text, notify=task.settings.notify)
    write_atomic(task.out / RESULT_FILE, encode_json(result))
    return MercureReport(report.summary.num_scored, text, results)


def _settings_in(task: Any) -> Any:
    """Return the settings of the module; empty if mercure has none for it."""
    process = task.get("process") if isinstance(task, dict) else None
    settings = process.get("settings") if isinstance(process, dict) else None
    return settings or {}


def _describe(report: ScoreReport, run: Run) -> str:
    """Return the text of the notification, which names no patient."""
    summary = report.summary
    return (
        f"{summary.num_positive} of {summary.num_rows} photographs "
        f"{run.task.label_names[1]}, {summary.num_flagged} may be ungradable, "
        f"{summary.num_failed} without a score. Model "
        f"{run.folder.resolve().name} ({run.info.model_sha256[:8]}). {LIMITS}"
    )


def _encode_result(
    report: ScoreReport, run: Run, *, text: str, notify: Notify
) -> dict[str, Any]:
    """Return the contents of result.json, which name no patient."""
    is_positive = report.summary.num_positive > 0
    is_requested = notify == "always" or (notify == "positive" and is_positive)
    return {
        "drtf": __version__,
        "model": run.info.model_sha256,
        "threshold": report.threshold,
        "photographs": [
            {name: row[name] for name in RESULT_COLUMNS if row[name]}
            for _, row in load_rows(report.table)
        ],
        "__mercure_notification": {"text": text, "requested": is_requested},
    }

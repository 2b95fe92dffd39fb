"""The folder of heat maps: its files, and whether they may be written.

This module does not load TensorFlow, so that `drtf gradcam` refuses at once.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtf import page
from drtf.config import GradcamConfig, ScoreConfig
from drtf.files import check_absent, encode_json, parse_json, read_regular
from drtf.models.run import load_decision_rule, load_info
from drtf.photographs.listing import SkippedFile, list_photographs
from drtf.photographs.references import PhotographRef, hash_statuses
from drtf.records.manifest import hash_manifest

FIGURES = ("images.png", "heatmaps.png", "overlays.png")
AVERAGES_FIGURE = "averages.png"
OVERLAYS_FOLDER = "overlays"
PARTIAL_FOLDER = ".gradcam.partial"
REPORT_FILE = "gradcam.json"
# Settings that do not change what is drawn.
SPEED_SETTINGS = {"batch_size", "num_workers"}


@dataclass(frozen=True)
class GradcamReport:
    """The heat maps that were drawn.

    Attributes:
        layers: Name of the mapped layer, and height and width of its output in cells;
            for an ensemble those of its members. Empty for saliency, which uses none.
        figures: The written PNG files.
        num_overlays: Number of written overlays.
        num_others: Number of older files in the folder of overlays, which were kept.
        blank: Names of photographs whose map is zero everywhere.
        outside: Names of photographs with much heat outside the retina, where it is
            not shown.
        failed: Paths of photographs that could not be read.
        skipped: Files of the folder that are not photographs.
        is_reused: Whether an earlier call had drawn it.
    """

    layers: list[tuple[str, int, int]]
    figures: list[Path]
    num_overlays: int
    num_others: int
    blank: list[str]
    outside: list[str]
    failed: list[str]
    skipped: list[SkippedFile]
    is_reused: bool = field(default=False, compare=False)

    def __repr__(self) -> str:
        """Return the figures."""
        return f"<GradcamReport {', '.join(map(str, self.figures))}>"

    def _repr_html_(self) -> str:
        """Show the figures in a notebook."""
        return page.format_figures("Heat maps", self.figures, wide=True)


def find_complete(
    run_folder: Path,
    *,
    out: Path,
    config: GradcamConfig,
    score: ScoreConfig,
    shards: Path | None = None,
    split: str = "test",
    images: Path | str | None = None,
    overwrite: bool = False,
) -> GradcamReport | None:
    """Return the report of an earlier call of `gradcam` with the same arguments.

    Returns:
        None if there is none, or it shall be overwritten.

    Raises:
        DrtfError: If `out` has other figures, or what determines them cannot be read.
    """
    is_unfinished = (out / PARTIAL_FOLDER).exists()
    if not (overwrite or is_unfinished) and (out / REPORT_FILE).exists():
        request = plan_request(
            run_folder,
            config=config,
            score=score,
            shards=shards,
            split=split,
            photographs=[] if images is None else list_photographs(images).photographs,
        )
        report = _load_report(out, request)
        if report is not None:
            return report
    written = [*FIGURES, AVERAGES_FIGURE, REPORT_FILE]
    if images is not None:
        written.append(OVERLAYS_FOLDER)
    check_absent(*(out / x for x in written), overwrite=overwrite or is_unfinished)
    return None


def plan_request(
    run_folder: Path,
    *,
    config: GradcamConfig,
    score: ScoreConfig,
    shards: Path | None,
    split: str,
    photographs: Sequence[PhotographRef],
) -> dict[str, Any]:
    """Return everything that determines the heat maps of `gradcam`, as JSON values.

    Raises:
        DrtfError: If the run, the dataset or a photograph cannot be read.
    """
    rule = load_decision_rule(run_folder)
    request = {
        "model_sha256": load_info(run_folder).model_sha256,
        "decision_rule": rule and rule.model_dump(mode="json"),
        "gradcam": config.model_dump(mode="json"),
        "score": score.model_dump(mode="json", exclude=SPEED_SETTINGS),
    }
    if shards is not None:
        request |= {"dataset_sha256": hash_manifest(shards), "split": split}
    if photographs:
        request["photographs_sha256"] = hash_statuses(photographs)
    return request


def save_report(folder: Path, report: GradcamReport, request: dict[str, Any]) -> None:
    """Write gradcam.json, which makes the folder complete."""
    contents = dataclasses.asdict(report)
    del contents["num_others"], contents["is_reused"]
    contents["figures"] = [path.name for path in report.figures]
    text = encode_json({"request": request, "report": contents})
    (folder / REPORT_FILE).write_text(text)


def count_overlays(out: Path) -> int:
    """Count the files in the folder of overlays."""
    return sum(path.is_file() for path in (out / OVERLAYS_FOLDER).rglob("*"))


def _load_report(out: Path, request: dict[str, Any]) -> GradcamReport | None:
    """Load the report of a call; None if the call was another one, or files are gone.

    Args:
        out: The folder of the call.
        request: From `plan_request`.
    """
    try:
        contents = parse_json(read_regular(out / REPORT_FILE))
        if contents["request"] != request:
            return None
        report = dict(contents["report"])
        report["layers"] = [tuple(layer) for layer in report["layers"]]
        report["figures"] = [out / name for name in report["figures"]]
        report["skipped"] = [SkippedFile(*file) for file in report["skipped"]]
        num_others = count_overlays(out) - report["num_overlays"]
        if num_others < 0 or not all(path.exists() for path in report["figures"]):
            return None
        return GradcamReport(**report, num_others=num_others, is_reused=True)
    except (OSError, ValueError, TypeError, KeyError):
        return None

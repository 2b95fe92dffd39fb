"""DICOM results of a scoring: a report of each DICOM file, and heat maps if asked."""

import hashlib
import io
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drtf.clinic.dicom_series import algorithm_of, load_source
from drtf.clinic.structured_reports import Finding, build_report
from drtf.config import GradcamConfig
from drtf.errors import DrtfError, PhotographError
from drtf.files import write_atomic
from drtf.images.dicom_files import damaged_file, is_dicom
from drtf.images.signatures import HEAD_BYTES
from drtf.models.run import Run
from drtf.photographs.frames import split_frame
from drtf.photographs.prepare import NetworkInput
from drtf.photographs.references import PhotographRef
from drtf.progress import progress
from drtf.scoring.photograph_scores import prepare_photographs
from drtf.scoring.score_table import HASH_LENGTH, Row, written_path

if TYPE_CHECKING:
    from pydicom import Dataset


# Photographs whose heat maps are computed together.
MAPS_PER_BATCH = 16
NAME_LENGTH = 32


@dataclass
class DicomResults:
    """The DICOM results of a scoring.

    Attributes:
        folder: The folder with the results.
        num_reports: Number of structured reports.
        num_captures: Number of heat maps.
        without_score: Paths of photographs in DICOM files that have no score.
        others: Paths of photographs that are not in DICOM files.
        problems: Why there is no result of a file, by its path.
    """

    folder: Path
    num_reports: int = 0
    num_captures: int = 0
    without_score: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each kind of photograph without a result."""
        for paths, kind in (
            (self.others, "that are not in DICOM files"),
            (self.without_score, "in DICOM files, but without a score"),
            (list(self.problems), "in DICOM files that results cannot refer to"),
        ):
            if paths:
                problem = self.problems.get(paths[0])
                yield (
                    f"no DICOM result of photographs {kind}: {len(paths):,}, the first "
                    f"one is {paths[0]}{f' ({problem})' if problem else ''}"
                )


def check_can_write_dicom() -> None:
    """Check that the packages that write DICOM files are installed.

    Raises:
        DrtfError: If not.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise DrtfError(
            "DICOM results require highdicom: pip install 'drtf[dicom]'"
        ) from error


def write_dicom_results(
    run: Run,
    photographs: Sequence[PhotographRef],
    rows: Iterable[Row],
    *,
    folder: Path,
    heatmaps: GradcamConfig | None = None,
    num_workers: int = 1,
) -> DicomResults:
    """Write a structured report of each DICOM file that has a score.

    A result has the name of its photograph's location, so that it replaces an earlier
    one: of another model, or of a photograph that was replaced. Equal results have
    equal bytes, so a call that was interrupted can be repeated.

    Args:
        run: The run that scored the photographs.
        photographs: The photographs.
        rows: The rows of the table of scores. Photographs without one are ignored.
        folder: The folder to write to.
        heatmaps: How to draw a heat map of each photograph too; None draws none.
        num_workers: Processes that read photographs for heat maps; 0: one per CPU.

    Raises:
        DrtfError: If highdicom is missing.
        OSError: If a file cannot be written. No part of it is left.
    """
    check_can_write_dicom()
    by_path = {row["path"]: row for row in rows}
    results = DicomResults(folder)
    folder.mkdir(parents=True, exist_ok=True)
    findings = {
        x: Finding(split_frame(x.path)[1], by_path[written_path(x.path)])
        for x in photographs
        if written_path(x.path) in by_path
    }
    reported: list[PhotographRef] = []
    with progress("Writing DICOM reports", len(findings)) as advance:
        for path, group in itertools.groupby(findings, key=_file_of):
            frames = {x: findings[x] for x in group}
            reported += _write_report(results, run, path, frames)
            advance(num_done=len(frames))
    if heatmaps and reported:
        in_reports = {x: findings[x] for x in reported}
        _write_captures(results, run, in_reports, heatmaps, num_workers=num_workers)
    return results


def rows_of_files(rows: Iterable[Row], paths: Collection[str]) -> list[Row]:
    """Return the rows of all photographs in the files of some of them.

    Args:
        rows: Rows of a table of scores.
        paths: Cells of the column `path`.
    """
    files = {split_frame(path)[0] for path in paths}
    return [row for row in rows if split_frame(row["path"])[0] in files]


def _file_of(photograph: PhotographRef) -> str:
    return split_frame(photograph.path)[0]


def _write_report(
    results: DicomResults,
    run: Run,
    path: str,
    findings: Mapping[PhotographRef, Finding],
) -> list[PhotographRef]:
    """Write the report of a file, and return its photographs that are in the report."""
    photographs = list(findings)
    report_path = _result_path(
        results.folder, "report", replace(photographs[0], path=path)
    )
    outdated = [_result_path(results.folder, "heatmap", x) for x in photographs]
    head = photographs[0].read_head(HEAD_BYTES)
    if not is_dicom(head or b""):
        results.others += [x.path for x in photographs]
        if head is not None:  # another photograph had this path
            _remove(report_path, *outdated)
        return []
    scored = {x: finding for x, finding in findings.items() if finding.row["score"]}
    results.without_score += [x.path for x in photographs if x not in scored]
    if not scored:
        _remove(report_path, *outdated)
        return []
    # With --append, a renamed file may have the path of another one's row.
    if not all(_has_hash(x.sha256(), finding) for x, finding in scored.items()):
        results.problems[path] = "it is not the file that was scored"
        return []
    algorithm = algorithm_of(run, next(iter(scored.values())).row)
    try:
        source = load_source(photographs[0])
        with damaged_file("unsupported"):
            report = build_report(source, list(scored.values()), algorithm)
    except PhotographError as error:
        results.problems[path] = str(error)
        _remove(report_path, *outdated)  # of another photograph at this path
        return []
    data = _encode(report)
    if not report_path.exists() or report_path.read_bytes() != data:
        _remove(*outdated)
        write_atomic(report_path, data)
    results.num_reports += 1
    return list(scored)


def _has_hash(sha256: str | None, finding: Finding) -> bool:
    """Return whether a finding is of the photograph with this hash."""
    return (sha256 or "")[:HASH_LENGTH] == finding.row["photograph"]


def _write_captures(
    results: DicomResults,
    run: Run,
    findings: Mapping[PhotographRef, Finding],
    config: GradcamConfig,
    *,
    num_workers: int,
) -> None:
    """Write the heat maps of photographs that are in reports, and count them."""
    # Loads TensorFlow, which reports do not need.
    from drtf.clinic.heatmap_captures import build_capture, draw_captures
    from drtf.heatmaps.heatmaps import build_map_function
    from drtf.heatmaps.overlays import PICTURE_SIDE

    compute_maps = build_map_function(run, config)
    prepared = prepare_photographs(
        run,
        list(findings),
        num_workers=num_workers,
        picture_size=max(PICTURE_SIDE, run.info.image_size),
    )
    pairs = zip(findings, prepared, strict=True)
    with closing(prepared), progress("Drawing heat maps", len(findings)) as advance:
        while batch := list(itertools.islice(pairs, MAPS_PER_BATCH)):
            # Without photographs that were replaced meanwhile.
            read = {
                x: item
                for x, item in batch
                if isinstance(item, NetworkInput)
                and _has_hash(item.sha256, findings[x])
            }
            own = [findings[x] for x in read]
            pictures = draw_captures(
                run, list(read.values()), own, config, compute_maps=compute_maps
            )
            for photograph, finding, picture in zip(read, own, pictures, strict=True):
                algorithm = algorithm_of(run, finding.row)
                source = load_source(photograph)
                capture = build_capture(source, finding, algorithm, picture)
                path = _result_path(results.folder, "heatmap", photograph)
                write_atomic(path, _encode(capture))
                results.num_captures += 1
            advance(num_done=len(batch))


def _result_path(folder: Path, kind: str, photograph: PhotographRef) -> Path:
    """Return the file of a result, whose name depends on the photograph's location."""
    location = str(photograph)
    if not photograph.is_remote:
        location = str(Path(location).resolve())
    digest = hashlib.sha256(location.encode(errors="surrogateescape")).hexdigest()
    return folder / f"{kind}-{digest[:NAME_LENGTH]}.dcm"


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _encode(result: "Dataset") -> bytes:
    file = io.BytesIO()
    result.save_as(file, enforce_file_format=True)
    return file.getvalue()

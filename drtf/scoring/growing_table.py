"""A table that grows: new photographs get rows below the earlier ones, which stay.

A photograph is known by the content of its file. So a copy or a renamed photograph has
a row already, and a photograph that was changed is new.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from drtf.errors import DrtfError
from drtf.files import save_rows
from drtf.photographs.listing import SkippedFile, list_photographs
from drtf.photographs.references import PhotographRef, map_in_threads
from drtf.progress import progress
from drtf.scoring.kept_rows import KeptRows, RowLog, keep_row, open_log
from drtf.scoring.patient_table import save_patient_table
from drtf.scoring.score_table import (
    HASH_LENGTH,
    Row,
    Summary,
    describe_difference,
    is_equal_cell,
    load_rows,
    parse_path,
    parse_row,
    summarize,
    write_grown_table,
    written_path,
)
from drtf.scoring.scorer import Scorer
from drtf.scoring.scoring import check_request, score_missing, skipped_path
from drtf.scoring.table_files import (
    Location,
    file_name,
    file_version,
    has_file,
    remove_file,
    sibling,
    updating_file,
    writing_file,
)

# The cells of an earlier row that depend on photographs which arrive later.
REVISED_CELLS = (
    "patient",
    "eye",
    "fellow_used",
    "score",
    "probability",
    "predicted_label",
)
REVISIONS_FILE = "revisions.csv"


class Duplicate(NamedTuple):
    """A photograph that gets no row, because its content has one already.

    Attributes:
        path: Its path.
        kind: `copy`; `renamed` if the file at the path of the row is gone; `changed
            back` if the path is that of the row, but a later row has it too.
        row_path: The path of the row.
    """

    path: str
    kind: str
    row_path: str


class Revision(NamedTuple):
    """A cell of an earlier row that would be another one if it were scored now.

    Attributes:
        path: The path of the row.
        column: The column of the cell.
        kept: The cell, which stays as it is.
        now: What it would be now.
    """

    path: str
    column: str
    kept: str
    now: str


@dataclass(frozen=True)
class Growth:
    """The rows that were appended to a table.

    Attributes:
        out: The table.
        num_rows: Number of its rows.
        summary: Counts of the new rows.
        added: Paths of the new rows.
        changed: Paths of new rows that earlier rows have too: the file is another one.
        duplicates: Photographs whose content has a row under another path.
        revisions: Cells of earlier rows that would differ if they were scored now.
        current: The last row of each path, with the cells that it would have now.
    """

    out: Location
    num_rows: int
    summary: Summary
    added: list[str]
    changed: list[str]
    duplicates: list[Duplicate]
    revisions: list[Revision]
    current: list[Row]


def append_scores(
    scorer: Scorer, images: Path | str, out: Location, *, by_patient: bool = False
) -> Growth:
    """Score the photographs of a folder whose content has no row yet.

    Their rows are appended to the table; the earlier rows stay as they are. If the call
    is interrupted, the next one continues: what was scored is in the log of the table.

    Args:
        scorer: What scores them.
        images: As for `score`.
        out: The .csv or .parquet file, local or in a store. It may be missing.
        by_patient: Whether to write the table of patients too.

    Raises:
        LabelError: If the folder has no photographs.
        StorageError: If an object store fails.
        DrtfError: If the table or its log has rows of another model or other settings,
            or another process writes the table.
    """
    check_request(out, scorer.config, form="table")
    listing = list_photographs(images)
    photographs = listing.photographs
    growth = append_rows(scorer, photographs, out, present=photographs)
    save_notes(growth, listing.skipped)
    if by_patient:
        save_patient_table(out, growth.current, patient_pattern=scorer.patient_pattern)
    return growth


def append_rows(
    scorer: Scorer,
    photographs: Sequence[PhotographRef],
    out: Location,
    *,
    present: Sequence[PhotographRef],
    stop: Callable[[], bool] = lambda: False,
) -> Growth:
    """Do what `append_scores` does, with some photographs of a folder.

    Args:
        scorer: What scores them.
        photographs: The photographs to score unless they have a row.
        out: The table.
        present: These photographs and all others of the folder that can be used now,
            which state the patients and the eyes of earlier rows.
        stop: Whether to append only the rows that were scored so far.
    """
    with open_log(out) as log:
        version = file_version(out)
        earlier = _load_table(out, scorer.common)
        hashes = _hash_contents(photographs)
        added = _logged_rows(log, scorer.common, earlier, hashes)
        new, duplicates = _divide(photographs, hashes, earlier, added)
        if new:
            by_path = {written_path(x.path): x for x in new}
            added |= score_missing(scorer, by_path, {}, log, stop=stop)
        rows = earlier.current | added
        by_path = {written_path(x.path): x for x in present}
        of_rows = {path: by_path[path] for path in rows if path in by_path}
        completed = scorer.complete_kept(rows, of_rows)
        lines = [completed[path].line for path in added]
        if lines:
            with updating_file(out, version) as partial:
                write_grown_table(out, earlier.lines, lines, partial)
    kept = {path: row for path, row in earlier.current.items() if path not in added}
    return Growth(
        out=out,
        num_rows=len(earlier.lines) + len(lines),
        summary=summarize(parse_row(line) for line in lines),
        added=list(added),
        changed=[path for path in added if path in earlier.current],
        duplicates=duplicates,
        revisions=list(_revisions(kept, completed)),
        current=[parse_row(row.line) for row in completed.values()],
    )


def revisions_path(out: Location) -> Location:
    """Return the file that lists the revisions of a table."""
    return sibling(out, f"{file_name(out).stem}.{REVISIONS_FILE}")


def save_notes(growth: Growth, skipped: Iterable[SkippedFile]) -> None:
    """Write the lists next to a table: its revisions, and the files without a row.

    Args:
        growth: The table. Its duplicates are listed with the skipped files.
        skipped: Files that are not photographs.
    """
    without_row = [
        *skipped,
        *(SkippedFile(x.path, f"{x.kind}: {x.row_path}") for x in growth.duplicates),
    ]
    for path, columns, rows in (
        (revisions_path(growth.out), Revision._fields, growth.revisions),
        (skipped_path(growth.out), SkippedFile._fields, without_row),
    ):
        if rows:
            with writing_file(path, overwrite=True) as partial:
                save_rows(partial, columns, rows)
        else:
            remove_file(path)


@dataclass(frozen=True)
class _Table:
    """The rows of a table.

    Attributes:
        lines: All lines.
        current: The last row of each path.
        paths: The path of each content.
    """

    lines: list[bytes] = field(default_factory=list)
    current: KeptRows = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)


def _content(path: str, sha256: str) -> str:
    """Return the key of a photograph: its hash, or its path if it cannot be read."""
    return sha256 or f"unreadable: {path}"


def _load_table(out: Location, common: Row) -> _Table:
    """Load the rows of a table; there are none if there is no file.

    Raises:
        DrtfError: If a row was changed, or was scored with another model or settings.
    """
    table = _Table()
    if not has_file(out):
        return table
    for number, (line, row) in enumerate(load_rows(out), start=1):
        if difference := describe_difference(row, common):
            raise DrtfError(
                f"row {number:,} of {out} was scored with {difference}; one table has "
                "rows of one model and its settings: choose another --out, or replace "
                "the table with --overwrite instead of --append"
            )
        table.lines.append(line)
        table.current[row["path"]] = keep_row(line, row)
        table.paths[_content(row["path"], row["photograph"])] = row["path"]
    return table


def _hash_contents(photographs: Sequence[PhotographRef]) -> dict[str, str]:
    """Return the hash of each photograph's file, by path; empty if it is unreadable."""
    hashes = {}
    results = map_in_threads(PhotographRef.sha256, photographs)
    with progress("Comparing photographs with the table", len(photographs)) as advance:
        for photograph, sha256 in zip(photographs, results, strict=True):
            hashes[written_path(photograph.path)] = (sha256 or "")[:HASH_LENGTH]
            advance()
    return hashes


def _logged_rows(
    log: RowLog, common: Row, table: _Table, hashes: Mapping[str, str]
) -> KeptRows:
    """Return the rows of an interrupted call that the table does not have.

    A photograph that was replaced meanwhile is scored again.

    Raises:
        DrtfError: If a row was scored with another model or settings.
    """
    rows: KeptRows = {}
    for line, row in log.load():
        if difference := describe_difference(row, common):
            raise DrtfError(
                f"{log.path} has rows of an interrupted call that were scored with "
                f"{difference}: resume with the original ones, or remove this file"
            )
        path, sha256 = row["path"], row["photograph"]
        is_known = _content(path, sha256) in table.paths
        if not is_known and hashes.get(path, sha256) == sha256:
            rows[path] = keep_row(line, row)
    return rows


def _divide(
    photographs: Sequence[PhotographRef],
    hashes: Mapping[str, str],
    table: _Table,
    added: KeptRows,
) -> tuple[list[PhotographRef], list[Duplicate]]:
    """Return the photographs without a row, and those with a row of another path."""
    paths = table.paths | {_content(x, row.photograph): x for x, row in added.items()}
    rows = table.current | added
    new: list[PhotographRef] = []
    duplicates: list[Duplicate] = []
    for photograph in photographs:
        path = written_path(photograph.path)
        content = _content(path, hashes[path])
        row_path = paths.get(content)
        if row_path is None:
            paths[content] = path
            new.append(photograph)
        elif row_path != path:
            other = PhotographRef(photograph.folder, parse_path(row_path))
            kind = "renamed" if other.status().size_bytes < 0 else "copy"
            duplicates.append(Duplicate(path, kind, row_path))
        elif rows[path].photograph != hashes[path]:
            duplicates.append(Duplicate(path, "changed back", path))
    return new, duplicates


def _revisions(kept: KeptRows, completed: KeptRows) -> Iterator[Revision]:
    """Yield the cells of kept rows that would be others if they were scored now."""
    for path, row in kept.items():
        cells, now = parse_row(row.line), parse_row(completed[path].line)
        for column in REVISED_CELLS:
            if not is_equal_cell(column, cells[column], now[column]):
                yield Revision(path, column, cells[column], now[column])

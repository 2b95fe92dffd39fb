"""The rows that earlier calls scored, and which of them are still valid."""

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from drtf.errors import DrtfError
from drtf.files import append_regular, open_regular, write_unbuffered
from drtf.locks import lock
from drtf.photographs.patient_columns import PatientEye
from drtf.photographs.references import PhotographRef
from drtf.progress import progress
from drtf.scoring.score_table import (
    HASH_LENGTH,
    Row,
    describe_difference,
    encode_row,
    hash_list,
    load_list_hash,
    load_rows,
    parse_row,
    part_path,
    slice_part,
)
from drtf.scoring.table_files import Location, file_name, has_file, work_path
from drtf.workers import count_cores

NUM_HASHED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A row of a photograph.

    Attributes:
        line: The line of the table.
        photograph: Hash of the photograph's file; empty if it could not be read.
        failed: Whether the photograph has an error instead of a score.
        stated: The cells of the patient and the eye.
    """

    line: bytes
    photograph: str
    failed: bool
    stated: PatientEye


# By the cell of the column `path`.
KeptRows = dict[str, KeptRow]
Photographs = Mapping[str, PhotographRef]


@dataclass(frozen=True)
class RowLog:
    """The rows of an unfinished scoring, in the order in which they were scored.

    A kill can cut the last line short. Lines that do not match their checksums do not
    count.
    """

    file: FileIO

    @property
    def path(self) -> Path:
        """Path of the log."""
        return Path(self.file.name)

    def load(self) -> Iterator[tuple[bytes, Row]]:
        """Yield each undamaged row, and the line that it was parsed from."""
        with open_regular(self.path) as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    yield line, parse_row(line)

    def end_line(self) -> None:
        """End a line that a kill cut short; an empty line does not count."""
        if self.file.seek(0, 2):
            write_unbuffered(self.file, b"\n")

    def append(self, row: Row) -> KeptRow:
        """Append a row.

        Raises:
            OSError: If the disk is full.
        """
        line = encode_row(row)
        write_unbuffered(self.file, line)
        return keep_row(line, parse_row(line))


@contextmanager
def open_log(table: Location) -> Iterator[RowLog]:
    """Open the log of a table that is being scored, and remove it at the end.

    If the block fails, the log stays, unless it is empty. The log of a table in a store
    is in this machine's cache.

    Raises:
        DrtfError: If another process has it open.
    """
    path = work_path(table, f".{file_name(table)}.rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    with append_regular(path) as file:
        lock(file)
        log = RowLog(file)
        try:
            yield log
        except BaseException:
            if not file.seek(0, 2):
                log.path.unlink()
            raise
        log.path.unlink()


def rows_in_log(
    log: RowLog, photographs: Photographs, common: Row, *, overwrite: bool
) -> KeptRows:
    """Return the rows of an interrupted call.

    Args:
        log: The log of the call.
        photographs: The photographs to score.
        common: From `common_cells`.
        overwrite: Whether to ignore rows that this call cannot keep.

    Raises:
        DrtfError: If there are such rows, and `overwrite` is False.
    """
    kept: KeptRows = {}
    for line, row in log.load():
        difference = describe_difference(row, common)
        if not difference and row["path"] in photographs:
            kept[row["path"]] = keep_row(line, row)
        elif not overwrite:
            problem = f"were scored with {difference}" * bool(difference)
            raise DrtfError(
                f"{log.path} has rows of an interrupted call that "
                f"{problem or 'are of other photographs'}: resume with the original "
                "ones, or give --overwrite to discard the rows"
            )
    return kept


def rows_in_table(table: Location, common: Row) -> KeptRows:
    """Return the rows of a finished table; the last one of each path.

    Raises:
        DrtfError: If a row was changed, or was scored with another model or settings.
    """
    kept: KeptRows = {}
    for number, (line, row) in enumerate(load_rows(table), start=1):
        if difference := describe_difference(row, common):
            raise DrtfError(f"row {number:,} of {table} was scored with {difference}")
        kept[row["path"]] = keep_row(line, row)
    return kept


def rows_in_parts(
    out: Location,
    photographs: Photographs,
    num_parts: int,
    common: Row,
    *,
    compare_files: bool = True,
) -> KeptRows:
    """Return the rows of all parts of a table.

    Args:
        out: The merged table, from which the parts' names are derived.
        photographs: All photographs, in order.
        num_parts: Number of parts.
        common: From `common_cells`.
        compare_files: Whether to compare the photographs' files with the rows.

    Raises:
        DrtfError: If a part is missing, was scored from another list of photographs, or
            its rows are not those of its photographs, made with this model and these
            settings.
    """
    kept: KeptRows = {}
    list_hash = hash_list(photographs.values())
    for number in range(1, num_parts + 1):
        part = part_path(out, number, num_parts)
        option = f"--part {number}/{num_parts}"
        if not has_file(part):
            raise DrtfError(f"{part} is missing: score it with {option}")
        expected = slice_part(list(photographs), number, num_parts)
        try:
            check_list(part, list_hash)
            rows = rows_in_table(part, common)
            check_photographs(
                part,
                rows,
                {x: photographs[x] for x in expected},
                compare_files=compare_files,
            )
        except DrtfError as error:
            raise DrtfError(
                f"{error}; score this part again with {option} --overwrite"
            ) from error
        kept |= rows
    return kept


def check_list(table: Location, list_hash: str) -> None:
    """Check that a part was scored from this list of photographs.

    Args:
        table: A part, or a whole table, which has no list.
        list_hash: From `hash_list`; empty for a whole table.

    Raises:
        DrtfError: If it was not.
    """
    found = load_list_hash(table)
    if found != list_hash:
        raise DrtfError(
            f"{table} was scored from another list of photographs, some of which were "
            f"added, removed or renamed (list {found or 'none'} there, "
            f"{list_hash or 'none'} here)"
        )


def check_photographs(
    table: Location,
    rows: KeptRows,
    photographs: Photographs,
    *,
    compare_files: bool = True,
) -> None:
    """Check that a table has one row for each photograph as it is now.

    Args:
        table: The table, for the message.
        rows: Its rows.
        photographs: The photographs that it must have.
        compare_files: Whether to compare the photographs' files with the rows.

    Raises:
        DrtfError: Names a photograph whose row is missing, superfluous or outdated.
    """
    if missing := photographs.keys() - rows.keys():
        problem = f"has no row for {min(missing)}"
    elif others := rows.keys() - photographs.keys():
        problem = f"has a row for {min(others)}, which is not one of these photographs"
    elif compare_files and (changed := changed_photographs(rows, photographs)):
        problem = f"has a row for {min(changed)} as it was before it was replaced"
    else:
        return
    raise DrtfError(f"{table} {problem}")


def check_patients(
    table: Location, rows: KeptRows, patients: Mapping[str, PatientEye]
) -> None:
    """Check that a table has the patient and the eye of each photograph.

    Args:
        table: The table, for the message.
        rows: Its rows.
        patients: The cells that they must have.

    Raises:
        DrtfError: Names a photograph whose patient or eye is another one.
    """
    for path, expected in patients.items():
        found = rows[path].stated
        if found != expected:
            raise DrtfError(
                f"{table} has {found.describe()} for {path}, which is now of "
                f"{expected.describe()}"
            )


def check_complete(
    table: Location,
    photographs: Photographs,
    common: Row,
    *,
    list_hash: str,
    patients: Mapping[str, PatientEye],
) -> None:
    """Check that a table has exactly the rows that scoring would write now.

    Args:
        table: The table.
        photographs: Its photographs.
        common: From `common_cells`.
        list_hash: For a part, the hash of the list of all photographs.
        patients: The cells of their patients and eyes, from `patient_cells`.

    Raises:
        DrtfError: If it has not.
    """
    try:
        check_list(table, list_hash)
        rows = rows_in_table(table, common)
        check_photographs(table, rows, photographs)
        check_patients(table, rows, patients)
    except DrtfError as error:
        is_part = bool(list_hash)
        keep = "--append to keep its rows and score only new photographs, or "
        raise DrtfError(
            f"{table} already exists, and {error}: pass {'' if is_part else keep}"
            "--overwrite to replace it"
        ) from error


def rows_to_keep(rows: KeptRows, photographs: Photographs) -> KeptRows:
    """Return the rows that need not be scored again.

    A photograph that was replaced is scored again. So is one without a score: what was
    missing may be installed now.
    """
    changed = changed_photographs(rows, photographs)
    return {
        path: row
        for path, row in rows.items()
        if path not in changed and not row.failed
    }


def changed_photographs(rows: KeptRows, photographs: Photographs) -> set[str]:
    """Return the photographs whose file is not the one that a row was made from."""
    changed: set[str] = set()
    both = [path for path in photographs if path in rows]
    if not both:
        return changed
    with (
        ThreadPoolExecutor(count_cores()) as pool,
        progress("Comparing photographs with their rows", len(both)) as advance,
    ):
        for start in range(0, len(both), NUM_HASHED_AT_ONCE):
            batch = both[start : start + NUM_HASHED_AT_ONCE]
            hashes = pool.map(PhotographRef.sha256, map(photographs.get, batch))
            for path, sha256 in zip(batch, hashes, strict=True):
                if (sha256 or "")[:HASH_LENGTH] != rows[path].photograph:
                    changed.add(path)
                advance()
    return changed


def keep_row(line: bytes, row: Row) -> KeptRow:
    """Return a row from its line and its cells."""
    return KeptRow(
        line,
        row["photograph"],
        bool(row["error"]),
        PatientEye(row["patient"], row["eye"]),
    )

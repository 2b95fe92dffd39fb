"""The table of scores: its columns, its rows with checksums, and its file formats."""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import google_crc32c
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from pyarrow.compute import replace_substring_regex

from drtf.config import ScoreConfig
from drtf.errors import DrtfError
from drtf.files import ESCAPED_FORMULA, escape_formula, sync_file
from drtf.models.decision_rule import GIVEN
from drtf.models.run import Run
from drtf.models.views import VIEWS
from drtf.photographs.references import PhotographRef, photograph_id
from drtf.scoring.table_files import Location, file_name, open_file, sibling

# The types of the columns in a Parquet file.
COLUMNS = {
    "id": pa.string(),
    "path": pa.string(),
    "patient": pa.string(),
    "eye": pa.string(),
    "own_score": pa.float64(),
    "fellow_used": pa.int8(),
    "score": pa.float64(),
    "spread": pa.float64(),
    "probability": pa.float64(),
    "probability_flags": pa.string(),
    "predicted_label": pa.int8(),
    "expected_grade": pa.float64(),
    "predicted_grade": pa.int8(),
    "flags": pa.string(),
    "ungradable_probability": pa.float64(),
    "error": pa.string(),
    "in_training": pa.int8(),
    "threshold": pa.float64(),
    "threshold_rule": pa.string(),
    "num_views": pa.int8(),
    "model": pa.string(),
    "settings": pa.string(),
    "photograph": pa.string(),
    "checksum": pa.string(),
}
# The columns with names from elsewhere, also of the table of patients.
GUARDED = ("id", "path", "patient", "error", "photographs")
HASH_LENGTH = 16  # as in a run's list of training photographs
NO_EVALUATION = "none"  # the rule of the threshold of a run that was never evaluated
VIEWS_DISAGREE = "views_disagree"
# Without a mark at the start, Excel on Windows reads UTF-8 as the local code page.
UTF8_MARK = b"\xef\xbb\xbf"
# The columns of a submission: the photograph's id and its grade.
SUBMISSIONS = {"kaggle": ("image", "level"), "aptos": ("id_code", "diagnosis")}

# In the last cell of a part's header, before the hash of the list of photographs that
# all parts share. Their rows are those of the merged table.
LIST_MARK = "list="

# What rows may not contain, by what is written for it; the backslash comes first.
UNESCAPED = {r"\\": "\\", r"\r": "\r", r"\n": "\n"}

Row = dict[str, str]
Item = TypeVar("Item")


@dataclass
class ErrorGroup:
    """Photographs without a score for the same reason.

    Attributes:
        count: Number of photographs.
        example: Path of the first one.
        detail: What was wrong with it.
    """

    count: int
    example: str
    detail: str


@dataclass
class Summary:
    """Counts of the rows of a table.

    Attributes:
        num_rows: Number of rows.
        num_flagged: Number of photographs that may be ungradable.
        num_without_label: Number of photographs with a score but no predicted label.
        num_disagreeing: Number of photographs whose views disagree.
        num_positive: Number of photographs that are predicted positive.
        num_in_training: Number of photographs that the model was trained or chosen on.
        probability_flags: Why the probabilities are not to be trusted: keys of
            `FLAG_NOTES`.
        num_with_fellow: Number of photographs whose fellow eye was used.
        errors: Photographs without a score, by reason.
        scores: The distinct scores, at most two of them.
    """

    num_rows: int = 0
    num_flagged: int = 0
    num_without_label: int = 0
    num_disagreeing: int = 0
    num_positive: int = 0
    num_in_training: int = 0
    probability_flags: list[str] = field(default_factory=list)
    num_with_fellow: int = 0
    errors: dict[str, ErrorGroup] = field(default_factory=dict)
    scores: set[str] = field(default_factory=set)

    @property
    def num_scored(self) -> int:
        """Number of photographs with a score."""
        return self.num_rows - self.num_failed

    @property
    def num_failed(self) -> int:
        """Number of photographs without a score."""
        return sum(group.count for group in self.errors.values())

    def add(self, row: Mapping[str, str]) -> None:
        """Count one more row."""
        flags = set(split_flags(row["flags"]))
        self.num_rows += 1
        self.num_flagged += bool(flags - {VIEWS_DISAGREE})
        self.num_without_label += bool(row["score"]) and not row["predicted_label"]
        self.num_disagreeing += VIEWS_DISAGREE in flags
        self.num_positive += row["predicted_label"] == "1"
        self.num_in_training += row["in_training"] == "1"
        if row["probability"]:
            self.probability_flags = split_flags(row["probability_flags"])
        self.num_with_fellow += row["fellow_used"] == "1"
        if row["error"]:
            reason, _, detail = row["error"].partition(": ")
            group = ErrorGroup(0, row["path"], detail)
            self.errors.setdefault(reason, group).count += 1
        elif len(self.scores) < 2:
            self.scores.add(row["score"])


def summarize(rows: Iterable[Mapping[str, str]]) -> Summary:
    """Count the rows of a table."""
    summary = Summary()
    for row in rows:
        summary.add(row)
    return summary


def common_cells(run: Run, config: ScoreConfig, patient_pattern: str) -> Row:
    """Return a row with the cells that all rows share, and the others empty.

    They say what the rows were made with.

    `model` is the model's hash. `settings` is the hash of everything else that shapes a
    row: preprocessing, encoding, the weights of both eyes, threshold and its TTA, cut
    points, calibration, the quality gate, the handling of ungradable photographs, and
    how patients are recognized.
    """
    settings = {
        "images": run.config.images.model_dump(mode="json"),
        "encoding": [run.info.encoding, run.info.jpeg_quality],
        "fellow_eye": run.fellow_eye and run.fellow_eye.model_dump(mode="json"),
        "threshold": run.threshold and run.threshold.model_dump(mode="json"),
        "given_threshold": config.threshold,
        "cut_points": run.cut_points,
        "calibration": run.calibration and run.calibration.model_dump(mode="json"),
        "quality_gate": run.quality_gate and run.quality_gate.rule,
        "on_ungradable": config.on_ungradable,
        "patient_pattern": patient_pattern,
        "columns": list(COLUMNS),
    }
    text = json.dumps(settings, sort_keys=True)
    threshold, rule = effective_threshold(run, config)
    return dict.fromkeys(COLUMNS, "") | {
        "threshold": f"{threshold:.6f}",
        "threshold_rule": rule,
        "num_views": str(len(VIEWS[run.tta])),
        "model": run.info.model_sha256[:HASH_LENGTH],
        "settings": hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH],
    }


def effective_threshold(run: Run, config: ScoreConfig) -> tuple[float, str]:
    """Return the threshold to score with, and the rule that chose it."""
    if config.threshold != "stored":
        return config.threshold, GIVEN
    if run.threshold is None:
        return run.effective_threshold, NO_EVALUATION
    return run.effective_threshold, run.threshold.rule


def describe_difference(row: Row, common: Row) -> str:
    """Describe how a row's model differs from that of `common_cells`.

    Returns:
        A phrase such as `threshold 0.3 (now 0.5)`; empty if nothing differs.
    """
    if all(row[name] == common[name] for name in ("model", "settings")):
        return ""
    differences = [
        f"{name} {_readable(name, row[name])} (now {_readable(name, common[name])})"
        for name in ("model", "threshold", "threshold_rule", "num_views")
        if not is_equal_cell(name, row[name], common[name])
    ]
    if not differences:
        differences = [
            "other settings than now (preprocessing, calibration, weights of both "
            "eyes, quality gate, --on-ungradable or labels.patient_pattern)"
        ]
    return ", ".join(differences)


def is_equal_cell(column: str, cell: str, other: str) -> bool:
    """Return whether two cells of a column are equal, however a number is written."""
    if cell == other or "" in (cell, other) or COLUMNS[column] == pa.string():
        return cell == other
    return float(cell) == float(other)


def _readable(column: str, cell: str) -> str:
    return cell if COLUMNS[column] == pa.string() else f"{float(cell or 'nan'):g}"


def is_parquet(table: Location) -> bool:
    """Return whether a table is a Parquet file, by its suffix."""
    return file_name(table).suffix.lower() == ".parquet"


def check_unique_ids(paths: Iterable[str]) -> None:
    """Refuse photographs with equal ids, which a submission cannot tell apart.

    Raises:
        DrtfError: Names two of them.
    """
    known: dict[str, str] = {}
    for path in paths:
        other = known.setdefault(photograph_id(path), path)
        if other != path:
            raise DrtfError(
                f"{other} and {path} have the same name, but a submission has one row "
                "per name: score their folders separately, or without --format"
            )


def written_path(path: str) -> str:
    """Return the cell of the column `path` for a photograph.

    It is valid UTF-8 on one line and no formula for a spreadsheet to run.
    """
    return _escape(path).encode("utf-8", "backslashreplace").decode()


def parse_path(cell: str) -> str:
    """Return the path in a cell of the column `path`; what is not UTF-8 stays escaped.

    It is the inverse of `written_path`.
    """
    cell = re.sub(ESCAPED_FORMULA, r"\1", cell)
    return re.sub(r"\\[\\rn]", lambda match: UNESCAPED[match[0]], cell)


def hash_list(photographs: Iterable[PhotographRef]) -> str:
    """Return the hash of a list of photographs: their paths, in order."""
    paths = json.dumps([photograph.path for photograph in photographs])
    return hashlib.sha256(paths.encode()).hexdigest()[:HASH_LENGTH]


def encode_header(list_hash: str = "") -> bytes:
    """Encode the first line of a table.

    Args:
        list_hash: For a part, the hash of the list of all photographs.
    """
    cells = [*COLUMNS, LIST_MARK + list_hash] if list_hash else COLUMNS
    return (",".join(cells) + "\n").encode()


def load_list_hash(part: Location) -> str:
    """Return the hash in the header of a part; empty if the file is not a part.

    Raises:
        OSError: If the file cannot be read.
        StorageError: If the object store fails.
    """
    with open_file(part) as lines:
        return _parse_header(next(lines, b"")) or ""


def encode_row(row: Mapping[str, str]) -> bytes:
    """Encode a row as one line of CSV that ends with its checksum.

    Args:
        row: Cells by column, not yet escaped.
    """
    return _encode_cells({name: _escape(cell) for name, cell in row.items()})


def parse_row(line: bytes) -> Row:
    """Parse a line of a table.

    Raises:
        ValueError: If the line is incomplete or does not match its checksum.
    """
    content, _, checksum = line.rpartition(b",")
    if checksum != _checksum(content) + b"\n":
        raise ValueError("it was changed, so it does not match its checksum")
    try:
        cells = next(csv.reader([content.decode()]))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return dict(zip(COLUMNS, [*cells, checksum.decode().strip()], strict=True))


def check_cells(row: Row) -> None:
    """Check that the numbers of a row, which may be made up, are numbers.

    Raises:
        ValueError: Names the column.
    """
    for name, kind in COLUMNS.items():
        if kind == pa.string() or not row[name]:
            continue
        try:
            number = float(row[name])
        except ValueError:
            number = math.nan
        is_score = name in ("own_score", "score", "probability")
        if not (0 <= number <= 1 if is_score else math.isfinite(number)):
            raise ValueError(f"{row[name]!r} cannot be in the column {name}")


def split_flags(cell: str) -> list[str]:
    """Return the flags in a cell."""
    return cell.split(";") if cell else []


def replace_cells(line: bytes, cells: Mapping[str, str]) -> bytes:
    """Return a line of a table with other cells, not yet escaped, by column."""
    escaped = {name: _escape(cell) for name, cell in cells.items()}
    return _encode_cells(parse_row(line) | escaped)


def load_rows(table: Location) -> Iterator[tuple[bytes, Row]]:
    """Yield each row of a table, and its line, which a Parquet table gets as in CSV.

    Raises:
        DrtfError: If drtf did not write the table, or a line was changed.
        StorageError: If the object store fails.
    """
    if is_parquet(table):
        yield from _load_parquet(table)
        return
    with open_file(table) as lines:
        if _parse_header(next(lines, b"")) is None:
            raise DrtfError(
                f"{table} does not start as drtf writes tables: it is another table, "
                "or a spreadsheet saved it with other separators or line ends; restore "
                "the file that drtf wrote"
            )
        for number, line in enumerate(lines, start=2):
            try:
                row = parse_row(line)
            except ValueError as error:
                raise DrtfError(f"line {number:,} of {table}: {error}") from error
            yield line, row


def part_path(out: Location, number: int, num_parts: int) -> Location:
    """Return the file that one of several processes writes; numbers start at 1."""
    stem = file_name(out).stem
    return sibling(out, f"{stem}-{number:05d}-of-{num_parts:05d}.csv")


def slice_part(items: Sequence[Item], number: int, num_parts: int) -> Sequence[Item]:
    """Return the items of one of several processes; numbers start at 1."""
    start, stop = (len(items) * edge // num_parts for edge in (number - 1, number))
    return items[start:stop]


def write_csv(header: bytes, lines: Sequence[bytes], out: Path) -> None:
    """Write the lines of a table as CSV."""
    with out.open("wb") as file:
        file.writelines(encode_csv(header, lines))
        file.flush()
        sync_file(file)


def encode_csv(header: bytes, lines: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the parts of a CSV file, first a mark for Excel if a name is not ASCII."""
    if not all(map(bytes.isascii, lines)):
        yield UTF8_MARK
    yield header
    yield from lines


def write_parquet(table: pa.Table, out: Path) -> None:
    """Write a table as Parquet."""
    with out.open("wb") as file:
        parquet.write_table(table, file)
        file.flush()
        sync_file(file)


def parse_table(
    header: bytes, lines: Sequence[bytes], types: Mapping[str, pa.DataType]
) -> pa.Table:
    """Parse the lines of a table in CSV.

    The quotes that protect spreadsheets from formulas are removed.

    Args:
        header: The first line.
        lines: The other lines.
        types: The types of the columns.
    """
    options = arrow_csv.ConvertOptions(column_types=types)
    table = arrow_csv.read_csv(
        pa.BufferReader(b"".join([header, *lines])), convert_options=options
    )
    for number, column in enumerate(table.schema.names):
        if column in GUARDED:
            cells = replace_substring_regex(table[column], ESCAPED_FORMULA, r"\1")
            table = table.set_column(number, column, cells)
    return table


def write_table(
    table: Location, lines: Sequence[bytes], out: Path, *, list_hash: str = ""
) -> None:
    """Write a table of scores.

    Args:
        table: The table, whose suffix is its format.
        lines: Its rows.
        out: The file to write.
        list_hash: For a part, the hash of the list of all photographs.
    """
    if is_parquet(table):
        write_parquet(parse_table(encode_header(), lines, COLUMNS), out)
    else:
        write_csv(encode_header(list_hash), lines, out)


def write_grown_table(
    table: Location, earlier: Sequence[bytes], new: Sequence[bytes], out: Path
) -> None:
    """Write a table with further rows; the earlier ones stay as they are.

    Args:
        table: The table. It may be missing.
        earlier: Its rows, from `load_rows`.
        new: The further rows.
        out: The file to write.
    """
    if not (earlier and is_parquet(table)):
        write_table(table, [*earlier, *new], out)
        return
    with open_file(table) as file:
        rows = parquet.read_table(file, columns=list(COLUMNS))
    added = parse_table(encode_header(), new, COLUMNS)
    write_parquet(pa.concat_tables([rows, added]), out)


def encode_submission(rows: Iterable[Row], competition: str) -> bytes:
    """Encode a submission to a competition of Kaggle: EyePACS 2015 or APTOS 2019.

    The grade is the predicted grade if the run predicts grades, otherwise the predicted
    label. Photographs without either get grade 0, the most common one, because a
    submission needs a row for each photograph.
    """
    text = io.StringIO(newline="")
    submission = csv.writer(text, lineterminator="\n")
    submission.writerow(SUBMISSIONS[competition])
    for row in rows:
        grade = row["predicted_grade"] or row["predicted_label"] or "0"
        submission.writerow((row["id"], grade))
    return text.getvalue().encode()


def _encode_cells(cells: Mapping[str, str]) -> bytes:
    text = io.StringIO(newline="")
    row = [cells[name] for name in COLUMNS if name != "checksum"]
    csv.writer(text, lineterminator="").writerow(row)
    content = text.getvalue().encode("utf-8", "backslashreplace")
    return b"%s,%s\n" % (content, _checksum(content))


def _load_parquet(table: Location) -> Iterator[tuple[bytes, Row]]:
    try:
        with (
            open_file(table) as file,
            parquet.ParquetFile(file, pre_buffer=False) as opened,
        ):
            for batch in opened.iter_batches(columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    cells = {k: "" if x is None else str(x) for k, x in row.items()}
                    cells |= {k: escape_formula(cells[k]) for k in GUARDED if k in row}
                    yield _encode_cells(cells), cells
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DrtfError(f"drtf did not write {table}: {error}") from error


def _parse_header(line: bytes) -> str | None:
    """Return the hash in a part's header, an empty text, or None if it is no header."""
    text = line.removeprefix(UTF8_MARK).decode(errors="replace")
    list_hash = text.strip().partition(LIST_MARK)[2]
    return list_hash if text.encode() == encode_header(list_hash) else None


def _checksum(content: bytes) -> bytes:
    return b"%08x" % google_crc32c.value(content)


def _escape(cell: str) -> str:
    for written, raw in UNESCAPED.items():
        cell = cell.replace(raw, written)
    return escape_formula(cell)

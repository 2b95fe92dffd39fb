"""The table of scores: one line per photograph, in order, so that it can resume."""

import csv
import dataclasses
import hashlib
import io
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self, TypeVar

from pyarrow import csv as arrow_csv
from pyarrow import float64, int8, parquet, string
from pyarrow.compute import replace_substring_regex

from drtf.config import ScoreConfig
from drtf.data.photographs import photograph_id
from drtf.errors import DrtfError
from drtf.files import ESCAPED_FORMULA, escape_formula, open_regular
from drtf.models.run import Run

COLUMNS = (
    "id",
    "path",
    "score",
    "spread",
    "probability",
    "predicted_label",
    "predicted_grade",
    "flags",
    "error",
    "model",
    "settings",
)
GUARDED = ("id", "path", "error")
HASH_LENGTH = 12

Provenance = dict[str, str]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Counts:
    """Counts of the rows of a table.

    Attributes:
        num_rows: Number of rows.
        num_failed: Number of rows with an error instead of a score.
        num_flagged: Number of rows of photographs that may be ungradable.
        num_positive: Number of rows that are predicted positive.
        size_bytes: Size of the lines, with the header.
    """

    num_rows: int = 0
    num_failed: int = 0
    num_flagged: int = 0
    num_positive: int = 0
    size_bytes: int = 0

    def add(self, row: Mapping[str, str], size_bytes: int) -> Self:
        """Return the counts with one more row; empty cells may be missing."""
        return dataclasses.replace(
            self,
            num_rows=self.num_rows + 1,
            num_failed=self.num_failed + bool(row.get("error")),
            num_flagged=self.num_flagged + bool(row.get("flags")),
            num_positive=self.num_positive + (row.get("predicted_label") == "1"),
            size_bytes=self.size_bytes + size_bytes,
        )


def row_provenance(run: Run, config: ScoreConfig) -> Provenance:
    """Return the columns that tell what a row was made with.

    `model` is the model's hash. `settings` is the hash of everything else that shapes a
    row: preprocessing, encoding, threshold and its TTA, calibration, and the handling
    of ungradable photographs.
    """
    settings = {
        "images": run.config.images.model_dump(mode="json"),
        "encoding": [run.info.encoding, run.info.jpeg_quality],
        "threshold": run.threshold and run.threshold.model_dump(mode="json"),
        "calibration": run.calibration and run.calibration.model_dump(mode="json"),
        "on_ungradable": config.on_ungradable,
    }
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {
        "model": run.info.model_sha256[:HASH_LENGTH],
        "settings": digest[:HASH_LENGTH],
    }


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
                "per name: score their folders separately, or without --format kaggle"
            )


def encode_row(cells: Sequence[str]) -> bytes:
    """Encode cells as one line of CSV without formulas for a spreadsheet to run."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerow([_escape(cell) for cell in cells])
    return file.getvalue().encode("utf-8", errors="backslashreplace")


def count_rows(
    lines: Iterable[bytes], paths: Iterator[str], provenance: Provenance
) -> Counts:
    """Count the leading rows of a table that belong to the given photographs.

    Args:
        lines: The lines of the table, with their ends. Counting stops at a line that is
            damaged, incomplete, or belongs to another photograph, run or settings.
        paths: Paths of the photographs to score, in order.
        provenance: From `row_provenance`.
    """
    counts = Counts()
    for number, line in enumerate(lines):
        if number == 0:
            if line != encode_row(COLUMNS):
                return Counts()
            counts = Counts(size_bytes=len(line))
            continue
        try:
            cells = next(csv.reader([line.decode()]))
            row = dict(zip(COLUMNS, cells, strict=True))
        except (ValueError, StopIteration, csv.Error):
            break
        # encode_row changes unusual names, so compare encoded paths.
        expected = next(csv.reader([encode_row([next(paths, "")]).decode()]))[0]
        if not line.endswith(b"\n") or row["path"] != expected:
            break
        if row | provenance != row:
            break
        counts = counts.add(row, len(line))
    return counts


def part_path(out: Path, number: int, num_parts: int) -> Path:
    """Return the file that one of several processes writes; numbers start at 1."""
    return out.with_name(f"{out.stem}-{number:05d}-of-{num_parts:05d}.csv")


def slice_part(items: Sequence[Item], number: int, num_parts: int) -> Sequence[Item]:
    """Return the items of one of several processes; numbers start at 1."""
    start, stop = (len(items) * edge // num_parts for edge in (number - 1, number))
    return items[start:stop]


def merge_parts(
    out: Path,
    paths: Sequence[str],
    num_parts: int,
    provenance: Provenance,
    partial: Path,
) -> Counts:
    """Merge the parts of a table after checking each of their rows.

    Args:
        out: Path of the merged table, from which the parts' names are derived.
        paths: Paths of all photographs, in order.
        num_parts: Number of parts.
        provenance: From `row_provenance`.
        partial: The file to write.

    Returns:
        The counts of all rows.

    Raises:
        DrtfError: If a part or a row is missing, or belongs to another photograph, run
            or settings.
    """
    total = Counts()
    parts = [part_path(out, number, num_parts) for number in range(1, num_parts + 1)]
    for number, part in enumerate(parts, start=1):
        expected = slice_part(paths, number, num_parts)
        if not part.exists():
            raise DrtfError(
                f"{part} is missing: score it with --part {number}/{num_parts}"
            )
        with open_regular(part) as lines:
            counts = count_rows(lines, iter(expected), provenance)
        size_bytes = part.stat().st_size
        if (counts.num_rows, counts.size_bytes or -1) != (len(expected), size_bytes):
            raise DrtfError(
                f"{part} should have {len(expected):,} rows for these photographs, "
                "this run and these settings, but differs from line "
                f"{counts.num_rows + 2:,} on: merge with the original photographs, run "
                "and settings, or remove the file and score it again with --part "
                f"{number}/{num_parts}"
            )
        total = Counts(*map(operator.add, astuple(total), astuple(counts)))
    with partial.open("wb") as file:
        for number, part in enumerate(parts):
            with open_regular(part) as lines:
                header = next(lines)
                if number == 0:
                    file.write(header)
                file.writelines(lines)
    return total


def write_parquet(table: Path, out: Path) -> None:
    """Convert a table to Parquet, in batches.

    The quotes that protect spreadsheets from formulas in a CSV are removed.
    """
    numbers = {"score": float64(), "spread": float64(), "probability": float64()}
    types = dict.fromkeys(COLUMNS, string()) | numbers
    types |= {"predicted_label": int8(), "predicted_grade": int8()}
    options = arrow_csv.ConvertOptions(column_types=types)
    with (
        arrow_csv.open_csv(table, convert_options=options) as reader,
        parquet.ParquetWriter(out, reader.schema) as writer,
    ):
        for batch in reader:
            for number, column in enumerate(batch.schema.names):
                if column in GUARDED:
                    cells = replace_substring_regex(
                        batch[column], ESCAPED_FORMULA, r"\1"
                    )
                    batch = batch.set_column(number, column, cells)
            writer.write_batch(batch)


def write_kaggle(table: Path, out: Path) -> None:
    """Convert a table to a submission to Kaggle's competition of 2015, `image,level`.

    The level is the predicted grade if the run predicts grades, otherwise the predicted
    label. Photographs without a score get level 0, the most common one, because a
    submission needs a row for each photograph.
    """
    with (
        table.open(newline="", encoding="utf-8") as lines,
        out.open("w", newline="", encoding="utf-8") as file,
    ):
        submission = csv.writer(file, lineterminator="\n")
        submission.writerow(("image", "level"))
        for row in csv.DictReader(lines):
            level = row["predicted_grade"] or row["predicted_label"] or "0"
            submission.writerow((row["id"], level))


def _escape(cell: str) -> str:
    for raw, written in (("\\", r"\\"), ("\r", r"\r"), ("\n", r"\n")):
        cell = cell.replace(raw, written)
    return escape_formula(cell)

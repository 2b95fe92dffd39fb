"""The table of scores: a line a photograph, in order, so that a scoring can go on."""

import csv
import dataclasses
import hashlib
import io
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Self, TypeVar

from pyarrow import csv as arrow_csv
from pyarrow import float64, int8, parquet, string
from pyarrow.compute import replace_substring_regex

from drtf.config import ScoreConfig
from drtf.data.photographs import strip_suffix
from drtf.errors import DrtfError
from drtf.files import ESCAPED_FORMULA, escape_formula
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
STAMP_LENGTH = 12

Stamp = dict[str, str]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Counts:
    """What the rows of a table say.

    Attributes:
        num_rows: all of them.
        num_failed: with an error in place of a score.
        num_flagged: of photographs that can hardly be graded.
        num_positive: decided as positive.
        size_bytes: of the lines.
    """

    num_rows: int = 0
    num_failed: int = 0
    num_flagged: int = 0
    num_positive: int = 0
    size_bytes: int = 0

    def add(self, row: Mapping[str, str], size_bytes: int) -> Self:
        """Count one more row, which may lack empty cells."""
        return dataclasses.replace(
            self,
            num_rows=self.num_rows + 1,
            num_failed=self.num_failed + bool(row.get("error")),
            num_flagged=self.num_flagged + bool(row.get("flags")),
            num_positive=self.num_positive + (row.get("predicted_label") == "1"),
            size_bytes=self.size_bytes + size_bytes,
        )


def row_provenance(run: Run, config: ScoreConfig) -> Stamp:
    """Return what each row says of its making, by column.

    These are the model's hash, and that of all else that shapes a row: preprocessing,
    views, threshold, calibration, and what becomes of ungradable photographs.
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
        "model": run.info.model_sha256[:STAMP_LENGTH],
        "settings": digest[:STAMP_LENGTH],
    }


def photograph_id(path: str) -> str:
    """Return what a photograph is called by: its file's name, without the ending."""
    return strip_suffix(PurePosixPath(path).name)


def check_names(paths: Iterable[str]) -> None:
    """Refuse photographs of one name, of which a submission can't have two rows.

    Raises:
        DrtfError: names two of them.
    """
    known: dict[str, str] = {}
    for path in paths:
        other = known.setdefault(photograph_id(path), path)
        if other != path:
            raise DrtfError(
                f"{other} and {path} have one name, and a submission takes a row for "
                "each name: score their folders one by one, or without --format kaggle"
            )


def encode_row(cells: Sequence[str]) -> bytes:
    """Write a row of CSV as one line that no spreadsheet runs."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerow([_escape(cell) for cell in cells])
    return file.getvalue().encode("utf-8", errors="backslashreplace")


def count_rows(lines: Iterable[bytes], paths: Iterator[str], stamp: Stamp) -> Counts:
    """Count the lines from the first one that are those of a scoring.

    Args:
        lines: of a table, with their ends; what follows a line that is damaged or
            unfinished does not count.
        paths: of the photographs that are to be scored, in order.
        stamp: from `row_provenance`.
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
        # As it was written, which for a strange name is not as it is.
        expected = next(csv.reader([encode_row([next(paths, "")]).decode()]))[0]
        if not line.endswith(b"\n") or row["path"] != expected:
            break
        if row | stamp != row:
            break
        counts = counts.add(row, len(line))
    return counts


def name_part(out: Path, number: int, num_parts: int) -> Path:
    """Return where one of several processes writes its rows, counted from 1."""
    return out.with_name(f"{out.stem}-{number:05d}-of-{num_parts:05d}.csv")


def slice_part(items: Sequence[Item], number: int, num_parts: int) -> Sequence[Item]:
    """Return the items that one of several processes works on, counted from 1."""
    start, stop = (len(items) * edge // num_parts for edge in (number - 1, number))
    return items[start:stop]


def merge_parts(
    out: Path, paths: Sequence[str], num_parts: int, stamp: Stamp, aside: Path
) -> Counts:
    """Join the parts of a table, after a look at each of their rows.

    Args:
        out: the table's own name.
        paths: of all photographs, in order.
        num_parts: how many processes there were.
        stamp: from `row_provenance`.
        aside: the file to write.

    Raises:
        DrtfError: if a part or a row is missing, or of another model or photograph.
    """
    total = Counts()
    parts = [name_part(out, number, num_parts) for number in range(1, num_parts + 1)]
    for number, part in enumerate(parts, start=1):
        mine = slice_part(paths, number, num_parts)
        if not part.exists():
            raise DrtfError(
                f"{part} is missing: score it with --shard {number}/{num_parts}"
            )
        with part.open("rb") as lines:
            found = count_rows(lines, iter(mine), stamp)
        size_bytes = part.stat().st_size
        if (found.num_rows, found.size_bytes or -1) != (len(mine), size_bytes):
            raise DrtfError(
                f"{part} has not the {len(mine):,} rows that it should have for these "
                "photographs, this run and these settings, from line "
                f"{found.num_rows + 2:,} on: merge with what it was scored with, or "
                f"remove it and score it again with --shard {number}/{num_parts}"
            )
        total = Counts(*map(operator.add, astuple(total), astuple(found)))
    with aside.open("wb") as file:
        for number, part in enumerate(parts):
            with part.open("rb") as lines:
                header = next(lines)
                if number == 0:
                    file.write(header)
                file.writelines(lines)
    return total


def write_parquet(table: Path, out: Path) -> None:
    """Turn a table into a Parquet file, a part of it at a time.

    Names are as they are there: what guards a CSV from spreadsheets is taken off.
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
    """Turn a table into a submission as Kaggle took them in 2015, `image,level`.

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

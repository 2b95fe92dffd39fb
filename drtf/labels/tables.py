"""Label tables: the columns and rows of a label file as text, whatever its format."""

import codecs
import csv
import io
import itertools
import re
import warnings
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa

from drtf.errors import LabelError
from drtf.files import MAX_TABLE_BYTES, read_regular
from drtf.labels.formats import IMAGE_COLUMNS
from drtf.photographs.patient_columns import fold_name
from drtf.photographs.references import strip_suffix
from drtf.texts import TEXT, divide_into_batches, is_utf8

SEPARATORS = (",", ";", "\t", "|")
SAMPLE_CHARACTERS = 100_000
DECODED_BYTES = 1 << 20  # at a time
MAX_TEXT_TABLE_BYTES = 16 << 30  # of which 100 million photographs need a part
SAVE_AS_CSV = "save the table as 'CSV UTF-8'"

# The first bytes of files that are not tables of text.
OTHER_FORMATS = {
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"\x1f\x8b": "packed by gzip",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"{\\rtf": "a text document (.rtf)",
    b"<": "an HTML or XML file",
    b"{": "a JSON file",
    b"[": "a JSON file",
}
OTHER_ARCHIVES = {
    "content.xml": "an OpenDocument file (.ods)",
    "Index/Document.iwa": "a Numbers document",
    "xl/workbook.bin": "a binary Excel workbook (.xlsb)",
}

# A row's line number with its cells.
Row = tuple[int, list[str]]


@dataclass(frozen=True)
class LabelTable:
    """The contents of a label file.

    Attributes:
        rows: One text column per named column of the file, without surrounding spaces.
            The index is the line of each row, from 1. Without a header, the columns
            are named `1`, `2`, ... A column that is not UTF-8 is of str objects.
        has_header: Whether the first row has the names of the columns.
    """

    rows: pd.DataFrame
    has_header: bool

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.rows.columns]


def load_label_table(path: Path, *, has_header: bool | None = None) -> LabelTable:
    """Load a table of text, a workbook (.xlsx), or a zip file with one of them.

    Args:
        path: The file.
        has_header: Whether the first row is a header. None: it is, unless it has the
            name of an image file or a number.

    Raises:
        LabelError: If the file cannot be read, is not a table, or has no rows.
    """
    first, rows = _skip_titles(row for row in _load_rows(path) if any(row[1]))
    if has_header is None:
        has_header = bool(first) and _is_header(first)
    names = None
    if has_header and first:
        next(rows)
        names = _trim(first)
        _check_header(path, names)
    lines, columns = _divide_into_columns(path, rows, names)
    if not len(lines):
        raise LabelError(f"{path} has no rows after its header")
    if names is None:
        names = [str(number) for number in range(1, len(columns) + 1)]
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    table = pd.DataFrame(dict(enumerate(map(_text_column, named.values()))))
    table.index = pd.Index(lines, name="line")
    # Not `str`: pandas 3 refuses names that are not UTF-8.
    table.columns = pd.Index(list(named), dtype=object)
    return LabelTable(table, has_header)


def name_lines(lines: Iterable[int]) -> str:
    """Name the first five lines, such as `lines 2, 3 and 4`."""
    numbers = list(map(str, lines))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:5])}{more}"


def check_utf8(path: Path, column: pd.Series) -> None:
    """Refuse a column with bytes that are not UTF-8, such as those of CP949.

    Raises:
        LabelError: If there are any.
    """
    if column.dtype == TEXT:
        return
    bad = column[~column.map(is_utf8)]
    if len(bad):
        raise LabelError(
            f"{path}: column {column.name!r} is not in UTF-8 in "
            f"{name_lines(bad.index)}: {SAVE_AS_CSV}"
        )


def _divide_into_columns(
    path: Path, rows: Iterable[Row], names: list[str] | None
) -> tuple[np.ndarray, list[pa.ChunkedArray]]:
    """Return the lines of rows, int64 [n], and the bytes of each column's cells.

    Raises:
        LabelError: If a row has more cells than there are names.
    """
    width = None if names is None else len(names)
    lines = array("q")
    parts = []
    for batch in divide_into_batches(rows):
        for line, cells in batch:
            lines.append(line)
            if names is not None and any(cells[len(names) :]):
                raise LabelError(
                    f"{path}: line {line} has {len(cells)} cells, but the header has "
                    f"{len(names)}: keep one row with a name for each column, and put "
                    "cells that contain the separator in quotes"
                )
        # The names come first, so that there is a column for each.
        table = [names or [], *(cells for _, cells in batch)]
        columns = itertools.zip_longest(*table, fillvalue="")
        parts.append(
            pa.table(
                {
                    str(number): pa.array(map(_encode, cells), pa.large_binary())
                    for number, (_, *cells) in enumerate(
                        itertools.islice(columns, width)
                    )
                }
            )
        )
    if not parts:
        return np.empty(0, np.int64), []
    columns = pa.concat_tables(parts, promote_options="default").columns
    return np.frombuffer(lines, np.int64), columns


def _encode(cell: str) -> bytes:
    return cell.encode("utf-8", "surrogatepass")


def _text_column(cells: pa.ChunkedArray) -> pd.Series:
    """Return cells as a text column, or as objects if they are not UTF-8."""
    cells = cells.combine_chunks().fill_null(b"")  # rows that were shorter
    try:
        texts = cells.cast(pa.large_string())
    except pa.ArrowInvalid:
        found = [cell.decode("utf-8", "surrogatepass") for cell in cells.to_pylist()]
        return pd.Series(found, dtype=object)
    pa.default_memory_pool().release_unused()
    return texts.to_pandas(types_mapper={pa.large_string(): TEXT}.get)


def _load_rows(path: Path) -> Iterable[Row]:
    if path.is_dir():
        raise LabelError(
            f"{path} is a folder, but --labels takes a file: did you swap --images and "
            "--labels?"
        )
    try:
        data = read_regular(path, MAX_TEXT_TABLE_BYTES)
    except OSError as error:
        raise LabelError(
            f"cannot read the label file {path}: {error.strerror}"
        ) from error
    if data.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return _load_archive(path, data, archive)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise LabelError(f"cannot unpack {path}: {error}") from error
    return _parse_text(path, data)


def _load_archive(path: Path, data: bytes, archive: zipfile.ZipFile) -> Iterable[Row]:
    """Load a workbook, or the only file in a zip file."""
    names = archive.namelist()
    if sum(member.file_size for member in archive.infolist()) > MAX_TABLE_BYTES:
        raise LabelError(
            f"{path} unpacks to more than {MAX_TABLE_BYTES:,} bytes, which no label "
            "file has"
        )
    for name, kind in OTHER_ARCHIVES.items():
        if name in names:
            raise LabelError(f"{path} is {kind}, which cannot be read: {SAVE_AS_CSV}")
    if any(name.startswith("xl/") for name in names):
        return _load_workbook(path, data)
    tables = [name for name in names if not _is_hidden(name)]
    if len(tables) != 1:
        raise LabelError(
            f"{path} has {len(tables)} files, {tables[:5]}; a zip file of labels has "
            "only one: unpack it"
        )
    content = archive.read(tables[0])
    if content.startswith(b"PK\x03\x04"):
        raise LabelError(f"{path} has another archive in it, {tables[0]!r}: unpack it")
    return _parse_text(path, content)


def _is_hidden(member: str) -> bool:
    """Return whether a member of a zip file is a folder, or a file that macOS adds."""
    parts = PurePosixPath(member).parts
    return member.endswith("/") or "__MACOSX" in parts or parts[-1].startswith(".")


def _load_workbook(path: Path, data: bytes) -> list[Row]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise LabelError(
            f"{path} is an Excel workbook, which requires openpyxl: run "
            f"pip install 'drtf[excel]', or {SAVE_AS_CSV}"
        ) from error
    sheets = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles
            book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # some programs store wrong ones
                rows = [
                    (line, _trim([_format_cell(value) for value in values]))
                    for line, values in enumerate(sheet.iter_rows(values_only=True), 1)
                ]
                if any(cells for _, cells in rows):
                    sheets[sheet.title] = rows
    except Exception as error:  # openpyxl has no common error
        raise LabelError(
            f"{path} is a damaged Excel workbook: {error}; {SAVE_AS_CSV}"
        ) from error
    if len(sheets) > 1:
        raise LabelError(
            f"{path} has {len(sheets)} sheets, {list(sheets)}: keep only the one with "
            f"the labels, or {SAVE_AS_CSV}"
        )
    return next(iter(sheets.values()), [])


def _format_cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _parse_text(path: Path, data: bytes) -> Iterator[Row]:
    for magic, kind in OTHER_FORMATS.items():
        if data.startswith(magic):
            raise LabelError(f"{path} is {kind}, which cannot be read: {SAVE_AS_CSV}")
    encoding, errors = _choose_encoding(path, data)
    text = io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline="")
    sample = text.read(SAMPLE_CHARACTERS)
    text.seek(0)
    line_before = 0
    first_line = sample.partition("\n")[0].rstrip("\r")
    if declared := re.fullmatch(r'"?sep=(.)"?', first_line):
        separator, line_before = declared[1], 1
        text.readline()
    else:
        separator = _guess_separator(sample)
    reader = _split(text, separator)
    try:
        for row in reader:
            yield line_before + reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        line = line_before + reader.line_num
        raise LabelError(f"{path}: line {line}: {error}") from error


def _choose_encoding(path: Path, data: bytes) -> tuple[str, str]:
    """Return the encoding of a table and what to do with other bytes, as `open` does.

    The encoding is UTF-8, UTF-16 or EUC-KR, Windows' encoding of Korean. Bytes in any
    other encoding stay as they are, since they may be in columns that are not read;
    `check_utf8` refuses them elsewhere.

    Raises:
        LabelError: If it is not text.
    """
    encoding, errors = "utf-8-sig", "strict"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data[1:2] == b"\0":
        encoding = "utf-16-le"
    elif data[:1] == b"\0":
        encoding = "utf-16-be"
    try:
        is_text = not any("\0" in text for text in _decode(data, encoding))
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise LabelError(
                f"{path} is not a text file: {error}; {SAVE_AS_CSV}"
            ) from error
        if _is_korean(data):
            encoding = "euc_kr"
        else:
            errors = "surrogateescape"
        is_text = b"\0" not in data
    if not is_text:
        raise LabelError(f"{path} is not a text file: {SAVE_AS_CSV}")
    return encoding, errors


def _is_korean(data: bytes) -> bool:
    """Return whether data are Korean text in EUC-KR."""
    try:
        texts = _decode(data, "euc_kr")
        return all(re.fullmatch("[\0-\x7f가-힣]*", text) for text in texts)
    except UnicodeDecodeError:
        return False


def _decode(data: bytes, encoding: str) -> Iterator[str]:
    """Decode a table in pieces: the whole text may be larger than memory."""
    starts = range(0, len(data), DECODED_BYTES)
    pieces = (data[start : start + DECODED_BYTES] for start in starts)
    return codecs.iterdecode(pieces, encoding)


def _guess_separator(sample: str) -> str:
    """Return the separator that divides the most lines into equally many cells."""
    best = max(SEPARATORS, key=lambda separator: _regularity(sample, separator))
    if 2 * _regularity(sample, best) <= _regularity(sample, " "):
        return " "
    return best


def _regularity(sample: str, separator: str) -> int:
    """Count the lines that have the most common number of cells, at least two."""
    try:
        rows = _split(io.StringIO(sample, newline=""), separator)
        widths = Counter(len(cells) for cells in rows)
    except csv.Error:
        return 0
    return max((n for width, n in widths.items() if width > 1), default=0)


def _split(text: TextIO, separator: str) -> Any:
    """Return a csv.reader, whose class has no public name."""
    return csv.reader(text, delimiter=separator, skipinitialspace=True)


def _trim(cells: list[str]) -> list[str]:
    """Remove empty cells from the end."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def _skip_titles(rows: Iterator[Row]) -> tuple[list[str], Iterator[Row]]:
    """Skip the rows above a header: titles and comments, which fill one cell only.

    Returns:
        The cells of the first row that remains, and all rows that do.
    """
    skipped: list[Row] = []
    for row in rows:
        skipped.append(row)
        if sum(map(bool, row[1])) > 1:
            if _is_header(row[1]):
                skipped = [row]
            break
    first = skipped[0][1] if skipped else []
    return first, itertools.chain(skipped, rows)


def _is_header(cells: list[str]) -> bool:
    return not any(map(_is_data, cells)) or any(
        fold_name(cell) in IMAGE_COLUMNS for cell in cells
    )


def _is_data(cell: str) -> bool:
    """Return whether a cell is a number or the name of an image file."""
    is_number = re.fullmatch(r"-?\d+([.,]\d+)?", cell)
    return bool(is_number) or strip_suffix(cell) != cell


def _check_header(path: Path, names: list[str]) -> None:
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        raise LabelError(f"the header of {path} has two equal column names: {named}")
    if len(named) < 2:
        raise LabelError(
            f"{path} has one column, {named}; a table of labels has one with the "
            "photographs' names and at least one other"
        )

"""The index: one row per record, in the order of the records."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drtf.errors import RecordError
from drtf.files import open_regular, writing_atomic
from drtf.records.plan import SPLITS
from drtf.tasks import GRADES

ROWS_PER_BATCH = 1 << 16
ROWS_PER_GROUP = 1 << 20
SHA256_PATTERN = "^[0-9a-f]{64}$"

# The columns that every index has. A build adds its measures of quality, and the
# columns that it keeps of the label file.
COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.int32()),  # position in the manifest's list of shards
        ("offset", pa.int64()),  # of the frame in the shard
        ("length", pa.int64()),  # of the record's data, without its frame
        ("image_offset", pa.int64()),  # of the image in the data
        ("image_length", pa.int64()),
        ("crc32c", pa.uint32()),  # of the data, masked as in the frame's footer
        ("id", pa.string()),
        ("patient", pa.string()),
        ("grade", pa.int8()),
        ("source", pa.string()),  # its name; empty if there is only one
        ("path", pa.string()),  # of the photograph, relative to its image folder
        ("sha256", pa.string()),  # of the photograph's file
        ("has_field", pa.bool_()),  # the retina's; without one, nothing was cropped
    ],
)


def save_index(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    """Save an index; equal parts give equal bytes.

    Args:
        path: The Parquet file.
        parts: At least one table, each with the columns of `COLUMNS`, then any number
            of bool, float and text columns; floats are saved as float32.
    """
    parts = iter(parts)
    first = next(parts)
    schema = COLUMNS
    for name in first.columns.drop(COLUMNS.names):
        schema = schema.append(pa.field(name, _additional_type(first[name])))
    tables = (
        pa.Table.from_pandas(part, schema=schema, preserve_index=False)
        for part in itertools.chain([first], parts)
    )
    with writing_atomic(path) as file, pq.ParquetWriter(file, schema) as writer:
        group: list[pa.Table] = []
        for table in tables:
            group.append(table)
            if sum(map(len, group)) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def count_records(batches: Iterable[pd.DataFrame]) -> dict[str, dict[str, int]]:
    """Count the records of an index by split and grade, as a manifest does.

    Args:
        batches: The index, in any number of parts, with the columns split and grade.
    """
    counts: Counter[tuple[str, int]] = Counter()
    for batch in batches:
        counts.update(zip(batch["split"], batch["grade"].tolist(), strict=True))
    present = {split for split, _ in counts}
    return {
        split: {str(grade): counts[split, grade] for grade in GRADES}
        for split in SPLITS
        if split in present
    }


def load_index(
    path: Path,
    columns: Sequence[str] | None = None,
    rows: np.ndarray | None = None,
) -> pd.DataFrame:
    """Load an index, or only some of its columns or rows.

    Args:
        path: The Parquet file.
        columns: Names of the columns, by default all.
        rows: int64 [n], the rows to load, in any order; by default all.

    Returns:
        One row per record, numbered from 0.

    Raises:
        RecordError: If it cannot be read, a column is missing or has another type, or
            a cell has a value that no build writes.
    """
    with _opened_index(path, columns) as file:
        parts = [file.schema_arrow.empty_table().select(columns or file.schema.names)]
        for start, batch in _iterate_batches(path, file, columns):
            if rows is None:
                parts.append(pa.Table.from_batches([batch]))
                continue
            chosen = np.unique(rows[(rows >= start) & (rows < start + len(batch))])
            parts.append(pa.Table.from_batches([batch.take(pa.array(chosen - start))]))
        index = pa.concat_tables(parts).to_pandas()
    # Arrow would keep the memory that reading took, as much again as the columns.
    del parts
    pa.default_memory_pool().release_unused()
    if rows is None:
        return index
    order = np.searchsorted(np.unique(rows), rows)
    return index.iloc[order].reset_index(drop=True)


def iterate_index(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield an index, or only some of its columns, in batches of rows.

    This takes little memory however many records there are.

    Raises:
        RecordError: As `load_index`.
    """
    with _opened_index(path, columns) as file:
        for _, batch in _iterate_batches(path, file, columns):
            yield batch.to_pandas()


def _iterate_batches(
    path: Path, file: pq.ParquetFile, columns: Sequence[str] | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number of the first row of each batch of rows, and the batch."""
    start = 0
    for batch in file.iter_batches(ROWS_PER_BATCH, columns=columns):
        batch.validate(full=True)  # text must be UTF-8
        for name in batch.schema.names:
            cells = batch.column(name)
            row = pc.index(_are_valid(name, cells), False).as_py()
            if row >= 0:
                raise RecordError(
                    f"row {start + row} of the index {path} has the impossible value "
                    f"{cells[row].as_py()!r:.80} in the column {name!r}; build the "
                    "dataset again"
                )
        yield start, batch
        start += len(batch)


def _are_valid(name: str, cells: pa.Array) -> pa.BooleanArray:
    """Return for each cell of a column whether a build could have written it."""
    if name == "split":
        valid = pc.is_in(cells, pa.array(SPLITS))
    elif name == "grade":
        valid = pc.is_in(cells, pa.array(GRADES, cells.type))
    elif name == "sha256":
        valid = pc.match_substring_regex(cells, SHA256_PATTERN)
    elif pa.types.is_integer(cells.type):
        valid = pc.greater_equal(cells, 0)
    elif pa.types.is_floating(cells.type):
        valid = pc.is_finite(cells)
    else:
        valid = pc.is_valid(cells)
    return valid.fill_null(False)


@contextmanager
def _opened_index(
    path: Path, columns: Sequence[str] | None
) -> Iterator[pq.ParquetFile]:
    """Open an index and check that it has these columns, and those of `COLUMNS`.

    Raises:
        RecordError: If it cannot be read, also while the block reads it.
    """
    try:
        with open_regular(path) as opened:
            # Arrow would keep all that it has read until the file is closed.
            file = pq.ParquetFile(opened, pre_buffer=False)
            for field in COLUMNS:
                if field not in file.schema_arrow:
                    raise RecordError(
                        f"the index {path} has no {field.type} column {field.name!r}: "
                        "another version of drtf built this dataset; build it again"
                    )
            for field in file.schema_arrow:
                if field.name not in COLUMNS.names and not _is_additional(field):
                    raise RecordError(
                        f"the index {path} has a {field.type} column {field.name!r}; "
                        "additional columns must be bool, float or string"
                    )
            for name in columns or ():
                if name not in file.schema_arrow.names:
                    raise RecordError(
                        f"the index {path} has no column {name!r}: another version of "
                        "drtf built this dataset; build it again"
                    )
            yield file
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"cannot read the index {path}: {error}") from error


def _additional_type(column: pd.Series) -> pa.DataType:
    """Return the type in which a column is saved that not every index has."""
    if pd.api.types.is_bool_dtype(column):
        return pa.bool_()
    return pa.float32() if pd.api.types.is_float_dtype(column) else pa.string()


def _is_additional(field: pa.Field) -> bool:
    """Return whether a column has one of the types of `_additional_type`."""
    types = (pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return any(is_type(field.type) for is_type in types)

"""Columns of text that hold no Python object per row.

pandas keeps each text as an object of about 60 bytes more than its characters. Arrow
keeps only the characters, in UTF-8. Functions of a text are applied to some rows at a
time.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

ROWS_PER_BATCH = 1 << 13
TEXT = pd.StringDtype("pyarrow")

Row = TypeVar("Row", bound=NamedTuple)


class TextRows(Generic[Row]):
    """A growing list of named tuples of texts, whose characters Arrow holds in columns.

    In a text that is not UTF-8, the other bytes are written with backslashes.
    """

    def __init__(self, kind: type[Row], rows: Iterable[Row] = ()) -> None:
        """Begin with some rows, each of the class `kind`."""
        self._kind = kind
        self._tables: list[pa.Table] = []
        self._last: list[Row] = []  # those that are not in a table yet
        self.extend(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self._tables)) + len(self._last)

    def __iter__(self) -> Iterator[Row]:
        """Yield each row."""
        for table in self._tables:
            for batch in table.to_batches(ROWS_PER_BATCH):
                columns = (column.to_pylist() for column in batch.columns)
                yield from map(self._kind._make, zip(*columns, strict=True))
        yield from self._last

    def append(self, row: Row) -> None:
        """Append a row."""
        self._last.append(self._kind._make(map(_escape_bytes, row)))
        if len(self._last) == ROWS_PER_BATCH:
            self._tables.append(self._table_of_last())
            self._last = []

    def extend(self, rows: Iterable[Row]) -> None:
        """Append some rows."""
        if isinstance(rows, TextRows):
            self._tables, self._last = [self.to_table(), rows.to_table()], []
            return
        for row in rows:
            self.append(row)

    def sort(self) -> None:
        """Sort the rows, by their first texts first."""
        keys = [(name, "ascending") for name in self._kind._fields]
        self._tables, self._last = [self.to_table().sort_by(keys)], []

    def to_table(self) -> pa.Table:
        """Return the rows as a table of Arrow."""
        return pa.concat_tables([*self._tables, self._table_of_last()])

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a table of pandas with text columns."""
        return self.to_table().to_pandas(types_mapper={pa.large_string(): TEXT}.get)

    @classmethod
    def from_table(cls, kind: type[Row], table: pa.Table) -> "TextRows[Row]":
        """Return the rows of a table, which `to_table` returned."""
        rows = cls(kind)
        rows._tables.append(table)
        return rows

    def _table_of_last(self) -> pa.Table:
        columns = list(zip(*self._last, strict=True)) or [()] * len(self._kind._fields)
        arrays = [pa.array(column, pa.large_string()) for column in columns]
        return pa.table(arrays, self._kind._fields)


def text_column(
    texts: Iterable[str | None], index: pd.Index | None = None
) -> pd.Series:
    """Return texts, which must be UTF-8, as a column.

    Args:
        texts: The texts; None is missing.
        index: The index of the column; by default the rows are numbered.
    """
    texts = iter(texts)
    batches = iter(lambda: list(itertools.islice(texts, ROWS_PER_BATCH)), [])
    chunks = [pa.array(batch, pa.large_string()) for batch in batches]
    array = _join_chunks(pa.chunked_array(chunks, pa.large_string()))
    del chunks
    pa.default_memory_pool().release_unused()
    column = array.to_pandas(types_mapper={pa.large_string(): TEXT}.get)
    return column if index is None else column.set_axis(index)


def iterate_texts(column: pd.Series, rows: np.ndarray | None = None) -> Iterator[str]:
    """Yield the texts of a column, or only of some rows; None where one is missing.

    Args:
        column: The column.
        rows: int64 [n], the positions of the rows, in any order; by default all.
    """
    texts = pa.array(column)
    if rows is not None and isinstance(texts, pa.ChunkedArray):
        texts = _join_chunks(texts)
    for start in range(0, len(texts if rows is None else rows), ROWS_PER_BATCH):
        part = slice(start, start + ROWS_PER_BATCH)
        batch = texts[part] if rows is None else texts.take(pa.array(rows[part]))
        yield from batch.to_pylist()


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Return a hash of each text, uint64 [n].

    Equal texts have equal hashes. Of 100 million different texts, two have equal hashes
    in one of 4,000 cases, so equal hashes must be followed by a look at the texts.
    """
    texts = iter(texts)
    batches = iter(lambda: list(itertools.islice(texts, ROWS_PER_BATCH)), [])
    hashes = [
        pd.util.hash_array(np.array(batch, object), categorize=False)
        for batch in batches
    ]
    return np.concatenate([np.empty(0, np.uint64), *hashes])


def number_texts(column: pd.Series) -> np.ndarray:
    """Number the texts of a column from 0 by first appearance, int64 [n]; -1: missing.

    Equal texts have equal numbers.
    """
    is_present = column.notna().to_numpy(bool)
    present = column if is_present.all() else column[is_present]
    # Hashes take less memory than the texts.
    found = np.asarray(pd.factorize(hash_texts(iterate_texts(present)))[0], np.int64)
    first = np.empty(found.max(initial=-1) + 1, np.int64)
    first[found[::-1]] = np.arange(len(found))[::-1]
    pairs = zip(
        iterate_texts(present), iterate_texts(present, first[found]), strict=True
    )
    if any(text != other for text, other in pairs):
        found = np.asarray(pd.factorize(present)[0], np.int64)
    numbers = np.full(len(column), -1)
    numbers[is_present] = found
    return numbers


def count_texts(column: pd.Series) -> np.ndarray:
    """Return how often each text is in a column, int64 [n]."""
    numbers = number_texts(column)
    return np.bincount(numbers + 1)[numbers + 1] if len(numbers) else numbers


def are_repeated_texts(column: pd.Series) -> np.ndarray:
    """Return bool [n], whether each text is in the column more than once."""
    hashes = pd.Series(hash_texts(iterate_texts(column)))
    repeated = hashes.duplicated(keep=False).to_numpy(copy=True)
    repeated[repeated] = column[repeated].duplicated(keep=False)
    return repeated


def _join_chunks(texts: pa.ChunkedArray) -> pa.Array:
    """Return an array in one piece, as Arrow needs it to take rows from it."""
    return texts.chunk(0) if texts.num_chunks == 1 else texts.combine_chunks()


def _escape_bytes(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def is_utf8(text: str) -> bool:
    """Return whether a text has only characters, not bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

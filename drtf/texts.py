"""Columns of text that hold no Python object per row.

pandas keeps each text as an object of about 60 bytes more than its characters. Arrow
keeps only the characters, in UTF-8. Functions of a text are applied to some rows at a
time.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

ROWS_PER_BATCH = 1 << 13
TEXT = pd.StringDtype("pyarrow")

Row = TypeVar("Row", bound=NamedTuple)
Item = TypeVar("Item")


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


class TextBuilder:
    """A growing column of texts, which must be UTF-8.

    Its buffers grow in place: joining pieces would need the memory twice.
    """

    def __init__(self) -> None:
        """Begin without texts."""
        self._characters, self._is_present = bytearray(), bytearray()
        self._ends = array("q", [0])

    def extend(self, texts: Sequence[str | None] | pa.Array) -> None:
        """Append some texts; None is missing."""
        part = pa.array(texts, pa.large_string())
        _, offsets, characters = part.buffers()
        ends = np.frombuffer(offsets, np.int64, len(part) + 1)
        self._ends.frombytes((ends[1:] + len(self._characters)).tobytes())
        self._characters += memoryview(characters or b"")[: ends[-1]]
        self._is_present += part.is_valid().to_numpy(zero_copy_only=False).tobytes()

    def to_column(self) -> pd.Series:
        """Return the column, after which nothing can be appended."""
        is_present = np.frombuffer(self._is_present, bool)
        texts = pa.LargeStringArray.from_buffers(
            len(is_present),
            pa.py_buffer(self._ends),
            pa.py_buffer(self._characters),
            pa.py_buffer(np.packbits(is_present, bitorder="little")),
        )
        return texts.to_pandas(types_mapper={pa.large_string(): TEXT}.get)


def text_column(
    texts: Iterable[str | None], index: pd.Index | None = None
) -> pd.Series:
    """Return texts, which must be UTF-8, as a column.

    Args:
        texts: The texts; None is missing.
        index: The index of the column; by default the rows are numbered.
    """
    builder = TextBuilder()
    for batch in divide_into_batches(texts):
        builder.extend(batch)
    column = builder.to_column()
    return column if index is None else column.set_axis(index)


def divide_into_batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield lists of ROWS_PER_BATCH items; the last one may have fewer."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, ROWS_PER_BATCH)), [])


def iterate_texts(column: pd.Series, rows: np.ndarray | None = None) -> Iterator[str]:
    """Yield the texts of a column, or only of some rows; None where one is missing.

    Args:
        column: The column.
        rows: int [n], the positions of the rows, in any order; by default all.
    """
    for batch in _take_in_batches(column, rows):
        yield from batch.to_pylist()


def take_texts(column: pd.Series, rows: np.ndarray) -> pd.Series:
    """Return some rows of a text column, numbered.

    Arrow would need several times the memory of the result.

    Args:
        column: The column.
        rows: int [n], the positions of the rows, in any order.
    """
    builder = TextBuilder()
    for batch in _take_in_batches(column, rows):
        builder.extend(batch)
    return builder.to_column()


def _take_in_batches(
    column: pd.Series, rows: np.ndarray | None
) -> Iterator[pa.Array | pa.ChunkedArray]:
    texts = pa.array(column)
    if rows is not None and isinstance(texts, pa.ChunkedArray):
        texts = _join_chunks(texts)
    for start in range(0, len(texts if rows is None else rows), ROWS_PER_BATCH):
        part = slice(start, start + ROWS_PER_BATCH)
        yield texts[part] if rows is None else texts.take(pa.array(rows[part]))


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Return a hash of each text, uint64 [n].

    Equal texts have equal hashes. Of 100 million different texts, two have equal hashes
    in one of 4,000 cases, so equal hashes must be followed by a look at the texts.
    """
    hashes = array("Q")
    for batch in divide_into_batches(texts):
        cells = np.array(batch, object)
        hashes.frombytes(pd.util.hash_array(cells, categorize=False).tobytes())
    return np.frombuffer(hashes, np.uint64)


def first_rows(numbers: np.ndarray) -> np.ndarray:
    """Return for each number the row of the first equal one, int32 [n].

    From two billion rows on, it is int64. Sorting takes less memory than a hash table.

    Args:
        numbers: [n], of any type.
    """
    kind = np.int32 if len(numbers) <= np.iinfo(np.int32).max else np.int64
    rows = np.argsort(numbers, kind="stable").astype(kind)
    ascending = numbers[rows]
    is_other = ascending[1:] != ascending[:-1]
    del ascending
    # For each place in this order, the place of the first equal number.
    places = np.arange(len(rows), dtype=kind)
    places[1:][~is_other] = 0
    np.maximum.accumulate(places, out=places)
    first = np.empty_like(rows)
    first[rows] = rows[places]
    return first


def are_repeated(first: np.ndarray) -> np.ndarray:
    """Return bool [n], whether other rows equal each row.

    Args:
        first: From `first_rows`.
    """
    repeated = first != np.arange(len(first), dtype=first.dtype)
    repeated[first[repeated]] = True
    return repeated


def first_texts(column: pd.Series) -> np.ndarray:
    """Return for each text the row of the first equal one, as `first_rows`.

    A text that is missing equals others that are missing.
    """
    # Hashes take less memory than the texts.
    first = first_rows(hash_texts(iterate_texts(column)))
    pairs = zip(iterate_texts(column), iterate_texts(column, first), strict=True)
    if any(text != other for text, other in pairs):
        first = first_rows(pd.factorize(column)[0])
    return first


def number_texts(column: pd.Series) -> np.ndarray:
    """Number the texts of a column from 0 by first appearance, int [n]; -1: missing.

    Equal texts have equal numbers.
    """
    first = first_texts(column)
    is_present = column.notna().to_numpy(bool)
    is_first = first == np.arange(len(first), dtype=first.dtype)
    numbers = np.cumsum(is_first & is_present, dtype=first.dtype)[first] - 1
    numbers[~is_present] = -1
    return numbers


def count_texts(column: pd.Series) -> np.ndarray:
    """Return how often each text is in a column, int64 [n]."""
    first = first_texts(column)
    return np.bincount(first, minlength=len(first))[first]


def are_repeated_texts(column: pd.Series) -> np.ndarray:
    """Return bool [n], whether each text is in the column more than once."""
    return are_repeated(first_texts(column))


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

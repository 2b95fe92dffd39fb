"""Columns of text that hold no Python object per row.

pandas keeps each text as an object of about 60 bytes more than its characters. Arrow
keeps only the characters, in UTF-8. Functions of a text are applied to some rows at a
time.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

ROWS_PER_BATCH = 1 << 16
TEXT = pd.StringDtype("pyarrow")


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
    array = pa.chunked_array(chunks, pa.large_string())
    column = array.to_pandas(types_mapper={pa.large_string(): TEXT}.get)
    return column if index is None else column.set_axis(index)


def iterate_texts(column: pd.Series) -> Iterator[str]:
    """Yield the texts of a column; None where one is missing."""
    for start in range(0, len(column), ROWS_PER_BATCH):
        yield from pa.array(column[start : start + ROWS_PER_BATCH]).to_pylist()


def number_texts(column: pd.Series) -> np.ndarray:
    """Number the texts of a column from 0 by first appearance, int64 [n]; -1: missing.

    Equal texts have equal numbers.
    """
    numbers = np.asarray(pd.factorize(column)[0], np.int64)
    pa.default_memory_pool().release_unused()
    return numbers


def count_texts(column: pd.Series) -> np.ndarray:
    """Return how often each text is in a column, int64 [n]."""
    numbers = number_texts(column)
    return np.bincount(numbers + 1)[numbers + 1] if len(numbers) else numbers


def are_repeated_texts(column: pd.Series) -> np.ndarray:
    """Return bool [n], whether each text is in the column more than once."""
    return pd.Series(number_texts(column)).duplicated(keep=False).to_numpy()


def is_utf8(text: str) -> bool:
    """Return whether a text has only characters, not bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

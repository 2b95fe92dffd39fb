import tracemalloc
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from drtf import texts
from drtf.texts import (
    TextRows,
    are_repeated_texts,
    count_texts,
    hash_texts,
    iterate_texts,
    number_texts,
    text_column,
)


@pytest.fixture(params=["different hashes", "equal hashes"])
def any_hashes(request, monkeypatch):
    """Also hash all texts alike, as seldom happens to two of them."""
    if request.param == "equal hashes":
        monkeypatch.setattr(
            texts, "hash_texts", lambda texts: np.zeros(len(list(texts)), np.uint64)
        )


@pytest.mark.usefixtures("any_hashes")
def test_texts_are_numbered_by_first_appearance():
    column = text_column(["b", None, "a", "b", "", None, "a"])
    assert number_texts(column).tolist() == [0, -1, 1, 0, 2, -1, 1]
    assert number_texts(column[:0]).tolist() == []


@pytest.mark.usefixtures("any_hashes")
def test_repeated_texts_are_found_and_counted():
    column = text_column(["b", "a", "c", "b", "b"])
    assert are_repeated_texts(column).tolist() == [True, False, False, True, True]
    assert count_texts(column).tolist() == [3, 1, 1, 3, 3]


def test_equal_texts_have_equal_hashes():
    one, other, again = hash_texts(["환자", "1.jpg", "환자"])
    assert one == again != other


def test_texts_are_iterated_in_the_order_of_rows(monkeypatch):
    monkeypatch.setattr(texts, "ROWS_PER_BATCH", 2)
    column = text_column(["a", None, "c", "d", "e"], pd.Index([9, 8, 7, 6, 5]))
    assert list(iterate_texts(column)) == ["a", None, "c", "d", "e"]
    rows = np.array([4, 0, 2, 2, 1])
    assert list(iterate_texts(column, rows)) == ["e", "a", "c", "c", None]


class Pair(NamedTuple):
    name: str
    kind: str


@pytest.mark.parametrize("num_rows", [0, 1, 4, 7])
def test_rows_are_equal_when_they_were_appended_copied_and_saved(monkeypatch, num_rows):
    monkeypatch.setattr(texts, "ROWS_PER_BATCH", 2)
    pairs = [Pair(f"é{number}", "") for number in range(num_rows)]
    rows = TextRows(Pair, pairs)
    assert (len(rows), list(rows)) == (num_rows, pairs)
    assert list(TextRows.from_table(Pair, rows.to_table())) == pairs
    copied = TextRows(Pair, rows)
    copied.append(Pair("z", "last"))
    copied.extend(rows)
    assert list(copied) == [*pairs, ("z", "last"), *pairs]
    assert list(rows) == pairs
    assert list(rows.to_frame().itertuples(index=False, name=None)) == pairs


def test_rows_are_sorted_by_all_their_texts():
    rows = TextRows(Pair, [Pair("é", "b"), Pair("z", "a"), Pair("é", "a")])
    rows.append(Pair("A", ""))
    rows.sort()
    assert list(rows) == [("A", ""), ("z", "a"), ("é", "a"), ("é", "b")]


def test_bytes_that_are_not_utf8_are_escaped_in_rows():
    assert list(TextRows(Pair, [Pair("\udcff.png", "")])) == [("\\udcff.png", "")]


def test_rows_take_little_more_memory_than_their_characters():
    count = 5 * texts.ROWS_PER_BATCH
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    rows = TextRows(Pair, (Pair(f"{n:020}", ".xml") for n in range(count)))
    in_python = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == count
    assert pa.total_allocated_bytes() - before + in_python < 60 * count

import itertools

import numpy as np
import pandas as pd
import pytest

from drtf import texts
from drtf.texts import (
    are_repeated_texts,
    count_texts,
    divide_texts,
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


def test_texts_that_are_not_utf8_are_divided_from_the_others():
    found = itertools.chain(["a", "\udcff", "é"])
    column, others = divide_texts(found)
    assert (column.tolist(), others) == (["a", "é"], ["\udcff"])

import re
from pathlib import Path

import pandas as pd
import pytest

from drtf.data.contents import find_conflicts, group_identical_files, resolve_conflicts
from drtf.data.photographs import PhotographRef
from drtf.errors import LabelError
from naming import raises_naming


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Photographs a, b, c, d, e: a = c with grades 1, 2; b = e with equal grades."""
    contents = {"a": b"one", "b": b"two!", "c": b"one", "d": b"six", "e": b"two!"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    table = pd.DataFrame(
        {
            "id": list(contents),
            "photograph": [PhotographRef(tmp_path, name) for name in contents],
            "grade": [1, 0, 2, 0, 0],
            "size_bytes": [len(content) for content in contents.values()],
        }
    )
    return table.assign(content=group_identical_files(table))


def test_only_identical_photographs_share_a_content(table):
    assert table["content"].tolist() == [0, 1, 0, 2, 1]


def test_each_photograph_has_its_own_content_when_unreadable(tmp_path):
    (tmp_path / "c").touch()
    table = pd.DataFrame(
        {
            "photograph": [PhotographRef(tmp_path, name) for name in "ab"],
            "size_bytes": [-1, -1],
        }
    )
    assert group_identical_files(table).tolist() == [0, 1]


def test_conflict_has_the_photographs_and_their_grades(table):
    (conflict,) = find_conflicts(table)
    assert re.findall(r"\b(?:a|c|1|2)\b", str(conflict)) == ["a", "1", "c", "2"]


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [("keep", "abcde", ""), ("drop", "bde", "ac")],
)
def test_conflicting_photographs_are_kept_or_dropped_by_policy(
    table, policy, kept, dropped
):
    rows = resolve_conflicts(table, find_conflicts(table), policy)
    assert ["".join(part["id"]) for part in rows] == [kept, dropped]


def test_conflict_is_an_error_when_the_policy_is_error(table):
    (conflict,) = find_conflicts(table)
    with raises_naming(LabelError, 1, conflict, "labels.conflicts"):
        resolve_conflicts(table, [conflict], "error")


def test_all_photographs_are_kept_when_there_is_no_conflict(table):
    alike = table[table["id"] != "a"]
    assert find_conflicts(alike) == []
    assert len(resolve_conflicts(alike, [], "error")[0]) == 4

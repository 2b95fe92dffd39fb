import re
from pathlib import Path

import pandas as pd
import pytest

from drtf.errors import LabelError
from drtf.photographs.contents import (
    find_conflicts,
    group_identical_files,
    resolve_conflicts,
)
from drtf.photographs.references import PART_BYTES, PhotographRef
from naming import raises_naming


def group(folder: Path, contents: dict[str, bytes]) -> pd.DataFrame:
    """Write files and return a table of them with the number of their content."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    sizes = [len(content) for content in contents.values()]
    table = pd.DataFrame({"id": list(contents), "path": list(contents), "source": ""})
    table = table.assign(size_bytes=sizes)
    return table.assign(content=group_identical_files(table, {"": folder}))


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Photographs a, b, c, d, e: a = c with grades 1, 2; b = e with equal grades."""
    contents = {"a": b"one", "b": b"two!", "c": b"one", "d": b"six", "e": b"two!"}
    return group(tmp_path, contents).assign(grade=[1, 0, 2, 0, 0])


def test_only_identical_photographs_share_a_content(table):
    assert table["content"].tolist() == [0, 1, 0, 3, 1]


def test_only_photographs_whose_parts_are_equal_are_read_whole(tmp_path, monkeypatch):
    size = 10 * PART_BYTES
    start, middle, end = (bytearray(size) for _ in range(3))
    start[0] = middle[size // 2] = end[-1] = 1
    elsewhere = bytearray(size)
    elsewhere[2 * PART_BYTES] = 1  # the parts do not tell
    contents = [start, middle, end, bytes(size), elsewhere, bytes(size)]
    hashed = []
    sha256 = PhotographRef.sha256
    monkeypatch.setattr(
        PhotographRef, "sha256", lambda x: hashed.append(x.path) or sha256(x)
    )
    table = group(tmp_path, dict(zip("abcdef", contents, strict=True)))
    assert table["content"].tolist() == [0, 1, 2, 3, 4, 3]
    assert sorted(hashed) == ["d", "e", "f"]


def test_each_photograph_has_its_own_content_when_unreadable(tmp_path):
    (tmp_path / "c").touch()
    table = pd.DataFrame(
        {
            "source": "",
            "path": ["a", "b", "c", "d"],
            "size_bytes": [-1, -1, 0, 0],  # d was removed meanwhile
        }
    )
    assert group_identical_files(table, {"": tmp_path}).tolist() == [0, 1, 2, 3]


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

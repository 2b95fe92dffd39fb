import pytest

from drtf.data.journal import Journal
from drtf.errors import DrtfError
from naming import raises_naming


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def write(path, *numbers):
    with Journal(path, plan_sha256="p") as journal:
        for number in numbers:
            journal.append({"number": number})


def numbers_in(path):
    with Journal(path, plan_sha256="p") as journal:
        return [entry["number"] for entry in journal.entries]


def test_what_was_told_is_there_when_it_is_opened_again(path):
    write(path, 1, 2)
    write(path, 3)
    assert numbers_in(path) == [1, 2, 3]


def test_a_line_cut_anywhere_is_dropped_and_the_journal_goes_on(path):
    write(path, 1, 2)
    whole = path.read_bytes()
    last = whole.rindex(b"{")
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert numbers_in(path) == [1]
        write(path, 5)
        assert numbers_in(path) == [1, 5]


def test_a_first_line_that_is_cut_begins_anew(path):
    write(path, 1)
    for end in range(path.read_bytes().index(b"\n") + 1):
        path.write_bytes(path.read_bytes()[:end])
        assert numbers_in(path) == []


def test_what_follows_a_damaged_line_counts_for_nothing(path):
    write(path, 1, 2, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = bytes(len(lines[2]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    assert numbers_in(path) == [1]


def test_only_the_first_entries_are_kept(path):
    write(path, 1, 2, 3)
    with Journal(path, plan_sha256="p") as journal:
        journal.keep(1)
        journal.append({"number": 9})
    assert numbers_in(path) == [1, 9]


def test_another_plan_is_refused_and_nothing_lost(path):
    write(path, 1)
    with raises_naming(DrtfError, path.parent, "--out"):
        Journal(path, plan_sha256="q")
    assert numbers_in(path) == [1]


def test_a_second_process_is_refused(path):
    with (
        Journal(path, plan_sha256="p"),
        raises_naming(DrtfError, path.parent, "--out"),
    ):
        Journal(path, plan_sha256="p")

from types import SimpleNamespace

import pytest

from drtf.building.journal import (
    Entry,
    Journal,
    Written,
    encode_entry,
    hold_build,
    journal_path,
    parse_entry,
)
from drtf.building.plan import ShardRange
from drtf.errors import DrtfError
from drtf.images.quality import Quality
from drtf.photographs.prepare import Rejected
from drtf.records.writer import Location
from naming import raises_naming

SHARD = ShardRange(3, "train", "set-train.tfrecord-00003-of-00004", 30, 40)


def plan_of(name, size):
    """A plan, as far as journals need it."""
    return SimpleNamespace(resume_sha256=name, flat_settings={"images.size": size})


@pytest.fixture
def path(tmp_path):
    path = journal_path(tmp_path, SHARD)
    path.parent.mkdir()
    return path


def opened(path, *, plan="p", shard=SHARD):
    return Journal(path.parents[1], plan_of(plan, 96), shard)


def written(number):
    result = Written(
        shard=3,
        location=Location(number, 20, 30, 40, 50),
        sha256="a" * 64,
        has_field=True,
        quality=Quality(0.1, 0.2, 1 / 3, 0.4, is_black=False),
    )
    return Entry(100, 1_700_000_000_123_456_789, result)


REJECTED = Rejected("a\n\udcff.png", "undecodable", 'a "quoted" detail')


def write(path, *numbers):
    with opened(path) as journal:
        for number in numbers:
            journal.append(written(number))


def numbers_in(path):
    with opened(path) as journal:
        return [entry.result.location.offset for entry in journal.entries]


@pytest.mark.parametrize(
    "entry", [written(7), Entry(-1, 0, REJECTED)], ids=["written", "rejected"]
)
def test_entry_is_equal_when_encoded_and_parsed(entry):
    data = encode_entry(entry)
    assert b"\n" not in data
    assert parse_entry(data) == entry


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"1",
        b"null",
        b"[]",
        b'"rejected"',
        bytes(9),
        b'{"written": {}}',
        b'{"rejected": 5}',
        b'{"size_bytes": 1, "changed_ns": 2, "other": 1}',
    ],
)
def test_parsing_fails_when_something_is_not_an_entry(data):
    with pytest.raises(ValueError):
        parse_entry(data)


def test_entries_are_kept_when_a_journal_is_opened_again(path):
    write(path, 1, 2)
    write(path, 3)
    assert numbers_in(path) == [1, 2, 3]


def test_last_line_is_dropped_when_it_is_cut_anywhere(path):
    write(path, 1, 2)
    complete = path.read_bytes()
    last = complete[:-1].rindex(b"\n") + 1
    for end in range(last, len(complete)):
        path.write_bytes(complete[:end])
        assert numbers_in(path) == [1]
        write(path, 5)
        assert numbers_in(path) == [1, 5]


def test_journal_starts_again_when_its_first_line_is_cut(path):
    write(path, 1)
    for end in range(path.read_bytes().index(b"\n") + 1):
        path.write_bytes(path.read_bytes()[:end])
        assert numbers_in(path) == []


def test_entries_after_a_damaged_line_are_dropped(path):
    write(path, 1, 2, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = bytes(len(lines[2]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    assert numbers_in(path) == [1]


@pytest.mark.parametrize("how", ["swap", "repeat", "remove", "change", "insert"])
def test_entries_after_a_changed_line_are_dropped(path, how):
    write(path, 1, 2, 3, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2:4] = {
        "swap": [lines[3], lines[2]],
        "repeat": [lines[1], lines[2], lines[3]],
        "remove": [lines[3]],
        "change": [lines[2].replace(b"aa", b"ab", 1), lines[3]],
        "insert": [b"{}\n", lines[2], lines[3]],
    }[how]
    path.write_bytes(b"".join(lines))
    assert numbers_in(path) == [1]


def test_only_the_first_entries_are_kept_when_truncated(path):
    write(path, 1, 2, 3)
    with opened(path) as journal:
        journal.truncate(1)
        journal.append(written(9))
    assert numbers_in(path) == [1, 9]


def test_journal_of_another_plan_or_shard_is_not_used(path):
    for other in ({"plan": "q"}, {"shard": SHARD._replace(number=2)}):
        write(path, 1)
        with opened(path, **other) as journal:
            assert not journal.entries


def test_build_of_another_plan_is_refused(tmp_path):
    with hold_build(tmp_path, plan_of("p", 96)):
        pass
    with (
        raises_naming(DrtfError, tmp_path, "images.size", 96, 224, "--out"),
        hold_build(tmp_path, plan_of("q", 224)),
    ):
        pytest.fail("was not refused")
    with hold_build(tmp_path, plan_of("p", 96)):
        pass


def test_second_process_is_refused(tmp_path):
    with (
        hold_build(tmp_path, plan_of("p", 96)),
        raises_naming(DrtfError, "--out"),
        hold_build(tmp_path, plan_of("p", 96)),
    ):
        pytest.fail("was not refused")

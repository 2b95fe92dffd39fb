"""drtf bench gpu."""

import json

import pytest

from drtf.bench import gpu
from drtf.bench.gpu import PARTS, Part, PartResult, bench_gpu, format_results
from drtf.errors import DrtfError
from naming import assert_names, raises_naming

# Measures in place of the real parts: a row, and then what the part's name says.
CODE = """
import sys, time
name, work, rows, scale = sys.argv[1:]
with open(rows, "w") as file:
    file.write('{"name": "%s", "rate": 1234.5}\\n' % name)
if name == "slow":
    time.sleep(60)
if name == "failing":
    sys.exit("no such kernel")
"""


@pytest.fixture
def parts(monkeypatch):
    """Replace the parts by quick ones."""
    monkeypatch.setattr(gpu, "CODE", CODE)
    quick = [
        Part(name, f"The {name} part", 2.0, lambda *_: iter(()))
        for name in ("slow", "failing", "good")
    ]
    monkeypatch.setattr(gpu, "PARTS", quick)


def test_results_are_replaced_only_if_asked(parts, tmp_path):
    given = {"work": tmp_path, "minutes": 8, "quick": True, "names": ["good"]}
    bench_gpu(tmp_path / "out", **given)
    with raises_naming(DrtfError, tmp_path / "out" / "gpu.json"):
        bench_gpu(tmp_path / "out", **given)
    bench_gpu(tmp_path / "out", **given, overwrite=True)


def test_a_part_that_fails_or_is_slow_keeps_its_rows(parts, tmp_path):
    out = tmp_path / "out"
    slow, failing, good = bench_gpu(out, work=tmp_path, minutes=8, quick=True, names=())
    for result in (slow, failing, good):
        assert result.rows == [{"name": result.name, "rate": 1234.5}]
    assert_names(slow.failure, "2 s")
    assert_names(failing.failure, "no such kernel", "exit code 1")
    assert not good.failure
    saved = json.loads((out / "gpu.json").read_text())
    assert [x["failure"] for x in saved] == [slow.failure, failing.failure, ""]
    assert_names(
        (out / "gpu.md").read_text(), "The slow part", "1,234", "no such kernel"
    )


def test_parts_are_not_run_when_the_time_is_up(parts, tmp_path):
    results = bench_gpu(
        tmp_path / "out",
        work=tmp_path,
        minutes=0.0001,
        quick=True,
        names=("failing", "good"),
    )
    assert [result.name for result in results] == ["failing", "good"]
    assert not results[1].rows
    assert results[1].failure


def test_an_unknown_part_is_refused(parts, tmp_path):
    with raises_naming(DrtfError, "other", "failing", "good"):
        bench_gpu(tmp_path, work=tmp_path, minutes=1, quick=True, names=("other",))


def test_the_table_has_a_column_for_each_name_in_a_row():
    rows = [{"a": 1.0}, {"a": 0.12345, "b": "x|y"}]
    text = format_results([PartResult("any", "Title", rows, seconds=3.2)])
    assert text.splitlines()[2:6] == [
        "| a | b |",
        "| --- | --- |",
        "| 1 |  |",
        "| 0.123 | x/y |",
    ]


@pytest.mark.slow
def test_every_part_is_measured_when_quick(tmp_path):
    results = bench_gpu(
        tmp_path / "out", work=tmp_path, minutes=20, quick=True, names=()
    )
    assert [result.name for result in results] == [part.name for part in PARTS]
    assert not [result.failure for result in results if result.failure]
    assert all(result.rows for result in results)

"""What drtf bench read measures; each way is a process that imports TensorFlow."""

import json
import sys

import pytest

from drtf.bench import read
from drtf.bench.read import ENCODED_WAYS, OURS, RAW_WAYS, bench_read, parse_pythons
from drtf.bench.sample_set import Sample, build_sample_set
from drtf.errors import ConfigError, DrtfError
from drtf.records.reader import ShardSet

HERE = ("ours", "tfrecord", "arrays", "bare", "memory_copy")


def measure(shards, work, **pythons):
    return bench_read(
        shards, work=work, batch_size=8, seconds=0.1, num_repeats=1, pythons=pythons
    )


def test_each_way_reads_balanced_batches_or_says_why_not(shards, tmp_path, monkeypatch):
    chosen = [way for way in RAW_WAYS if way.script in (*HERE, "ffcv_reader")]
    monkeypatch.setattr(read, "RAW_WAYS", tuple(chosen))
    found = measure(shards, tmp_path / "work")
    assert (found.encoding, found.size) == ("raw", 32)
    assert [way.name for way in found.ways] == [way.title for way in chosen]
    ways = {way.name: way for way in found.ways}
    assert "No module named 'ffcv'" in ways.pop("FFCV, no checksums").missing
    for way in ways.values():
        assert not way.missing
        assert min(way.rates) > 0
        assert min(way.cpu_seconds) > 0
        assert min(way.rss_anon_mb) > 10
        assert min(way.first_batch_seconds) > 0
        assert 0.3 < way.positive_share[0] < 0.7
    assert ways[OURS.title].positive_share == [0.5]


def test_encoded_images_are_compared_with_their_decoder(tmp_path):
    shards = build_sample_set(tmp_path / "set", Sample(40, 32, "jpeg"))
    found = measure(shards, tmp_path / "work")
    assert [way.name for way in found.ways] == [way.title for way in ENCODED_WAYS]
    assert all(min(way.rates) > 0 for way in found.ways)


def test_a_sample_set_has_the_grades_of_eyepacs(tmp_path):
    shards = build_sample_set(tmp_path / "set", Sample(400, 32, "raw"))
    with ShardSet(shards) as opened:
        assert opened.manifest.num_records == {
            "train": {"0": 294, "1": 28, "2": 60, "3": 10, "4": 8}
        }


def test_a_way_that_fails_says_its_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "READERS", tmp_path)
    (tmp_path / "ours.py").write_text("raise ValueError('no such thing')")
    found = read._run(sys.executable, "ours", {})
    assert found == {"missing": "ValueError: no such thing (exit code 1)"}
    assert "can't start /nowhere" in read._run("/nowhere", "ours", {})["missing"]


def test_a_full_disk_is_found_before_anything_is_written(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "NUM_FORMATS", 1e12)
    with pytest.raises(DrtfError, match="set TMPDIR to a larger folder"):
        measure(shards, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_interpreters_are_named_by_environment():
    assert parse_pythons([f"ffcv={sys.executable}"]) == {"ffcv": sys.executable}
    for wrong in ("ffcv", "other=/bin/sh", "ffcv=/nowhere"):
        with pytest.raises(ConfigError, match="takes NAME=FILE"):
            parse_pythons([wrong])


def test_ways_print_one_line_of_json(shards, tmp_path):
    arguments = {
        "shards": str(shards),
        "images": "",
        "labels": "",
        "work": str(tmp_path),
        "shape": (32, 32, 3),
        "batch_size": 4,
        "seconds": 0.1,
        "seed": 0,
    }
    found = read._run(sys.executable, "bare", arguments)
    assert json.dumps(found)
    assert found["positive_share"] == 0.5

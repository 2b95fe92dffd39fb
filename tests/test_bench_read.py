"""What drtf bench read measures; each way is a process that imports TensorFlow."""

import json
import sys

from drtf.bench import memory, read
from drtf.bench.memory import bench_memory, link_copies
from drtf.bench.read import ENCODED_WAYS, OURS, RAW_WAYS, bench_read, parse_pythons
from drtf.bench.sample_dataset import Sample, build_sample_dataset
from drtf.data.loader import read_batch
from drtf.errors import ConfigError, DrtfError
from drtf.records.reader import ShardDataset
from naming import assert_names, raises_naming

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
    shards = build_sample_dataset(tmp_path / "set", Sample(40, 32, "jpeg"))
    found = measure(shards, tmp_path / "work")
    assert [way.name for way in found.ways] == [way.title for way in ENCODED_WAYS]
    assert all(min(way.rates) > 0 for way in found.ways)


def test_a_sample_set_has_the_grades_of_eyepacs(tmp_path):
    shards = build_sample_dataset(tmp_path / "set", Sample(400, 32, "raw"))
    with ShardDataset(shards) as opened:
        assert opened.manifest.num_records == {
            "train": {"0": 294, "1": 28, "2": 60, "3": 10, "4": 8}
        }


def test_a_way_that_fails_says_its_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "READERS", tmp_path)
    (tmp_path / "ours.py").write_text("raise ValueError('no such thing')")
    found = read.run_reader(sys.executable, "ours", {})
    assert found.keys() == {"missing"}
    assert_names(found["missing"], "ValueError: no such thing", 1)
    assert_names(read.run_reader("/nowhere", "ours", {})["missing"], "/nowhere")


def test_a_set_smaller_than_a_batch_is_refused(shards, tmp_path):
    with raises_naming(DrtfError, shards, 32, 1000):
        bench_read(
            shards,
            work=tmp_path / "work",
            batch_size=1000,
            seconds=0.1,
            num_repeats=1,
            pythons={},
        )


def test_a_full_disk_is_found_before_anything_is_written(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "NUM_FORMATS", 1e12)
    with raises_naming(DrtfError, tmp_path, "TMPDIR"):
        measure(shards, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_interpreters_are_named_by_environment():
    assert parse_pythons([f"ffcv={sys.executable}"]) == {"ffcv": sys.executable}
    for wrong in ("ffcv", "other=/bin/sh", "ffcv=/nowhere"):
        with raises_naming(ConfigError, "--python", "ffcv", repr(wrong)):
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
    found = read.run_reader(sys.executable, "bare", arguments)
    assert json.dumps(found)
    assert found["positive_share"] == 0.5


def test_memory_is_told_after_each_epoch_of_a_set_and_a_larger_one(shards, tmp_path):
    small, large = bench_memory(
        shards, work=tmp_path, num_copies=3, batch_size=7, epochs=2
    )
    with ShardDataset(shards) as opened:
        assert small.num_records == len(opened.split_rows("train"))
    assert large.num_records == 3 * small.num_records
    for result in (small, large):
        assert len(result.rss_anon_mb) == 3
        assert min(result.rss_anon_mb) > 50
        assert result.images_per_second > 0


def test_a_larger_set_has_each_record_several_times(shards, tmp_path):
    link_copies(shards, tmp_path / "larger", num_copies=2)
    with ShardDataset(shards) as one, ShardDataset(tmp_path / "larger") as two:
        rows, count = one.split_rows("train"), len(one.index)
        images = read_batch(one, rows)
        for first in (0, count):
            assert (read_batch(two, rows + first) == images).all()
        assert two.index["id"].is_unique
        assert (two.split_rows("train") == [*rows, *(rows + count)]).all()


def test_streaming_that_fails_is_told(shards, tmp_path, monkeypatch):
    failing = lambda *arguments: {"missing": "no memory"}  # noqa: E731
    monkeypatch.setattr(memory, "run_reader", failing)
    with raises_naming(DrtfError, shards, "no memory"):
        bench_memory(shards, work=tmp_path, num_copies=2, batch_size=8, epochs=2)

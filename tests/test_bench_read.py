"""drtf bench read and memory; each reader is a process that imports TensorFlow."""

import json
import sys

import pytest
from click.testing import CliRunner

from drtf.bench import memory, read
from drtf.bench.linked import link_copies
from drtf.bench.memory import bench_memory
from drtf.bench.read import (
    DRTF,
    ENCODED_METHODS,
    RAW_METHODS,
    ReaderError,
    bench_read,
    parse_pythons,
)
from drtf.bench.sample_dataset import Sample, build_sample_dataset
from drtf.bench.scale import bench_scale
from drtf.data.loader import read_batch
from drtf.errors import ConfigError, DrtfError
from drtf.records.reader import ShardDataset
from drtf.tools.bench import bench as bench_command
from naming import assert_names, raises_naming


def measure(shards, work, **pythons):
    return bench_read(
        shards, work=work, batch_size=8, seconds=0.1, num_repeats=1, pythons=pythons
    )


@pytest.fixture
def without_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "CHECKOUT_READERS", tmp_path / "missing")


def test_each_reader_yields_balanced_batches_or_reports_its_failure(
    shards, tmp_path, monkeypatch
):
    methods = [x for x in RAW_METHODS if x.library in ("", "ffcv")]
    monkeypatch.setattr(read, "RAW_METHODS", tuple(methods))
    bench = measure(shards, tmp_path / "work")
    assert (bench.encoding, bench.size, bench.left_out) == ("raw", 32, [])
    assert [result.name for result in bench.results] == [x.title for x in methods]
    results = {result.name: result for result in bench.results}
    assert_names(results.pop("FFCV, which has no checksums").failure, "'ffcv'")
    for result in results.values():
        assert not result.failure
        assert min(result.rates) > 0
        assert min(result.cpu_us_per_image) > 0
        assert min(result.rss_anon_mb) > 10
        assert min(result.first_batch_seconds) > 0
        assert 0.3 < result.positive_fraction[0] < 0.7
    for title in (DRTF.title, "drtf's reader without tf.data"):
        assert results[title].positive_fraction == [0.5]


def test_encoded_images_are_compared_with_their_decoder(tmp_path):
    shards = build_sample_dataset(tmp_path / "dataset", Sample(40, 32, "jpeg"))
    bench = measure(shards, tmp_path / "work")
    assert [x.name for x in bench.results] == [x.title for x in ENCODED_METHODS]
    assert all(min(result.rates) > 0 for result in bench.results)


def test_a_source_checkout_has_the_reader_of_each_method():
    assert all(method.path.is_file() for method in (*RAW_METHODS, *ENCODED_METHODS))


def test_readers_of_other_libraries_are_named_when_this_is_no_checkout(
    shards, tmp_path, monkeypatch, without_checkout
):
    methods = tuple(x for x in RAW_METHODS if x == DRTF or x.library)
    monkeypatch.setattr(read, "RAW_METHODS", methods)
    command = ["read", "--shards", str(shards), "--batch-size", "8"]
    command += ["--seconds", "0.1", "--repeats", "1", "--json", str(tmp_path / "json")]
    result = CliRunner().invoke(bench_command, command)
    assert result.exit_code == 0, result.output
    line = next(x for x in result.stdout.splitlines() if "benchmarks/readers" in x)
    assert_names(line, *(method.title for method in methods[1:]))
    rows = json.loads((tmp_path / "json").read_text())
    assert [row["name"] for row in rows] == ["drtf"]
    assert rows[0]["relative_to_drtf"] == 1


def test_a_sample_dataset_has_the_grades_of_eyepacs(tmp_path):
    shards = build_sample_dataset(tmp_path / "dataset", Sample(400, 32, "raw"))
    with ShardDataset(shards) as opened:
        assert opened.manifest.num_records == {
            "train": {"0": 294, "1": 28, "2": 60, "3": 10, "4": 8}
        }


def test_a_failing_reader_reports_its_error_and_exit_code(tmp_path):
    script = tmp_path / "reader.py"
    script.write_text("raise ValueError('no such thing')")
    with raises_naming(ReaderError, "ValueError: no such thing", 1):
        read.run_reader(sys.executable, script, {})
    with raises_naming(ReaderError, "/nowhere"):
        read.run_reader("/nowhere", script, {})


def test_a_dataset_smaller_than_a_batch_is_refused(shards, tmp_path):
    with raises_naming(DrtfError, shards, 32, 1000):
        bench_read(
            shards,
            work=tmp_path / "work",
            batch_size=1000,
            seconds=0.1,
            num_repeats=1,
            pythons={},
        )


def test_a_full_disk_is_reported_before_anything_is_written(
    shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(read, "NUM_FORMATS", 1e12)
    with raises_naming(DrtfError, tmp_path, "TMPDIR"):
        measure(shards, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_interpreters_are_named_by_library():
    assert parse_pythons([f"ffcv={sys.executable}"]) == {"ffcv": sys.executable}
    for wrong in ("ffcv", "other=/bin/sh", "ffcv=/nowhere"):
        with raises_naming(ConfigError, "NAME=FILE", repr(wrong)):
            parse_pythons([wrong])


def test_interpreters_are_refused_when_this_is_no_checkout(without_checkout):
    with raises_naming(ConfigError, "--python", "benchmarks/readers"):
        parse_pythons([f"ffcv={sys.executable}"])


def test_memory_is_measured_after_each_epoch_of_both_datasets(shards, tmp_path):
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


def test_a_linked_dataset_has_each_record_several_times(shards, tmp_path):
    link_copies(shards, tmp_path / "larger", num_copies=2)
    with ShardDataset(shards) as one, ShardDataset(tmp_path / "larger") as two:
        rows, count = one.split_rows("train"), len(one.grades)
        images = read_batch(one, rows)
        for first in (0, count):
            assert (read_batch(two, rows + first) == images).all()
        assert two.load_index(["sha256"])["sha256"].is_unique
        assert (two.split_rows("train") == [*rows, *(rows + count)]).all()


def test_scale_is_measured_for_each_size(shards, tmp_path):
    small, large = bench_scale(shards, work=tmp_path, num_records=[1, 100])
    assert (small.num_records, large.num_records) == (48, 144)
    assert large.num_shards == 3 * small.num_shards
    assert 0 < small.open_peak_mb <= small.plan_peak_mb <= small.final_peak_mb


def test_a_failure_while_streaming_is_an_error(shards, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ReaderError("no memory")

    monkeypatch.setattr(memory, "run_reader", fail)
    with raises_naming(DrtfError, shards, "no memory"):
        bench_memory(shards, work=tmp_path, num_copies=2, batch_size=8, epochs=2)

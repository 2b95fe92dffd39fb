"""Datasets in a store: reading through the cache, windows, verification."""

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from drtf.building.build import build_shards
from drtf.config import SamplingConfig
from drtf.data.pipeline import StreamPosition, eval_dataset, train_dataset
from drtf.errors import (
    ConfigError,
    DamagedRecordError,
    DrtfError,
    RecordError,
    StorageError,
)
from drtf.files import hash_file
from drtf.labels.sources import Source
from drtf.locations import join_location
from drtf.records.cache import SIZE_VARIABLE, Cache
from drtf.records.manifest import INDEX_FILE, MANIFEST_FILE, load_manifest
from drtf.records.reader import ShardDataset
from drtf.records.remote import fetch_dataset, upload_dataset
from drtf.records.verify import find_faults
from drtf.storage import delete_object, read_object, write_object
from naming import raises_naming
from stores_servers import FileServer

MAX_SECONDS = 300.0  # ends a test that hangs
# Reads all records twice, one shard after the other, from the cache where possible.
READ_ALL = """
import hashlib, sys, time
import numpy as np
from drtf.records.reader import ShardDataset

location, start = sys.argv[1], int(sys.argv[2])
with ShardDataset(location) as shards:
    numbers = shards.shard_numbers(np.arange(len(shards)))
    order = np.roll(np.unique(numbers), start)
    images = {}
    num_cached = 0
    for shard in [*order, *order]:
        shards.expect([shard])
        rows = np.flatnonzero(numbers == shard)
        for _ in range(50):
            if (shards._frames.files[rows] >= 0).all():
                num_cached += 1
                break
            time.sleep(0.01)
        images |= dict(zip(rows.tolist(), shards.read_images(rows)))
    digest = hashlib.sha256(b"".join(images[row].tobytes() for row in sorted(images)))
print(digest.hexdigest(), num_cached)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of shards in an empty cache."""
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture(scope="module")
def shards(photographs, config, tmp_path_factory):
    """A dataset with a shard for each few records."""
    out = tmp_path_factory.mktemp("many") / "many"
    build = config.build.model_copy(update={"shard_size_mb": 0.01})
    source = Source(photographs / "images", photographs / "labels.csv")
    build_shards([source], out, config=config.model_copy(update={"build": build}))
    return out


@pytest.fixture
def location(shards, cache, request):
    """A dataset in a store in this process's memory."""
    location = f"memory://eyes/{request.node.name.translate(str.maketrans('[]', '--'))}"
    upload_dataset(shards, location)
    return location


def cached_shards(cache):
    return sorted(path.name for path in cache.iterdir() if len(path.name) == 64)


def wait_until(condition):
    end = time.monotonic() + MAX_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def replace_byte(location, file, offset):
    data = bytearray(read_object(join_location(location, file)))
    data[offset] ^= 1
    write_object(join_location(location, file), bytes(data))


def read(dataset, rows):
    return [image.tobytes() for image in dataset.read_images(np.array(rows))]


def shard_hashes(folder):
    return sorted(shard.sha256 for shard in load_manifest(folder).shards)


def test_opening_downloads_no_shard_and_records_are_read_by_ranges(
    location, shard_dataset, cache
):
    rows = [3, 0, 40, 3, 4, 5]
    with ShardDataset(location) as remote:
        assert read(remote, rows) == read(shard_dataset, rows)
        assert (remote.load_index() == shard_dataset.load_index()).all(axis=None)
        assert remote.location == location
        assert cached_shards(cache) == []


def test_expected_shards_are_downloaded_once_and_then_read_from_the_cache(
    location, shards, shard_dataset, cache
):
    rows = np.arange(len(shard_dataset))
    with ShardDataset(location) as remote:
        remote.expect(range(len(remote.manifest.shards)))
        wait_until(lambda: cached_shards(cache) == shard_hashes(shards))
        for shard in remote.manifest.shards:
            delete_object(join_location(location, shard.file))
        wait_until(lambda: (remote._frames.files >= 0).all())
        assert read(remote, rows) == read(shard_dataset, rows)
    assert sorted(path.name for path in cache.iterdir()) == [
        ".lock",
        *shard_hashes(shards),
    ]


@pytest.mark.parametrize("window_shards", [0, 1])
def test_a_remote_stream_equals_a_local_one(location, shard_dataset, window_shards):
    common = {
        "sampling": SamplingConfig(window_shards=window_shards),
        "batch_size": 6,
        "epochs": 2,
        "start": StreamPosition(3),
    }
    with ShardDataset(location) as remote:
        for here, there in zip(
            train_dataset(shard_dataset, **common),
            train_dataset(remote, **common),
            strict=True,
        ):
            assert all((here[key].numpy() == there[key].numpy()).all() for key in here)
        batches = zip(
            eval_dataset(shard_dataset, split="test", batch_size=4),
            eval_dataset(remote, split="test", batch_size=4, num_parts=3),
            strict=False,
        )
        for here, there in batches:
            assert (here["image"].numpy() == there["image"].numpy()).all()


def test_a_damaged_copy_in_the_cache_is_read_from_the_store(
    location, shard_dataset, cache, caplog
):
    shard = shard_dataset.manifest.shards[0]
    with ShardDataset(location) as remote:
        remote.expect([0])
        wait_until(lambda: shard.sha256 in cached_shards(cache))
        # In place, since a file with another size is removed without a warning.
        with (cache / shard.sha256).open("r+b") as file:
            file.seek(200)
            (byte,) = file.read(1)
            file.seek(200)
            file.write(bytes([byte ^ 1]))
        wait_until(lambda: remote._frames.files[0] >= 0)
        assert read(remote, [0, 1, 40]) == read(shard_dataset, [0, 1, 40])
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_cut_copy_in_the_cache_is_not_trusted(location, shard_dataset, cache):
    shard = shard_dataset.manifest.shards[0]
    cache.mkdir(parents=True)
    (cache / shard.sha256).write_bytes(b"cut")
    with ShardDataset(location) as remote:
        assert read(remote, [0]) == read(shard_dataset, [0])


def test_a_shard_that_is_damaged_in_the_store_does_not_enter_the_cache(
    location, shard_dataset, cache
):
    shard = shard_dataset.manifest.shards[0]
    replace_byte(location, shard.file, 200)
    with ShardDataset(location) as remote:
        with raises_naming(DamagedRecordError, f"{location}/{shard.file}", "record 0"):
            read(remote, [0])
        remote.expect([0])
        with raises_naming(RecordError, f"{location}/{shard.file}", "drtf verify"):
            wait_until(lambda: not read(remote, [1]))
    assert cached_shards(cache) == []


def test_a_shard_that_is_replaced_while_it_is_read_is_an_error(location, shard_dataset):
    shard = shard_dataset.manifest.shards[0]
    with ShardDataset(location) as remote:
        read(remote, [0])
        write_object(
            join_location(location, shard.file),
            read_object(join_location(location, shard.file)),
        )
        with raises_naming(StorageError, f"{location}/{shard.file}"):
            read(remote, [1])


def test_a_manifest_that_is_replaced_between_epochs_is_an_error(location, shards):
    with ShardDataset(location) as remote:
        remote.check_unchanged()
        contents = (shards / MANIFEST_FILE).read_bytes()
        write_object(join_location(location, MANIFEST_FILE), contents[:-20])
        with raises_naming(RecordError, f"{location}/{MANIFEST_FILE}"):
            remote.check_unchanged()


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_a_missing_or_cut_shard_is_an_error_when_the_dataset_is_opened(
    location, shard_dataset, change
):
    path = join_location(location, shard_dataset.manifest.shards[1].file)
    if change == "missing":
        delete_object(path)
    else:
        write_object(path, b"cut")
    with raises_naming(RecordError, path):
        ShardDataset(location)


def test_the_cache_keeps_its_limit_and_removes_the_least_recently_used(
    cache, monkeypatch
):
    contents = [bytes([number]) * 400_000 for number in range(4)]
    hashes = [hashlib.sha256(data).hexdigest() for data in contents]
    monkeypatch.setenv(SIZE_VARIABLE, "0.001")
    store = Cache()

    def fetch(number, **options):
        return store.fetch(
            hashes[number],
            400_000,
            download=lambda path: path.write_bytes(contents[number]),
            **options,
        )

    assert [fetch(0), fetch(1), fetch(1)] == ["present"] * 3
    os.utime(cache / hashes[0], (2, 2))
    os.utime(cache / hashes[1], (1, 1))
    assert fetch(2) == "present"
    assert set(cached_shards(cache)) == {hashes[0], hashes[2]}
    # What a process has open stays; what the caller needs, too.
    descriptor = store.open_file(hashes[0])
    assert fetch(3, needed=[hashes[2]]) == "full"
    assert fetch(3) == "present"
    assert set(cached_shards(cache)) == {hashes[0], hashes[3]}
    os.close(descriptor)
    # A killed download's remains are removed, and a running one counts.
    (cache / f"{hashes[2]}-killed.reserved").write_text("400000")
    (cache / f"{hashes[2]}-killed.arriving").write_bytes(b"half")
    assert fetch(1, needed=[hashes[3]]) == "present"
    assert set(cached_shards(cache)) == {hashes[1], hashes[3]}
    assert not list(cache.glob("*.arriving")) + list(cache.glob("*.reserved"))


@pytest.mark.parametrize("value", ["x", "-1", "nan", "0", "inf"])
def test_the_cache_is_refused_when_its_limit_is_no_size(cache, monkeypatch, value):
    monkeypatch.setenv(SIZE_VARIABLE, value)
    with raises_naming(DrtfError, SIZE_VARIABLE, value):
        Cache()


def test_a_dataset_larger_than_the_cache_names_the_largest_window(
    location, shard_dataset, monkeypatch
):
    sizes = [x.size_bytes for x in shard_dataset.manifest.shards if x.split == "train"]
    assert len(sizes) >= 3
    monkeypatch.setenv(SIZE_VARIABLE, str((sum(sorted(sizes)[-2:]) + 1) / 1e9))
    with ShardDataset(location) as remote:
        for window_shards in (0, len(sizes)):
            facts = (f"sampling.window_shards={window_shards}", "at most 1", location)
            with raises_naming(ConfigError, *facts):
                remote.check_fits_cache("train", window_shards)
        remote.check_fits_cache("train", 1)


def test_verify_reads_a_remote_dataset_in_place(location, shards, cache):
    assert find_faults(location) == []
    manifest = load_manifest(shards)
    first, second = manifest.shards[:2]
    replace_byte(location, first.file, 200)
    delete_object(join_location(location, second.file))
    write_object(join_location(location, "other.tfrecord-1"), b"x")
    faults = find_faults(location)
    assert {fault.file for fault in faults} == {
        first.file,
        second.file,
        "other.tfrecord-1",
    }
    delete_object(join_location(location, INDEX_FILE))
    assert INDEX_FILE in {fault.file for fault in find_faults(location)}
    assert not cache.exists()


def test_a_shard_that_was_removed_from_the_cache_is_downloaded_again(
    location, shard_dataset, cache
):
    shard = shard_dataset.manifest.shards[0]
    with ShardDataset(location) as remote:
        remote.expect([0])
        wait_until(lambda: shard.sha256 in cached_shards(cache))
    with ShardDataset(location) as remote:
        (cache / shard.sha256).unlink()
        remote.expect([0])
        assert read(remote, [0]) == read(shard_dataset, [0])
        wait_until(lambda: shard.sha256 in cached_shards(cache))


def test_a_cache_that_cannot_be_written_to_is_an_error(location, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path / "file"))
    with raises_naming(DrtfError, "DRTF_CACHE", tmp_path / "file" / "shards"):
        ShardDataset(location)


def test_a_dataset_on_a_web_server_is_read_with_few_requests(
    shards, shard_dataset, cache
):
    rows = np.arange(len(shard_dataset))
    with FileServer(shards) as server:
        for opening in ([f"/{MANIFEST_FILE}", f"/{INDEX_FILE}"], [f"/{MANIFEST_FILE}"]):
            server.requests.clear()
            with ShardDataset(server.location) as remote:
                assert server.requests == [f"GET {path}" for path in opening]
                assert read(remote, rows[:9]) == read(shard_dataset, rows[:9])
                assert cached_shards(cache) == []
        with ShardDataset(server.location) as remote:
            server.requests.clear()
            remote.expect(range(len(remote.manifest.shards)))
            wait_until(lambda: (remote._frames.files >= 0).all())
            assert read(remote, rows) == read(shard_dataset, rows)
            files = [f"GET /{shard.file}" for shard in remote.manifest.shards]
            assert sorted(server.requests) == sorted(files)
        assert find_faults(server.location) == []
        with raises_naming(RecordError, f"{server.location}/other", MANIFEST_FILE):
            ShardDataset(f"{server.location}/other")


def test_a_web_server_that_sends_no_parts_of_files_is_named(shards, cache):
    with (
        FileServer(shards, has_parts=False) as server,
        ShardDataset(server.location) as remote,
        raises_naming(
            StorageError, f"{server.location}/{remote.manifest.shards[0].file}"
        ),
    ):
        read(remote, [0])


def test_the_first_batches_arrive_before_any_shard_does(shards, shard_dataset, cache):
    common = {"sampling": SamplingConfig(), "batch_size": 6, "epochs": 1}
    with FileServer(shards) as server, ShardDataset(server.location) as remote:
        server.may_send_shards.clear()
        here = iter(train_dataset(shard_dataset, **common))
        there = iter(train_dataset(remote, **common))
        for number, (expected, found) in enumerate(zip(here, there, strict=True)):
            assert all(
                (expected[key].numpy() == found[key].numpy()).all() for key in expected
            )
            if number == 1:
                assert cached_shards(cache) == []
                server.may_send_shards.set()


def test_processes_that_share_a_small_cache_read_every_record_right(
    shards, shard_dataset, cache
):
    size = max(shard.size_bytes for shard in shard_dataset.manifest.shards)
    index_size = (shards / INDEX_FILE).stat().st_size
    limit = index_size + 5 * size
    environment = os.environ | {
        SIZE_VARIABLE: str(limit / 1e9),
        "DRTF_CACHE": str(cache.parent),
    }
    with FileServer(shards) as server:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", READ_ALL, server.location, str(3 * number)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        outputs = [process.communicate()[0].split() for process in processes]
    images = read(shard_dataset, np.arange(len(shard_dataset)))
    digest = hashlib.sha256(b"".join(images)).hexdigest()
    assert [output[0] for output in outputs] == [digest] * 2
    assert all(int(output[1]) > 0 for output in outputs)
    left = [cache / name for name in cached_shards(cache)]
    assert [hash_file(path) for path in left] == [path.name for path in left]
    assert 0 < len(left) <= 5 < len(shard_dataset.manifest.shards)


def test_copies_of_a_dataset_are_read_each_from_its_own_place(shards, location, cache):
    upload_dataset(shards, f"{location}-copy")
    folders = [fetch_dataset(location), fetch_dataset(f"{location}-copy")]
    for folder, place in zip(folders, (location, f"{location}-copy"), strict=True):
        with ShardDataset(folder) as remote:
            assert remote.location == place


def test_a_cache_on_a_disk_without_locks_does_not_disturb_running_downloads(
    cache, monkeypatch
):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    data = [b"first", b"second"]
    first, second = (hashlib.sha256(x).hexdigest() for x in data)
    here, there = Cache(), Cache()  # as on two hosts

    def download(path):
        assert there.fetch(first, 5, download=pytest.fail) == "busy"
        assert there.fetch(second, 6, download=lambda x: x.write_bytes(data[1]))
        path.write_bytes(data[0])

    assert here.fetch(first, 5, download=download) == "present"
    assert set(cached_shards(cache)) == {first, second}
    for suffix in (".reserved", ".arriving"):  # of a host that was killed long ago
        (cache / f"{'0' * 64}-killed{suffix}").write_text("9000000000000")
        os.utime(cache / f"{'0' * 64}-killed{suffix}", (1, 1))
    third = hashlib.sha256(b"third").hexdigest()
    assert here.fetch(third, 5, download=lambda x: x.write_bytes(b"third")) == "present"
    assert not list(cache.glob("*-*"))


def test_a_cache_takes_no_more_than_its_disk_has(cache, monkeypatch):
    usage = shutil.disk_usage(cache.parent.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert Cache().limit_bytes == 1000

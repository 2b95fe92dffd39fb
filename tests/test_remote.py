"""Datasets in a store: built there, verified, fetched, trained from, scored."""

import contextlib
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import drtf
from drtf import stores
from drtf.building.build import build_shards
from drtf.config import load_config
from drtf.errors import DrtfError, LabelError, RecordError
from drtf.labels.sources import Source
from drtf.photographs.listing import list_photographs
from drtf.records.manifest import MANIFEST_FILE
from drtf.records.reader import ShardDataset
from drtf.records.remote import load_remote_manifest
from drtf.records.verify import find_faults
from drtf.storage import list_objects, read_object, write_object
from naming import assert_names, raises_naming
from stores_servers import HOST, Proxy, connect, running_s3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
BUCKET = "s3://eyes"
LOCATION = f"{BUCKET}/sets/drawn"
MAIN = "from drtf.tools.main import main; main()"
SMALL = ("images.size=32", "build.num_workers=1", "score.num_workers=1")
QUICK = ("model.name=eyenet", "model.weights=none", "train.epochs=1")


@pytest.fixture(scope="module")
def server(photographs, tmp_path_factory):
    """Serve a store that has the photographs and a dataset that was built there."""
    with running_s3() as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRTF_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, value in environment.items():
            patch.setenv(name, value)
        stores._open_store.cache_clear()
        connect(environment).create_bucket(Bucket="eyes")
        for path in (photographs / "images").iterdir():
            write_object(f"{BUCKET}/photos/{path.name}", path)
        build(photographs, f"{BUCKET}/photos", LOCATION)
        yield environment
    stores._open_store.cache_clear()


def build(photographs, images, out, *settings):
    source = Source(images, photographs / "labels.csv")
    return build_shards([source], out=out, config=load_config("", [*SMALL, *settings]))


def files_of(location):
    return {
        item.name: read_object(f"{location}/{item.name}")
        for item in list_objects(location)
    }


def test_labels_are_read_from_a_store(server, photographs, tmp_path):
    write_object(f"{BUCKET}/labels.csv", photographs / "labels.csv")
    config = load_config("", SMALL)
    report = drtf.build_shards(
        f"{BUCKET}/photos", f"{BUCKET}/labels.csv", tmp_path / "drawn", config=config
    )
    assert report.manifest == load_remote_manifest(LOCATION)


@contextlib.contextmanager
def replaced(name, data):
    """Replace an object for a while."""
    location = f"{LOCATION}/{name}"
    kept = read_object(location)
    write_object(location, data)
    try:
        yield
    finally:
        write_object(location, kept)


def shard_files():
    return [
        entry["file"]
        for entry in json.loads(read_object(f"{LOCATION}/{MANIFEST_FILE}"))["shards"]
    ]


def run(*words):
    """Run a command in a new process."""
    command = [sys.executable, "-c", MAIN, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_dataset_built_in_the_store_equals_a_local_one(server, photographs, tmp_path):
    local = tmp_path / "drawn"
    build(photographs, photographs / "images", local)
    found = files_of(LOCATION)
    assert found == {
        path.relative_to(local).as_posix(): path.read_bytes()
        for path in local.rglob("*")
        if path.is_file()
    }
    times = modified(server)
    assert build(photographs, f"{BUCKET}/photos", LOCATION).is_reused
    with raises_naming(DrtfError, LOCATION, "--out"):
        build(photographs, f"{BUCKET}/photos", LOCATION, "images.contrast=none")
    assert modified(server) == times  # nothing is written twice


def modified(server):
    found = connect(server).list_objects_v2(Bucket="eyes", Prefix="sets/")
    return {item["Key"]: item["LastModified"] for item in found["Contents"]}


def test_a_dataset_is_verified_as_it_is_in_the_store(server):
    assert find_faults(LOCATION) == []
    name = shard_files()[0]
    data = read_object(f"{LOCATION}/{name}")
    with replaced(name, data[:500] + bytes([data[500] ^ 1]) + data[501:]):
        assert name in {fault.file for fault in find_faults(LOCATION)}


def test_an_object_whose_name_leads_outside_its_folder_is_refused(server):
    hostile = f"{BUCKET}/hostile"
    write_object(
        f"{hostile}/{MANIFEST_FILE}", read_object(f"{LOCATION}/{MANIFEST_FILE}")
    )
    connect(server).put_object(Bucket="eyes", Key="hostile/../../owned", Body=b"x")
    with raises_naming(DrtfError, hostile, "hostile/../../owned"):
        find_faults(hostile)


def test_opening_a_dataset_takes_three_requests_and_later_two(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path))
    port = int(server["S3_ENDPOINT"].rpartition(":")[2])
    proxy = Proxy(port, b"never", every=1)
    monkeypatch.setenv("S3_ENDPOINT", f"http://{HOST}:{proxy.port}")
    manifest, index = "GET /eyes/sets/drawn/manifest.json", "GET /eyes/sets/drawn/index"
    listing = "GET /eyes?list-type=2"
    for expected in ([manifest, index, listing], [manifest, listing]):
        stores._open_store.cache_clear()
        proxy.requests.clear()
        ShardDataset(LOCATION).close()
        assert len(proxy.requests) == len(expected)
        assert all(map(str.startswith, proxy.requests, expected))
    stores._open_store.cache_clear()


def test_a_wrong_location_is_an_error_with_its_reason(server):
    for call in (ShardDataset, find_faults):
        for location in (f"{BUCKET}/nothing", f"{BUCKET}/photos"):
            with raises_naming(RecordError, location, MANIFEST_FILE, "build-shards"):
                call(location)
    with raises_naming(LabelError, f"{BUCKET}/nothing", ".png"):
        list_photographs(f"{BUCKET}/nothing")


def test_commands_train_and_score_from_the_store(server, tmp_path):
    sets = [word for setting in (*SMALL, *QUICK) for word in ("--set", setting)]
    out = tmp_path / "run"
    done = run("train", "--shards", LOCATION, "--out", out, *sets)
    assert done.returncode == 0, done.stderr
    write_object(f"{BUCKET}/few/broken.jpg", b"no picture")
    for name, copy in (("4_left", "site.A/deep"), ("3_left", "odd name + ü")):
        data = read_object(f"{BUCKET}/photos/{name}.png")
        write_object(f"{BUCKET}/few/{copy}.png", data)
    scores = tmp_path / "scores.csv"
    done = run("score", out, "--images", f"{BUCKET}/few/", "--out", scores)
    assert done.returncode == 3, done.stderr
    rows = list(csv.DictReader(scores.read_text("utf-8-sig").splitlines()))
    assert [row["path"] for row in rows] == [
        "broken.jpg",
        "odd name + ü.png",
        "site.A/deep.png",
    ]
    assert rows[0]["error"].startswith("not_an_image")
    assert all(0 < float(row["score"]) < 1 for row in rows[1:])


@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) > (2, 17),
    reason="tensorflow-io works with TensorFlow 2.16 and 2.17 only",
)
def test_plain_tensorflow_reads_the_shards_in_place(server, tmp_path):
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
import tensorflow as tf, tensorflow_io
names = {[f"{LOCATION}/{name}" for name in shard_files()]}
print(sum(1 for _ in tf.data.TFRecordDataset(names)), flush=True)
os._exit(0)  # tensorflow-io aborts at exit
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    with ShardDataset(LOCATION) as shards:
        total = sum(shard.num_records for shard in shards.manifest.shards)
    assert done.stdout == f"{total}\n", done.stderr


def test_options_for_local_paths_refuse_a_store(tmp_path):
    done = run("gradcam", tmp_path, "--shards", tmp_path, "--out", "s3://eyes/maps")
    assert done.returncode == 2
    assert_names(done.stderr, "--out", "s3://eyes/maps")
    assert not Path("s3:").exists()

"""Commands on s3://, against a local server; each in a process of its own."""

import contextlib
import csv
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf

from drtf.records.manifest import MANIFEST_FILE, load_manifest, save_manifest
from drtf.records.reader import ShardDataset
from drtf.storage import is_remote
from naming import assert_names

WORKS = tuple(map(int, tf.__version__.split(".")[:2])) < (2, 18)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
needs_s3 = pytest.mark.skipif(
    not WORKS, reason="tensorflow-io works with TensorFlow 2.16 and 2.17 only"
)
SERVER = "from moto.server import main; main()"
MAIN = "from drtf.tools.main import main; main()"
SMALL = ("images.size=32", "build.num_workers=1", "score.num_workers=1")
QUICK = ("model.name=eyenet", "model.weights=none", "train.epochs=1")
BUCKET = "s3://eyes"


class Proxy:
    """Forward to a server, and cut every n-th response in the middle."""

    def __init__(self, port: int, cut_path: bytes, *, every: int) -> None:
        self.target = port
        self.cut_path = cut_path
        self.every = every
        self.num_asked = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        with client, server, contextlib.suppress(OSError):
            while request := client.recv(65536):
                server.sendall(request)
                if request.startswith(b"GET " + self.cut_path):
                    self.num_asked += 1
                    if self.num_asked % self.every == 0:
                        client.sendall(server.recv(65536)[:600])
                        return
                self._answer(server, client)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        client.sendall(server.recv(65536))
        server.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while data := server.recv(65536):
                client.sendall(data)
        server.settimeout(None)


@pytest.fixture(scope="module")
def server(photographs, tmp_path_factory):
    """The environment of a store that holds the photographs."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    # In a process of its own: warnings are errors in this one.
    command = [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)]
    started = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    environment = os.environ | {
        "S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "DRTF_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            break
        assert started.poll() is None
        time.sleep(0.05)
    store = connect(environment)
    store.create_bucket(Bucket="eyes")
    for path in (photographs / "images").iterdir():
        store.put_object(
            Bucket="eyes", Key=f"photos/{path.name}", Body=path.read_bytes()
        )
    yield environment
    started.kill()
    started.wait()


def connect(environment: dict[str, str]):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["S3_ENDPOINT"],
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="us-east-1",
    )


def put(environment: dict[str, str], key: str, data: bytes) -> None:
    connect(environment).put_object(Bucket="eyes", Key=key, Body=data)


def get(environment: dict[str, str], key: str) -> bytes:
    with connect(environment).get_object(Bucket="eyes", Key=key)["Body"] as body:
        return body.read()


def find_times(environment: dict[str, str], prefix: str) -> dict[str, object]:
    """Return when each object below a prefix was written."""
    found = connect(environment).list_objects_v2(Bucket="eyes", Prefix=prefix)
    return {item["Key"]: item["LastModified"] for item in found["Contents"]}


def run(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess:
    """Run a command in a process of its own."""
    command = [sys.executable, "-c", MAIN, *map(str, words)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120
    )


def error_of(environment: dict[str, str], *words: object) -> str:
    """Run a command that must fail with one line, and return it."""
    done = run(environment, *words)
    assert done.returncode == 1, done
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    return lines[0]


def build_words(photographs: Path, images: object, out: object) -> list[object]:
    labels = photographs / "labels.csv"
    sets = [word for setting in SMALL for word in ("--set", setting)]
    words = ["build-shards", "--images", images, "--labels", labels, "--out", out]
    return [*words, *sets]


@pytest.fixture(scope="module")
def remote_set(server, photographs):
    """A set that was built from the store to the store."""
    location = f"{BUCKET}/sets/drawn"
    done = run(server, *build_words(photographs, f"{BUCKET}/photos", location))
    assert done.returncode == 0, done.stderr
    return location


def test_is_remote_recognizes_s3():
    assert is_remote("s3://bucket/folder")
    assert not is_remote(Path("s3/folder"))
    assert not is_remote("/local/s3:/x")


@needs_s3
def test_a_dataset_built_in_the_store_equals_a_local_one(
    server, remote_set, photographs, tmp_path
):
    done = run(
        server, *build_words(photographs, photographs / "images", tmp_path / "drawn")
    )
    assert done.returncode == 0
    local = tmp_path / "drawn"
    for path in [path for path in local.rglob("*") if path.is_file()]:
        name = path.relative_to(local).as_posix()
        assert get(server, f"sets/drawn/{name}") == path.read_bytes()
    assert list((Path(server["DRTF_CACHE"]) / "builds").iterdir()) == []
    before = find_times(server, "sets/drawn/")
    again = run(server, *build_words(photographs, f"{BUCKET}/photos", remote_set))
    assert again.returncode == 0
    assert find_times(server, "sets/drawn/") == before  # nothing is written twice
    other = build_words(photographs, f"{BUCKET}/photos", remote_set)
    error = error_of(server, *other, "--set", "images.contrast=none")
    assert_names(error, remote_set, "--out")
    assert find_times(server, "sets/drawn/") == before


@needs_s3
def test_verify_checks_the_current_files_in_the_store(server, remote_set):
    done = run(server, "verify", "--deep", remote_set)
    assert done.returncode == 0, done.stderr
    assert_names(done.stdout, remote_set)
    files = json.loads(get(server, f"sets/drawn/{MANIFEST_FILE}"))["shards"]
    path = f"sets/drawn/{files[0]['file']}"
    data = get(server, path)
    put(server, path, data[:500] + bytes([data[500] ^ 1]) + data[501:])
    done = run(server, "verify", remote_set)
    put(server, path, data)
    assert done.returncode == 1
    assert_names(done.stdout, remote_set, files[0]["file"])


@needs_s3
def test_an_object_whose_name_leads_outside_its_folder_is_refused(
    server, remote_set, tmp_path
):
    put(server, "sets/hostile/manifest.json", get(server, "sets/drawn/manifest.json"))
    put(server, "sets/hostile/../../../owned", b"x")
    temporary = tmp_path / "a" / "b"
    temporary.mkdir(parents=True)
    location = f"{BUCKET}/sets/hostile"
    error = error_of(server | {"TMPDIR": str(temporary)}, "verify", location)
    assert_names(error, location, "..")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


@needs_s3
def test_training_and_scoring_read_from_the_store(server, remote_set, tmp_path):
    sets = [word for setting in QUICK for word in ("--set", setting)]
    out = tmp_path / "run"
    done = run(server, "train", "--shards", remote_set, "--out", out, *sets)
    assert done.returncode == 0, done.stderr
    assert_names(done.stderr, remote_set)  # fetched
    done = run(server, "evaluate", out, "--shards", remote_set)
    assert done.returncode == 0, done.stderr
    assert remote_set not in done.stderr  # once is enough
    scores = tmp_path / "scores.csv"
    put(server, "few/broken.jpg", b"no picture")
    put(server, "few/site.A/deep.png", get(server, "photos/4_left.png"))
    put(server, "few/odd name + ü.png", get(server, "photos/3_left.png"))
    done = run(server, "score", out, "--images", f"{BUCKET}/few/", "--out", scores)
    assert done.returncode == 3, done.stderr
    rows = scores.read_text("utf-8-sig").splitlines()
    broken = next(csv.DictReader(rows))
    assert (broken["path"], broken["score"]) == ("broken.jpg", "")
    assert broken["error"].startswith("not_an_image")
    assert rows[2].startswith("odd name + ü,odd name + ü.png,,0.")
    assert rows[3].startswith("deep,site.A/deep.png,,0.")


@needs_s3
def test_an_unreachable_store_is_a_one_line_error(server, remote_set):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = server | {"S3_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}"}
        error = error_of(down, "verify", remote_set)
    assert_names(error, "S3_ENDPOINT", down["S3_ENDPOINT"])
    assert_names(error, os.strerror(errno.ECONNREFUSED))
    for wrong in ("http://127.0.0.1:99999", "http://127.0.0.1:abc", "http://[::1"):
        error = error_of(server | {"S3_ENDPOINT": wrong}, "verify", remote_set)
        assert_names(error, "S3_ENDPOINT", wrong, "http://HOST:PORT")


# Every second answer is cut, and asked for again.
CUT = """
import os, sys
from drtf.errors import StorageError
from drtf.storage import read_object
expected = open(sys.argv[1], "rb").read()
found = [read_object("s3://eyes/cut/large") == expected for _ in range(12)]
print(sum(found), flush=True)
os._exit(0)
"""


@needs_s3
def test_a_read_after_a_cut_connection_is_correct(server, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(20_000))
    put(server, "cut/large", path.read_bytes())
    port = int(server["S3_ENDPOINT"].rpartition(":")[2])
    proxy = Proxy(port, b"/eyes/cut/large", every=2)
    through = server | {"S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
    command = [sys.executable, "-c", CUT, str(path)]
    done = subprocess.run(
        command, env=through, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "12\n", done.stderr
    assert proxy.num_asked >= 2 * 12 - 1


# What a command says in its one line, for several locations in one process.
ERRORS = """
import json, os, sys
from drtf.data.listing import list_photographs
from drtf.errors import DrtfError
from drtf.records.remote import copy_dataset, fetch_dataset
calls = [fetch_dataset, lambda location: copy_dataset(location, None), list_photographs]
for location in sys.argv[1:]:
    for call in calls:
        try:
            call(location)
        except DrtfError as error:
            print(location, type(error).__name__, error, sep="|")
os.environ["S3_ENDPOINT"] = "127.0.0.1:80"
try:
    fetch_dataset(sys.argv[1])
except DrtfError as error:
    print("endpoint", type(error).__name__, error, sep="|", flush=True)
os._exit(0)
"""


@needs_s3
def test_a_wrong_location_is_an_error_with_its_reason(server, remote_set):
    locations = ("s3://nobody/x", "s3:///x", f"{BUCKET}/nothing", f"{BUCKET}/photos")
    command = [sys.executable, "-c", ERRORS, *locations]
    done = subprocess.run(
        command, env=server, capture_output=True, text=True, timeout=120
    )
    errors = [line.split("|") for line in done.stdout.splitlines()]
    assert [location for location, *_ in errors] == [
        *(name for name in locations[:3] for _ in range(3)),
        *(locations[3], locations[3]),
        "endpoint",
    ]
    said = {location: rest for location, *rest in errors}
    for location, kind, facts in (
        ("s3://nobody/x", "MissingObjectError", ["s3://nobody/"]),
        ("s3:///x", "StorageError", ["s3:///x", "s3://BUCKET/FOLDER"]),
        (f"{BUCKET}/nothing", "LabelError", [f"{BUCKET}/nothing", ".png"]),
        (
            f"{BUCKET}/photos",
            "RecordError",
            [f"{BUCKET}/photos", MANIFEST_FILE, "drtf build-shards"],
        ),
        ("endpoint", "StorageError", ["S3_ENDPOINT", "http://HOST:PORT"]),
    ):
        found, message = said[location]
        assert found == kind
        assert_names(message, *facts)


@needs_s3
def test_missing_credentials_are_a_one_line_error(server, remote_set, tmp_path):
    """Plain moto lets an unsigned request see a bucket, and read no object."""
    missing = {k: v for k, v in server.items() if not k.startswith("AWS_")}
    missing["HOME"] = str(tmp_path)
    error = error_of(missing, "inspect", remote_set)
    assert_names(error, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@needs_s3
def test_a_connection_cut_within_a_file_is_retried_without_loss(
    server, remote_set, photographs, tmp_path
):
    port = int(server["S3_ENDPOINT"].rpartition(":")[2])
    proxy = Proxy(port, b"/eyes/photos/3_left.png", every=1)
    through = server | {
        "S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}",
        "DRTF_CACHE": str(tmp_path / "cache"),
        "AWS_MAX_ATTEMPTS": "2",
    }
    words = build_words(photographs, f"{BUCKET}/photos", tmp_path / "drawn")
    assert_names(error_of(through, *words), f"{BUCKET}/photos/3_left.png")
    assert not (tmp_path / "drawn").exists()
    proxy.every = 2
    done = run(through, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn" / MANIFEST_FILE).read_bytes() == get(
        server, f"sets/drawn/{MANIFEST_FILE}"
    )


@needs_s3
def test_the_cache_stays_within_its_limit(server, remote_set, tmp_path):
    cache = tmp_path / "cache"
    old = cache / "sets" / "old"
    old.mkdir(parents=True)
    (old / "shard").write_bytes(bytes(200_000))
    (old / MANIFEST_FILE).touch()
    os.utime(old, (0, 0))
    small = server | {"DRTF_CACHE": str(cache), "DRTF_CACHE_GB": "0.0001"}
    out = ("--out", tmp_path / "pictures")
    error = error_of(small, "inspect", remote_set, *out)
    assert_names(error, "DRTF_CACHE_GB", cache)
    assert old.exists()
    done = run(small | {"DRTF_CACHE_GB": "0.0003"}, "inspect", remote_set, *out)
    assert done.returncode == 0, done.stderr
    assert not old.exists()
    (manifest,) = (cache / "sets").glob(f"*/{MANIFEST_FILE}")
    # A dataset that a process is reading stays.
    renamed = load_manifest(manifest.parent).model_copy(update={"name": "renamed"})
    save_manifest(tmp_path, renamed)
    put(
        server, f"sets/renamed/{MANIFEST_FILE}", (tmp_path / MANIFEST_FILE).read_bytes()
    )
    with ShardDataset(manifest.parent):
        full = small | {"DRTF_CACHE_GB": "0.0003"}
        error = error_of(full, "inspect", f"{BUCKET}/sets/renamed", *out)
    assert_names(error, "DRTF_CACHE_GB", cache)
    assert manifest.exists()
    # What was lost from the cache is fetched again.
    shard = min(manifest.parent.glob("*.tfrecord-*"))
    shard.unlink()
    done = run(
        small | {"DRTF_CACHE_GB": "1"}, "inspect", remote_set, *out, "--overwrite"
    )
    assert done.returncode == 0, done.stderr
    assert shard.exists()


@needs_s3
def test_a_dataset_damaged_in_the_store_does_not_enter_the_cache(
    server, remote_set, tmp_path
):
    damaged = server | {"DRTF_CACHE": str(tmp_path / "cache")}
    files = json.loads(get(server, f"sets/drawn/{MANIFEST_FILE}"))["shards"]
    path = f"sets/drawn/{files[-1]['file']}"
    data = get(server, path)
    put(server, path, data[:-1])
    train = ("train", "--shards", remote_set, "--out", tmp_path / "run")
    try:
        error = error_of(damaged, *train)
    finally:
        put(server, path, data)
    assert_names(error, f"{remote_set}/{files[-1]['file']}", "drtf verify")
    assert not list((tmp_path / "cache" / "sets").glob(f"*/{MANIFEST_FILE}"))


@pytest.mark.skipif(WORKS, reason="here it works")
def test_an_unsupported_tensorflow_is_an_error_that_names_supported_ones(tmp_path):
    error = error_of(dict(os.environ), "verify", "s3://eyes/set")
    assert_names(error, "tensorflow-io", "2.16", "2.17", tf.__version__)


def test_options_for_local_paths_refuse_a_store(tmp_path):
    words = ("train", "--shards", tmp_path, "--out", "s3://eyes/run")
    done = run(dict(os.environ), *words)
    assert done.returncode == 2
    assert_names(done.stderr, "--out", "s3://eyes/run")
    assert not Path("s3:").exists()
    shutil.rmtree(tmp_path)

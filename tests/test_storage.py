"""Objects in stores: an S3 server, the in-memory store, and servers that fail."""

import hashlib
import os
import socket
import subprocess
import sys

import pytest

from drtf import storage, stores
from drtf.errors import StorageError
from drtf.locations import check_location, is_remote, join_location, object_name
from drtf.records.verify import find_faults
from drtf.storage import (
    PART_BYTES,
    ChangedObjectError,
    MissingObjectError,
    StoredObject,
    check_bucket,
    create_object,
    delete_object,
    download_object,
    fetch_file,
    find_object,
    list_objects,
    open_object,
    read_object,
    read_ranges,
    read_start,
    write_object,
)
from naming import assert_names, raises_naming
from stores_servers import (
    HOST,
    FileServer,
    Proxy,
    answering,
    connect,
    error_answer,
    running_s3,
    without_store_variables,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
CALLS = (read_object, find_object, list_objects, lambda x: write_object(x, b"1"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Start each test without settings of stores."""
    for name in os.environ.keys() - without_store_variables().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    stores._open_store.cache_clear()
    yield
    stores._open_store.cache_clear()


@pytest.fixture(scope="module")
def server():
    with running_s3() as environment:
        connect(environment).create_bucket(Bucket="eyes")
        yield environment


@pytest.fixture
def s3(server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return connect(server)


@pytest.fixture(params=["s3://eyes", "memory://eyes"])
def folder(request, s3):
    """A different location for each test, in each store."""
    return f"{request.param}/{hashlib.sha256(request.node.name.encode()).hexdigest()}"


def use_server(monkeypatch, endpoint):
    monkeypatch.setenv("S3_ENDPOINT", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    stores._open_store.cache_clear()


def test_is_remote_recognizes_the_schemes_of_stores(tmp_path):
    for scheme in ("s3", "gs", "az", "http", "https"):
        assert is_remote(f"{scheme}://bucket/folder")
    for local in (tmp_path, "s3/folder", "/local/s3:/x", "C://x", "s3:/x", "ftp://x/y"):
        assert not is_remote(local)


@pytest.mark.parametrize(
    ("location", "fact"),
    [
        ("s3://eyes/my%20folder/ü.png", "s3://eyes/my folder/ü.png"),
        ("gs://eyes/a%2Fb", "gs://eyes/a/b"),
        ("s3://eyes/labels.csv?versionId=3a", "s3://eyes/labels.csv"),
        ("az://eyes/labels.csv?sv=2024&sig=secret", "az://eyes/labels.csv"),
        ("S3://eyes/x", "s3://"),
        ("s3a://eyes/x", "s3://"),
        ("file:///data/x", "local path"),
    ],
)
def test_a_location_that_was_pasted_from_elsewhere_is_refused(location, fact):
    with raises_naming(StorageError, fact) as caught:
        check_location(location)
    assert "secret" not in str(caught.value)


def test_locations_and_paths_as_drtf_writes_them_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:").mkdir()
    (tmp_path / "odd:" / "name").touch()
    for location in (
        "s3://eyes/50% of them/ü + a.png",
        "https://host/my%20folder?X-Amz-Signature=1",
        "odd://name",
        tmp_path / "what?%20",
    ):
        check_location(location)


def test_the_name_of_a_url_leads_to_no_other_folder():
    for name in ("%2E%2E%2Fowned", "..%2fowned?x=/y", "owned?x=../z"):
        assert object_name(f"https://host/a/{name}") == "owned"
    assert object_name("s3://eyes/a%2Fb") == "a%2Fb"


def test_urls_are_read_with_their_escapes_and_query(tmp_path):
    data = os.urandom(PART_BYTES + 5)
    (tmp_path / "my eye.png").write_bytes(data)
    with FileServer(tmp_path) as server:
        url = f"{server.location}/my%20eye.png?X-Amz-Signature=a%2Fsecret"
        assert read_object(url) == data
        query = "?X-Amz-Signature=a%2Fsecret"
        assert set(server.requests) == {
            f"GET /my%20eye.png{query}",
            f"GET /my%20eye.png{query} part",
        }
        path = fetch_file(url)
        assert (path.name, path.read_bytes()) == ("my eye.png", data)
        missing = url.replace("my", "no")
        for call in (read_object, find_faults, lambda x: write_object(x, b"1")):
            with raises_naming(StorageError, server.location) as caught:
                call(missing)
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 10, 2 * PART_BYTES + 7])
def test_an_object_is_read_as_it_was_written(folder, size, tmp_path):
    data = os.urandom(size)
    location = join_location(folder, "sub", "odd name + ü.bin")
    write_object(location, data)
    assert read_object(location) == data
    assert read_start(location, 5) == data[:5]
    download_object(location, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    write_object(folder + "/again", tmp_path / "copy")
    assert read_object(folder + "/again") == data
    names = [(item.name, item.size_bytes) for item in list_objects(folder)]
    assert names == [("again", size), ("sub/odd name + ü.bin", size)]


def test_ranges_are_read_in_the_order_asked_for(folder):
    write_object(folder, bytes(range(100)))
    starts, lengths = (50, 3, 97), (2, 1, 3)
    found = read_ranges(folder, starts, lengths)
    assert found == [b"\x32\x33", b"\x03", b"\x61\x62\x63"]
    for start in (99, 200):
        with pytest.raises(StorageError):
            read_ranges(folder, (start,), (2,))


def test_an_object_is_created_only_once(folder):
    assert create_object(folder, b"first")
    assert not create_object(folder, b"second")
    assert read_object(folder) == b"first"
    delete_object(folder)
    delete_object(folder)
    assert find_object(folder) is None
    assert create_object(folder, b"third")


def test_a_missing_object_is_told_from_a_missing_bucket(s3, folder, tmp_path):
    assert find_object(folder) is None
    assert list_objects(folder) == []
    check_bucket(folder)
    calls = (read_object, lambda x: download_object(x, tmp_path / "copy"))
    for call in (*calls, lambda x: read_start(x, 5)):
        with raises_naming(MissingObjectError, folder):
            call(folder)
    for call in (*calls, find_object, list_objects, lambda x: write_object(x, b"1")):
        with raises_naming(StorageError, "s3://nobody/", "does not exist"):
            call("s3://nobody/x")
    assert list(tmp_path.iterdir()) == []


def test_a_location_without_a_bucket_is_refused(s3):
    for call in CALLS:
        with raises_naming(StorageError, "s3:///x", "s3://BUCKET/FOLDER"):
            call("s3:///x")
        with raises_naming(StorageError, "s3://eyes/a//x"):
            call("s3://eyes/a//x")


def test_an_object_that_is_too_large_is_refused(folder):
    write_object(folder, bytes(100))
    assert read_object(folder, max_bytes=100) == bytes(100)
    with raises_naming(StorageError, folder, "100", "99"):
        read_object(folder, max_bytes=99)


def test_folders_of_consoles_are_no_objects(s3):
    for key in (
        "console/",
        "console/deep/",
        "console/deep/er/b.png",
        "console/sub/",
        "console/sub/a.png",
        "console/empty",
    ):
        s3.put_object(Bucket="eyes", Key=key, Body=b"1" if "." in key else b"")
    names = [item.name for item in list_objects("s3://eyes/console/")]
    assert names == ["deep/er/b.png", "empty", "sub/a.png"]


@pytest.mark.parametrize("name", ["../../owned", "a//b", "./a"])
def test_an_object_whose_name_leads_elsewhere_is_refused(s3, name):
    folder = f"hostile{len(name)}"
    s3.put_object(Bucket="eyes", Key=f"{folder}/{name}", Body=b"1")
    with raises_naming(StorageError, f"s3://eyes/{folder}", f"{folder}/{name}"):
        list_objects(f"s3://eyes/{folder}")


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(s3, tmp_path):
    location = "s3://eyes/replaced"
    write_object(location, os.urandom(2 * PART_BYTES))
    opened = open_object(location)
    write_object(location, os.urandom(2 * PART_BYTES))
    with raises_naming(ChangedObjectError, location):
        opened.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_an_object_is_saved_whole_when_the_disk_takes_it_in_pieces(
    tmp_path, monkeypatch
):
    data = os.urandom(PART_BYTES + 5)
    write_object("memory://eyes/pieces", data)
    pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda file, part, start: pwrite(file, part[:1_000_003], start)
    )
    download_object("memory://eyes/pieces", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("size", [20_000, PART_BYTES + 20_000])
def test_a_connection_that_is_cut_is_tried_again(
    s3, server, monkeypatch, tmp_path, size
):
    data = os.urandom(size)
    write_object("s3://eyes/cut", data)
    port = int(server["S3_ENDPOINT"].rpartition(":")[2])
    # No part is cut more often than it is tried again.
    proxy = Proxy(port, b"GET /eyes/cut", every=3)
    use_server(monkeypatch, f"http://{HOST}:{proxy.port}")
    for _ in range(4):
        assert read_object("s3://eyes/cut") == data
        download_object("s3://eyes/cut", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
    assert proxy.num_asked > 2 * 4
    proxy.every = 1
    with raises_naming(StorageError, "s3://eyes/cut"):
        read_object("s3://eyes/cut")


def use_proxy(monkeypatch, server, start, **options):
    port = int(server["S3_ENDPOINT"].rpartition(":")[2])
    proxy = Proxy(port, start, **options)
    use_server(monkeypatch, f"http://{HOST}:{proxy.port}")
    return proxy


def test_an_upload_that_the_store_completes_late_succeeds(s3, server, monkeypatch):
    """The store is silent for longer than a read may take."""
    monkeypatch.setattr(stores, "SILENCE_SECONDS", 1)
    for start, size in ((b"PUT /eyes/late", 1), (b"POST /eyes/late?uploadId", 9 << 20)):
        data = os.urandom(size)
        proxy = use_proxy(monkeypatch, server, start, every=99, wait_seconds=1.5)
        write_object("s3://eyes/late", data)
        assert proxy.num_asked == 1
        assert read_object("s3://eyes/late") == data


@pytest.mark.parametrize("is_file", [False, True])
def test_an_upload_whose_last_answer_is_lost_succeeds(
    s3, server, monkeypatch, tmp_path, is_file
):
    """The second try hears that there is no such upload."""
    data = os.urandom(PART_BYTES + 5)
    (tmp_path / "data").write_bytes(data)
    write_object("s3://eyes/lost", os.urandom(PART_BYTES + 5))
    start = b"POST /eyes/lost?uploadId"
    proxy = use_proxy(monkeypatch, server, start, every=1, num_kept=0)
    write_object("s3://eyes/lost", tmp_path / "data" if is_file else data)
    assert proxy.num_asked > 1
    assert read_object("s3://eyes/lost") == data


def test_an_upload_that_is_never_completed_is_an_error(s3, server, monkeypatch):
    """An older object of the same size is not mistaken for it."""
    monkeypatch.setattr(storage, "COMPLETION_SECONDS", 0.0)
    write_object("s3://eyes/never", os.urandom(PART_BYTES + 5))
    start = b"POST /eyes/never?uploadId"
    use_proxy(monkeypatch, server, start, every=1, loses_requests=True)
    with raises_naming(StorageError, "s3://eyes/never"):
        write_object("s3://eyes/never", os.urandom(PART_BYTES + 5))


def test_an_object_is_created_although_the_answer_is_lost(
    s3, server, monkeypatch, tmp_path
):
    (tmp_path / "data").write_bytes(b"mine")
    for name, data in (("first", b"mine"), ("second", tmp_path / "data")):
        start = f"PUT /eyes/{name}".encode()
        proxy = use_proxy(monkeypatch, server, start, every=2, num_kept=0)
        proxy.num_asked = 1
        assert create_object(f"s3://eyes/{name}", data)
        assert proxy.num_asked == 3
        assert not create_object(f"s3://eyes/{name}", b"else")
        assert read_object(f"s3://eyes/{name}") == b"mine"


@pytest.mark.parametrize(
    ("status", "code", "facts"),
    [
        ("400 Bad Request", "ExpiredToken", ["expired"]),
        ("403 Forbidden", "InvalidAccessKeyId", ["access key"]),
        ("403 Forbidden", "SignatureDoesNotMatch", ["secret"]),
        ("403 Forbidden", "AccessDenied", ["permission", "AWS_ACCESS_KEY_ID"]),
        ("403 Forbidden", "RequestTimeTooSkewed", ["clock"]),
        ("301 Moved Permanently", "PermanentRedirect", ["AWS_REGION"]),
        ("400 Bad Request", "AuthorizationHeaderMalformed", ["AWS_REGION"]),
        ("503 Slow Down", "SlowDown", ["overloaded"]),
        ("500 Internal Server Error", "InternalError", ["Because"]),
    ],
)
def test_an_error_of_the_store_is_one_line_with_its_reason(
    monkeypatch, status, code, facts
):
    with answering(error_answer(status, code)) as endpoint:
        use_server(monkeypatch, endpoint)
        for call in (read_object, list_objects, lambda x: write_object(x, b"1")):
            with pytest.raises(StorageError) as caught:
                call("s3://eyes/x")
            assert_names(str(caught.value), "s3://eyes/x", *facts)
            assert "\n" not in str(caught.value)


def test_an_upload_that_the_store_has_lost_is_no_missing_object(monkeypatch):
    with answering(error_answer("404 Not Found", "NoSuchUpload")) as endpoint:
        use_server(monkeypatch, endpoint)
        with pytest.raises(StorageError) as caught:
            write_object("s3://eyes/x", b"1")
    assert caught.type is StorageError
    assert_names(str(caught.value), "s3://eyes/x", "Because")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no http at all",
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n<garbage",
        b"HTTP/1.1 302 Found\r\nLocation: /eyes/x\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_store_that_answers_nonsense_is_one_line(monkeypatch, answer):
    monkeypatch.setattr(stores, "SILENCE_SECONDS", 1)
    with answering(answer) as endpoint:
        use_server(monkeypatch, endpoint)
        with pytest.raises(StorageError) as caught:
            list_objects("s3://eyes/x")
        assert_names(str(caught.value), "s3://eyes/x")
        assert "\n" not in str(caught.value)


def test_an_unreachable_or_invalid_endpoint_is_named(monkeypatch):
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        down = f"http://{HOST}:{unused.getsockname()[1]}"
        for variable in ("S3_ENDPOINT", "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(variable, down)
            stores._open_store.cache_clear()
            with raises_naming(StorageError, variable, down, "refused"):
                read_object("s3://eyes/x")
        with raises_naming(StorageError, down):
            read_object(f"{down}/x")
    for wrong in (f"http://{HOST}:99999", f"http://{HOST}:abc", "http://[::1", HOST):
        use_server(monkeypatch, wrong)
        with raises_naming(StorageError, "AWS_ENDPOINT_URL", "http://HOST:PORT"):
            monkeypatch.setenv("AWS_ENDPOINT_URL", wrong)
            stores._open_store.cache_clear()
            read_object("s3://eyes/x")


def test_missing_credentials_are_named(monkeypatch):
    """The address of instance roles does not answer here."""
    monkeypatch.setattr(stores, "CONNECT_SECONDS", 1)
    for location, names in (
        ("s3://eyes/x", ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SKIP_SIGNATURE"]),
        ("gs://eyes/x", ["GOOGLE_APPLICATION_CREDENTIALS", "gcloud"]),
        ("az://eyes/x", ["AZURE_STORAGE_ACCOUNT_NAME"]),
    ):
        with raises_naming(StorageError, location[:9], *names):
            read_object(location)


def test_a_profile_supplies_credentials_region_and_endpoint(
    s3, server, monkeypatch, tmp_path
):
    write_object("s3://eyes/profile", b"1")
    for name in server:
        monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(
        "[profile clinic]\naws_access_key_id=x\naws_secret_access_key=x\n"
        f"region=eu-west-1\nendpoint_url={server['S3_ENDPOINT']}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "clinic")
    stores._open_store.cache_clear()
    assert read_object("s3://eyes/profile") == b"1"
    store = stores.open_place("s3://eyes/profile").store
    assert store.config["region"] == "eu-west-1"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    stores._open_store.cache_clear()
    with raises_naming(StorageError, "nobody"):
        read_object("s3://eyes/profile")


def test_certificates_of_an_own_authority_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with raises_naming(StorageError, "AWS_CA_BUNDLE", "none.pem"):
        read_object("s3://eyes/x")


def test_a_proxy_is_used(monkeypatch, server):
    """The proxy answers for a host that does not exist."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        assert read_object("http://host.invalid/x") == b"hi"


def test_google_and_plain_http_are_read_too(s3, server, monkeypatch):
    """The S3 server speaks the same language as Google's for reading."""
    s3.put_object(Bucket="eyes", Key="open/a", Body=b"123", ACL="public-read")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server["S3_ENDPOINT"])
    for root in ("gs:/", server["S3_ENDPOINT"]):
        location = f"{root}/eyes/open/a"
        assert read_object(location) == b"123"
        assert find_object(location).size_bytes == 3
        with raises_naming(MissingObjectError, f"{location}/none"):
            read_object(f"{location}/none")
    assert list_objects("gs://eyes/open")[0][:2] == StoredObject("a", 3, None)[:2]
    with raises_naming(StorageError, server["S3_ENDPOINT"], "listed"):
        list_objects(f"{server['S3_ENDPOINT']}/eyes/open")


def test_a_process_that_used_a_store_exits_normally(server):
    code = "from drtf.storage import write_object; write_object('s3://eyes/x', b'1')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | server, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")

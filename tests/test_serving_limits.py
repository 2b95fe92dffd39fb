"""What a request may hold and who may send it, without a model."""

import asyncio
import http.client
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

pydicom = pytest.importorskip("pydicom")

from encoding_dicom import encode_dicom, save_dicom  # noqa: E402

from drtf.errors import PhotographError  # noqa: E402
from drtf.images import dicom_files  # noqa: E402
from drtf.images.dicom_tags import TOMOGRAPHY  # noqa: E402
from drtf.photographs.uploads import (  # noqa: E402
    open_dicom,
    photograph_from_bytes,
    photographs_of_file,
)
from drtf.serving import slow_clients  # noqa: E402
from drtf.serving.limits import Limits, check_photographs  # noqa: E402
from drtf.serving.origins import OwnOrigin, is_own_request  # noqa: E402
from drtf.serving.slow_clients import ClosingProtocol  # noqa: E402
from drtf.serving.unread_bodies import UnreadBodies  # noqa: E402

LIMITS = Limits()


def photographs_in(path: str, data: bytes, limits: Limits = LIMITS):
    file = photograph_from_bytes(path, data)
    opened = open_dicom(
        file, max_frames=limits.max_photographs, max_bytes=limits.max_request_bytes
    )
    photographs = photographs_of_file(file, opened)
    check_photographs(photographs, limits)
    return photographs


def deflated_frames() -> bytes:
    """Return a file of some hundred bytes, whose four frames have 30,000 bytes each."""
    frames = np.zeros((4, 100, 100, 3), np.uint8)
    data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(encode_dicom(frames)))
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    return save_dicom(data)


def test_the_frames_of_a_small_file_may_not_be_larger_than_a_request():
    data = deflated_frames()
    photographs = photographs_in("a.dcm", data, Limits(max_request_bytes=200_000))
    paths = [f"a.dcm#frame={number}" for number in range(1, 5)]
    assert [x.path for x in photographs] == paths
    for limits, status in (
        (Limits(max_request_bytes=80_000), 413),
        (Limits(max_photographs=3), 422),
    ):
        with pytest.raises(HTTPException) as error:
            photographs_in("a.dcm", data, limits)
        assert error.value.status_code == status


def test_a_name_may_name_a_frame():
    data = deflated_frames()
    (first,) = photographs_in("a.dcm#frame=1", data)
    assert (first.path, len(first.read()) > 30_000) == ("a.dcm#frame=1", True)
    (missing,) = photographs_in("a.dcm#frame=5", data)
    with pytest.raises(PhotographError, match="unreadable"):
        missing.read()


def test_a_file_is_loaded_once_for_all_frames(monkeypatch):
    calls = []
    load = dicom_files._open_frames
    monkeypatch.setattr(
        dicom_files, "_open_frames", lambda file: calls.append(file) or load(file)
    )
    assert len(photographs_in("a.dcm", deflated_frames())) == 4
    assert len(calls) == 1


@pytest.mark.parametrize("tag", ["Manufacturer", "SOPClassUID"])
def test_results_of_drtf_and_tomographies_are_no_photographs(tag):
    tags = {"Manufacturer": "drtf", "SOPClassUID": TOMOGRAPHY[0]}
    data = encode_dicom(np.zeros((100, 100, 3), np.uint8), **{tag: tags[tag]})
    (photograph,) = photographs_in("a.dcm", data)
    with pytest.raises(PhotographError, match="not_an_image"):
        photograph.read()


@contextmanager
def listening(app):
    """Run an application as drtf serve does; yield its port."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=0, http=ClosingProtocol, lifespan="off", log_config=None
        )
    )
    started = threading.Event()
    startup = server.startup

    async def start(**options):
        await startup(**options)
        started.set()

    server.startup = start
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(60)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_client_sees_a_refusal_that_is_sent_before_its_body(connection):
    app = FastAPI()
    app.add_middleware(UnreadBodies, limits=LIMITS)

    @app.post("/")
    async def refuse() -> None:
        raise HTTPException(401, "no")

    with listening(app) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(2):
            headers = {"Connection": connection}
            client.request("POST", "/", bytes(30_000_000), headers)
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (401, b'{"detail":"no"}')
        client.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx",
        b"GET /none HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\n",
    ],
    ids=["nothing", "head", "body", "second"],
)
def test_a_connection_whose_request_does_not_arrive_is_closed(sent, monkeypatch):
    monkeypatch.setattr(slow_clients, "INTERVAL_SECONDS", 0.1)
    app = FastAPI()
    app.add_middleware(UnreadBodies, limits=LIMITS)

    @app.post("/")
    async def answer() -> None:
        raise HTTPException(401, "no")

    with (
        listening(app) as port,
        socket.create_connection(("127.0.0.1", port), 60) as client,
    ):
        client.sendall(sent)
        while client.recv(1000):
            pass


@pytest.mark.parametrize(
    ("sizes", "is_fast"), [([0], True), ([3, 3], True), ([9, 1, None, 9], False)]
)
def test_a_body_must_keep_arriving(sizes, is_fast, monkeypatch):
    monkeypatch.setattr(slow_clients, "INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(slow_clients, "MIN_INTERVAL_BYTES", 10)

    async def body():
        for size in sizes:
            if size is None:
                await asyncio.sleep(60)
            else:
                yield bytes(size)

    async def received():
        return [len(x) async for x in slow_clients.in_time(body())]

    if is_fast:
        assert asyncio.run(received()) == sizes
    else:
        with pytest.raises(TimeoutError):
            asyncio.run(received())


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({}, True),
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({"origin": "http://clinic.example"}, False),
        ({"origin": "http://127.0.0.1:9000"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9000"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_pages_of_other_sites_are_recognized(headers, is_own):
    assert is_own_request(Headers({"host": "127.0.0.1:8000"} | headers)) == is_own


def test_pages_of_other_sites_may_only_read_what_browsers_show_them():
    app = FastAPI()
    app.add_middleware(OwnOrigin)
    app.add_api_route("/", lambda: "x", methods=["GET", "POST"])
    headers = {"Origin": "http://clinic.example"}
    with TestClient(app) as client:
        assert client.get("/", headers=headers).status_code == 200
        assert client.post("/", headers=headers).status_code == 403
        assert client.post("/").status_code == 200

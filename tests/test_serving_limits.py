"""What a request may hold, without a model."""

import asyncio

import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

pydicom = pytest.importorskip("pydicom")

from encoding_dicom import encode_dicom, save_dicom  # noqa: E402

from drtf.errors import PhotographError  # noqa: E402
from drtf.images.dicom_tags import TOMOGRAPHY  # noqa: E402
from drtf.photographs.uploads import photographs_from_bytes  # noqa: E402
from drtf.serving.limits import Limits, read_photographs  # noqa: E402


def client_of(limits: Limits) -> TestClient:
    app, opening = FastAPI(), asyncio.Lock()

    @app.post("/")
    async def names(request: Request) -> list[str]:
        found = await read_photographs(request, limits, opening=opening)
        return [photograph.path for photograph in found]

    return TestClient(app)


def deflated_frames() -> bytes:
    """Return a file of some hundred bytes, whose four frames have 30,000 bytes each."""
    frames = np.zeros((4, 100, 100, 3), np.uint8)
    data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(encode_dicom(frames)))
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    return save_dicom(data)


def test_the_frames_of_a_small_file_may_not_be_larger_than_a_request():
    files = [("photograph", ("a.dcm", deflated_frames()))]
    with client_of(Limits(max_request_bytes=200_000)) as client:
        answer = client.post("/", files=files)
        assert answer.json() == [f"a.dcm#frame={number}" for number in range(1, 5)]
    with client_of(Limits(max_request_bytes=80_000)) as client:
        assert client.post("/", files=files).status_code == 413
    with client_of(Limits(max_photographs=3)) as client:
        assert client.post("/", files=files).status_code == 422


@pytest.mark.parametrize("tag", ["Manufacturer", "SOPClassUID"])
def test_results_of_drtf_and_tomographies_are_no_photographs(tag):
    tags = {"Manufacturer": "drtf", "SOPClassUID": TOMOGRAPHY[0]}
    data = encode_dicom(np.zeros((100, 100, 3), np.uint8), **{tag: tags[tag]})
    (photograph,) = photographs_from_bytes("a.dcm", data)
    with pytest.raises(PhotographError, match="not_an_image"):
        photograph.read()

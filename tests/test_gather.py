import errno
import os

import numpy as np
import pytest

from drtf.records import gather
from drtf.records.gather import Gather, find_addresses

NUM_BYTES = 1000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes((np.arange(NUM_BYTES) % 251).astype(np.uint8).tobytes())
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["one call", "a call a piece"])
def reader(request, monkeypatch):
    """A gather of 8 pieces in two parts of 4 and 6 bytes, and their memory."""
    if request.param == "a call a piece":
        monkeypatch.setattr(gather, "SYSCALLS", {})
    made = Gather(8, num_parts=2)
    if request.param == "one call" and not made.in_one_call:
        pytest.skip("this system has no io_submit")
    parts = np.zeros((8, 4), np.uint8), np.zeros((8, 6), np.uint8)
    for number, part in enumerate(parts):
        made.iovecs["base"][:, number] = find_addresses(part)
        made.iovecs["length"][:, number] = part.shape[1]
    yield made, parts
    made.close()


def test_each_piece_goes_to_its_parts(reader, file):
    made, parts = reader
    offsets = np.array([500, 0, 17, 980, 500])
    assert made.read(np.full(5, file), offsets).tolist() == [10] * 5
    expected = (offsets[:, None] + np.arange(10)) % 251
    assert (np.concatenate(parts, axis=1)[:5] == expected).all()
    assert not parts[0][5:].any()


def test_it_reads_again_and_again(reader, file):
    made, parts = reader
    for offset in range(0, 900, 9):
        assert made.read(np.full(8, file), offset + np.arange(8)).tolist() == [10] * 8
        assert parts[0][7, 0] == (offset + 7) % 251


def test_the_end_of_a_file_gives_fewer_bytes(reader, file):
    made, _ = reader
    offsets = np.array([NUM_BYTES - 3, NUM_BYTES, 0])
    assert made.read(np.full(3, file), offsets).tolist() == [3, 0, 10]


def test_a_file_that_cannot_be_read_says_why_and_the_others_are_read(
    reader, file, tmp_path
):
    made, parts = reader
    folder = os.open(tmp_path, os.O_RDONLY)
    found = made.read(np.array([file, folder, file]), np.array([7, 0, 9]))
    os.close(folder)
    assert found[[0, 2]].tolist() == [10, 10]
    assert found[1] in (-errno.EISDIR, -errno.EINVAL)
    assert parts[0][[0, 2], 0].tolist() == [7, 9]

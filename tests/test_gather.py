import os
import struct

import google_crc32c
import numpy as np
import pytest

from drtf.records import gather
from drtf.records.framing import HEADER, frame_record, read_footer
from drtf.records.gather import Frames, read_frames_in_python

IMAGE_OFFSETS = (0, 5, 63)
# Around the blocks that the C code takes three at a time, and its words of 8 bytes.
IMAGE_LENGTHS = (0, 1, 7, 8, 9, 1024, 3071, 3072, 3073, 3080, 6144, 27_648)
AFTER = 11


@pytest.fixture(params=["C", "Python"])
def read_frames(request):
    if request.param == "Python":
        return read_frames_in_python
    # Everyone who runs the tests has a compiler; users may do without.
    assert gather.read_frames is not read_frames_in_python
    return gather.read_frames


@pytest.fixture
def frames(tmp_path):
    """Records of a file, and their images' bytes."""
    rng = np.random.default_rng(0)
    columns, images, offset = [], [], 0
    path = tmp_path / "shard"
    with path.open("wb") as file:
        for image_offset in IMAGE_OFFSETS:
            for image_length in IMAGE_LENGTHS:
                data = rng.bytes(image_offset + image_length + AFTER)
                frame = frame_record(data)
                file.write(frame)
                columns.append(
                    (offset, len(data), image_offset, image_length, read_footer(frame))
                )
                images.append(data[image_offset : image_offset + image_length])
                offset += len(data) + HEADER.size + 4
    offsets, lengths, image_offsets, image_lengths, crcs = np.array(columns).T
    descriptor = os.open(path, os.O_RDWR)
    yield (
        Frames(
            np.full(len(columns), descriptor, np.int32),
            offsets.astype(np.int64),
            lengths.astype(np.int32),
            image_offsets.astype(np.int32),
            image_lengths.astype(np.int32),
            crcs.astype(np.uint32),
        ),
        images,
    )
    os.close(descriptor)


@pytest.fixture(params=[1, 2, 7])
def read_all(request, read_frames, frames):
    """Read all records with some threads; return how many were whole."""
    where, images = frames
    rows = np.arange(len(images))
    out = np.zeros(sum(map(len, images)), np.uint8)
    return lambda: read_frames(where, rows, out, request.param)


@pytest.mark.parametrize("num_threads", [1, 2, 7, 1000])
def test_images_are_read_back_to_back(read_frames, frames, num_threads):
    where, images = frames
    order = np.random.default_rng(1).integers(0, len(images), 1000)
    expected = b"".join(images[number] for number in order)
    out = np.zeros(len(expected) + 1, np.uint8)
    assert read_frames(where, order, out, num_threads) == 1000
    assert out.tobytes() == expected + b"\0"


@pytest.mark.parametrize("place", ["first", "length", "image", "last"])
def test_reading_stops_at_a_record_with_a_changed_bit(read_all, frames, place):
    where, images = frames
    for number in range(len(images)):
        within = {
            "first": 0,
            "length": 9,
            "image": HEADER.size + where.image_offsets[number],
            "last": where.lengths[number] + HEADER.size + 3,
        }
        at = int(where.offsets[number] + within[place])
        byte = os.pread(where.files[0], 1, at)
        os.pwrite(where.files[0], bytes([byte[0] ^ 32]), at)
        assert read_all() == number
        os.pwrite(where.files[0], byte, at)
    assert read_all() == len(images)


def test_damaged_records_are_read_when_checksums_are_not_verified(read_frames, frames):
    where, images = frames
    where.crcs[:] ^= 1
    out = np.zeros(sum(map(len, images)), np.uint8)
    assert read_frames(where, np.arange(len(images)), out, 2, False) == len(images)
    assert out.tobytes() == b"".join(images)


def test_reading_stops_at_a_valid_length_that_differs_from_the_index(read_all, frames):
    where, _ = frames
    length = struct.pack("<Q", 7)
    crc = google_crc32c.value(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    os.pwrite(where.files[0], length + struct.pack("<I", masked), int(where.offsets[4]))
    assert read_all() == 4


def test_reading_stops_at_an_intact_record_in_the_wrong_place(read_all, frames):
    where, _ = frames
    where.crcs[9] ^= 1
    assert read_all() == 9


def test_reading_stops_at_the_first_of_several_damaged_records(read_all, frames):
    where, images = frames
    for number in range(len(images) - 1, 2, -1):
        where.crcs[number] ^= 1
        assert read_all() == number


def test_reading_stops_where_the_file_ends_or_is_unreadable(read_all, frames):
    where, _ = frames
    os.truncate(int(where.files[0]), int(where.offsets[20]) + 3)
    assert read_all() == 20
    where.files[6] = 1_000_000  # no open file
    assert read_all() == 6


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("crcs", np.zeros(2, np.uint32)),
        ("image_offsets", np.full(36, 1_000_000, np.int32)),
        ("image_offsets", np.full(36, -1, np.int32)),
        ("image_lengths", np.full(36, -1, np.int32)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(frames, column, value):
    where, _ = frames
    out = np.zeros(1_000_000, np.uint8)
    with pytest.raises(ValueError):
        gather.read_frames(where._replace(**{column: value}), np.arange(36), out, 2)
    assert not out.any()


@pytest.mark.parametrize(
    ("row", "size", "num_threads"), [(-1, 99, 1), (36, 99, 1), (4, 8, 1), (4, 9, 0)]
)
def test_rows_out_of_range_are_refused(frames, row, size, num_threads):
    where, _ = frames
    out = np.zeros(size, np.uint8)
    with pytest.raises(ValueError):
        gather.read_frames(where, np.array([row]), out, num_threads)
    assert not out.any()

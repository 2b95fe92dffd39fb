import os
import struct

import google_crc32c
import numpy as np
import pytest

from drtf.records import gather
from drtf.records.framing import HEADER, frame_record, read_footer
from drtf.records.gather import read_frames_in_python

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
def records(tmp_path):
    """The columns that name the records of a file, and their images' bytes."""
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
        (
            np.full(len(columns), descriptor, np.int32),
            offsets.astype(np.int64),
            lengths.astype(np.int32),
            image_offsets.astype(np.int32),
            image_lengths.astype(np.int32),
            crcs.astype(np.uint32),
            (np.cumsum(image_lengths) - image_lengths).astype(np.int64),
        ),
        images,
    )
    os.close(descriptor)


def test_images_come_to_where_they_belong(read_frames, records):
    columns, images = records
    out = np.zeros(sum(map(len, images)), np.uint8)
    assert read_frames(*columns, out) == len(images)
    assert out.tobytes() == b"".join(images)


def test_records_come_in_any_order_and_again(read_frames, records):
    columns, images = records
    order = np.random.default_rng(1).integers(0, len(images), 100)
    chosen = [column[order] for column in columns[:-1]]
    lengths = chosen[4]
    starts = (np.cumsum(lengths) - lengths).astype(np.int64)
    out = np.zeros(lengths.sum(), np.uint8)
    assert read_frames(*chosen, starts, out) == 100
    assert out.tobytes() == b"".join(images[number] for number in order)


@pytest.mark.parametrize("place", ["first", "length", "image", "last"])
def test_it_stops_at_the_record_that_has_a_changed_bit(read_frames, records, place):
    columns, images = records
    files, offsets, lengths, image_offsets, *_ = columns
    out = np.zeros(sum(map(len, images)), np.uint8)
    for number in range(len(images)):
        within = {
            "first": 0,
            "length": 9,
            "image": HEADER.size + image_offsets[number],
            "last": lengths[number] + HEADER.size + 3,
        }
        at = int(offsets[number] + within[place])
        byte = os.pread(files[0], 1, at)
        os.pwrite(files[0], bytes([byte[0] ^ 32]), at)
        assert read_frames(*columns, out) == number
        os.pwrite(files[0], byte, at)
    assert read_frames(*columns, out) == len(images)


def test_a_length_that_its_own_checksum_confirms_must_be_the_indexs(
    read_frames, records
):
    columns, images = records
    length = struct.pack("<Q", 7)
    crc = google_crc32c.value(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    os.pwrite(columns[0][0], length + struct.pack("<I", masked), int(columns[1][4]))
    out = np.zeros(sum(map(len, images)), np.uint8)
    assert read_frames(*columns, out) == 4


def test_it_stops_at_a_whole_record_that_is_another(read_frames, records):
    columns, images = records
    columns[5][9] ^= 1
    out = np.zeros(sum(map(len, images)), np.uint8)
    assert read_frames(*columns, out) == 9


def test_it_stops_where_the_file_ends_or_cannot_be_read(read_frames, records):
    columns, images = records
    out = np.zeros(sum(map(len, images)), np.uint8)
    os.truncate(int(columns[0][0]), int(columns[1][20]) + 3)
    assert read_frames(*columns, out) == 20
    columns[0][6] = 1_000_000  # no open file
    assert read_frames(*columns, out) == 6


def test_arrays_that_do_not_fit_are_refused():
    one, many = np.zeros(1, np.int32), np.zeros(1, np.int64)
    crcs, out = np.zeros(1, np.uint32), np.zeros(4, np.uint8)
    with pytest.raises(ValueError, match="fit"):
        gather.read_frames(one, many, one, one, one, crcs, np.zeros(2, np.int64), out)
    outside = np.full(1, 5, np.int32)
    with pytest.raises(ValueError, match="fit"):
        gather.read_frames(one, many, outside, one, outside, crcs, many, out)

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from drtf.records.framing import FRAME_BYTES, find_frame_fault, frame_record
from naming import assert_names

DATA = bytes(range(200))


def test_a_frame_equals_tensorflows(tmp_path):
    path = tmp_path / "one.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(DATA)
    assert path.read_bytes() == frame_record(DATA)


@given(st.binary(max_size=500))
def test_an_intact_frame_has_no_fault(data):
    frame = np.frombuffer(frame_record(data), np.uint8)
    assert find_frame_fault(frame, length=len(data)) == ""


@pytest.mark.parametrize("position", range(0, len(DATA) + FRAME_BYTES, 7))
def test_a_changed_byte_is_a_fault_at_any_position(position):
    frame = np.frombuffer(frame_record(DATA), np.uint8).copy()
    frame[position] ^= 0x40
    assert find_frame_fault(frame, length=len(DATA))


@pytest.mark.parametrize("size", [0, 5, 12, 100, len(DATA) + FRAME_BYTES - 1])
def test_a_frame_cut_short_is_a_fault(size):
    frame = np.frombuffer(frame_record(DATA)[:size], np.uint8)
    fault = find_frame_fault(frame, length=len(DATA))
    assert_names(fault, size, len(DATA) + FRAME_BYTES)


def test_a_length_that_differs_from_the_index_is_a_fault():
    frame = np.frombuffer(frame_record(DATA) + bytes(8), np.uint8)
    fault = find_frame_fault(frame, length=len(DATA) - 1)
    assert_names(fault, 200, 199)

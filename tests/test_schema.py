import dataclasses
from typing import get_args

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from drtf.config import Encoding
from drtf.errors import RecordError
from drtf.records.schema import Record, encode_record, parse_record
from naming import assert_names

RECORD = Record(b"\x00\x01\xff" * 100, "raw", 10, 10, 3, "13_left", "13")

records = st.builds(
    Record,
    image=st.binary(max_size=40_000),
    format=st.sampled_from(get_args(Encoding)),
    height=st.integers(1, 2**31),
    width=st.integers(1, 2**31),
    grade=st.integers(0, 4),
    id=st.text(),
    patient=st.text(),
)


def as_example(record: Record) -> tf.train.Example:
    def bytes_feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def int64_feature(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    feature = {
        "image/encoded": bytes_feature(record.image),
        "image/format": bytes_feature(record.format.encode()),
        "image/height": int64_feature(record.height),
        "image/width": int64_feature(record.width),
        "image/class/label": int64_feature(record.grade),
        "image/id": bytes_feature(record.id.encode()),
        "patient/id": bytes_feature(record.patient.encode()),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


@given(records)
def test_encode_equals_protobufs_deterministic_serialization(record):
    expected = as_example(record).SerializeToString(deterministic=True)
    assert encode_record(record).data == expected


@given(records)
def test_parse_is_the_inverse_of_encode(record):
    assert parse_record(encode_record(record).data) == record


@given(records)
def test_image_offset_points_at_the_image(record):
    data, offset = encode_record(record)
    assert data[offset : offset + len(record.image)] == record.image


def test_encode_returns_the_golden_bytes():
    record = dataclasses.replace(RECORD, image=b"px")
    assert encode_record(record).data.hex() == (
        "0aaa010a1a0a11696d6167652f636c6173732f6c6162656c12051a030a01030a170a0d"
        "696d6167652f656e636f64656412060a040a0270780a170a0c696d6167652f666f726d"
        "617412070a050a037261770a150a0c696d6167652f68656967687412051a030a010a0a"
        "170a08696d6167652f6964120b0a090a0731335f6c6566740a140a0b696d6167652f77"
        "6964746812051a030a010a0a140a0a70617469656e742f696412060a040a023133"
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xff" * 30, encode_record(RECORD).data[:-3], b"\x0a\x02\x08\x01"],
)
def test_parse_raises_record_error_when_the_bytes_are_no_record(data):
    with pytest.raises(RecordError) as caught:
        parse_record(data)
    assert_names(caught.value, repr(caught.value.__cause__))


@given(st.binary(max_size=200))
def test_parse_never_crashes_on_any_bytes(data):
    with pytest.raises(RecordError):
        parse_record(data)

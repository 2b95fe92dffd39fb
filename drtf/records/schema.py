"""The record: a tf.train.Example, encoded and parsed without TensorFlow.

The encoding is protobuf's deterministic serialization (sorted map keys, packed int64
lists). Every reader of tf.train.Example accepts it, and equal records have equal bytes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from drtf.errors import RecordError

# Tags of tensorflow/core/example/{example,feature}.proto: field << 3 | wire type.
LENGTH_DELIMITED_1 = 0x0A
LENGTH_DELIMITED_2 = 0x12
INT64_LIST = 0x1A
VARINT_1 = 0x08


@dataclass(frozen=True)
class Record:
    """One photograph as stored in a shard.

    Attributes:
        image: The encoded pixels; for `raw`, uint8 RGB [height, width, 3] in C order.
        format: `raw`, `png` or `jpeg`.
        height: Height in px.
        width: Width in px.
        grade: Grade on the ICDR scale, 0-4; never a binary label.
        id: Name of the photograph in its label file, or its path in class folders.
        patient: Name of the patient; equal to `id` if patients are unknown.
    """

    image: bytes
    format: str
    height: int
    width: int
    grade: int
    id: str
    patient: str


class Encoded(NamedTuple):
    """An encoded record, and the offset of the image in it, in bytes."""

    data: bytes
    image_offset: int


def encode_record(record: Record) -> Encoded:
    """Encode a record as a serialized tf.train.Example."""
    before, after = encode_around_image(
        image_length=len(record.image),
        encoding=record.format,
        height=record.height,
        width=record.width,
        grade=record.grade,
        id=record.id,
        patient=record.patient,
    )
    return Encoded(before + record.image + after, len(before))


def encode_around_image(
    *,
    image_length: int,
    encoding: str,
    height: int,
    width: int,
    grade: int,
    id: str,  # noqa: A002
    patient: str,
) -> tuple[bytes, bytes]:
    """Return the bytes of a record before and after those of its image.

    Args:
        image_length: Length of the encoded image, in bytes.
        encoding: As `Record.format`.
        height: As in `Record`.
        width: As in `Record`.
        grade: As in `Record`.
        id: As in `Record`.
        patient: As in `Record`.
    """
    after = b"".join(
        (
            _bytes_entry("image/format", encoding.encode()),
            _int64_entry("image/height", height),
            _bytes_entry("image/id", id.encode()),
            _int64_entry("image/width", width),
            _bytes_entry("patient/id", patient.encode()),
        )
    )
    before = _entry_start("image/encoded", image_length)
    before = _int64_entry("image/class/label", grade) + before
    features_length = len(before) + image_length + len(after)
    return _message_start(LENGTH_DELIMITED_1, features_length) + before, after


def parse_record(data: bytes) -> Record:
    """Parse the output of `encode_record`.

    Raises:
        RecordError: If the bytes are not a tf.train.Example with drtf's keys.
    """
    features: dict[str, bytes | int] = {}
    try:
        for _, example in _fields(data):
            for _, entry in _fields(_as_bytes(example)):
                key, feature = (value for _, value in _fields(_as_bytes(entry)))
                ((kind, values),) = _fields(_as_bytes(feature))
                features[_as_bytes(key).decode()] = _single_value(
                    kind, _as_bytes(values)
                )
        return Record(
            image=_as_bytes(features["image/encoded"]),
            format=_as_bytes(features["image/format"]).decode(),
            height=int(features["image/height"]),
            width=int(features["image/width"]),
            grade=int(features["image/class/label"]),
            id=_as_bytes(features["image/id"]).decode(),
            patient=_as_bytes(features["patient/id"]).decode(),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise RecordError(f"not a drtf record: {error!r}") from error


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message_start(tag: int, length: int) -> bytes:
    return bytes((tag,)) + _varint(length)


def _message(tag: int, body: bytes) -> bytes:
    return _message_start(tag, len(body)) + body


def _entry(key: str, feature: bytes) -> bytes:
    body = _message(LENGTH_DELIMITED_1, key.encode())
    return _message(LENGTH_DELIMITED_1, body + _message(LENGTH_DELIMITED_2, feature))


@functools.lru_cache  # most lengths occur in many records
def _entry_start(key: str, length: int) -> bytes:
    """Return an entry with a value of `length` bytes, up to where the value starts."""
    start = _message_start(LENGTH_DELIMITED_1, length)
    for tag in (LENGTH_DELIMITED_1, LENGTH_DELIMITED_2):
        start = _message_start(tag, len(start) + length) + start
    start = _message(LENGTH_DELIMITED_1, key.encode()) + start
    return _message_start(LENGTH_DELIMITED_1, len(start) + length) + start


def _bytes_entry(key: str, value: bytes) -> bytes:
    return _entry_start(key, len(value)) + value


@functools.lru_cache  # most records have the same few numbers
def _int64_entry(key: str, value: int) -> bytes:
    packed = _message(LENGTH_DELIMITED_1, _varint(value))
    return _entry(key, _message(INT64_LIST, packed))


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if tag & 7 == 0:
            yield tag, value
        elif tag & 7 == 2:
            if position + value > len(data):
                raise ValueError("a field runs past the end")
            yield tag, data[position : position + value]
            position += value
        else:
            raise ValueError(f"unexpected wire type {tag & 7}")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than ten bytes")


def _single_value(kind: int, values: bytes) -> bytes | int:
    ((tag, value),) = _fields(values)
    if kind == INT64_LIST and tag != VARINT_1:
        return _read_varint(_as_bytes(value), 0)[0]
    return value


def _as_bytes(value: bytes | int) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("expected bytes, got a number")
    return value

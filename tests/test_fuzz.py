"""Damaged and hostile files: every loader accepts them or raises a DrtfError.

Each case changes a good file at random: a few bytes, a cut, a copied or repeated part,
or another number. The seeds are fixed, so a failure can be repeated.
"""

import random
import re

import cv2
import numpy as np
import pytest

from drtf.config import ImagesConfig, load_config
from drtf.errors import DrtfError, PhotographError
from drtf.images.preprocess import preprocess_photograph
from drtf.photographs.listing import list_photographs
from drtf.records.index import load_index
from drtf.records.manifest import INDEX_FILE, MANIFEST_FILE, load_manifest
from drtf.records.verify import find_faults

NUM_CASES = 60
JUNK = (b"\0", b"\xff\xfe", b"[", b"]" * 99, b'"', b"\n", b"9" * 400, b"-1", b"nan")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a randomly changed copy of a file's content."""
    start = rng.randrange(len(data))
    stop = min(start + rng.randrange(1, 40), len(data))
    kind = rng.randrange(6)
    if kind == 0:
        return (
            data[:start]
            + bytes([data[start] ^ 1 << rng.randrange(8)])
            + data[start + 1 :]
        )
    if kind == 1:
        return data[:start]
    if kind == 2:
        return data[:start] + data[stop:]
    if kind == 3:
        return data[:stop] + data[start:]
    if kind == 4:
        return data[:start] + rng.choice(JUNK) + data[start:]
    numbers = list(re.finditer(rb"\d+", data))
    if not numbers:
        return data + data
    number = rng.choice(numbers)
    value = rng.choice((b"0", b"-7", b"99999999999999999999", b"1e999", b"3.5", b""))
    return data[: number.start()] + value + data[number.end() :]


def photograph_bytes(suffix: str) -> bytes:
    image = np.random.default_rng(3).integers(0, 255, (40, 48, 3), np.uint8)
    return cv2.imencode(suffix, cv2.GaussianBlur(image, (9, 9), 0))[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".tiff", ".bmp", ".webp"])
def test_a_damaged_photograph_is_decoded_or_rejected(suffix):
    rng = random.Random(suffix)
    data = photograph_bytes(suffix)
    preprocess_photograph(data, ImagesConfig(size=32))
    for _ in range(NUM_CASES):
        try:
            preprocess_photograph(mutated(data, rng), ImagesConfig(size=32))
        except PhotographError as error:
            assert error.reason


def test_a_damaged_config_is_loaded_or_refused(tmp_path):
    data = b"""
extends = "mobilenetv2-96"
[images]
size = 32
[augment]
zoom = [0.1, 0.2]
[model]
head_units = [16, 8]
[train]
optimizer = "adamw"
learning_rate = 1e-3
"""
    path = tmp_path / "mine.toml"
    path.write_bytes(data)
    load_config(str(path))
    rng = random.Random(1)
    for _ in range(3 * NUM_CASES):
        path.write_bytes(mutated(data, rng))
        try:
            load_config(str(path))
        except DrtfError as error:
            assert str(error)


def test_a_damaged_list_of_photographs_is_read_or_refused(tmp_path):
    data = b'path,eye\n"a/1_left.jpeg",left\nb\\2_right.jpeg,right\n3.png,left\n'
    path = tmp_path / "list.csv"
    rng = random.Random(2)
    for _ in range(NUM_CASES):
        path.write_bytes(mutated(data, rng))
        try:
            assert list_photographs(path).photographs
        except DrtfError as error:
            assert str(path) in str(error)


def test_a_damaged_manifest_is_refused(shards, tmp_path):
    data = (shards / MANIFEST_FILE).read_bytes()
    manifest = load_manifest(shards)
    rng = random.Random(3)
    for _ in range(NUM_CASES):
        changed = mutated(data, rng)
        (tmp_path / MANIFEST_FILE).write_bytes(changed)
        try:
            assert load_manifest(tmp_path) == manifest
            assert changed.split() == data.split()  # only white space was changed
        except DrtfError as error:
            assert str(tmp_path / MANIFEST_FILE) in str(error)


def test_a_damaged_index_is_found_and_never_a_crash(shards, tmp_path):
    data = (shards / INDEX_FILE).read_bytes()
    rng = random.Random(4)
    for path in shards.iterdir():
        if path.name != INDEX_FILE:
            (tmp_path / path.name).symlink_to(path)
    for _ in range(NUM_CASES):
        (tmp_path / INDEX_FILE).write_bytes(mutated(data, rng))
        try:
            load_index(tmp_path / INDEX_FILE)
        except DrtfError as error:
            assert INDEX_FILE in str(error)
        assert [fault.file for fault in find_faults(tmp_path)] == [INDEX_FILE]

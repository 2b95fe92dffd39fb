"""Every kind of bad input that we know of, among good photographs."""

import csv
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from drawing import draw_fundus, encode
from drtf.building.build import build_shards
from drtf.config import load_config
from drtf.labels.sources import Source
from drtf.records.manifest import REJECTED_FILE
from drtf.records.reader import ShardDataset
from drtf.records.verify import find_faults

CONFIG = load_config("", ("images.size=32", "build.num_workers=1"))
GOOD = [f"good{number}" for number in range(12)]
JPEG = encode(draw_fundus(seed=1, width=640), ".jpg")
PNG = encode(draw_fundus(seed=1))


def bomb() -> bytes:
    """A PNG of 100 bytes that would take 7 GB to decode."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return data + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def insert_chunk(kind: bytes, *, declared: int) -> bytes:
    """A PNG with one more chunk, of 8 bytes whatever it declares, after its header."""
    body = kind + bytes(8)
    crc = struct.pack(">I", zlib.crc32(body))
    return PNG[:33] + struct.pack(">I", declared) + body + crc + PNG[33:]


def declare(width: int, height: int) -> bytes:
    """A PNG whose header declares another size than it has, with a valid CRC."""
    header = PNG[12:16] + struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def solid(light: int, shape: tuple[int, ...] = (200, 300, 3)) -> bytes:
    return encode(np.full(shape, light, np.uint8))


def tiff(image: np.ndarray) -> bytes:
    return cv2.imencode(".tiff", image)[1].tobytes()


ZOO = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"id,grade\n1,2\n" * 40, "not_an_image"),
    "html.png": (b"<!DOCTYPE html><title>404</title>" * 9, "not_an_image"),
    "zip.jpeg": (b"PK\x03\x04" + bytes(500), "not_an_image"),
    "zeros.jpg": (bytes(5000), "not_an_image"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "undecodable"),
    "header_only.jpg": (JPEG[:200], "not_an_image"),
    "crc.png": (flip(PNG, len(PNG) // 2), "undecodable"),
    "cut.png": (PNG[: len(PNG) // 2], "undecodable"),
    "animated.png": (insert_chunk(b"acTL", declared=8), "unsupported"),
    "two_gigabytes.png": (insert_chunk(b"IDAT", declared=1 << 31), "undecodable"),
    "bomb.png": (bomb(), "too_large"),
    "zero_size.png": (declare(0, 0), "not_an_image"),
    "one_px.png": (solid(90, (1, 1, 3)), "too_small"),
    "strip.png": (solid(90, (33, 900, 3)), "too_narrow"),
    "black.png": (solid(0), "black"),
    "nearly_black.jpg": (encode(np.full((200, 300, 3), 5, np.uint8), ".jpg"), "black"),
    "white.png": (solid(255), "blank"),
    "gray.tif": (tiff(np.full((200, 300), 128, np.uint8)), "blank"),
    "nan.tiff": (tiff(np.full((64, 64), np.nan, np.float32)), "unsupported"),
    "negative.tiff": (tiff(np.full((64, 64), -7, np.int16)), "unsupported"),
    "half.dcm": (bytes(128) + b"DICM" + bytes(40), "not_an_image"),
}
ODD_NAMES = (
    "a name with spaces",
    "quotes ' and \" in it",
    "new\nline",
    "comma, semicolon; tab\tin it",
    "Größe-日本-🙂",
    "percent%20{braces}[0]$x^2$",
    "-rf",
    "two..dots..",
    "x" * 250,
)


def write_good(images: Path) -> None:
    images.mkdir(parents=True)
    for number, name in enumerate(GOOD):
        (images / f"{name}.png").write_bytes(encode(draw_fundus(seed=number)))


def write_labels(path: Path, names: list[str]) -> Path:
    rows = {"image": names, "level": [number % 5 for number in range(len(names))]}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def build(folder: Path, labels: Path, name: str = "set") -> dict[str, str]:
    """Build and check a dataset, and return the reasons of rejected photographs."""
    out = folder / name
    build_shards([Source(folder / "images", labels)], out, config=CONFIG)
    assert find_faults(out) == []
    with (out / REJECTED_FILE).open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def ids_of(folder: Path, name: str = "set") -> set[str]:
    with ShardDataset(folder / name) as shards:
        rows = np.arange(len(shards.load_index()))
        assert sum(1 for _ in shards.read_images(rows)) == len(rows)
        return set(shards.load_index()["id"])


def test_each_bad_file_is_rejected_with_its_reason(tmp_path):
    images = tmp_path / "images"
    write_good(images)
    for name, (data, _) in ZOO.items():
        (images / name).write_bytes(data)
    (images / "folder.jpg").mkdir()
    (images / "dangling.png").symlink_to("nowhere")
    (images / "loop.png").symlink_to("loop.png")
    (images / "circle").symlink_to(images)
    os.mkfifo(images / "pipe.png")
    unreadable = {"dangling.png", "loop.png", "pipe.png"}
    names = [*GOOD, *(Path(name).stem for name in (*ZOO, *unreadable)), "folder"]
    rejected = build(tmp_path, write_labels(tmp_path / "labels.csv", names))
    expected = {name: reason for name, (_, reason) in ZOO.items()}
    assert rejected == expected | dict.fromkeys(unreadable, "unreadable")
    assert ids_of(tmp_path) == set(GOOD)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_is_rejected_when_it_is_not_readable(tmp_path):
    write_good(tmp_path / "images")
    (tmp_path / "images" / "good0.png").chmod(0)
    rejected = build(tmp_path, write_labels(tmp_path / "labels.csv", GOOD))
    assert rejected == {"good0.png": "unreadable"}


def test_photographs_with_odd_names_keep_their_names(tmp_path):
    images = tmp_path / "images"
    write_good(images)
    for number, name in enumerate(ODD_NAMES):
        (images / f"{name}.png").write_bytes(encode(draw_fundus(seed=90 + number)))
    (images / "deep" / "er").mkdir(parents=True)
    (images / "deep" / "er" / "same.png").write_bytes(encode(draw_fundus(seed=80)))
    (images / "same.png").write_bytes(encode(draw_fundus(seed=81)))
    names = [*GOOD, *ODD_NAMES, "deep/er/same", "same.png"]
    rejected = build(tmp_path, write_labels(tmp_path / "labels.csv", names))
    assert rejected == {}
    assert ids_of(tmp_path) == {*GOOD, *ODD_NAMES, "deep/er/same", "same"}


def test_rejected_photographs_with_odd_names_keep_their_names(tmp_path):
    write_good(tmp_path / "images")
    for name in ODD_NAMES:
        (tmp_path / "images" / f"{name}.png").write_bytes(b"")
    labels = write_labels(tmp_path / "labels.csv", [*GOOD, *ODD_NAMES])
    # A spreadsheet must not run a name as a formula.
    assert build(tmp_path, labels) == {
        f"'{name}.png" if name.startswith("-") else f"{name}.png": "empty"
        for name in ODD_NAMES
    }


def test_label_does_not_match_files_outside_the_image_folder(tmp_path):
    write_good(tmp_path / "images")
    (tmp_path / "secret.png").write_bytes(PNG)
    names = [*GOOD, "../secret", "../../etc/passwd", str(tmp_path / "secret"), "~/x"]
    assert build(tmp_path, write_labels(tmp_path / "labels.csv", names)) == {}
    assert ids_of(tmp_path) == set(GOOD)


TABLE = [("image", "level"), *((name, number % 5) for number, name in enumerate(GOOD))]


def join(separator: str, end: str, quote: str = "") -> str:
    rows = (separator.join(f"{quote}{cell}{quote}" for cell in row) for row in TABLE)
    return end.join(rows) + end


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + join(",", "\n"), id="byte order mark"),
        pytest.param(join(";", "\n"), id="semicolons"),
        pytest.param(join("\t", "\n"), id="tabs"),
        pytest.param(join(",", "\r\n"), id="carriage returns"),
        pytest.param(join(",", "\r\n", '"'), id="quoted"),
        pytest.param(join(",", "\n").rstrip("\n"), id="no last line end"),
        pytest.param(join(",", "\n\n"), id="empty lines"),
        pytest.param(join(" , ", " \n"), id="spaces"),
        pytest.param(join(",", ",,,\n"), id="trailing commas"),
    ],
)
def test_label_file_is_read_in_every_form(tmp_path, text):
    write_good(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(text, newline="")
    assert build(tmp_path, tmp_path / "labels.csv") == {}
    with ShardDataset(tmp_path / "set") as shards:
        index = shards.load_index(["id", "grade"])
    grades = dict(zip(index["id"], index["grade"], strict=True))
    assert grades == {name: number % 5 for number, name in enumerate(GOOD)}

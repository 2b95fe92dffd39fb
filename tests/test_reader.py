import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from drtf.building.build import build_shards
from drtf.errors import DamagedRecordError, RecordError
from drtf.files import hash_file
from drtf.images.preprocess import preprocess_photograph
from drtf.labels.sources import Source
from drtf.records import reader
from drtf.records.framing import FRAME_BYTES, HEADER
from drtf.records.index import load_index, save_index
from drtf.records.manifest import INDEX_FILE, load_manifest, save_manifest
from drtf.records.reader import ShardDataset
from naming import assert_names, raises_naming


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def count_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def first_shard(folder):
    return min(folder.glob("*train.tfrecord-*"))


def test_images_are_the_preprocessed_photographs(shard_dataset, photographs, config):
    rows = np.array([5, 0, 30])
    read = [image.copy() for image in shard_dataset.read_images(rows)]
    paths = shard_dataset.load_index(["path"], rows)["path"]
    for path, image in zip(paths, read, strict=True):
        data = (photographs / "images" / path).read_bytes()
        expected = preprocess_photograph(data, config.images).image
        assert image.tobytes() == expected.tobytes()


def test_tf_data_reads_the_same_records_in_index_order(shards, shard_dataset):
    files = [str(shards / shard.file) for shard in shard_dataset.manifest.shards]
    features = {
        "image/id": tf.io.FixedLenFeature([], tf.string),
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "patient/id": tf.io.FixedLenFeature([], tf.string),
    }
    parsed = [
        tf.io.parse_single_example(record, features)
        for record in tf.data.TFRecordDataset(files)
    ]
    index = shard_dataset.load_index()
    assert [p["image/id"].numpy().decode() for p in parsed] == index["id"].tolist()
    assert [p["patient/id"].numpy().decode() for p in parsed] == (
        index["patient"].tolist()
    )
    assert [int(p["image/class/label"]) for p in parsed] == index["grade"].tolist()
    images = shard_dataset.read_images(np.arange(len(index)))
    for record, image in zip(parsed, images, strict=True):
        assert record["image/encoded"].numpy() == image.tobytes()


def test_reading_no_rows_returns_no_images(shard_dataset):
    assert shard_dataset.read_images(np.empty(0, np.int64)) == []


def test_pixels_of_another_size_are_refused(shard_dataset):
    rows = np.array([5, 0])
    shard_dataset.read_pixels(rows, np.empty((2, 32, 32, 3), np.uint8))
    with raises_naming(RecordError, f"drtf verify {shard_dataset.folder}") as error:
        shard_dataset.read_pixels(rows, np.empty((2, 32, 31, 3), np.uint8))
    assert error.type is RecordError  # the record itself is whole


def test_the_rows_of_all_splits_cover_the_dataset(shard_dataset):
    rows = [shard_dataset.split_rows(split) for split in ("train", "val", "test")]
    assert np.concatenate(rows).tolist() == list(range(48))


def test_an_unknown_split_is_an_error_that_names_the_known_ones(shard_dataset):
    with raises_naming(RecordError, "'dev'", "train", "val", "test"):
        shard_dataset.split_rows("dev")


def test_a_changed_byte_is_reported_with_shard_record_and_offset(copy):
    index = load_index(copy / INDEX_FILE)
    row = index.iloc[3]
    path = first_shard(copy)
    data = bytearray(path.read_bytes())
    data[row.offset + HEADER.size + row.image_offset + 100] ^= 1
    path.write_bytes(data)
    with ShardDataset(copy) as damaged:
        damaged.read_images(np.array([2]))
        facts = (path, "record 3", f"offset {row.offset}", "data", "checksum")
        with raises_naming(DamagedRecordError, *facts) as error:
            damaged.read_images(np.array([3]))
    assert error.value.row == 3


def test_a_changed_byte_is_returned_when_checksums_are_not_verified(copy):
    with ShardDataset(copy) as intact:
        (expected,) = intact.read_images(np.array([3]))
    path = first_shard(copy)
    data = bytearray(path.read_bytes())
    row = load_index(copy / INDEX_FILE).iloc[3]
    data[row["offset"] + HEADER.size + row["image_offset"]] ^= 1
    path.write_bytes(data)
    with ShardDataset(copy, verify_checksums=False) as unverified:
        (image,) = unverified.read_images(np.array([3]))
    assert image[0] == expected[0] ^ 1
    assert (image[1:] == expected[1:]).all()


def test_a_record_of_a_later_shard_is_numbered_within_its_shard(copy):
    index = load_index(copy / INDEX_FILE)
    row_number = int(np.flatnonzero(index["split"] == "test")[1])
    path = min(copy.glob("*test.tfrecord-*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    data[index["offset"][row_number] + 20] ^= 1
    path.write_bytes(data)
    with (
        ShardDataset(copy) as damaged,
        raises_naming(DamagedRecordError, path, "record 1") as error,
    ):
        damaged.read_images(np.array([row_number]))
    assert error.value.row == row_number


def test_two_swapped_records_are_detected(copy):
    index = load_index(copy / INDEX_FILE)
    train = index[index["split"] == "train"]
    first, second = train.index[train.duplicated("length", keep=False)][:2]
    path = first_shard(copy)
    data = bytearray(path.read_bytes())
    one, two = (
        slice(index["offset"][x], index["offset"][x] + index["length"][x] + 16)
        for x in (first, second)
    )
    data[one], data[two] = data[two], data[one]
    path.write_bytes(data)
    with ShardDataset(copy) as damaged:
        for row in (first, second):
            with raises_naming(DamagedRecordError, path, f"record {row}") as error:
                damaged.read_images(np.array([row]))
            assert "checksum" not in str(error.value)


def test_a_shard_truncated_while_open_is_an_error_and_not_a_crash(copy):
    with ShardDataset(copy) as opened:
        with first_shard(copy).open("r+b") as file:
            file.truncate(100)
        size = opened.load_index()["length"][5] + FRAME_BYTES
        with raises_naming(DamagedRecordError, "record 5", 0, size):
            opened.read_images(np.array([5]))


def test_a_shard_cut_at_a_record_boundary_is_refused_on_opening(copy):
    path, cut = first_shard(copy), int(load_index(copy / INDEX_FILE)["offset"][4])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(cut)
    with raises_naming(RecordError, path, cut, size, f"drtf verify {copy}"):
        ShardDataset(copy)


def test_a_missing_shard_is_named(copy):
    path = first_shard(copy)
    path.unlink()
    with raises_naming(RecordError, path, "No such file"):
        ShardDataset(copy)


def test_an_index_that_differs_from_the_manifest_is_refused(copy):
    path = copy / INDEX_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with raises_naming(RecordError, path, f"drtf verify {copy}"):
        ShardDataset(copy)


def test_no_file_stays_open_after_a_failed_open(copy):
    before = count_open_files()
    path = max(copy.glob("*.tfrecord-*"))
    path.unlink()
    with raises_naming(RecordError, path):
        ShardDataset(copy)
    assert count_open_files() == before


def reseal_index(folder, index):
    save_index(folder / INDEX_FILE, [index])
    manifest = load_manifest(folder)
    files = manifest.files | {INDEX_FILE: hash_file(folder / INDEX_FILE)}
    save_manifest(folder, manifest.model_copy(update={"files": files}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("shard", 1),
        ("shard", -1),
        ("offset", -1),
        ("offset", 2**63 - 1),
        ("length", -1),
        ("length", 2**62),
        ("image_offset", -1),
        ("image_offset", 2**63 - 1),
        ("image_length", -1),
        ("image_length", 2**32),
        ("grade", 5),
        ("grade", -1),
    ],
)
def test_an_index_that_does_not_fit_its_sealed_manifest_is_refused(copy, column, value):
    index = load_index(copy / INDEX_FILE)
    index.loc[3, column] = value
    reseal_index(copy, index)
    with raises_naming(RecordError, copy / INDEX_FILE, "row 3"):
        ShardDataset(copy)


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: pd.concat([x, x])])
def test_an_index_with_another_number_of_rows_is_refused(copy, change):
    reseal_index(copy, change(load_index(copy / INDEX_FILE)))
    with raises_naming(RecordError, copy / INDEX_FILE):
        ShardDataset(copy)


def test_rows_of_the_index_are_loaded_in_the_requested_order(shard_dataset):
    index = shard_dataset.load_index()
    rows = np.array([4, 1, 4, 0])
    pd.testing.assert_frame_equal(
        shard_dataset.load_index(["id", "grade"], rows),
        index.loc[rows, ["id", "grade"]].reset_index(drop=True),
    )
    assert shard_dataset.load_index(["id"], rows[:0]).shape == (0, 1)


@pytest.mark.parametrize("max_open", [1, 2])
def test_few_descriptors_read_the_same_images_from_many_threads(
    many_shards, max_open, monkeypatch
):
    with ShardDataset(many_shards) as dataset:
        rows = np.random.default_rng(1).permutation(len(dataset.grades))
        expected = dataset.read_images(rows)
    before = count_open_files()
    monkeypatch.setattr(reader, "_max_open_shards", lambda: max_open)
    with ShardDataset(many_shards) as dataset:
        assert len(dataset.manifest.shards) > max_open
        with ThreadPoolExecutor(4) as pool:
            for images in pool.map(dataset.read_images, [rows] * 8):
                assert all(map(np.array_equal, images, expected))
        assert count_open_files() <= before + max_open + 1
    with raises_naming(RecordError, many_shards):
        dataset.read_images(rows)
    assert count_open_files() == before


@pytest.fixture(scope="module")
def many_shards(photographs, config, tmp_path_factory):
    """A dataset with a shard for each few records."""
    out = tmp_path_factory.mktemp("many") / "many"
    build = config.build.model_copy(update={"shard_size_mb": 0.01})
    source = Source(photographs / "images", photographs / "labels.csv")
    build_shards([source], out, config=config.model_copy(update={"build": build}))
    return out


def test_a_dataset_is_opened_by_text_and_shows_its_size(shards):
    with ShardDataset(str(shards)) as opened:
        assert opened.folder == shards
        assert len(opened) == sum(x.num_records for x in opened.manifest.shards)
        assert_names(repr(opened), shards, len(opened), "32 px")

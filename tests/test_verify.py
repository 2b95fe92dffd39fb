import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drtf.config import load_config
from drtf.errors import RecordError
from drtf.files import hash_file
from drtf.images.preprocess import find_image_fault
from drtf.labels.sources import Source
from drtf.records import verify
from drtf.records.framing import FRAME_BYTES
from drtf.records.index import load_index, save_index
from drtf.records.manifest import (
    INDEX_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    load_manifest,
    save_manifest,
)
from drtf.records.reader import ShardDataset
from drtf.records.verify import find_faults
from naming import assert_names, raises_naming


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def first_shard(folder):
    return min(folder.glob("*train.tfrecord-*"))


def test_an_intact_dataset_has_no_faults(shards):
    assert find_faults(shards) == []


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.999])
def test_a_changed_byte_is_found_with_its_record(copy, fraction):
    path = first_shard(copy)
    data = bytearray(path.read_bytes())
    position = int(fraction * len(data))
    data[position] ^= 1
    path.write_bytes(data)
    index = load_index(copy / INDEX_FILE)
    own = index[index["shard"] == 0]
    record = int((own["offset"] <= position).sum()) - 1
    faults = find_faults(copy)
    assert (path.name, record, own["offset"][record]) in [
        (fault.file, fault.record, fault.offset) for fault in faults
    ]


def test_a_shard_cut_at_a_record_boundary_is_found(copy):
    path = first_shard(copy)
    row = load_index(copy / INDEX_FILE).loc[3]
    data = path.read_bytes()
    path.write_bytes(data[: row.offset])
    problems = {fault.record: fault.problem for fault in reversed(find_faults(copy))}
    assert_names(problems[-1], row.offset, len(data))
    assert_names(problems[3], 0, row.length + FRAME_BYTES)
    assert 2 not in problems


def test_a_missing_and_an_extra_shard_are_found(copy):
    path = first_shard(copy)
    path.rename(path.with_name("other-train.tfrecord-00000-of-00001"))
    faults = {fault.file: fault.problem for fault in find_faults(copy)}
    assert faults.keys() == {path.name, "other-train.tfrecord-00000-of-00001"}
    assert_names(faults[path.name], "No such file")


def test_a_stray_shard_is_found_in_any_subfolder(copy):
    (copy / "deep").mkdir()
    shutil.copy(first_shard(copy), copy / "deep")
    shutil.copy(first_shard(copy), copy / "idx" / "more.tfrecord.idx")
    assert {fault.file for fault in find_faults(copy)} == {
        f"deep/{first_shard(copy).name}",
        "idx/more.tfrecord.idx",
    }


def test_without_an_index_a_damaged_record_is_still_named(copy):
    offset = int(load_index(copy / INDEX_FILE)["offset"][4])
    (copy / INDEX_FILE).unlink()
    path = first_shard(copy)
    data = bytearray(path.read_bytes())
    data[offset + 50] ^= 1
    path.write_bytes(data)
    faults = [fault for fault in find_faults(copy) if fault.file == path.name]
    assert (4, offset) in [(fault.record, fault.offset) for fault in faults]


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("image_offset", lambda x: x + 7),
        ("image_length", lambda x: x - 1),
        ("offset", lambda x: x + 1),
        ("length", lambda x: x - 1),
        ("crc32c", lambda x: x ^ 1),
        ("split", lambda x: "test"),
        ("patient", lambda x: x + "0"),
    ],
)
def test_an_index_that_differs_from_the_records_is_found(copy, column, change):
    index = load_index(copy / INDEX_FILE)
    index.loc[2, column] = change(index.loc[2, column])
    save_index(copy / INDEX_FILE, [index])
    manifest = load_manifest(copy)
    hashes = manifest.files | {INDEX_FILE: hash_file(copy / INDEX_FILE)}
    save_manifest(copy, manifest.model_copy(update={"files": hashes}))
    faults = [(fault.file, fault.record) for fault in find_faults(copy)]
    assert (first_shard(copy).name, 2) in faults


def test_counts_that_differ_from_the_index_are_found(copy):
    manifest = load_manifest(copy)
    train = dict(manifest.num_records["train"])
    train["0"], train["1"] = train["0"] - 1, train["1"] + 1
    counts = manifest.num_records | {"train": train}
    save_manifest(copy, manifest.model_copy(update={"num_records": counts}))
    assert [fault.file for fault in find_faults(copy)] == [INDEX_FILE]


def test_a_pipe_in_place_of_a_shard_does_not_block(copy):
    path = first_shard(copy)
    size = path.stat().st_size
    path.unlink()
    os.mkfifo(path)
    (fault,) = find_faults(copy)
    assert (fault.file, fault.record) == (path.name, -1)
    with raises_naming(RecordError, path, 0, size):
        ShardDataset(copy)


def test_bytes_appended_to_a_shard_are_found(copy):
    path = first_shard(copy)
    path.write_bytes(path.read_bytes() + b"\x00")
    assert {fault.file for fault in find_faults(copy)} == {path.name}


def test_an_index_with_another_grade_is_found(copy):
    index = load_index(copy / INDEX_FILE)
    grade = int(index.loc[2, "grade"])
    index.loc[2, "grade"] = (grade + 1) % 5
    save_index(copy / INDEX_FILE, [index])
    assert [(fault.file, fault.record) for fault in find_faults(copy)] == [
        (INDEX_FILE, -1)
    ]
    manifest = load_manifest(copy)
    hashes = manifest.files | {INDEX_FILE: hash_file(copy / INDEX_FILE)}
    save_manifest(copy, manifest.model_copy(update={"files": hashes}))
    counts, fault = find_faults(copy)
    assert (counts.file, fault.file, fault.record) == (
        INDEX_FILE,
        first_shard(copy).name,
        2,
    )
    assert_names(fault.problem, "grade", grade, (grade + 1) % 5)


@pytest.mark.parametrize(
    ("encoding", "facts"), [("raw", (99, 32 * 32 * 3)), ("png", ("png",))]
)
def test_an_undecodable_image_is_found_by_the_deep_check(
    photographs, tmp_path, encoding, facts
):
    """A set whose every checksum is right, and whose fifth image is no picture."""
    from drtf.building import write
    from drtf.building.build import build_shards

    convert, calls = write.prepare_for_shard, []

    def spoil(place, **settings):
        calls.append(place)
        converted = convert(place, **settings)
        return replace(converted, data=b"x" * 99) if len(calls) == 5 else converted

    source = Source(photographs / "images", photographs / "labels.csv")
    settings = ("images.size=32", "build.num_workers=1", f"build.encoding={encoding}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "prepare_for_shard", spoil)
        build_shards([source], tmp_path / "set", config=load_config("", settings))
    assert find_faults(tmp_path / "set") == []
    (fault,) = find_faults(tmp_path / "set", find_image_fault=find_image_fault)
    assert fault.record == 4
    assert_names(fault.problem, *facts)


@pytest.mark.parametrize("seed", range(120))
def test_any_damage_is_found(copy, seed):
    """Bytes are flipped, cut, inserted, moved or zeroed in any file of the set."""
    rng = random.Random(seed)
    with ShardDataset(copy) as opened:
        rows = np.arange(len(opened.load_index()))
        expected = [image.tobytes() for image in opened.read_images(rows)]
    path = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    data = path.read_bytes()
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    damaged = rng.choice(
        [
            data[:first] + bytes([data[first] ^ 1 << seed % 8]) + data[first + 1 :],
            data[:first],
            data[:first] + rng.randbytes(1 + seed % 9) + data[first:],
            data[:first] + data[first + 1 + seed % 9 :],
            data[:first] + bytes(second - first) + data[second:],
            data[second:] + data[:second],
            data + data[first:second],
        ]
    )
    if damaged == data:
        return
    path.write_bytes(damaged)
    try:
        assert find_faults(copy)
    except RecordError:
        assert path.name == MANIFEST_FILE
    try:
        with ShardDataset(copy) as opened:
            found = [image.tobytes() for image in opened.read_images(rows)]
    except RecordError:
        found = expected
    assert found == expected


@pytest.mark.parametrize("data", [None, b"", b"PAR1 not"])
def test_an_index_that_is_missing_or_unreadable_is_found(copy, data):
    (copy / INDEX_FILE).unlink()
    if data is not None:
        (copy / INDEX_FILE).write_bytes(data)
    assert [fault.file for fault in find_faults(copy)] == [INDEX_FILE]


def test_a_changed_rejected_csv_is_found(copy):
    with (copy / REJECTED_FILE).open("a") as file:
        file.write("x.png,empty,\n")
    assert [fault.file for fault in find_faults(copy)] == [REJECTED_FILE]


def test_an_index_may_have_extra_columns_but_none_may_be_missing(shards, tmp_path):
    table = pq.read_table(shards / INDEX_FILE)
    haze = pa.array([0.5] * table.num_rows)
    path = tmp_path / "index.parquet"
    pq.write_table(table.append_column("haze", haze), path)
    assert "haze" in load_index(path)
    pq.write_table(table.drop_columns(["shard"]), path)
    with raises_naming(RecordError, path, "int32", "shard"):
        load_index(path)


def test_a_folder_without_a_manifest_cannot_be_checked(copy):
    (copy / MANIFEST_FILE).unlink()
    with raises_naming(RecordError, copy, MANIFEST_FILE, "drtf build-shards"):
        find_faults(copy)


def reseal(folder, **update):
    """Save the manifest with the hashes that the files have now."""
    manifest = load_manifest(folder)
    shards = tuple(
        shard.model_copy(
            update={
                "sha256": hash_file(folder / shard.file),
                "size_bytes": (folder / shard.file).stat().st_size,
            }
        )
        for shard in manifest.shards
    )
    files = {file: hash_file(folder / file) for file in manifest.files}
    save_manifest(
        folder, manifest.model_copy(update={"shards": shards, "files": files, **update})
    )


def test_bytes_after_the_last_record_are_found_in_a_sealed_shard(copy):
    path = first_shard(copy)
    path.write_bytes(path.read_bytes() + b"12345")
    reseal(copy)
    (fault,) = find_faults(copy)
    assert (fault.file, fault.record) == (path.name, -1)
    assert_names(fault.problem, 5)


@pytest.mark.parametrize("column", ["split", "offset", "id", "grade"])
def test_empty_cells_in_a_sealed_index_are_found(copy, column):
    table = pq.read_table(copy / INDEX_FILE)
    number = table.column_names.index(column)
    cells = [None, *table[column].to_pylist()[1:]]
    cells = pa.array(cells, type=table.schema.field(number).type)
    pq.write_table(table.set_column(number, column, cells), copy / INDEX_FILE)
    reseal(copy)
    (fault,) = find_faults(copy)
    assert fault.file == INDEX_FILE
    assert_names(fault.problem, column)
    with raises_naming(RecordError, copy / INDEX_FILE, column):
        ShardDataset(copy).load_index()


def test_processes_find_the_same_faults_as_one(copy, monkeypatch):
    for path in copy.glob("*tfrecord*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    faults = find_faults(copy)
    monkeypatch.setattr("drtf.records.verify.MIN_BYTES_PER_WORKER", 1)
    assert find_faults(copy) == faults
    assert len(faults) > 2


def test_only_some_damaged_records_are_named_and_the_others_counted(copy, monkeypatch):
    monkeypatch.setattr(verify, "MAX_RECORDS_NAMED", 2)
    index = load_index(copy / INDEX_FILE)
    index["patient"] += "0"
    save_index(copy / INDEX_FILE, [index])
    manifest = load_manifest(copy)
    hashes = manifest.files | {INDEX_FILE: hash_file(copy / INDEX_FILE)}
    save_manifest(copy, manifest.model_copy(update={"files": hashes}))
    file = first_shard(copy).name
    num_records = next(x for x in manifest.shards if x.file == file).num_records
    faults = [fault for fault in find_faults(copy) if fault.file == file]
    assert [fault.record for fault in faults] == [0, 1, -1]
    assert_names(faults[-1].problem, num_records - 2)

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drtf.errors import RecordError
from drtf.records.index import load_index, save_index
from drtf.records.manifest import INDEX_FILE, MANIFEST_FILE, REJECTED_FILE
from drtf.records.verify import find_faults


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def first_shard(folder):
    return min(folder.glob("*train.tfrecord-*"))


def test_a_whole_set_has_no_fault(shards):
    assert find_faults(shards) == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_changed_byte_is_found_with_its_record(copy, share):
    path = first_shard(copy)
    data = bytearray(path.read_bytes())
    position = int(share * len(data))
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
    offset = int(load_index(copy / INDEX_FILE)["offset"][3])
    path.write_bytes(path.read_bytes()[:offset])
    problems = [fault.problem for fault in find_faults(copy)]
    assert any("the manifest says" in problem for problem in problems)
    assert any("cut short" in problem for problem in problems)


def test_a_missing_and_an_extra_shard_are_found(copy):
    path = first_shard(copy)
    path.rename(path.with_name("other-train.tfrecord-00000-of-00001"))
    faults = {fault.file: fault.problem for fault in find_faults(copy)}
    assert "No such file" in faults[path.name]
    assert "not in the manifest" in faults["other-train.tfrecord-00000-of-00001"]


def test_bytes_appended_to_a_shard_are_found(copy):
    path = first_shard(copy)
    path.write_bytes(path.read_bytes() + b"\x00")
    assert {fault.file for fault in find_faults(copy)} == {path.name}


def test_an_index_with_another_grade_is_found(copy):
    index = load_index(copy / INDEX_FILE)
    index.loc[2, "grade"] = (index.loc[2, "grade"] + 1) % 5
    save_index(copy / INDEX_FILE, index)
    faults = find_faults(copy)
    assert (INDEX_FILE, -1) in [(fault.file, fault.record) for fault in faults]
    assert any("grade is" in f.problem and f.record == 2 for f in faults)


@pytest.mark.parametrize("data", [None, b"", b"PAR1 not"])
def test_an_index_that_is_missing_or_unreadable_is_found(copy, data):
    (copy / INDEX_FILE).unlink()
    if data is not None:
        (copy / INDEX_FILE).write_bytes(data)
    assert [fault.file for fault in find_faults(copy)] == [INDEX_FILE]


def test_a_changed_list_of_rejections_is_found(copy):
    with (copy / REJECTED_FILE).open("a") as file:
        file.write("x.png,empty,\n")
    assert [fault.file for fault in find_faults(copy)] == [REJECTED_FILE]


def test_an_index_may_have_more_columns_and_must_have_ours(shards, tmp_path):
    table = pq.read_table(shards / INDEX_FILE)
    haze = pa.array([0.5] * table.num_rows)
    path = tmp_path / "index.parquet"
    pq.write_table(table.append_column("haze", haze), path)
    assert "haze" in load_index(path)
    pq.write_table(table.drop_columns(["shard"]), path)
    with pytest.raises(RecordError, match="has no int32 'shard'"):
        load_index(path)


def test_a_folder_without_a_manifest_cannot_be_checked(copy):
    (copy / MANIFEST_FILE).unlink()
    with pytest.raises(RecordError, match="not a set of shards"):
        find_faults(copy)

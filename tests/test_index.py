import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drtf.errors import RecordError
from drtf.images.quality import QUALITY_MEASURES, Quality
from drtf.records.index import COLUMNS, load_index, save_index
from drtf.records.manifest import INDEX_FILE, load_manifest
from naming import raises_naming

CONTRACT = Path(__file__).parents[1] / "tfrecords" / "README.md"


def documented_columns() -> list[str]:
    section = CONTRACT.read_text().split("## The index")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, flags=re.MULTILINE)
    return re.findall(r"`(\w+)`", "".join(cells))


def test_index_has_the_documented_columns(shards):
    index = load_index(shards / INDEX_FILE)
    assert sorted(index.columns) == sorted(documented_columns())
    assert index.columns.tolist() == [*COLUMNS.names, *Quality._fields]


def test_manifest_summarizes_each_measure_of_quality(shards):
    assert tuple(load_manifest(shards).quality) == QUALITY_MEASURES
    assert set(Quality._fields) - set(QUALITY_MEASURES) == {"is_black"}


def test_index_is_equal_when_saved_and_loaded_with_more_columns(shards, tmp_path):
    index = load_index(shards / INDEX_FILE)
    index = index.assign(
        haze=index["contrast"] / 2, is_hazy=index["contrast"] > index["brightness"]
    )
    save_index(tmp_path / INDEX_FILE, [index])
    pd.testing.assert_frame_equal(load_index(tmp_path / INDEX_FILE), index)


def test_index_is_equal_when_saved_in_parts(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("drtf.records.index.ROWS_PER_GROUP", 15)
    index = load_index(shards / INDEX_FILE)
    parts = [index[start : start + 10] for start in range(0, len(index), 10)]
    save_index(tmp_path / INDEX_FILE, parts)
    pd.testing.assert_frame_equal(load_index(tmp_path / INDEX_FILE), index)
    assert pq.ParquetFile(tmp_path / INDEX_FILE).num_row_groups > 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("split", "dev"),
        ("shard", -1),
        ("offset", -1),
        ("length", -1),
        ("image_offset", -1),
        ("image_length", -1),
        ("grade", 5),
        ("grade", -1),
        ("sha256", ""),
        ("sha256", "g" * 64),
        ("sha256", "0x" + "1" * 62),
        ("sha256", "A" * 64),
        ("sha256", "a" * 64 + "\n"),
        ("id", None),
        ("patient", None),
        ("has_field", None),
        ("brightness", np.nan),
        ("sharpness", np.inf),
    ],
)
def test_an_index_is_refused_when_a_cell_has_an_impossible_value(
    shards, tmp_path, column, value
):
    table = pq.read_table(shards / INDEX_FILE)
    cells = table[column].to_pylist()
    cells[3] = value
    number, field = table.column_names.index(column), table.schema.field(column)
    path = tmp_path / INDEX_FILE
    pq.write_table(table.set_column(number, field, pa.array(cells, field.type)), path)
    for columns in (None, [column]):
        with raises_naming(RecordError, path, "row 3", repr(column)):
            load_index(path, columns)


def test_an_index_is_refused_when_its_text_is_not_utf8(shards, tmp_path):
    table = pq.read_table(shards / INDEX_FILE)
    ids = pa.array([b"\xff"] * len(table), pa.binary()).view(pa.string())
    path = tmp_path / INDEX_FILE
    pq.write_table(table.set_column(table.column_names.index("id"), "id", ids), path)
    with raises_naming(RecordError, path):
        load_index(path)


def test_a_column_that_is_missing_is_named(shards):
    with raises_naming(RecordError, shards / INDEX_FILE, "'haze'"):
        load_index(shards / INDEX_FILE, ["id", "haze"])

import re
from pathlib import Path

import pandas as pd

from drtf.images.quality import QUALITY_MEASURES, Quality
from drtf.records.index import COLUMNS, load_index, save_index
from drtf.records.manifest import INDEX_FILE, load_manifest

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
    save_index(tmp_path / INDEX_FILE, index)
    pd.testing.assert_frame_equal(load_index(tmp_path / INDEX_FILE), index)

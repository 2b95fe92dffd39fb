from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from drtf.errors import DrtfError, LabelError
from drtf.labels.grouping import (
    MAX_GROUPS,
    MISSING,
    Grouping,
    divide,
    load_eyes,
    load_groups,
    parse_grouping,
)
from naming import raises_naming


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age", Grouping("age")),
        ("age:40", Grouping("age", (40,))),
        ("age:-1.5,0,60", Grouping("age", (-1.5, 0, 60))),
        ("site:each", Grouping("site", by_value=True)),
        ("ratio 1:x", Grouping("ratio 1:x")),
        ("나이:40,60", Grouping("나이", (40, 60))),
    ],
)
def test_grouping_is_parsed(text, expected):
    assert parse_grouping(text) == expected


@pytest.mark.parametrize("text", ["age:60,40", "age:40,40"])
def test_grouping_is_refused_when_edges_do_not_ascend(text):
    with raises_naming(DrtfError, text):
        parse_grouping(text)


def names(values, text):
    return divide(pd.Series(values, dtype=object), parse_grouping(text)).names.tolist()


def test_texts_are_groups_and_missing_values_are_one():
    values = ["F", "M", "", "NA", "n/a", "NaN", "#N/A", "unknown", "None", "-"]
    expected = ["F", "M", *[MISSING] * 5, "unknown", "None", "-"]
    assert names(values, "sex") == expected


def test_numbers_are_cut_at_the_edges():
    values = ["39.9", "40", "59", "60", "057Y", "61,5", "1e2", "", "90+"]
    low, middle, high = "< 40", "40 to < 60", ">= 60"
    expected = [low, middle, middle, high, middle, high, high, MISSING, "90+"]
    assert names(values, "age:40,60") == expected


def test_numbers_are_cut_into_quartiles_when_there_are_many():
    values = [str(x) for x in range(1, 13)]
    groups = divide(pd.Series(values), Grouping("age"))
    assert groups.title == "age, in quartiles"
    found, counts = np.unique(groups.names, return_counts=True)
    assert counts.tolist() == [3, 3, 3, 3]
    assert "3.75 to < 6.5" in found
    assert names(values, "age:each") == values
    assert names(values[:10] * 2, "age") == values[:10] * 2


def test_bands_are_fewer_when_most_numbers_are_equal():
    values = ["0"] * 30 + [str(x) for x in range(1, 22)]
    assert set(names(values, "dose")) == {"< 8.5", ">= 8.5"}
    assert set(names(values[:-6] + ["0"] * 60, "dose")) == {"< 1", ">= 1"}


def test_column_is_refused_when_it_makes_too_many_groups():
    values = [f"patient {x}" for x in range(MAX_GROUPS + 1)]
    with raises_naming(DrtfError, "'name'", MAX_GROUPS + 1, MAX_GROUPS):
        names(values, "name")
    assert len(set(names(values[1:], "name"))) == MAX_GROUPS
    with raises_naming(DrtfError, "'name'", "patient 0"):
        names(values, "name:40")


def test_groups_are_loaded_from_the_dataset(shard_dataset):
    rows = shard_dataset.split_rows("train")
    index = shard_dataset.load_index(rows=rows)
    by = ("Eye", "source", "grade", "is_black", "sharpness")
    eye, source, grade, is_black, sharpness = load_groups(shard_dataset, "train", by)
    assert eye.names.tolist() == index["id"].str.split("_").str[1].tolist()
    assert set(source.names) == {shard_dataset.manifest.name}
    assert grade.names.tolist() == index["grade"].astype(str).tolist()
    assert set(is_black.names) == {"no"}
    assert len(set(sharpness.names)) in (3, 4)
    with raises_naming(DrtfError, "'sharp'", "'sharpness'", shard_dataset.folder):
        load_groups(shard_dataset, "train", ["sharp"])


def test_eyes_are_in_the_names_or_in_a_kept_column():
    index = pd.DataFrame(
        {
            "id": ["1_left", "2.1.jpg", "2.2.jpg", "3", "4"],
            "site": ["left"] * 5,
            "Laterality": ["OD", " Right", "l", "", "both"],
        }
    )
    kept = SimpleNamespace(kept_columns=("site", "Laterality"))
    shards = SimpleNamespace(
        manifest=kept, load_index=lambda columns, rows: index.loc[rows, columns]
    )
    eyes = load_eyes(shards, np.arange(5))
    assert eyes.tolist() == ["left", "right", "left", "", ""]


@pytest.mark.parametrize("key", ["image", "patient"])
def test_groups_are_loaded_from_a_table(shard_dataset, tmp_path, key):
    index = shard_dataset.load_index(["id", "path", "patient"])
    column = {"image": index["path"], "patient": index["patient"]}[key]
    lines = [
        f"C:\\photos\\{x},{x[0]}" if key == "image" else f"{x},{x[0]}" for x in column
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([f"{key},Site", *lines[2:], "other,9"]))
    groups = load_groups(shard_dataset, "train", ["site", "eye"], path)
    train = shard_dataset.split_rows("train")
    listed = column.isin(column[2:])
    expected = column.str[0].where(listed, MISSING)[train].tolist()
    assert groups[0].names.tolist() == expected
    assert set(groups[1].names) == {"left", "right"}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("image,age\n0_left,5\n", ["'sex'", "'age'"]),
        ("name,sex\n0_left,F\n", ["'name'", "'image'", "'patient'"]),
        ("image,sex\nx,F\n", ["'x'"]),
        ("patient,sex\nx,F\n", ["'patient'", "'x'"]),
        ("patient,sex\n0,F\n0,M\n", ["'sex'", "0", 2, 3]),
        ("patient,sex\n0,F\n,M\n", ["'patient'", 3]),
        ("image\n0_left\n", ["'image'"]),
        ("image,sex\n0_left,F\n0_left.png,M\n", ["0_left", "0_left.png"]),
    ],
)
def test_table_is_refused_when_it_does_not_fit(shard_dataset, tmp_path, text, facts):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with raises_naming(LabelError, path, *facts):
        load_groups(shard_dataset, "test", ["sex"], path)

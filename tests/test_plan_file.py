"""A plan is the same after it was saved and loaded."""

import copy
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from drawing import write_photographs
from drtf.building.plan import plan_build
from drtf.building.plan_file import PlanFile, prepare_plan, write_plan
from drtf.config import load_config
from drtf.errors import DrtfError
from drtf.labels.sources import Source
from naming import raises_naming


@pytest.fixture
def plan(tmp_path):
    """A plan of two sources with everything that a plan may contain."""
    labels = write_photographs(tmp_path, num_patients=12)
    images = tmp_path / "images"
    shutil.copy(images / "0_left.png", images / "1_left.png")  # with another grade
    (images / "notes.txt").touch()
    with labels.open("a") as file:
        file.write("lost,1\n0_left,0\n")
    labels.write_text(labels.read_text().replace("5_left,1", "5_left,5"))
    shutil.make_archive(str(tmp_path / "zipped"), "zip", images)
    for grade in "02":
        (tmp_path / "classes" / grade).mkdir(parents=True)
    odd = os.fsdecode(b"odd\xff.png")
    shutil.copy(images / "0_right.png", tmp_path / "classes" / "0" / odd)
    shutil.copy(images / "2_right.png", tmp_path / "classes" / "2" / "b.png")
    settings = "conflicts=drop", "ungraded=[5]", "keep_columns=level"
    config = load_config("", [f"labels.{setting}" for setting in settings])
    return plan_build(
        [
            Source(tmp_path / "zipped.zip", labels, "zip"),
            Source(tmp_path / "classes", None, "folders"),
        ],
        name="set",
        labels=config.labels,
        split=config.split,
        images=config.images,
        build=config.build,
    )


def test_plan_is_that_of_an_earlier_version_when_only_counts_were_added(plan):
    sources = copy.deepcopy(plan.catalog.provenance)
    for source in sources:
        assert source.pop("num_without_patient") is not None
        source.pop("unread_split_folders", None)
    earlier = replace(plan, catalog=replace(plan.catalog, provenance=sources))
    assert earlier.sha256 == plan.sha256
    for source in sources:
        source["num_labels"] += 1
    other = replace(plan, catalog=replace(plan.catalog, provenance=sources))
    assert other.sha256 != plan.sha256


def test_plan_is_equal_when_it_was_saved_and_loaded(plan, tmp_path):
    prepared = prepare_plan(plan)
    write_plan(prepared, tmp_path / "plan")
    with (tmp_path / "plan").open("rb") as file:
        saved = PlanFile(file, path="plan").load()
    assert [x.name for x in tmp_path.glob("plan*")] == ["plan"]
    loaded = saved.plan
    assert (saved.sha256, saved.probe) == (prepared.sha256, prepared.probe)
    assert loaded.sha256 == plan.sha256
    assert loaded.flat_settings == plan.flat_settings
    pd.testing.assert_frame_equal(loaded.table, plan.table)
    assert loaded.catalog.folders == plan.catalog.folders
    for name in ("shards", "conflicts"):
        assert getattr(loaded, name) == getattr(plan, name)
        assert getattr(plan, name)
    assert list(loaded.rejected) == list(plan.rejected)
    for name in ("rejected", "unmatched", "skipped"):
        rows = list(getattr(plan.catalog, name))
        assert list(getattr(loaded.catalog, name)) == rows
        assert rows
    for name in ("num_repeated", "patients_from"):
        assert getattr(loaded.catalog, name) == getattr(plan.catalog, name)
        assert getattr(plan.catalog, name)
    assert loaded.catalog.provenance == plan.catalog.provenance
    assert prepare_plan(loaded).sha256 == saved.sha256


def open_plan(path, data):
    """Write the bytes to a file, and open it as a plan."""
    path.write_bytes(data)
    with path.open("rb") as file:
        PlanFile(file, path="a/plan")


def test_file_that_is_no_plan_is_named(tmp_path):
    older = b"PAR1" + bytes(100)  # whose hash is right
    for data in (b"", b"x", bytes(100), hashlib.sha256(older).digest() + older):
        with raises_naming(DrtfError, Path("a/plan"), "--plan"):
            open_plan(tmp_path / "other", data)


def test_plan_is_refused_when_it_is_damaged(plan, tmp_path):
    write_plan(prepare_plan(plan), tmp_path / "plan")
    data = (tmp_path / "plan").read_bytes()
    middle = data.index(b'"patients_from"')
    for position in (len(data) // 9, middle, len(data) - 1):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with raises_naming(DrtfError, Path("a/plan"), "--plan"):
            open_plan(tmp_path / "damaged", damaged)

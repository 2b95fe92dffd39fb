import csv
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from drawing import draw_fundus, encode, write_photographs
from drtf.building.build import build_shards
from drtf.errors import DrtfError, LabelError
from drtf.files import save_rows
from drtf.images.preprocess import decode_image
from drtf.labels.sources import Source
from drtf.records.manifest import (
    MANIFEST_FILE,
    REJECTED_FILE,
    UNMATCHED_FILE,
    load_manifest,
)
from drtf.records.reader import ShardDataset
from drtf.records.rejected import RejectedRow
from drtf.records.verify import find_faults
from naming import assert_names, raises_naming


@pytest.fixture
def folder(photographs, tmp_path):
    return shutil.copytree(photographs, tmp_path / "photographs")


def build(folder, out, config):
    return build_shards(
        [Source(folder / "images", folder / "labels.csv")], out=out, config=config
    )


def load_rejected(folder):
    with (folder / REJECTED_FILE).open(newline="") as file:
        return [RejectedRow(**row) for row in csv.DictReader(file)]


def files_of(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_photograph_has_one_record_with_its_grade_and_patient(
    shard_dataset, photographs
):
    labels = pd.read_csv(photographs / "labels.csv").set_index("image")["level"]
    index = shard_dataset.load_index().set_index("id")
    assert set(index.index) == set(labels.index)
    assert (index["grade"] == labels[index.index]).all()
    assert (index["patient"] == index.index.str.split("_").str[0]).all()
    assert (index["path"] == index.index + ".png").all()


def test_records_are_shuffled_with_a_seed(shard_dataset):
    ids = shard_dataset.load_index()["id"][shard_dataset.split_rows("train")].tolist()
    assert ids != sorted(ids)


def test_dataset_is_equal_when_built_with_more_workers(
    photographs, shards, tmp_path, config
):
    out = tmp_path / shards.name
    two = config.build.model_copy(update={"num_workers": 2})
    build(photographs, out, config.model_copy(update={"build": two}))
    assert files_of(out) == files_of(shards)


def test_records_are_the_same_when_shards_are_small(
    photographs, shard_dataset, tmp_path, config
):
    small = config.build.model_copy(update={"shard_size_mb": 0.02})
    config = config.model_copy(update={"build": small})
    report = build(photographs, tmp_path / "small", config)
    assert len(report.manifest.shards) > 8
    assert max(shard.size_bytes for shard in report.manifest.shards) < 22_000
    with ShardDataset(tmp_path / "small") as small_set:
        small, large = small_set.load_index(["id"]), shard_dataset.load_index(["id"])
    assert small["id"].tolist() == large["id"].tolist()
    assert find_faults(tmp_path / "small") == []


def test_only_damaged_photographs_are_rejected(folder, tmp_path, config):
    images = folder / "images"
    (images / "0_left.png").write_bytes(b"")
    (images / "1_left.png").write_bytes(b"a text")
    (images / "2_left.png").write_bytes((images / "2_right.png").read_bytes()[:2000])
    (images / "3_left.png").unlink()
    (images / "3_left.png").symlink_to("nowhere")
    (images / "4_left.png").unlink()
    (images / "4_left.png").mkdir()
    report = build(folder, tmp_path / "out", config)
    reasons = {item.path: item.reason for item in load_rejected(tmp_path / "out")}
    assert reasons == {
        "0_left.png": "empty",
        "1_left.png": "not_an_image",
        "2_left.png": "undecodable",
        "3_left.png": "unreadable",
    }
    assert list(report.plan.catalog.unmatched) == [("label", "4_left", "")]
    assert report.manifest.rejected["unreadable"] == 1
    written = pd.read_csv(tmp_path / "out" / REJECTED_FILE)
    assert dict(zip(written["path"], written["reason"], strict=True)) == reasons
    with ShardDataset(tmp_path / "out") as shard_dataset:
        assert len(shard_dataset.load_index()) == 43
    assert find_faults(tmp_path / "out") == []


def test_photograph_is_rejected_when_its_path_is_not_utf8(folder, tmp_path, config):
    images = folder / "images"
    odd = os.fsdecode(os.fsencode(images) + b"/odd\xff")
    os.mkdir(odd)  # noqa: PTH102
    (images / "0_left.png").rename(f"{odd}/0_left.png")
    build(folder, tmp_path / "out", config)
    (rejection,) = load_rejected(tmp_path / "out")
    assert rejection.reason == "unreadable"
    assert_names(rejection.detail, "path", "UTF-8")
    assert "odd\\udcff" in (tmp_path / "out" / REJECTED_FILE).read_text()
    assert find_faults(tmp_path / "out") == []


def test_splits_of_other_photographs_stay_when_one_is_rejected(
    folder, shard_dataset, tmp_path, config
):
    (folder / "images" / "5_left.png").write_bytes(b"")
    build(folder, tmp_path / "out", config)
    before = shard_dataset.load_index().set_index("id")["split"]
    with ShardDataset(tmp_path / "out") as opened:
        after = opened.load_index().set_index("id")["split"]
    assert (after == before[after.index]).all()


def test_patients_share_a_split_when_their_photographs_are_identical(
    folder, tmp_path, config
):
    images = folder / "images"
    for patient in (8, 14, 20):
        shutil.copy(images / "2_left.png", images / f"{patient}_left.png")
    build(folder, tmp_path / "out", config)
    with ShardDataset(tmp_path / "out") as opened:
        index = opened.load_index().set_index("patient")
    assert index.loc[["2", "8", "14", "20"], "split"].nunique() == 1


def test_unmatched_labels_and_photographs_are_counted(folder, tmp_path, config):
    (folder / "images" / "extra.png").write_bytes(encode(draw_fundus(seed=99)))
    with (folder / "labels.csv").open("a") as file:
        file.write("99_left,0\n99_right,0\n0_left,0\n")
    report = build(folder, tmp_path / "out", config)
    unmatched = pd.read_csv(tmp_path / "out" / UNMATCHED_FILE)
    assert unmatched[["kind", "name"]].to_numpy().tolist() == [
        ["label", "99_left"],
        ["label", "99_right"],
        ["photograph", "extra.png"],
    ]
    assert report.plan.catalog.num_repeated == 1
    provenance = report.manifest.provenance["sources"][0]
    assert provenance["num_labels_without_photograph"] == 2


def test_skipped_files_are_listed_and_an_archive_gives_the_same_records(
    folder, tmp_path, config
):
    trash = folder / "images" / ".Trash-1000"
    trash.mkdir()
    (trash / "a.jpeg").write_bytes(b"x")
    report = build(folder, tmp_path / "folder", config)
    listed = (tmp_path / "folder" / "skipped.csv").read_text()
    assert listed == "path,kind\n.Trash-1000/a.jpeg,in .Trash-1000\n"
    archive = shutil.make_archive(str(tmp_path / "train"), "zip", folder / "images")
    source = Source(archive, folder / "labels.csv")
    zipped = build_shards([source], tmp_path / "zipped" / "folder", config=config)
    assert [x.sha256 for x in zipped.manifest.shards] == [
        x.sha256 for x in report.manifest.shards
    ]


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_images_are_decodable_when_encoded(
    photographs, shard_dataset, tmp_path, config, encoding
):
    settings = config.build.model_copy(update={"encoding": encoding})
    config = config.model_copy(update={"build": settings})
    build(photographs, tmp_path / "out", config)
    rows = np.array([0, 20])
    raw = [image.reshape(32, 32, 3).copy() for image in shard_dataset.read_images(rows)]
    with ShardDataset(tmp_path / "out") as opened:
        for expected, data in zip(raw, opened.read_images(rows), strict=True):
            image = decode_image(data.copy(), encoding, size=32)
            difference = abs(image.astype(int) - expected)
            assert difference.mean() < (8 if encoding == "jpeg" else 1e-9)


def test_build_is_refused_when_the_folder_exists(folder, tmp_path, config):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "precious").write_text("x")
    with raises_naming(DrtfError, out, "--out"):
        build(folder, out, config)
    assert files_of(out) == {"precious": b"x"}


def test_no_dataset_exists_when_all_photographs_are_rejected(folder, tmp_path, config):
    for number, path in enumerate((folder / "images").iterdir()):
        path.write_text(f"no picture {number}")
    with raises_naming(DrtfError, 48, "not_an_image"):
        build(folder, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_manifest_has_the_settings_of_the_pixels(shards, config):
    manifest = load_manifest(shards)
    assert manifest.preprocessing == config.images.model_dump(mode="json")
    assert manifest.num_patients == {"train": 16, "val": 3, "test": 5}
    assert str(shards.parent) not in (shards / MANIFEST_FILE).read_text()


def test_missing_image_folder_is_named(tmp_path, config):
    labels = write_photographs(tmp_path / "p", num_patients=3)
    with raises_naming(LabelError, tmp_path / "no", "--images"):
        build_shards(
            [Source(tmp_path / "no", labels)], out=tmp_path / "out", config=config
        )


def test_rejected_names_are_not_formulas(tmp_path):
    path = tmp_path / "rejected.csv"
    save_rows(
        path, RejectedRow._fields, [RejectedRow("=a.png", "empty", "-", "images")]
    )
    assert path.read_text().splitlines()[1] == "'=a.png,empty,'-,images"

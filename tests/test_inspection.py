import shutil

import cv2
import numpy as np
import pytest

from drawing import write_photographs
from drtf.building.build import build_shards
from drtf.config import AugmentConfig, load_config
from drtf.data.inspection import inspect_dataset
from drtf.errors import DrtfError
from drtf.labels.sources import Source
from drtf.records.reader import ShardDataset
from naming import raises_naming


def test_pictures_are_plotted_and_kept_when_they_exist(shards, tmp_path):
    out = tmp_path / "pictures"
    inspection = inspect_dataset(shards, out=out, num_per_grade=3)
    assert [path.name for path in inspection.figures] == [
        "contact-sheet.png",
        "quality.png",
    ]
    for path in inspection.figures:
        assert cv2.imread(str(path)).std() > 10
    with raises_naming(DrtfError, out / "contact-sheet.png", "--overwrite"):
        inspect_dataset(shards, out=out, num_per_grade=3)
    inspect_dataset(shards, out=out, num_per_grade=2, overwrite=True)
    assert inspection.num_identical == 0
    assert inspection.conflicts == []


def test_contact_sheet_is_wider_when_it_shows_more_photographs(shards, tmp_path):
    widths = []
    for count in (2, 4):
        inspection = inspect_dataset(
            shards, out=tmp_path / str(count), num_per_grade=count
        )
        widths.append(cv2.imread(str(inspection.figures[0])).shape[1])
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.02)


def test_augmented_sheet_shows_each_grade_augmented(shards, tmp_path):
    sheets = []
    for degrees in (0, 180):
        policy = AugmentConfig(
            horizontal_flip=False,
            vertical_flip=False,
            max_degrees=degrees,
            zoom=0,
            contrast=0,
        )
        out = tmp_path / str(degrees)
        inspection = inspect_dataset(shards, out=out, num_per_grade=3, augment=policy)
        assert inspection.figures[-1] == out / "augmented.png"
        sheets.append(cv2.imread(str(inspection.figures[-1])))
    still, turned = sheets
    assert still.shape == turned.shape
    assert (still != turned).mean() > 0.05
    with raises_naming(DrtfError, out / "augmented.png", "--overwrite"):
        (out / "contact-sheet.png").unlink()
        (out / "quality.png").unlink()
        inspect_dataset(shards, out=out, num_per_grade=3, augment=policy)


def test_augmented_sheet_uses_the_bounds_of_each_class(shards, tmp_path):
    nothing = dict.fromkeys(("zoom", "contrast", "max_degrees"), 0)
    sheets = []
    for flip in (False, (False, True)):
        policy = AugmentConfig(horizontal_flip=False, vertical_flip=flip, **nothing)
        out = tmp_path / str(flip)
        inspect_dataset(shards, out=out, num_per_grade=4, augment=policy)
        sheets.append(cv2.imread(str(out / "augmented.png")).astype(int))
    changed = np.abs(sheets[0] - sheets[1]).max(axis=(1, 2)) > 0
    # One row per grade; the first one is healthy.
    height = len(changed) // 5
    assert not changed[:height].any()
    assert changed[height:].any()


def test_identical_photographs_and_conflicts_are_reported(photographs, tmp_path):
    folder = shutil.copytree(photographs, tmp_path / "p")
    images = folder / "images"
    shutil.copy(images / "0_left.png", images / "2_left.png")  # both of grade 0
    shutil.copy(images / "1_left.png", images / "3_left.png")  # grades 2 and 4
    config = load_config("", ("images.size=32", "build.num_workers=1"))
    source = Source(images, folder / "labels.csv")
    build_shards([source], tmp_path / "set", config=config)
    inspection = inspect_dataset(
        tmp_path / "set", out=tmp_path / "out", num_per_grade=2
    )
    assert inspection.num_identical == 4
    (conflict,) = inspection.conflicts
    assert set(zip(conflict.ids, conflict.grades, strict=True)) == {
        ("1_left", 2),
        ("3_left", 4),
    }


def test_columns_kept_from_the_label_file_are_counted(photographs, tmp_path):
    folder = shutil.copytree(photographs, tmp_path / "p")
    labels = folder / "labels.csv"
    header, *rows = labels.read_text().splitlines()
    rows = [f"{row},{'left' in row:d}" for row in rows[:-1]] + [f"{rows[-1]},"]
    labels.write_text("\n".join([f"{header},Is left", *rows]))
    settings = (
        "images.size=32",
        "build.num_workers=1",
        'labels.keep_columns=["is_left"]',
    )
    config = load_config("", settings)
    build_shards([Source(folder / "images", labels)], tmp_path / "set", config=config)
    with ShardDataset(tmp_path / "set") as shards:
        index = shards.load_index(["id", "is_left"])
        assert shards.manifest.kept_columns == ("is_left",)
    is_left = index["id"].str.contains("left").map({True: "1", False: "0"})
    is_left[index["id"] == rows[-1].split(",")[0]] = ""
    assert index["is_left"].tolist() == is_left.tolist()
    found = inspect_dataset(tmp_path / "set", out=tmp_path / "out", num_per_grade=2)
    assert found.kept_columns == {"is_left": {"1": 24, "0": 23, "": 1}}


def test_pictures_are_plotted_when_names_are_odd(tmp_path):
    """A formula, a line break, glyphs that no font has, and a very long name."""
    folder = tmp_path / "p"
    write_photographs(folder, num_patients=6)
    images = folder / "images"
    names = ("$x^{$", "two\nlines", "日本🙂", "y" * 200)
    rows = (folder / "labels.csv").read_text().splitlines()
    for number, name in enumerate(names):
        old = rows[number + 1].split(",")[0]
        (images / f"{old}.png").rename(images / f"{name}.png")
        rows[number + 1] = f'"{name}",0'
    (folder / "labels.csv").write_text("\n".join(rows))
    config = load_config("", ("images.size=32", "build.num_workers=1"))
    source = Source(images, folder / "labels.csv")
    build_shards([source], tmp_path / "set", config=config)
    inspection = inspect_dataset(
        tmp_path / "set", out=tmp_path / "out", num_per_grade=12
    )
    for path in inspection.figures:
        assert cv2.imread(str(path)).std() > 10


def test_augmented_sheet_shows_mixed_photographs(shards, tmp_path):
    nothing = AugmentConfig(**dict.fromkeys(AugmentConfig.model_fields, 0))
    sheets = []
    for alpha in (0, 1):
        out = tmp_path / str(alpha)
        policy = nothing.model_copy(update={"cutmix": alpha})
        inspect_dataset(shards, out=out, num_per_grade=4, augment=policy)
        sheets.append(cv2.imread(str(out / "augmented.png")).astype(int))
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).mean() > 0.01

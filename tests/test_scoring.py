import csv
import os
import shutil

import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.data.build import build_shards
from drtf.data.loader import read_batch
from drtf.data.photographs import Photographs
from drtf.data.sources import Source
from drtf.errors import DrtfError, LabelError
from drtf.models.prediction import build_predictor
from drtf.models.run import Threshold, load_run, save_threshold
from drtf.models.scoring import prepare_photographs, score
from drtf.models.training import train
from drtf.records.reader import ShardSet


@pytest.fixture
def run_copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_photographs_and_shards_give_the_same_pixels_and_scores(
    run_folder, photographs, shard_set, config, tmp_path
):
    run = load_run(run_folder)
    index = shard_set.index.sort_values("path")
    found = Photographs(photographs / "images", index["path"].tolist())
    prepared = prepare_photographs(run, found, num_workers=1)
    images = read_batch(shard_set, index.index.to_numpy())
    for item, expected in zip(prepared, images, strict=True):
        assert item.image is not None
        assert (item.image == expected).all()
    report = score(
        run_folder, photographs / "images", out=tmp_path / "s.csv", config=config
    )
    assert report.num_scored == 48
    batch = np.zeros((config.score.batch_size, 32, 32, 3), np.uint8)
    batch[:48] = images
    expected = build_predictor(run.network, "none")(batch).numpy()[:48, 0, -1]
    rows = read(tmp_path / "s.csv")
    assert [row["path"] for row in rows] == index["path"].tolist()
    assert [row["score"] for row in rows] == [f"{value:.6f}" for value in expected]


def test_jpeg_shards_and_photographs_give_the_same_pixels(
    photographs, config, tmp_path
):
    jpeg = config.build.model_copy(update={"encoding": "jpeg", "jpeg_quality": 80})
    config = config.model_copy(update={"build": jpeg})
    shards, run_folder = tmp_path / "jpeg", tmp_path / "run"
    images = photographs / "images"
    build_shards(
        [Source(images, photographs / "labels.csv")], out=shards, config=config
    )
    train(shards, out=run_folder, config=config)
    with ShardSet(shards) as opened:
        paths = opened.index["path"]
        found = Photographs(images, paths.tolist())
        prepared = prepare_photographs(load_run(run_folder), found, num_workers=1)
        expected = read_batch(opened, np.arange(len(paths)))
        for item, image in zip(prepared, expected, strict=True):
            assert item.image is not None
            assert (item.image == image).all()


def test_rows_stand_in_order_and_errors_are_filled_in(run_copy, config, tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a,1.png", "sub/c.png")):
        (images / name).write_bytes(encode(draw_fundus(seed=number)))
    (images / "d.jpeg").write_bytes(b"")
    (images / "e.jpg").write_bytes(b"text")
    report = score(run_copy, images, out=tmp_path / "out.csv", config=config)
    assert (report.num_scored, report.num_failed) == (3, 2)
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == ["a,1", "b", "d", "e", "c"]
    assert [row["path"] for row in rows][-1] == "sub/c.png"
    assert [bool(row["score"]) for row in rows] == [True, True, False, False, True]
    assert rows[2]["error"] == "empty: the file has no bytes"
    assert rows[3]["error"].startswith("not_an_image")
    assert all(bool(row["score"]) != bool(row["error"]) for row in rows)


def test_a_name_that_is_not_utf8_has_its_row_too(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    name = os.fsdecode(b"odd\xff.png")
    (images / name).write_bytes(encode(draw_fundus(seed=1)))
    report = score(run_folder, images, out=tmp_path / "out.csv", config=config)
    assert report.num_scored == 1
    assert read(tmp_path / "out.csv")[0]["path"] == "odd\\udcff.png"


def test_the_number_of_workers_and_batches_changes_no_row(
    run_folder, photographs, config, tmp_path
):
    written = []
    for name, workers, batch_size in (("a", 1, 64), ("b", 2, 5)):
        settings = {"num_workers": workers, "batch_size": batch_size}
        changed = config.score.model_copy(update=settings)
        score(
            run_folder,
            photographs / "images",
            out=tmp_path / name,
            config=config.model_copy(update={"score": changed}),
        )
        written.append(read(tmp_path / name))
    assert [row["path"] for row in written[0]] == [row["path"] for row in written[1]]
    scores = [[float(row["score"]) for row in rows] for rows in written]
    assert scores[0] == pytest.approx(scores[1], abs=2e-6)


def test_decisions_follow_the_threshold_of_the_last_evaluation(
    run_copy, photographs, config, tmp_path
):
    images = photographs / "images"
    report = score(run_copy, images, out=tmp_path / "before.csv", config=config)
    assert (report.threshold, report.threshold_chosen) == (0.5, False)
    scores = sorted(float(row["score"]) for row in read(tmp_path / "before.csv"))
    value = (scores[9] + scores[10]) / 2
    threshold = Threshold(
        value=value, rule="youden", split="val", tta="none", num_photographs=9
    )
    save_threshold(run_copy, threshold)
    report = score(run_copy, images, out=tmp_path / "after.csv", config=config)
    assert report.threshold_chosen
    decisions = [int(row["decision"]) for row in read(tmp_path / "after.csv")]
    assert sum(decisions) == report.num_positive == 38


def test_an_existing_table_is_replaced_only_when_asked(
    run_folder, photographs, config, tmp_path
):
    out = tmp_path / "scores.csv"
    out.write_text("precious")
    with pytest.raises(DrtfError, match="exists already"):
        score(run_folder, photographs / "images", out=out, config=config)
    assert out.read_text() == "precious"
    score(run_folder, photographs / "images", out=out, config=config, overwrite=True)
    assert len(read(out)) == 48


def test_a_folder_without_photographs_is_an_error(run_folder, config, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LabelError, match="no photograph in"):
        score(run_folder, tmp_path, out=tmp_path / "s.csv", config=config)
    assert not (tmp_path / "s.csv").exists()

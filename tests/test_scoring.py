import csv
import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from drawing import draw_fundus, encode
from drtf.config import dump_config
from drtf.data import photographs as refs
from drtf.data.build import build_shards
from drtf.data.loader import read_batch
from drtf.data.photographs import PhotographRef
from drtf.data.prepare import NetworkInput
from drtf.data.sources import Source
from drtf.errors import DrtfError, LabelError
from drtf.files import lock_or_fail, partial_path
from drtf.inference import scoring
from drtf.inference.scoring import prepare_photographs, score
from drtf.models.prediction import build_predictor
from drtf.models.run import load_run
from drtf.records.reader import ShardDataset
from drtf.synthetic import draw_photograph
from drtf.training.run import train
from naming import raises_naming


@pytest.fixture
def run_copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_photographs_and_shards_give_the_same_pixels_and_scores(
    run_folder, photographs, shard_dataset, config, tmp_path
):
    run = load_run(run_folder)
    index = shard_dataset.load_index().sort_values("path")
    refs = [PhotographRef(photographs / "images", path) for path in index["path"]]
    prepared = prepare_photographs(run, refs, num_workers=1)
    images = read_batch(shard_dataset, index.index.to_numpy())
    for item, expected in zip(prepared, images, strict=True):
        assert isinstance(item, NetworkInput)
        assert (item.image == expected).all()
    report = score(
        run_folder, photographs / "images", out=tmp_path / "s.csv", config=config.score
    )
    assert report.num_scored == 48
    batch = np.zeros((config.score.batch_size, 32, 32, 3), np.uint8)
    batch[:48] = images
    expected = build_predictor(run.network, "none")(batch).numpy()[:48, 0, -1]
    rows = read(tmp_path / "s.csv")
    assert [row["path"] for row in rows] == index["path"].tolist()
    assert [row["score"] for row in rows] == [f"{value:.6f}" for value in expected]


def test_processes_that_prepare_photographs_load_no_tensorflow(run_folder):
    with mock.patch.object(scoring, "map_photographs", return_value=iter(())) as pool:
        list(prepare_photographs(load_run(run_folder), [], num_workers=2))
    code = (
        "import pickle, sys\n"
        "pickle.load(sys.stdin.buffer)\n"
        "print('drtf' in sys.modules, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(pool.call_args.args[0]),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"True False\n"


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
    with ShardDataset(shards) as opened:
        paths = opened.load_index()["path"]
        refs = [PhotographRef(images, path) for path in paths]
        prepared = prepare_photographs(load_run(run_folder), refs, num_workers=1)
        expected = read_batch(opened, np.arange(len(paths)))
        for item, image in zip(prepared, expected, strict=True):
            assert isinstance(item, NetworkInput)
            assert (item.image == image).all()


def test_score_writes_rows_in_order_with_errors(run_copy, config, tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a,1.png", "sub/c.png")):
        (images / name).write_bytes(encode(draw_fundus(seed=number)))
    (images / "d.jpeg").write_bytes(b"")
    (images / "e.jpg").write_bytes(b"text")
    report = score(run_copy, images, out=tmp_path / "out.csv", config=config.score)
    assert (report.num_scored, report.num_failed) == (3, 2)
    rows = read(tmp_path / "out.csv")
    assert [row["id"] for row in rows] == ["a,1", "b", "d", "e", "c"]
    assert [row["path"] for row in rows][-1] == "sub/c.png"
    assert [bool(row["score"]) for row in rows] == [True, True, False, False, True]
    assert rows[2]["error"].startswith("empty: ")
    assert rows[3]["error"].startswith("not_an_image: ")
    assert all(bool(row["score"]) != bool(row["error"]) for row in rows)


def test_score_writes_a_row_for_a_name_that_is_not_utf8(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    name = os.fsdecode(b"odd\xff.png")
    (images / name).write_bytes(encode(draw_fundus(seed=1)))
    report = score(run_folder, images, out=tmp_path / "out.csv", config=config.score)
    assert report.num_scored == 1
    assert read(tmp_path / "out.csv")[0]["path"] == "odd\\udcff.png"


def test_score_is_independent_of_workers_and_batch_size(
    run_folder, photographs, config, tmp_path
):
    written = []
    for name, workers, batch_size in (("a.csv", 1, 64), ("b.csv", 2, 5)):
        settings = {"num_workers": workers, "batch_size": batch_size}
        changed = config.score.model_copy(update=settings)
        score(
            run_folder,
            photographs / "images",
            out=tmp_path / name,
            config=changed,
        )
        written.append(read(tmp_path / name))
    assert [row["path"] for row in written[0]] == [row["path"] for row in written[1]]
    scores = [[float(row["score"]) for row in rows] for rows in written]
    assert scores[0] == pytest.approx(scores[1], abs=2e-6)


def test_predicted_labels_follow_the_stored_threshold(
    run_copy, photographs, config, tmp_path, save_rule
):
    images = photographs / "images"
    report = score(run_copy, images, out=tmp_path / "before.csv", config=config.score)
    assert (report.threshold, report.threshold_chosen) == (0.5, False)
    scores = sorted(float(row["score"]) for row in read(tmp_path / "before.csv"))
    value = (scores[9] + scores[10]) / 2
    save_rule(run_copy, value)
    report = score(run_copy, images, out=tmp_path / "after.csv", config=config.score)
    assert report.threshold_chosen
    decisions = [int(row["predicted_label"]) for row in read(tmp_path / "after.csv")]
    assert sum(decisions) == report.num_positive == 38


def test_score_overwrites_a_table_only_if_asked(
    run_folder, photographs, config, tmp_path
):
    out = tmp_path / "scores.csv"
    out.write_text("precious")
    with raises_naming(DrtfError, out, "--overwrite"):
        score(run_folder, photographs / "images", out=out, config=config.score)
    assert out.read_text() == "precious"
    score(
        run_folder, photographs / "images", out=out, config=config.score, overwrite=True
    )
    assert len(read(out)) == 48


def test_score_refuses_a_folder_without_photographs(run_folder, config, tmp_path):
    (tmp_path / "notes.txt").touch()
    with raises_naming(LabelError, tmp_path, ".jpeg", ".dcm"):
        score(run_folder, tmp_path, out=tmp_path / "s.csv", config=config.score)
    assert not (tmp_path / "s.csv").exists()


KILLED = """
import os, sys
from pathlib import Path
from drtf.config import load_config
from drtf.inference import scoring

run, images, out, config, number = sys.argv[1:]
write, count = scoring.write_unbuffered, 0

def write_and_die(file, data):
    global count
    count += 1
    if count == int(number):
        os.write(file.fileno(), data[: len(data) // 2])
        os.kill(os.getpid(), 9)
    write(file, data)

scoring.write_unbuffered = write_and_die
config = load_config(config).score
scoring.score(Path(run), images, out=Path(out), config=config)
"""


@pytest.mark.parametrize("number", [1, 2, 30])
def test_score_resumes_after_a_kill_without_losing_or_repeating_rows(
    run_folder, photographs, config, tmp_path, number
):
    settings = tmp_path / "config.toml"
    settings.write_text(dump_config(config))
    images, out = photographs / "images", tmp_path / "scores.csv"
    words = map(str, (run_folder, images, out, settings, number))
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert killed.returncode == -9
    assert not out.exists()
    report = score(run_folder, images, out=out, config=config.score)
    assert report.num_scored == 48
    score(run_folder, images, out=tmp_path / "whole.csv", config=config.score)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.toml",
        "scores.csv",
        "whole.csv",
    ]


def test_score_resumes_after_a_photograph_could_not_be_read(
    run_folder, photographs, config, tmp_path, monkeypatch
):
    images, out = photographs / "images", tmp_path / "scores.csv"
    read = refs.read_regular

    def fail(path, *arguments):
        if path.name == "5_left.png":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return read(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(refs, "read_regular", fail)
        with raises_naming(DrtfError, images / "5_left.png", "Stale file handle"):
            score(run_folder, images, out=out, config=config.score)
    assert not out.exists()
    report = score(run_folder, images, out=out, config=config.score)
    assert (report.num_scored, report.num_failed) == (48, 0)


def test_score_refuses_a_table_that_another_process_writes(
    run_folder, photographs, config, tmp_path
):
    out = tmp_path / "scores.csv"
    images = photographs / "images"
    partial = tmp_path / ".scores.csv.partial"
    with lock_or_fail(partial), raises_naming(DrtfError, partial):
        score(run_folder, images, out=out, config=config.score)
    assert score(run_folder, images, out=out, config=config.score).num_scored == 48


def test_score_does_not_resume_rows_of_another_model(
    run_copy, photographs, config, tmp_path, save_rule
):
    images, out = photographs / "images", tmp_path / "scores.csv"
    score(run_copy, images, out=out, config=config.score)
    lines = out.read_bytes().splitlines(keepends=True)
    partial = tmp_path / ".scores.csv.partial"
    partial.write_bytes(b"".join(lines[:20]))
    (tmp_path / ".scores.csv.source").write_text(str(images.resolve()))
    out.unlink()
    save_rule(run_copy, 0.25)
    with raises_naming(DrtfError, partial, "--overwrite"):
        score(run_copy, images, out=out, config=config.score)
    score(run_copy, images, out=out, config=config.score, overwrite=True)
    rows = read(out)
    assert len({row["settings"] for row in rows}) == 1
    assert rows[0]["settings"] not in lines[1].decode()


def test_score_keeps_rows_when_a_photograph_was_added(
    run_folder, photographs, config, tmp_path
):
    images, out = tmp_path / "images", tmp_path / "scores.csv"
    shutil.copytree(photographs / "images", images)
    score(run_folder, images, out=out, config=config.score)
    partial = tmp_path / ".scores.csv.partial"
    out.replace(partial)
    before = partial.read_bytes()
    (tmp_path / ".scores.csv.source").write_text(str(images.resolve()))
    names = sorted(path.name for path in images.iterdir())
    shutil.copy(images / names[0], images / f"{Path(names[0]).stem}-b.png")
    with raises_naming(DrtfError, partial, "--overwrite"):
        score(run_folder, images, out=out, config=config.score)
    assert partial.read_bytes() == before
    report = score(run_folder, images, out=out, config=config.score, overwrite=True)
    assert report.num_scored == 49


def test_score_keeps_a_table_that_another_process_finished(
    run_folder, photographs, config, tmp_path
):
    out, images = tmp_path / "scores.csv", photographs / "images"

    def finish(*_):
        out.write_text("done meanwhile")
        return load_run(run_folder)

    with (
        mock.patch.object(scoring, "load_run", finish),
        raises_naming(DrtfError, out, "--overwrite"),
    ):
        score(run_folder, images, out=out, config=config.score)
    assert out.read_text() == "done meanwhile"


def test_score_does_not_resume_rows_of_another_folder(
    run_folder, photographs, config, tmp_path
):
    names = sorted(path.name for path in (photographs / "images").iterdir())[:8]
    folders = tmp_path / "one", tmp_path / "other"
    for folder, sources in zip(folders, (names, names[::-1]), strict=True):
        folder.mkdir()
        for name, source in zip(names, sources, strict=True):
            shutil.copy(photographs / "images" / source, folder / name)
    settings, out = tmp_path / "config.toml", tmp_path / "scores.csv"
    settings.write_text(dump_config(config))
    words = map(str, (run_folder, folders[0], out, settings, 6))
    subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    partial = tmp_path / ".scores.csv.partial"
    before = partial.read_bytes()
    assert len(before.splitlines()) == 6
    with raises_naming(DrtfError, partial, "--overwrite"):
        score(run_folder, folders[1], out=out, config=config.score)
    assert partial.read_bytes() == before
    score(run_folder, folders[1], out=out, config=config.score, overwrite=True)
    whole = tmp_path / "whole.csv"
    score(run_folder, folders[1], out=whole, config=config.score)
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".scores*"))


@pytest.mark.parametrize("name", ["scores.txt", "folder.csv", "."])
def test_score_refuses_an_invalid_out(run_folder, photographs, config, tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    facts = ("--out", ".csv", ".parquet", tmp_path / name)
    with raises_naming(DrtfError, *facts):
        score(
            run_folder,
            photographs / "images",
            out=tmp_path / name,
            config=config.score,
            overwrite=True,
        )


def test_merge_requires_every_row_of_every_part(
    run_folder, photographs, config, tmp_path
):
    images, out = photographs / "images", tmp_path / "scores.csv"
    call = {"out": out, "config": config.score}
    score(run_folder, images, **call)
    whole = out.read_bytes()
    out.unlink()
    for number in (1, 3):
        score(run_folder, images, part=(number, 3), **call)
    # What another scoring left there, stopped, outlives a merge that can't be done.
    partial = partial_path(out)
    partial.write_bytes(whole[:-1])
    part = tmp_path / "scores-00002-of-00003.csv"
    with raises_naming(DrtfError, part, "--part 2/3"):
        score(run_folder, images, merge=3, **call)
    assert partial.read_bytes() == whole[:-1]
    report = score(run_folder, images, part=(2, 3), **call)
    assert report.table == part
    assert report.num_scored == 16
    source = partial.with_suffix(".source")
    source.write_text(str(images))
    with raises_naming(DrtfError, partial, "--part", "--overwrite"):
        score(run_folder, images, merge=3, **call)
    source.unlink()  # as where it is a merge that was killed
    assert score(run_folder, images, merge=3, **call).num_scored == 48
    assert out.read_bytes() == whole
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:5], *lines[6:]]))
    with raises_naming(DrtfError, part, 16, "line 6", "--part 2/3"):
        score(run_folder, images, merge=3, overwrite=True, **call)
    assert out.read_bytes() == whole


def test_parquet_has_the_same_rows_as_csv(run_folder, photographs, config, tmp_path):
    images = photographs / "images"
    score(run_folder, images, out=tmp_path / "scores.csv", config=config.score)
    score(run_folder, images, out=tmp_path / "scores.parquet", config=config.score)
    expected = pd.read_csv(tmp_path / "scores.csv", dtype={"id": str})
    found = pd.read_parquet(tmp_path / "scores.parquet")
    assert found["path"].tolist() == expected["path"].tolist()
    assert found["score"].tolist() == expected["score"].tolist()
    assert found["predicted_label"].tolist() == expected["predicted_label"].tolist()
    assert len(list(tmp_path.iterdir())) == 2


def test_score_flags_or_rejects_ungradable_photographs(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    good = draw_photograph(1, patient_seed=0, eye="left", seed=0).image[::2, ::2]
    page = np.full((200, 200, 3), 240, np.uint8)
    page[20:180:8] = 10
    (images / "a_good.png").write_bytes(encode(good))
    (images / "b_dark.png").write_bytes(encode((good * 0.15).astype(np.uint8)))
    (images / "c_text.png").write_bytes(encode(page))
    out = tmp_path / "scores.csv"
    report = score(run_folder, images, out=out, config=config.score)
    assert (report.num_scored, report.num_flagged) == (3, 2)
    rows = read(out)
    assert [row["flags"] for row in rows] == ["", "too_dark", "no_field"]
    strict = config.score.model_copy(update={"on_ungradable": "reject"})
    report = score(run_folder, images, out=out, config=strict, overwrite=True)
    assert (report.num_scored, report.num_failed, report.num_flagged) == (1, 2, 2)
    rejected = read(out)
    assert rejected[0]["score"] == rows[0]["score"]
    assert [row["score"] for row in rejected[1:]] == ["", ""]
    assert rejected[1]["error"] == "ungradable: too_dark"


def test_submission_has_a_level_for_each_image(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        path = images / f"{number}_left.png"
        path.write_bytes(encode(draw_fundus(seed=number)))
    (images / "3_left.png").write_bytes(b"")
    score(run_folder, images, out=tmp_path / "scores.csv", config=config.score)
    out = tmp_path / "submission.csv"
    score(run_folder, images, out=out, config=config.score, kaggle=True)
    parquet = tmp_path / "s.parquet"
    with raises_naming(DrtfError, "--out", ".csv", parquet) as error:
        score(run_folder, images, out=parquet, config=config.score, kaggle=True)
    assert str(error.value).count(".parquet") == 1  # the one that was given
    labels = [row["predicted_label"] or "0" for row in read(tmp_path / "scores.csv")]
    assert read(out) == [
        {"image": f"{number}_left", "level": label}
        for number, label in enumerate(labels)
    ]


def test_submission_refuses_equal_names(run_folder, photographs, config, tmp_path):
    for name in ("a/1_left.png", "b/1_left.png"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(photographs / "images" / "0_left.png", tmp_path / name)
    out = tmp_path / "submission.csv"
    facts = ("a/1_left.png", "b/1_left.png", "--format kaggle")
    with raises_naming(DrtfError, *facts):
        score(run_folder, tmp_path, out=out, config=config.score, kaggle=True)
    assert not out.exists()


def test_score_predicts_grades_with_a_run_of_grades(
    shards, photographs, config, tmp_path
):
    settings = config.train.model_copy(update={"task": "grades", "epochs": 1})
    config = config.model_copy(update={"train": settings})
    train(shards, out=tmp_path / "run", config=config)
    images, out = photographs / "images", tmp_path / "scores.csv"
    score(tmp_path / "run", images, out=out, config=config.score)
    grades = [row["predicted_grade"] for row in read(out)]
    assert set(grades) <= set("01234")
    out = tmp_path / "submission.csv"
    score(tmp_path / "run", images, out=out, config=config.score, kaggle=True)
    assert [row["level"] for row in read(out)] == grades


def test_score_escapes_formulas_and_line_breaks(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, name in enumerate(("=1+1.png", "@a.png", "b\nc.png", "b\\nc.png")):
        (images / name).write_bytes(encode(draw_fundus(seed=number)))
    out = tmp_path / "scores.csv"
    assert score(run_folder, images, out=out, config=config.score).num_scored == 4
    assert len(out.read_bytes().splitlines()) == 5
    rows = read(out)
    assert [row["id"] for row in rows] == ["'=1+1", "'@a", "b\\nc", r"b\\nc"]
    assert rows[2]["path"] == "b\\nc.png"
    out = tmp_path / "scores.parquet"
    score(run_folder, images, out=out, config=config.score)
    ids = pd.read_parquet(out)["id"].tolist()
    assert ids == ["=1+1", "@a", "b\\nc", r"b\\nc"]


def test_score_writes_the_spread_of_several_views(
    run_copy, photographs, config, tmp_path, save_rule
):
    save_rule(run_copy, 0.25, tta="flips5")
    images = photographs / "images"
    score(run_copy, images, out=tmp_path / "scores.csv", config=config.score)
    spreads = [float(row["spread"]) for row in read(tmp_path / "scores.csv")]
    assert 0 < max(spreads) < 1

import csv
import errno
import os
import pickle
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from drawing import draw_fundus, encode
from drtf.building.build import build_shards
from drtf.config import dump_config
from drtf.data.loader import read_batch
from drtf.errors import DrtfError, LabelError
from drtf.labels.sources import Source
from drtf.locks import lock_or_fail
from drtf.models.fellow_eye import FellowEye
from drtf.models.prediction import build_predictor
from drtf.models.run import load_run
from drtf.photographs import references as refs
from drtf.photographs.prepare import NetworkInput
from drtf.photographs.references import PhotographRef
from drtf.records.reader import ShardDataset
from drtf.scoring import photograph_scores, scorer, scoring
from drtf.scoring.photograph_scores import Scored, prepare_photographs
from drtf.scoring.score_table import encode_csv, encode_header, encode_row
from drtf.scoring.scoring import score
from drtf.storage import read_object, write_object
from drtf.synthetic import draw_photograph
from drtf.training.run import train
from naming import raises_naming

SIDES = {"left", "right"}


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
    assert report.summary.num_scored == 48
    batch = np.zeros((config.score.batch_size, 32, 32, 3), np.uint8)
    batch[:48] = images
    expected = build_predictor(run.network, "none")(batch).numpy()[:48, 0, -1]
    rows = read(tmp_path / "s.csv")
    assert [row["path"] for row in rows] == index["path"].tolist()
    assert [row["score"] for row in rows] == [f"{value:.6f}" for value in expected]


def test_processes_that_prepare_photographs_load_no_tensorflow(run_folder):
    with mock.patch.object(
        photograph_scores, "map_photographs", return_value=iter(())
    ) as pool:
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
    assert (report.summary.num_scored, report.summary.num_failed) == (3, 2)
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
    assert report.summary.num_scored == 1
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
    assert (report.threshold, report.threshold_rule) == (0.5, "none")
    scores = sorted(float(row["score"]) for row in read(tmp_path / "before.csv"))
    value = (scores[9] + scores[10]) / 2
    save_rule(run_copy, value)
    report = score(run_copy, images, out=tmp_path / "after.csv", config=config.score)
    assert report.threshold_rule == "youden"
    decisions = [int(row["predicted_label"]) for row in read(tmp_path / "after.csv")]
    assert sum(decisions) == report.summary.num_positive == 38


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
from drtf.scoring import kept_rows, scoring

run, images, out, config, number = sys.argv[1:]
write, count = kept_rows.write_unbuffered, 0

def write_and_die(file, data):
    global count
    count += 1
    if count == int(number):
        os.write(file.fileno(), data[: len(data) // 2])
        os.kill(os.getpid(), 9)
    write(file, data)

kept_rows.write_unbuffered = write_and_die
config = load_config(config).score
scoring.score(Path(run), images, out=Path(out), config=config)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("number", [1, 30, 49])
def test_score_resumes_after_a_kill_without_losing_or_repeating_rows(
    run_folder, photographs, config, tmp_path, number
):
    settings = tmp_path / "config.toml"
    settings.write_text(dump_config(config))
    images, out = photographs / "images", tmp_path / "scores.csv"
    words = map(str, (run_folder, images, out, settings, number))
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert killed.returncode == -9
    was_complete = number > 48
    assert out.exists() == was_complete
    report = score(run_folder, images, out=out, config=config.score)
    assert report.is_reused == was_complete
    assert report.num_kept == (0 if was_complete else number - 1)
    assert report.summary.num_scored == 48
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
    assert (report.summary.num_scored, report.summary.num_failed) == (48, 0)


def test_score_refuses_a_table_that_another_process_writes(
    run_folder, photographs, config, tmp_path
):
    out = tmp_path / "scores.csv"
    images = photographs / "images"
    log = tmp_path / ".scores.csv.rows"
    with lock_or_fail(log), raises_naming(DrtfError, log):
        score(run_folder, images, out=out, config=config.score)
    report = score(run_folder, images, out=out, config=config.score)
    assert report.summary.num_scored == 48
    assert not log.exists()


def test_score_does_not_resume_rows_of_another_model(
    run_copy, photographs, config, tmp_path, save_rule
):
    images, out = photographs / "images", tmp_path / "scores.csv"
    score(run_copy, images, out=out, config=config.score)
    lines = out.read_bytes().splitlines(keepends=True)
    log = tmp_path / ".scores.csv.rows"
    log.write_bytes(b"".join(lines[1:20]))
    save_rule(run_copy, 0.25)
    with raises_naming(DrtfError, out, "--append", "--overwrite", "0.25"):
        score(run_copy, images, out=out, config=config.score)
    out.unlink()
    with raises_naming(DrtfError, log, "--overwrite", "0.25"):
        score(run_copy, images, out=out, config=config.score)
    score(run_copy, images, out=out, config=config.score, overwrite=True)
    rows = read(out)
    assert len({row["settings"] for row in rows}) == 1
    assert rows[0]["settings"] not in lines[1].decode()


def test_score_keeps_a_table_that_another_process_finished(
    run_folder, photographs, config, tmp_path
):
    out, images = tmp_path / "scores.csv", photographs / "images"

    def finish(*_, **__):
        out.write_text("done meanwhile")
        return load_run(run_folder)

    with (
        mock.patch.object(scorer, "load_run", finish),
        raises_naming(DrtfError, out, "--overwrite"),
    ):
        score(run_folder, images, out=out, config=config.score)
    assert out.read_text() == "done meanwhile"


@pytest.fixture
def few(photographs, tmp_path):
    """A folder of eight photographs."""
    folder = tmp_path / "few"
    folder.mkdir()
    for path in sorted((photographs / "images").iterdir())[:8]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def count_scored(monkeypatch):
    """Count the photographs that are given to the network, by call."""
    counts = []
    original = scorer.score_photographs

    def counting(run, photographs, **kwargs):
        counts.append(len(photographs))
        return original(run, photographs, **kwargs)

    monkeypatch.setattr(scorer, "score_photographs", counting)
    return counts


def test_score_scores_replaced_photographs_and_damaged_rows_again(
    run_folder, few, config, tmp_path, count_scored
):
    names = sorted(path.name for path in few.iterdir())
    out, whole = tmp_path / "scores.csv", tmp_path / "whole.csv"
    score(run_folder, few, out=out, config=config.score)
    lines = out.read_bytes().splitlines(keepends=True)[1:]
    out.unlink()
    lines[2] = lines[2].replace(b",0.", b",0.1", 1)  # another score
    (tmp_path / ".scores.csv.rows").write_bytes(b"".join(lines[:6]) + lines[6][:30])
    shutil.copy(few / names[5], few / names[0])  # one that was scored already
    report = score(run_folder, few, out=out, config=config.score)
    assert report.num_kept == 4
    score(run_folder, few, out=whole, config=config.score)
    assert count_scored == [8, 4, 8]
    assert out.read_bytes() == whole.read_bytes()
    rows = read(out)
    assert rows[0]["photograph"] == rows[5]["photograph"]
    assert rows[0]["score"] == rows[5]["score"]
    assert not list(tmp_path.glob(".*"))


def test_score_resumes_when_photographs_were_added(
    run_folder, few, config, tmp_path, count_scored
):
    out = tmp_path / "scores.csv"
    score(run_folder, few, out=out, config=config.score)
    log = tmp_path / ".scores.csv.rows"
    log.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[1:6]))
    out.unlink()
    (few / "0_a.png").write_bytes(encode(draw_fundus(seed=99)))
    assert score(run_folder, few, out=out, config=config.score).num_kept == 5
    assert count_scored == [8, 4]
    (few / "0_a.png").unlink()
    log.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[1:6]))
    out.unlink()
    before = log.read_bytes()
    with raises_naming(DrtfError, log, "--overwrite"):
        score(run_folder, few, out=out, config=config.score)
    assert log.read_bytes() == before


@pytest.mark.parametrize("form", ["csv", "parquet", "kaggle"])
def test_score_reports_a_table_that_was_complete(
    run_folder, few, config, tmp_path, count_scored, form
):
    is_submission = form == "kaggle"
    out = tmp_path / f"scores.{'csv' if is_submission else form}"
    call = {"out": out, "config": config.score}
    call |= {"form": form} if is_submission else {}
    first = score(run_folder, few, **call)
    assert not first.is_reused
    files = {path: path.read_bytes() for path in tmp_path.glob("scores*")}
    again = score(run_folder, few, **call)
    assert again.is_reused
    assert again.summary == first.summary
    if is_submission:  # killed before the submission was written
        out.unlink()
        assert score(run_folder, few, **call).is_reused
    assert {path: path.read_bytes() for path in tmp_path.glob("scores*")} == files
    assert count_scored == [8]
    path = min(few.iterdir())
    path.write_bytes(encode(draw_fundus(seed=99)))
    with raises_naming(DrtfError, first.table, path.name, "--append", "--overwrite"):
        score(run_folder, few, **call)


def test_patients_of_parts_are_those_of_the_whole_list(
    run_folder, few, config, tmp_path
):
    images = tmp_path / "images"
    images.mkdir()
    for path, name in zip(sorted(few.iterdir())[:2], ("12_L", "12_R"), strict=True):
        shutil.copy(path, images / f"{name}.png")
    call = {"out": tmp_path / "scores.csv", "config": config.score}
    for number in (1, 2):
        score(run_folder, images, part=(number, 2), **call)
    score(run_folder, images, merge=2, **call)
    assert [row["patient"] for row in read(call["out"])] == ["12", "12"]


WEIGHTS = FellowEye(offset=0.1, own=0.7, fellow=0.5, num_pairs=50)


def test_both_eyes_give_the_same_scores_however_a_table_is_written(
    run_copy, photographs, config, tmp_path, save_rule
):
    save_rule(run_copy, 0.5, fellow_eye=WEIGHTS)
    images = tmp_path / "images"
    shutil.copytree(photographs / "images", images)
    names = sorted(path.name for path in images.iterdir())[:9]
    for path in images.iterdir():
        if path.name not in names:
            path.unlink()
    common = {"config": config.score}
    whole, parts = (tmp_path / f"{x}.csv" for x in ("whole", "parts"))
    report = score(run_copy, images, out=whole, **common)
    assert report.combines_eyes
    rows = {row["id"]: row for row in read(whole)}
    pairs = [x for x in rows if {f"{rows[x]['patient']}_{y}" for y in SIDES} <= {*rows}]
    assert 0 < len(pairs) < 9
    assert report.summary.num_with_fellow == len(pairs)
    for name, row in rows.items():
        own, combined = float(row["own_score"]), float(row["score"])
        assert row["eye"] == name.partition("_")[2]
        assert row["fellow_used"] == str(int(name in pairs))
        assert row["predicted_label"] == str(int(combined >= 0.5))
        expected = own
        if name in pairs:
            (side,) = SIDES - {row["eye"]}
            fellow = float(rows[f"{row['patient']}_{side}"]["own_score"])
            expected = expit(0.1 + 0.7 * logit(own) + 0.5 * logit(fellow))
        assert combined == pytest.approx(expected, abs=1e-6)
    for number in range(1, 5):
        score(run_copy, images, out=parts, part=(number, 4), **common)
    score(run_copy, images, out=parts, merge=4, **common)
    assert parts.read_bytes() == whole.read_bytes()


def test_eyes_of_strangers_with_equal_names_are_not_combined(
    run_copy, few, config, tmp_path, save_rule
):
    save_rule(run_copy, 0.5, fellow_eye=WEIGHTS)
    images = tmp_path / "images"
    paths = ("a/7_left", "a/8_left", "a/8_right", "b/7_right", "b/8_left")
    for source, path in zip(sorted(few.iterdir()), paths, strict=False):
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, images / f"{path}.png")

    def with_fellow(out):
        score(run_copy, images, out=out, config=config.score)
        return [row["path"] for row in read(out) if row["fellow_used"] == "1"]

    # There are two 8_left, so the folders are of different patients.
    assert with_fellow(tmp_path / "all.csv") == ["a/8_left.png", "a/8_right.png"]
    (images / "b/8_left.png").unlink()
    found = with_fellow(tmp_path / "fewer.csv")
    assert found == [f"{path}.png" for path in paths[:4]]


def test_patients_and_eyes_of_a_list_come_before_those_of_names(
    run_copy, few, config, tmp_path, save_rule
):
    save_rule(run_copy, 0.5, fellow_eye=WEIGHTS)
    images = tmp_path / "images"
    images.mkdir()
    names = ("scan1.png", "scan2.png", "5_left.png", "5_right.png")
    for source, name in zip(sorted(few.iterdir()), names, strict=False):
        shutil.copy(source, images / name)
    listed = images / "list.csv"
    lines = {
        "scan1.png": "scan1.png,=7,OD",
        "scan2.png": "scan2.png,=7,OS",
        "5_left.png": "5_left.png,,",
        "5_right.png": "5_right.png,8,R",
    }

    def run_score(out, chosen=names, **options):
        rows = [lines[name] for name in chosen]
        listed.write_text("\n".join(["path,patient,laterality", *rows]))
        score(run_copy, listed, out=out, config=config.score, **options)

    whole, parts = (tmp_path / f"{x}.csv" for x in ("whole", "parts"))
    run_score(whole)
    columns = ("patient", "eye", "fellow_used")
    assert {x["path"]: tuple(x[y] for y in columns) for x in read(whole)} == {
        "5_left.png": ("5", "left", "0"),
        "5_right.png": ("8", "right", "0"),
        "scan1.png": ("'=7", "right", "1"),
        "scan2.png": ("'=7", "left", "1"),
    }
    for part in ((1, 2), (2, 2)):
        run_score(parts, part=part)
    run_score(parts, merge=2)
    assert parts.read_bytes() == whole.read_bytes()
    run_score(tmp_path / "whole.parquet")
    lines["scan1.png"] = "scan1.png,9,OD"
    for out in (whole, tmp_path / "whole.parquet"):
        facts = (out, "scan1.png", "'9'", "--append", "--overwrite")
        with raises_naming(DrtfError, *facts):
            run_score(out)
    run_score(whole, overwrite=True)
    assert [x["fellow_used"] for x in read(whole)] == ["0"] * 4


def test_an_ungradable_fellow_eye_is_used_only_if_asked(
    run_copy, config, tmp_path, save_rule
):
    save_rule(run_copy, 0.5, fellow_eye=WEIGHTS)
    images = tmp_path / "images"
    images.mkdir()
    good = draw_photograph(1, patient_seed=0, eye="left", seed=0).image[::2, ::2]
    (images / "1_left.png").write_bytes(encode(good))
    (images / "1_right.png").write_bytes(encode((good * 0.15).astype(np.uint8)))
    used = {}
    for choice in ("flag", "predict", "reject"):
        chosen = config.score.model_copy(update={"on_ungradable": choice})
        out = tmp_path / f"{choice}.csv"
        score(run_copy, images, out=out, config=chosen)
        used[choice] = [row["fellow_used"] for row in read(out)]
    assert used == {"flag": ["0", "1"], "predict": ["1", "1"], "reject": ["0", ""]}


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


def test_merge_requires_every_row_of_every_part(run_folder, few, config, tmp_path):
    out = tmp_path / "scores.csv"
    call = {"out": out, "config": config.score}
    score(run_folder, few, **call)
    whole = out.read_bytes()
    out.unlink()
    for number in (1, 3):
        score(run_folder, few, part=(number, 3), **call)
    part = tmp_path / "scores-00002-of-00003.csv"
    with raises_naming(DrtfError, part, "--part 2/3"):
        score(run_folder, few, merge=3, **call)
    report = score(run_folder, few, part=(2, 3), **call)
    assert report.table == part
    assert report.summary.num_scored == 3
    assert score(run_folder, few, merge=3, **call).summary.num_scored == 8
    assert out.read_bytes() == whole
    lines = part.read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b",0.", b",0.1", 1)
    for wrong, fact in (
        ([*lines[:2], *lines[3:]], "10_right.png"),
        ([lines[0], changed, *lines[2:]], "line 2"),
    ):
        part.write_bytes(b"".join(wrong))
        with raises_naming(DrtfError, part, fact, "--part 2/3", "--overwrite"):
            score(run_folder, few, merge=3, overwrite=True, **call)
    part.write_bytes(b"".join(lines))
    (few / "10_right.png").write_bytes(encode(draw_fundus(seed=99)))
    with raises_naming(DrtfError, part, "10_right.png", "--part 2/3", "--overwrite"):
        score(run_folder, few, merge=3, overwrite=True, **call)
    assert out.read_bytes() == whole


def test_parts_of_another_list_are_refused(
    run_folder, few, config, tmp_path, count_scored
):
    call = {"out": tmp_path / "scores.csv", "config": config.score}
    parts = [tmp_path / f"scores-0000{n}-of-00002.csv" for n in (1, 2)]
    first, second = parts
    for number in (1, 2):
        score(run_folder, few, part=(number, 2), **call)
    names = sorted(path.name for path in few.iterdir())
    # Each part has a row for each of its photographs, but its list is another one.
    (few / names[-1]).rename(few / "z.png")
    score(run_folder, few, part=(2, 2), overwrite=True, **call)
    with raises_naming(DrtfError, first, "--part 1/2", "--overwrite"):
        score(run_folder, few, merge=2, **call)
    with raises_naming(DrtfError, first, "--overwrite"):
        score(run_folder, few, part=(1, 2), **call)
    score(run_folder, few, part=(1, 2), overwrite=True, **call)
    assert count_scored == [4, 4, 4, 4]
    report = score(run_folder, few, merge=2, **call)
    assert len(report.load_table()) == len(names)
    second.write_bytes(call["out"].read_bytes())  # a whole table, not a part
    with raises_naming(DrtfError, second, "--part 2/2", "--overwrite"):
        score(run_folder, few, merge=2, overwrite=True, **call)


def test_merge_can_leave_out_the_comparison_of_files(
    run_folder, few, config, tmp_path, monkeypatch
):
    call = {"out": tmp_path / "scores.csv", "config": config.score}
    for number in (1, 2):
        part = score(run_folder, few, part=(number, 2), **call)
        assert len(part.load_table()) == 4
    monkeypatch.setattr(refs.PhotographRef, "sha256", pytest.fail)
    report = score(run_folder, few, merge=2, compare_files=False, **call)
    assert report.summary.num_scored == 8


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


def test_ungradable_photographs_get_a_label_only_if_asked(
    run_copy, config, tmp_path, save_rule
):
    save_rule(run_copy, 0.0)
    images = tmp_path / "images"
    images.mkdir()
    good = draw_photograph(1, patient_seed=0, eye="left", seed=0).image[::2, ::2]
    page = np.full((200, 200, 3), 240, np.uint8)
    page[20:180:8] = 10
    (images / "a_good.png").write_bytes(encode(good))
    (images / "b_dark.png").write_bytes(encode((good * 0.15).astype(np.uint8)))
    (images / "c_text.png").write_bytes(encode(page))
    out = tmp_path / "scores.csv"
    reports, tables = {}, {}
    for choice in ("flag", "predict", "reject"):
        chosen = config.score.model_copy(update={"on_ungradable": choice})
        reports[choice] = score(
            run_copy, images, out=out, config=chosen, overwrite=True
        ).summary
        tables[choice] = read(out)
    flagged, predicted, rejected = tables.values()
    assert [row["flags"] for row in flagged] == ["", "too_dark", "no_field"]
    assert [bool(row["score"]) for row in flagged] == [True] * 3
    for column in ("predicted_label", "probability"):
        assert [bool(row[column]) for row in flagged] == [True, False, False]
        assert all(row[column] for row in predicted)
    assert reports["flag"].num_without_label == reports["flag"].num_flagged == 2
    assert reports["predict"].num_positive == 3
    assert reports["reject"].num_failed == 2
    assert reports["reject"].errors["ungradable"].count == 2
    assert [row["score"] for row in rejected] == [flagged[0]["score"], "", ""]
    assert rejected[1]["error"] == "ungradable: too_dark"
    unasked = config.score.model_copy(update={"on_ungradable": "flag"})
    with raises_naming(DrtfError, "--format", "--on-ungradable", "predict", "reject"):
        score(run_copy, images, out=out, config=unasked, form="aptos")


def test_submission_has_a_grade_for_each_image(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        path = images / f"{number}_left.png"
        path.write_bytes(encode(draw_fundus(seed=number)))
    (images / "3_left.png").write_bytes(b"")
    out = tmp_path / "submission.csv"
    report = score(run_folder, images, out=out, config=config.score, form="kaggle")
    assert (report.out, report.table) == (out, tmp_path / "submission-scores.csv")
    parquet = tmp_path / "s.parquet"
    with raises_naming(DrtfError, "--out", ".csv", parquet) as error:
        score(run_folder, images, out=parquet, config=config.score, form="kaggle")
    assert str(error.value).count(".parquet") == 1  # the one that was given
    labels = [row["predicted_label"] or "0" for row in read(report.table)]
    assert read(out) == [
        {"image": f"{number}_left", "level": label}
        for number, label in enumerate(labels)
    ]
    out = tmp_path / "aptos.csv"
    score(run_folder, images, out=out, config=config.score, form="aptos")
    assert read(out)[0] == {"id_code": "0_left", "diagnosis": labels[0]}
    (tmp_path / "mine.csv").write_text("precious")
    with raises_naming(DrtfError, tmp_path / "mine.csv", "--overwrite"):
        score(
            run_folder,
            images,
            out=tmp_path / "mine.csv",
            config=config.score,
            form="aptos",
        )


def test_submission_refuses_equal_names(run_folder, photographs, config, tmp_path):
    for name in ("a/1_left.png", "b/1_left.png"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(photographs / "images" / "0_left.png", tmp_path / name)
    out = tmp_path / "submission.csv"
    facts = ("a/1_left.png", "b/1_left.png", "--format")
    with raises_naming(DrtfError, *facts):
        score(run_folder, tmp_path, out=out, config=config.score, form="kaggle")
    assert not out.exists()


def test_score_predicts_grades_with_the_cut_points_of_the_run(
    grades_run_folder, photographs, config, tmp_path, save_rule
):
    shutil.copytree(grades_run_folder, tmp_path / "run")
    images, out = photographs / "images", tmp_path / "scores.csv"
    score(tmp_path / "run", images, out=out, config=config.score)
    expected = [float(row["expected_grade"]) for row in read(out)]
    rounded = [row["predicted_grade"] for row in read(out)]
    assert rounded == [f"{value:.0f}" for value in expected]
    middle = float(np.median(expected))
    save_rule(tmp_path / "run", 0.5, cut_points=(0, middle, middle, 4))
    out = tmp_path / "cut.csv"
    score(tmp_path / "run", images, out=out, config=config.score)
    grades = [row["predicted_grade"] for row in read(out)]
    assert grades == ["3" if value > middle else "1" for value in expected]
    out = tmp_path / "submission.csv"
    score(tmp_path / "run", images, out=out, config=config.score, form="kaggle")
    assert [row["level"] for row in read(out)] == grades


def test_score_escapes_formulas_and_line_breaks(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, name in enumerate(("=1+1.png", "@a.png", "b\nc.png", "b\\nc.png")):
        (images / name).write_bytes(encode(draw_fundus(seed=number)))
    out = tmp_path / "scores.csv"
    assert (
        score(run_folder, images, out=out, config=config.score).summary.num_scored == 4
    )
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


def test_rows_say_what_they_were_scored_with(
    run_copy, few, config, tmp_path, save_rule, shard_dataset
):
    def rows(**settings):
        chosen = config.score.model_copy(update=settings)
        out = tmp_path / "scores.csv"
        report = score(run_copy, few, out=out, config=chosen, overwrite=True)
        return report, read(out)

    report, unevaluated = rows()
    assert unevaluated[0]["threshold"] == "0.500000"
    assert unevaluated[0]["threshold_rule"] == "none"
    assert unevaluated[0]["num_views"] == "1"
    index = shard_dataset.load_index(["path", "split", "sha256"]).set_index("path")
    used = [index["split"][row["path"]] in ("train", "val") for row in unevaluated]
    assert [row["in_training"] == "1" for row in unevaluated] == used
    assert report.summary.num_in_training == sum(used) > 0
    hashes = [index["sha256"][row["path"]][:16] for row in unevaluated]
    assert [row["photograph"] for row in unevaluated] == hashes
    assert [row["patient"] for row in unevaluated][:3] == ["0", "0", "10"]
    save_rule(run_copy, 0.25, tta="flips5")
    _, evaluated = rows()
    assert evaluated[0]["threshold_rule"] == "youden"
    assert evaluated[0]["num_views"] == "5"
    # Six photographs calibrate, which supports neither 0 nor 1, and one decimal.
    values = {row["probability"] for row in evaluated}
    assert values <= {f"{tenths / 10:.1f}" for tenths in range(2, 9)}
    report, given = rows(threshold=1.0)
    assert report.summary.num_positive == 0
    assert {row["threshold"] for row in given} == {"1.000000"}
    assert given[0]["threshold_rule"] == "given"


def test_equal_scores_and_disagreeing_views_are_noted(
    run_folder, few, config, tmp_path
):
    def constant(run, photographs, **kwargs):
        for item in prepare_photographs(run, photographs, num_workers=1):
            yield item, Scored(0.25, 0.75, None, None)

    with mock.patch.object(scorer, "score_photographs", constant):
        report = score(
            run_folder, few, out=tmp_path / "scores.csv", config=config.score
        )
    assert report.summary.scores == {"0.250000"}
    assert report.summary.num_disagreeing == 8
    assert {row["flags"] for row in read(report.table)} == {
        "not_a_fundus;views_disagree"
    }
    notes = " ".join(report.notes())
    assert "equal" in notes
    assert "views_disagree" in notes


def test_tables_open_in_spreadsheets_and_libraries(run_folder, config, tmp_path):
    images = tmp_path / "눈 사진"
    images.mkdir()
    (images / "왼쪽.png").write_bytes(encode(draw_fundus(seed=1)))
    out = tmp_path / "scores.csv"
    report = score(run_folder, images, out=out, config=config.score)
    assert out.read_bytes().startswith(b"\xef\xbb\xbfid,path")
    assert report.load_table()["id"].tolist() == ["왼쪽"]
    assert pd.read_csv(out)["id"].tolist() == ["왼쪽"]
    assert score(run_folder, images, out=out, config=config.score).is_reused
    (images / "b.png").write_bytes(encode(draw_fundus(seed=2)))
    out = tmp_path / "scores.parquet"
    score(run_folder, images, out=out, config=config.score)
    assert pd.read_parquet(out)["id"].tolist() == ["b", "왼쪽"]


def test_scores_go_to_and_from_a_store(run_folder, few, config, tmp_path, monkeypatch):
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path / "cache"))
    (few / "notes.txt").write_text("no photograph")
    for path in few.iterdir():
        write_object(f"memory://eyes/photos/{path.name}", path.read_bytes())
    local, images = {"config": config.score}, "memory://eyes/photos"
    score(run_folder, few, out=tmp_path / "scores.csv", **local)
    whole = (tmp_path / "scores.csv").read_bytes()

    call = {"out": "memory://eyes/out/scores.csv", "config": config.score}
    assert not score(run_folder, images, **call).is_reused
    report = score(run_folder, images, **call)
    assert report.is_reused
    assert report.load_table()["path"].tolist() == sorted(
        path.name for path in few.glob("*.png")
    )
    assert read_object(call["out"]) == whole
    assert b"notes.txt" in read_object("memory://eyes/out/scores.skipped.csv")

    parts = {"out": "memory://eyes/parts/scores.csv", "config": config.score}
    score(run_folder, images, part=(1, 2), **parts)
    with raises_naming(DrtfError, "memory://eyes/parts/scores-00002-of-00002.csv"):
        score(run_folder, images, merge=2, **parts)
    score(run_folder, images, part=(2, 2), **parts)
    score(run_folder, images, merge=2, **parts)
    assert read_object(parts["out"]) == whole

    write_object(f"{images}/z.png", encode(draw_fundus(seed=99)))
    with raises_naming(DrtfError, parts["out"], "z.png", "--append", "--overwrite"):
        score(run_folder, images, **parts)
    table = score(
        run_folder, images, out="memory://eyes/s.parquet", config=config.score
    ).load_table()
    assert len(table) == 9


def test_a_killed_scoring_to_a_store_resumes_from_the_cache(
    run_folder, few, config, tmp_path, monkeypatch
):
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path / "cache"))
    call = {"out": "memory://killed/scores.csv", "config": config.score}
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "write_table", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(run_folder, few, **call)
    assert score(run_folder, few, **call).num_kept == 8
    assert not list(tmp_path.glob("cache/scores/*/.*"))


def test_a_scorer_gives_the_rows_of_the_table(run_folder, few, config, tmp_path):
    out = tmp_path / "scores.csv"
    (few / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (few / "=both,eyes.png").write_bytes((few / "damaged.png").read_bytes())
    score(run_folder, few, out=out, config=config.score)
    ready = scorer.load_scorer(run_folder, config.score)
    photographs = [PhotographRef(few, row["path"].lstrip("'")) for row in read(out)]
    rows = [item.row for item in ready.score(photographs)]
    lines = ready.complete_lines(map(encode_row, rows))
    assert b"".join(encode_csv(encode_header(), lines)) == out.read_bytes()

import csv
import hashlib
import itertools
import shutil
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from drtf.errors import DrtfError, LabelError, StorageError
from drtf.models.fellow_eye import FellowEye
from drtf.models.run import load_run
from drtf.photographs import references as refs
from drtf.photographs.prepare import NetworkInput, Rejected
from drtf.scoring import growing_table, watch
from drtf.scoring.growing_table import append_scores, revisions_path
from drtf.scoring.photograph_scores import Scored
from drtf.scoring.score_table import encode_header, load_rows
from drtf.scoring.scorer import ScoredPhotograph, Scorer
from drtf.scoring.scoring import skipped_path
from drtf.storage import read_object, write_object
from naming import assert_names, raises_naming

# Both eyes count equally.
WEIGHTS = FellowEye(offset=0.0, own=0.5, fellow=0.5, num_pairs=50)


class FakeScorer(Scorer):
    """Scores a file by the number in its first word, without a network."""

    def score(self, photographs, *, picture_size=0):
        for photograph in photographs:
            data = photograph.read()
            word, *flags = data.decode().split()
            if word == "bad":
                prepared, scored = Rejected(photograph.path, "empty", "no pixels"), None
            else:
                sha256 = hashlib.sha256(data).hexdigest()
                image = np.zeros((1, 1, 3), np.uint8)
                flags = [x for x in flags if x == "blurred"]
                prepared = NetworkInput(photograph.path, sha256, image, flags, None)
                scored = Scored(np.float32(word), 0.0, None, None)
            yield ScoredPhotograph(prepared, self.row(photograph, prepared, scored))


@pytest.fixture
def scorer(run_folder, tmp_path, config, save_rule):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    save_rule(run, 0.5, fellow_eye=WEIGHTS)
    flag = config.score.model_copy(update={"on_ungradable": "flag"})
    return FakeScorer(load_run(run), flag, "")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def add(images, **files):
    for name, text in files.items():
        (images / f"{name}.png").write_text(text)


def cells(out, *columns):
    return [tuple(row[x] for x in columns) for _, row in load_rows(out)]


def side_file(path):
    with Path(path).open(newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_only_new_content_is_scored_and_earlier_rows_stay(
    scorer, images, tmp_path, suffix
):
    out = tmp_path / f"scores.{suffix}"
    add(images, a="0.1 a", b="0.9 b", c="bad")
    append_scores(scorer, images, out)
    first = out.read_bytes() if suffix == "csv" else pd.read_parquet(out)
    (images / "d.png").write_text("0.1 a")  # a copy
    (images / "b.png").rename(images / "e.png")
    add(images, a="0.2 changed", f="0.3 f", 눈="0.4 name")
    growth = append_scores(scorer, images, out)
    assert growth.changed == ["a.png"]
    # The first one of the files with the content of a gone or changed file is renamed.
    assert growth.duplicates == [
        ("d.png", "copy", "a.png"),
        ("e.png", "renamed", "b.png"),
    ]
    assert growth.summary.num_rows == 3
    assert growth.num_rows == 6
    if suffix == "csv":
        mark = b"\xef\xbb\xbf"  # for the name that is not ASCII
        assert out.read_bytes().startswith(mark + first)
    else:
        pd.testing.assert_frame_equal(pd.read_parquet(out)[:3], first)
    paths = [path for (path,) in cells(out, "path")]
    assert paths == ["a.png", "b.png", "c.png", "a.png", "f.png", "눈.png"]
    assert side_file(skipped_path(out)) == [
        ("d.png", "copy: a.png"),
        ("e.png", "renamed: b.png"),
    ]
    before = out.read_bytes()
    assert append_scores(scorer, images, out).summary.num_rows == 0
    assert out.read_bytes() == before
    add(images, a="0.1 a")
    kinds = {x.path: x.kind for x in append_scores(scorer, images, out).duplicates}
    assert kinds["a.png"] == "changed back"


def without_nan(cell):
    return "" if pd.isna(cell) else cell


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_fellow_eye_that_arrives_later_changes_the_patient_and_is_a_revision(
    scorer, images, tmp_path, suffix
):
    out = tmp_path / f"scores.{suffix}"
    patients = tmp_path / f"scores-patients.{suffix}"
    load = pd.read_csv if suffix == "csv" else pd.read_parquet
    add(images, **{"1_left": "0.4", "2_left": "0.3"})
    growth = append_scores(scorer, images, out, by_patient=True)
    assert not growth.revisions
    assert load(patients)["predicted_label"].tolist() == [0, 0]
    assert load(patients)["missing_eye"].tolist() == ["right", "right"]
    add(images, **{"1_right": "0.9"})
    growth = append_scores(scorer, images, out, by_patient=True)
    assert cells(out, "path", "fellow_used", "predicted_label") == [
        ("1_left.png", "0", "0"),
        ("2_left.png", "0", "0"),
        ("1_right.png", "1", "1"),
    ]
    assert {(x.path, x.column) for x in growth.revisions} >= {
        ("1_left.png", "score"),
        ("1_left.png", "fellow_used"),
        ("1_left.png", "predicted_label"),
    }
    assert {x.path for x in growth.revisions} == {"1_left.png"}
    assert ("1_left.png", "predicted_label", "0", "1") in side_file(revisions_path(out))
    table = load(patients).map(without_nan)
    assert table["predicted_label"].tolist() == [1, 0]
    assert table["both_eyes"].tolist() == [1, 0]
    assert table["num_photographs"].tolist() == [2, 1]
    whole = tmp_path / "whole.csv"
    append_scores(scorer, images, whole, by_patient=True)
    at_once = pd.read_csv(tmp_path / "whole-patients.csv")
    at_once = at_once.map(without_nan)
    columns = [x for x in at_once if x not in ("patient", "photographs")]
    pd.testing.assert_frame_equal(table[columns], at_once[columns], check_dtype=False)


def test_a_patient_has_the_result_of_the_worse_eye(scorer, images, tmp_path):
    add(
        images,
        **{
            "1_left": "0.2 x",
            "1_right": "0.3 x",
            "1_right_2": "0.9 blurred",
            "2_left": "0.8 blurred 2",
            "2_right": "bad 2",
            "scan": "0.6 scan",
        },
    )
    append_scores(scorer, images, tmp_path / "s.csv", by_patient=True)
    with (tmp_path / "s-patients.csv").open() as file:
        rows = {row["photographs"].split(";")[0]: row for row in csv.DictReader(file)}
    facts = ("patient", "worse_eye", "left_eye", "right_eye", "missing_eye")
    counts = ("num_photographs", "num_ungradable", "num_without_score")
    assert {x: tuple(row[y] for y in facts) for x, row in rows.items()} == {
        "1_left.png": ("1", "right", "negative", "negative", ""),
        "2_left.png": ("2", "", "ungradable", "error", ""),
        "scan.png": ("", "", "unknown", "unknown", ""),
    }
    assert {x: tuple(row[y] for y in counts) for x, row in rows.items()} == {
        "1_left.png": ("3", "1", "0"),
        "2_left.png": ("2", "1", "1"),
        "scan.png": ("1", "0", "0"),
    }
    assert rows["2_left.png"]["predicted_label"] == ""
    assert rows["1_left.png"]["predicted_label"] == "0"


def test_a_table_has_rows_of_one_model_and_its_settings(scorer, images, tmp_path):
    out = tmp_path / "scores.csv"
    add(images, a="0.1")
    append_scores(scorer, images, out)
    before = out.read_bytes()
    config = scorer.config.model_copy(update={"threshold": 0.25})
    other = FakeScorer(scorer.run, config, scorer.patient_pattern)
    with raises_naming(DrtfError, out, "threshold", "0.5", "0.25"):
        append_scores(other, images, out)
    config = scorer.config.model_copy(update={"on_ungradable": "predict"})
    with raises_naming(DrtfError, out, "--on-ungradable", "--out", "--overwrite"):
        append_scores(FakeScorer(scorer.run, config, ""), images, out)
    out.write_bytes(before.replace(b"\n", b"\r\n"))
    with raises_naming(DrtfError, out):
        append_scores(scorer, images, out)


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_call_loses_no_row_and_repeats_none(scorer, images, tmp_path):
    out, log = tmp_path / "scores.csv", tmp_path / ".scores.csv.rows"
    add(images, a="0.1", b="0.2")
    append_scores(scorer, images, out)
    add(images, c="0.3", d="0.4", e="0.5")
    score = FakeScorer.score

    def score_two(self, photographs, **options):
        yield from itertools.islice(score(self, photographs, **options), 2)
        raise KeyboardInterrupt

    with (
        mock.patch.object(FakeScorer, "score", score_two),
        pytest.raises(KeyboardInterrupt),
    ):
        append_scores(scorer, images, out)
    add(images, d="0.6 changed meanwhile")
    with (
        mock.patch.object(growing_table, "write_grown_table", interrupted),
        pytest.raises(KeyboardInterrupt),
    ):
        append_scores(scorer, images, out)
    logged = log.read_bytes()
    assert append_scores(scorer, images, out).summary.num_rows == 3
    expected = [("a.png", "0.1"), ("b.png", "0.2"), ("c.png", "0.3")]
    expected += [("d.png", "0.6"), ("e.png", "0.5")]
    table = [(path, score[:3]) for path, score in cells(out, "path", "own_score")]
    assert sorted(table) == expected
    # Killed after the table was written, but before the log was removed.
    log.write_bytes(logged)
    before = out.read_bytes()
    assert append_scores(scorer, images, out).summary.num_rows == 0
    assert out.read_bytes() == before
    assert not log.exists()


def test_a_table_in_a_store_is_not_overwritten_by_a_second_host(
    scorer, images, tmp_path, monkeypatch
):
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path / "cache"))
    out = "memory://grow/scores.csv"
    add(images, a="0.1", b="0.2")
    append_scores(scorer, images, out)
    other = read_object(out) + b"row of another host\n"
    add(images, c="0.3")
    write = growing_table.write_grown_table

    def write_late(*arguments):
        write_object(out, other)
        write(*arguments)

    with (
        mock.patch.object(growing_table, "write_grown_table", write_late),
        raises_naming(StorageError, out),
    ):
        append_scores(scorer, images, out)
    assert read_object(out) == other
    write_object(out, other.rpartition(b"row of")[0])
    with mock.patch.object(FakeScorer, "score", interrupted):  # its row is in the log
        assert append_scores(scorer, images, out).summary.num_rows == 1
    assert [path for (path,) in cells(out, "path")] == ["a.png", "b.png", "c.png"]


def run_watch(scorer, images, out, monkeypatch, *steps):
    """Watch a folder, with a step between looks; return what each look appended."""
    signals, found, remaining = [], [], iter(steps)

    def wait(signals, seconds):
        found.append([])
        step = next(remaining, lambda: signals.append(signal.SIGTERM))
        step()

    monkeypatch.setattr(watch, "wait_for_signal", wait)
    found.extend(
        [path for (path,) in cells(out, "path")]
        for _ in watch.watch(scorer, images, out, signals=signals)
    )
    return [paths for paths in found if paths]


def wait_only():
    pass


def test_a_photograph_is_scored_when_it_has_stopped_changing(
    scorer, images, tmp_path, monkeypatch, caplog
):
    out, path = tmp_path / "scores.csv", images / "b.png"

    def grow():
        with path.open("a") as file:
            file.write("0.5" if not path.stat().st_size else " more")

    def lock_file():
        monkeypatch.setattr(refs.PhotographRef, "read_head", lambda *_: None)

    steps = [
        lambda: add(images, a="0.1"),  # the folder was empty
        path.touch,
        grow,
        grow,
        wait_only,
        lambda: add(images, c="0.3"),
        wait_only,
        wait_only,
    ]
    grown = run_watch(scorer, images, out, monkeypatch, *steps)
    assert grown == [["a.png"], ["a.png", "b.png"], ["a.png", "b.png", "c.png"]]
    assert_names(caplog.text, images)
    caplog.clear()
    lock_file()
    add(images, d="0.4")
    assert not run_watch(scorer, images, out, monkeypatch, *[wait_only] * 3)
    assert caplog.text.count("d.png") == 1


def test_watching_revises_rows_of_photographs_that_did_not_arrive_just_now(
    scorer, images, tmp_path, monkeypatch
):
    out, table = tmp_path / "scores.csv", images / "list.csv"
    add(images, a="0.1")
    table.write_text("path,patient\na.png,1\n")

    def correct():
        add(images, b="0.2")
        table.write_text("path,patient\na.png,2\nb.png,3\n")

    steps = [wait_only, wait_only, correct, wait_only]
    grown = run_watch(scorer, table, out, monkeypatch, *steps)
    assert grown == [["a.png"], ["a.png", "b.png"]]
    revision = ("a.png", "patient", "1", "2")
    assert side_file(revisions_path(out)) == [revision]
    # A photograph that is being replaced says nothing about the row of the earlier one.
    steps = [
        wait_only,
        lambda: (add(images, c="0.3"), table.write_text("path\na.png\nb.png\nc.png\n")),
        lambda: add(images, a="0.15 more"),
    ]
    run_watch(scorer, table, out, monkeypatch, *steps)
    assert not [x for x in side_file(revisions_path(out)) if x[0] == "a.png"]


def test_watching_survives_a_share_that_is_gone_for_a_while(
    scorer, images, tmp_path, monkeypatch, caplog
):
    out, away = tmp_path / "scores.csv", tmp_path / "away"
    add(images, a="0.1")

    def leave():
        images.rename(away)

    def come_back():
        away.rename(images)
        add(images, b="0.2")

    steps = [wait_only, leave, wait_only, come_back, wait_only]
    grown = run_watch(scorer, images, out, monkeypatch, *steps)
    assert grown == [["a.png"], ["a.png", "b.png"]]
    assert caplog.text.count(f"{images} does not exist") == 1
    monkeypatch.setattr(watch, "MAX_OUTAGE_SECONDS", -1)
    with raises_naming(LabelError, images):
        run_watch(scorer, images, out, monkeypatch, wait_only, leave)
    with raises_naming(LabelError, images):  # a mistake at the start
        run_watch(scorer, images, out, monkeypatch)
    away.rename(images)
    config = scorer.config.model_copy(update={"threshold": 0.25})
    other = FakeScorer(scorer.run, config, "")
    with raises_naming(DrtfError, out, "0.25"):
        run_watch(other, images, out, monkeypatch, wait_only, wait_only)


def test_watching_saves_further_results_again_if_that_fails(
    scorer, images, tmp_path, monkeypatch
):
    add(images, a="0.1")
    signals, saved = [], []
    waits = iter(range(4))
    monkeypatch.setattr(
        watch,
        "wait_for_signal",
        lambda *_: next(waits, None) is None and signals.append(signal.SIGTERM),
    )

    def save(growth):
        saved.append((growth.added, [row["path"] for row in growth.current]))
        if len(saved) == 1:
            raise OSError("no space")

    growths = list(
        watch.watch(
            scorer, images, tmp_path / "scores.csv", signals=signals, save_results=save
        )
    )
    assert saved == [(["a.png"], ["a.png"]), ([], ["a.png"])]
    assert len(growths) == 1


def test_a_signal_ends_a_batch_early_and_the_next_call_continues(
    scorer, images, tmp_path, monkeypatch
):
    out, signals = tmp_path / "scores.csv", []
    add(images, a="0.1", b="0.2", c="0.3")
    monkeypatch.setattr(watch, "wait_for_signal", lambda *_: None)
    score = FakeScorer.score

    def score_and_stop(self, photographs, **options):
        for scored in score(self, photographs, **options):
            signals.append(signal.SIGINT)
            yield scored

    with mock.patch.object(FakeScorer, "score", score_and_stop):
        (growth,) = watch.watch(scorer, images, out, signals=signals)
    assert growth.num_rows == 1
    assert append_scores(scorer, images, out).num_rows == 3


@pytest.mark.parametrize(
    ("written", "saved"), [(b"\n", b"\r\n"), (b",", b";"), (b",", b"\t")]
)
def test_a_table_that_a_spreadsheet_saved_is_refused(tmp_path, written, saved):
    table = tmp_path / "scores.csv"
    table.write_bytes(encode_header().replace(written, saved))
    with raises_naming(DrtfError, table, "spreadsheet"):
        list(load_rows(table))

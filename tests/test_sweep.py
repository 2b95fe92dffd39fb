import json
import re
import signal

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from drtf.bench import sweep as module
from drtf.bench.sweep import sweep
from drtf.errors import DrtfError, StoppedError
from drtf.evaluation.metrics import mean_roc_auc
from drtf.intervals import Estimate
from drtf.labels.sources import Source
from naming import assert_names, raises_naming

pytestmark = pytest.mark.usefixtures("no_tensorboard_images")


def change(config, **update):
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def test_configs_are_trained_evaluated_and_compared(
    photographs, config, tmp_path, monkeypatch, capsys, same_process
):
    first = change(config, epochs=1)
    second = change(config, epochs=2, loss="focal")
    source = Source(photographs / "images", photographs / "labels.csv")
    call = {"out": tmp_path / "sweep", "num_seeds": 1}
    results = sweep([("plain", first), ("focal", second)], [source], **call)
    plain, focal = results
    steps = [x for x in capsys.readouterr().err.splitlines() if "config" in x]
    assert_names(steps[0], "plain", 42, "1 of 2", "1 left")
    assert_names(steps[1], "focal", 42, "2 of 2", "0 left")
    assert (plain.nearest, plain.changes) == ("", [])
    assert focal.nearest == "plain"
    assert focal.changes == ["train.epochs=2", 'train.loss="focal"']
    assert plain.difference == {}
    for grade, difference in focal.difference.items():
        expected = focal.roc_auc[grade].value - plain.roc_auc[grade].value
        assert difference.value == pytest.approx(expected)
    assert plain.seeds == [42]
    assert len(plain.validation) == 1
    assert len(list((tmp_path / "sweep" / "datasets").iterdir())) == 1
    for result in results:
        for grade, estimate in result.roc_auc.items():
            assert 0 <= estimate.ci_low <= estimate.value <= estimate.ci_high <= 1, (
                grade
            )
        assert result.seconds > 0
        assert result.peak_memory_mb > 100
    table = pd.read_csv(tmp_path / "sweep" / "results-test.csv")
    assert table["config"].tolist() == ["plain", "focal"]
    assert table["roc_auc_grade_1"].tolist() == pytest.approx(
        [result.roc_auc[1].value for result in results]
    )
    assert table["difference_grade_2_ci_low"].tolist() == pytest.approx(
        [np.nan, focal.difference[2].ci_low], nan_ok=True
    )
    page = (tmp_path / "sweep" / "results-test.md").read_text()
    assert page.count("\n") == 4
    figure = np.asarray(Image.open(tmp_path / "sweep" / "results-test.png"))
    assert figure.std() > 0

    def refuse(*args, **kwargs):
        raise AssertionError("the evaluation is complete already")

    monkeypatch.setattr(module, "evaluate", refuse)
    files = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*.keras")
    }
    assert sweep([("plain", first), ("focal", second)], [source], **call) == results
    assert len(files) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())


def test_changes_are_relative_to_the_most_similar_earlier_config(config):
    earlier = {
        "plain": config,
        "focal": change(config, loss="focal"),
        "again": change(config, loss="focal"),
    }
    other = change(config, seed=7)
    assert module.nearest_config(earlier, other) == ("plain", ["train.seed=7"])
    other = change(config, loss="focal", seed=7)
    assert module.nearest_config(earlier, other) == ("again", ["train.seed=7"])


def test_a_changed_config_does_not_reuse_old_results(
    photographs, config, tmp_path, request
):
    source = Source(photographs / "images", photographs / "labels.csv")
    call = {"out": tmp_path / "sweep", "num_seeds": 1}
    # Only this sweep starts processes, as it does for a user.
    sweep([("one", change(config, epochs=1))], [source], **call)
    request.getfixturevalue("same_process")
    run = tmp_path / "sweep" / "runs" / "one-seed-42"
    with raises_naming(DrtfError, "one", run, "train.epochs", 1, 2):
        sweep([("one", change(config, epochs=2))], [source], **call)
    settings = config.evaluate.model_copy(update={"tta": "dihedral8"})
    changed = change(config, epochs=1).model_copy(update={"evaluate": settings})
    sweep([("one", changed)], [source], **call)
    (result,) = sweep([("one", changed)], [source], **call, split="val")
    val = pd.read_csv(run / "evaluation-val" / "predictions.csv")
    roc_auc = roc_auc_score(val["grade"] >= 1, val["score"])
    assert result.roc_auc[1].value == pytest.approx(roc_auc)
    test = pd.read_csv(run / "evaluation-test" / "predictions.csv")
    assert not set(val["id"]) & set(test["id"])
    assert (
        json.loads((run / "evaluation-test" / "metrics.json").read_text())["tta"]
        == "dihedral8"
    )


def test_labels_without_a_grade_leave_its_columns_empty(
    photographs, config, tmp_path, same_process
):
    rows = (photographs / "labels.csv").read_text().splitlines()
    pairs = [row.split(",") for row in rows[1:]]
    labels = tmp_path / "labels.csv"
    lines = [rows[0], *(f"{name},{min(int(grade), 1)}" for name, grade in pairs)]
    labels.write_text("\n".join(lines) + "\n")
    config = change(config, epochs=1)
    results = sweep(
        [("one", config), ("two", change(config, loss="focal"))],
        [Source(photographs / "images", labels)],
        out=tmp_path / "sweep",
        num_seeds=1,
    )
    for row in module.list_rows(results):
        cells = dict(zip(module.COLUMNS, row, strict=True))
        assert next(cells[name] for name in cells if "grade >= 1" in name)
        unknown = [cells[name] for name in cells if "grade >= 2" in name]
        assert unknown == ["", ""]


def test_a_config_evaluated_on_other_photographs_has_no_difference(tmp_path):
    estimates = {grade: Estimate(0.5, 0.4, 0.6) for grade in (1, 2)}
    first, second = (
        module.Result(
            name=name,
            nearest=nearest,
            changes=changes,
            task="binary",
            seeds=[42, 43],
            validation=[0.5, 0.6],
            roc_auc=estimates,
            difference={},
            seconds=60,
            peak_memory_mb=1000,
        )
        for name, nearest, changes in (
            ("one", "", []),
            ("two", "one", ['labels.patient_pattern="a|b"']),
        )
    )
    module.save_results([first, second], tmp_path, "val")
    lines = (tmp_path / "results-val.md").read_text().splitlines()
    assert "| 0.550 (0.500 to 0.600) |" in lines[2]
    places = [i for i, name in enumerate(module.COLUMNS) if "grade >=" in name][2:]
    alone, compared = module.list_rows([first, second])
    for place in places:
        assert alone[place] == ""
        assert re.fullmatch(r"\D+", compared[place])  # a reason, not a number
        assert compared[place] in lines[3]
    assert r'labels.patient_pattern="a\|b"' in lines[3]
    table = pd.read_csv(tmp_path / "results-val.csv")
    assert table["difference_grade_1"].isna().all()


def test_a_stopped_sweep_names_the_config(photographs, config, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise StoppedError("with --resume", signal.SIGTERM)

    monkeypatch.setattr(module, "run_in_process", stop)
    source = Source(photographs / "images", photographs / "labels.csv")
    with raises_naming(StoppedError, "one") as stopped:
        sweep([("one", config)], [source], out=tmp_path / "sweep", num_seeds=1)
    assert stopped.value.signal == signal.SIGTERM


def test_a_missing_split_is_an_error_before_any_training(
    photographs, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "train", None)
    source = Source(photographs / "images", photographs / "labels.csv")
    with raises_naming(DrtfError, "one", "vall", "train", "val", "test"):
        sweep(
            [("one", config)],
            [source],
            out=tmp_path,
            num_seeds=1,
            split="vall",
        )


def test_two_configs_with_the_same_name_are_refused(photographs, config, tmp_path):
    source = Source(photographs / "images", photographs / "labels.csv")
    with raises_naming(DrtfError, "same"):
        sweep(
            [("same", config), ("same", config)],
            [source],
            out=tmp_path,
            num_seeds=1,
        )


def test_mean_roc_auc_averages_the_models_and_compares_with_a_baseline():
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, 60)
    scores = rng.random((3, 60))
    patients = np.arange(60) // 2
    mean = mean_roc_auc(y_true, scores, patients=patients, num_resamples=300, seed=1)
    expected = np.mean([roc_auc_score(y_true, x) for x in scores])
    assert mean.value == pytest.approx(expected)
    single = mean_roc_auc(
        y_true, scores[:1], patients=patients, num_resamples=300, seed=1
    )
    difference = mean_roc_auc(
        y_true,
        scores[:2],
        patients=patients,
        num_resamples=300,
        seed=1,
        baseline=scores[2:],
    )
    areas = [roc_auc_score(y_true, x) for x in scores]
    assert difference.value == pytest.approx((areas[0] + areas[1]) / 2 - areas[2])
    assert difference.ci_low < difference.value < difference.ci_high
    itself = mean_roc_auc(
        y_true,
        scores,
        patients=patients,
        num_resamples=100,
        seed=1,
        baseline=scores[::-1],
    )
    assert itself.ci_low == pytest.approx(0, abs=1e-12)
    assert itself.ci_high == pytest.approx(0, abs=1e-12)
    # The mean of three models varies less than one model.
    assert mean.ci_high - mean.ci_low < single.ci_high - single.ci_low

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from drtf.errors import RunError
from drtf.evaluation.comparison import compare, evaluation_folder
from drtf.evaluation.metrics import compare_roc_auc
from drtf.intervals import Estimate
from naming import raises_naming

BOOTSTRAP = {"num_resamples": 1000, "seed": 0}


def sample(num=600, seed=0):
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 5, num)
    noise = rng.normal(size=(3, num))
    good = grades + 2 * noise[0]
    return grades, good, grades + 2 * noise[1], grades + 9 * noise[2]


def write(folder, grades, scores):
    folder.mkdir(parents=True)
    ids = [
        f"{number // 2}_{'left' if number % 2 else 'right'}"
        for number in range(len(grades))
    ]
    table = pd.DataFrame(
        {"id": ids, "grade": grades, "score": scores, "predicted_label": 0}
    )
    table["patient"] = [name.partition("_")[0] for name in ids]
    table.to_csv(folder / "predictions.csv", index=False)
    metrics = {
        "sensitivity": {"value": 0.8, "ci_low": 0.7, "ci_high": 0.9},
        "specificity": {"value": None, "ci_low": None, "ci_high": None},
        "accuracy": {"value": 0.8, "ci_low": 0.7, "ci_high": 0.9},
        "positive_from_grade": 2,
        "tta": "flips5",
        "threshold": {"value": 0.25, "rule": "youden"},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_compare_compares_each_run_with_the_first(tmp_path):
    grades, good, alike, poor = sample(seed=1)
    folders = [
        write(tmp_path / name / "evaluation-test", grades, scores)
        for name, scores in (("good", good), ("alike", alike), ("poor", poor))
    ]
    first, second, third = compare(folders, min_grade=2, **BOOTSTRAP)
    for item, scores in ((first, good), (second, alike), (third, poor)):
        assert item.roc_auc.value == pytest.approx(roc_auc_score(grades >= 2, scores))
        assert item.difference.value == pytest.approx(
            item.roc_auc.value - first.roc_auc.value
        )
    # What can't be otherwise has no interval.
    assert np.isnan(first.difference.ci_low)
    assert first.p_value == 1
    assert second.difference.ci_low < 0 < second.difference.ci_high
    assert second.p_value > 0.05
    assert third.difference.ci_high < 0
    assert third.p_value < 0.01


def test_compare_returns_the_evaluation_of_each_run(tmp_path):
    grades, good, *_ = sample()
    folder = write(tmp_path / "a" / "evaluation-test", grades, good)
    (found,) = compare([folder], min_grade=1, **BOOTSTRAP)
    positive_from, tta, threshold, metrics = found.summary
    assert (positive_from, tta, threshold) == (2, "flips5", 0.25)
    assert metrics["sensitivity"] == Estimate(0.8, 0.7, 0.9)
    assert np.isnan(metrics["specificity"].value)
    assert set(metrics) == {"sensitivity", "specificity"}


def test_compare_is_independent_of_the_order_of_photographs(tmp_path):
    grades, good, alike, _ = sample()
    folders = [
        write(tmp_path / name / "evaluation-test", grades, scores)
        for name, scores in (("a", good), ("b", alike))
    ]
    before = compare(folders, min_grade=1, **BOOTSTRAP)[1]
    path = folders[1] / "predictions.csv"
    pd.read_csv(path)[::-1].to_csv(path, index=False)
    after = compare(folders, min_grade=1, **BOOTSTRAP)[1]
    assert (after.roc_auc, after.difference) == (before.roc_auc, before.difference)


@pytest.mark.parametrize("score", ["", "x", "nan"])
def test_compare_refuses_damaged_predictions(tmp_path, score):
    grades, good, *_ = sample()
    folder = write(tmp_path / "a" / "evaluation-test", grades, good)
    path = folder / "predictions.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[3, "score"] = score
    table.to_csv(path, index=False)
    with raises_naming(RunError, path, "drtf evaluate"):
        compare([folder], min_grade=1, **BOOTSTRAP)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"tta": "none"}',
        '{"positive_from_grade": 1, "tta": "none", "threshold": {"value": 0.5}, '
        '"sensitivity": {"value": "x", "ci_low": 0, "ci_high": 1}}',
    ],
)
def test_compare_refuses_damaged_metrics(tmp_path, text):
    grades, good, *_ = sample()
    folder = write(tmp_path / "a" / "evaluation-test", grades, good)
    path = folder / "metrics.json"
    path.write_text(text)
    with raises_naming(RunError, path, "drtf evaluate") as error:
        compare([folder], min_grade=1, **BOOTSTRAP)
    assert not isinstance(error.value.__cause__, OSError)
    path.unlink()
    with raises_naming(RunError, path, "drtf evaluate") as error:
        compare([folder], min_grade=1, **BOOTSTRAP)
    assert isinstance(error.value.__cause__, FileNotFoundError)
    assert "Errno" not in str(error.value)  # missing, and not a damaged file


def test_compare_accepts_a_patient_called_na(tmp_path):
    grades, good, alike, _ = sample(seed=1)
    folders = [
        write(tmp_path / name / "evaluation-test", grades, scores)
        for name, scores in (("good", good), ("alike", alike))
    ]
    for folder in folders:
        path = folder / "predictions.csv"
        lines = path.read_text().splitlines()
        lines[1] = lines[1].replace("0_right", "NA_right").rpartition(",")[0] + ",NA"
        path.write_text("\n".join(lines) + "\n")
    assert len(compare(folders, min_grade=2, **BOOTSTRAP)) == 2


def test_p_value_is_never_zero():
    y_true = np.repeat([1, 0], [5, 15])
    scores = np.stack([np.arange(20) / 20, np.arange(20)[::-1] / 20])
    (_, (_, _, p_value)) = compare_roc_auc(
        y_true, scores, patients=np.arange(20), **BOOTSTRAP
    )
    assert 1 / 1000 < p_value < 0.01


def test_p_value_rejects_equal_runs_at_its_level():
    rejected = 0
    for seed in range(100):
        grades, first, second, _ = sample(200, seed)
        (_, (_, _, p_value)) = compare_roc_auc(
            (grades >= 2).astype(int),
            np.stack([first, second]),
            patients=np.arange(200),
            num_resamples=300,
            seed=seed,
        )
        rejected += p_value < 0.1
    assert 2 <= rejected <= 20


def test_compare_refuses_other_photographs(tmp_path):
    grades, good, alike, _ = sample()
    first = write(tmp_path / "a" / "evaluation-test", grades, good)
    second = write(tmp_path / "b" / "evaluation-test", grades[:-2], alike[:-2])
    with raises_naming(RunError, first, second):
        compare([first, second], min_grade=1, **BOOTSTRAP)
    path = tmp_path / "c" / "predictions.csv"
    with raises_naming(RunError, path, "drtf evaluate"):
        compare([first, path.parent], min_grade=1, **BOOTSTRAP)
    third = write(tmp_path / "d" / "evaluation-test", np.minimum(grades, 1), good)
    with raises_naming(RunError, third, 2, "--grade"):
        compare([third, third], min_grade=2, **BOOTSTRAP)


def test_evaluation_folder_names_what_to_run(tmp_path):
    grades, good, *_ = sample()
    folder = write(tmp_path / "a" / "evaluation-test", grades, good)
    with raises_naming(RunError, tmp_path / "a"):
        evaluation_folder(tmp_path / "a", "test")
    (tmp_path / "a" / "run.json").touch()
    assert evaluation_folder(tmp_path / "a", "test") == folder
    assert evaluation_folder(folder, "val") == folder
    facts = f"drtf evaluate {tmp_path / 'a'}", "--split val"
    with raises_naming(RunError, "evaluation-val", *facts):
        evaluation_folder(tmp_path / "a", "val")
    (folder / "metrics.json").unlink()  # as a stopped evaluation leaves it
    with raises_naming(RunError, "evaluation-test", "--split test"):
        evaluation_folder(tmp_path / "a", "test")

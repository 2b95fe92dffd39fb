import html
import json
import re
import shutil
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from browsing import DESK, PHONE, browser, show
from scipy.special import logit
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from drtf import figures
from drtf.data.build import build_shards
from drtf.data.sources import Source
from drtf.errors import DrtfError, RecordError
from drtf.files import hash_file
from drtf.inference import evaluation as module
from drtf.inference import page
from drtf.inference.evaluation import (
    OTHER_SET_NOTE,
    RULES,
    UNKNOWN_PATIENTS_NOTE,
    describe_classes,
    evaluate,
    is_evaluated,
)
from drtf.inference.evaluation_result import (
    CLASS_COLUMNS,
    describe_calibration,
    describe_threshold,
)
from drtf.inference.gradcam import gradcam
from drtf.inference.report import (
    FIGURES,
    GRADES_FIGURE,
    MISTAKES_FIGURE,
    REPORT_FILE,
)
from drtf.models.calibration import Calibration
from drtf.models.run import Threshold, load_history, load_run, save_model
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.training.run import train
from naming import assert_names, raises_naming


@pytest.fixture(scope="module")
def run(run_folder, tmp_path_factory):
    return shutil.copytree(run_folder, tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture(scope="module")
def evaluation(run, shards, config):
    return evaluate(run, shards, split="test", out=run / "test", config=config)


@pytest.fixture(scope="module")
def contents(run, evaluation):
    return json.loads((run / "test" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def predictions(run, evaluation):
    return pd.read_csv(run / "test" / "predictions.csv", dtype={"patient": str})


def test_predictions_hold_each_photograph_of_the_split(predictions, shard_set):
    rows = shard_set.index.loc[shard_set.split_rows("test")]
    for column in ("id", "patient", "grade"):
        assert predictions[column].tolist() == rows[column].tolist()


def test_each_metric_is_a_value_with_its_interval(contents):
    names = {
        "accuracy",
        "average_precision",
        "balanced_accuracy",
        "brier_score",
        "f1",
        "precision",
        "roc_auc",
        "sensitivity",
        "specificity",
    }
    assert names <= set(contents)
    for name in names:
        assert set(contents[name]) == {"value", "ci_low", "ci_high"}


def test_metrics_are_those_of_the_predictions(contents, predictions):
    truth = predictions["grade"] > 0
    auc = roc_auc_score(truth, predictions["score"])
    assert contents["roc_auc"]["value"] == pytest.approx(auc)
    matrix = confusion_matrix(truth, predictions["predicted_label"])
    assert contents["confusion_matrix"] == matrix.tolist()


def test_decisions_follow_the_threshold(contents, predictions):
    threshold = contents["threshold"]["value"]
    assert (predictions["predicted_label"] == (predictions["score"] >= threshold)).all()


def test_the_threshold_is_chosen_on_validation_and_kept_in_the_run(run, evaluation):
    threshold = load_run(run).threshold
    assert threshold == evaluation.decision_rule.threshold
    assert (threshold.split, threshold.tta) == ("val", "flips5")
    assert threshold.num_photographs == 6


def test_the_notebooks_matrix_gives_its_classification_report():
    counts = [4958, 205, 1398, 465]
    found = describe_classes(
        np.repeat([0, 0, 1, 1], counts),
        np.repeat([0, 1, 0, 1], counts),
        labels=("healthy", "diseased"),
    )
    rounded = {
        name: [round(values[key], 4) for key in CLASS_COLUMNS[1:]]
        for name, values in found.items()
    }
    assert rounded == {
        "healthy": [0.7801, 0.9603, 0.8608, 5163],
        "diseased": [0.6940, 0.2496, 0.3672, 1863],
        "macro avg": [0.7370, 0.6049, 0.6140, 7026],
        "weighted avg": [0.7572, 0.7718, 0.7299, 7026],
    }


def test_a_patient_has_the_worse_eyes_grade_and_score(contents, predictions):
    patients = predictions.groupby("patient")[["grade", "score"]].max()
    expected = roc_auc_score(patients["grade"] > 0, patients["score"])
    assert contents["per_patient"]["roc_auc"]["value"] == pytest.approx(expected)


def test_a_reader_is_told_what_the_figures_rest_on(run, evaluation):
    assert any(re.search(r"\b6\b", note) for note in evaluation.notes)
    assert UNKNOWN_PATIENTS_NOTE not in evaluation.notes
    text = (run / "test" / REPORT_FILE).read_text()
    healthy, diseased = map(sum, evaluation.confusion_matrix)
    assert re.search(rf"grade 1\b[^<]*\b{diseased}\b[^<]*\b{healthy}\b", text)


def test_patients_that_are_not_known_are_told(photographs, run, config, tmp_path):
    labels = config.labels.model_copy(update={"patient_pattern": "(.+)"})
    config = config.model_copy(update={"labels": labels})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "set",
        config=config,
    )
    found = evaluate(
        run, tmp_path / "set", split="test", out=tmp_path / "e", config=config
    )
    assert UNKNOWN_PATIENTS_NOTE in found.notes


def test_the_calibration_is_kept_in_the_run(run, evaluation, contents, predictions):
    calibration = load_run(run).calibration
    assert calibration == evaluation.decision_rule.calibration
    assert (calibration.method, calibration.split) == ("temperature", "val")
    expected = calibration.apply(predictions["score"].to_numpy())
    assert predictions["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    truth = predictions["grade"] > 0
    brier_score = np.mean((expected - truth) ** 2)
    assert contents["brier_score"]["value"] == pytest.approx(brier_score, abs=1e-6)


def test_the_operating_points_are_chosen_on_validation(evaluation, contents):
    assert [point.rule for point in evaluation.operating_points] == list(RULES)
    chosen = evaluation.operating_points[0]
    assert chosen.threshold == evaluation.decision_rule.threshold.value
    assert chosen.sensitivity == evaluation.metrics["sensitivity"].value
    assert chosen.specificity == evaluation.metrics["specificity"].value
    assert contents["operating_points"][0]["rule"] == "youden"


def test_what_the_views_gain_is_told(run, shards, config, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    network = load_run(run).network
    rng = np.random.default_rng(3)  # another one, whose views disagree
    network.set_weights([rng.normal(0, 0.1, x.shape) for x in network.get_weights()])
    save_model(run, network)
    info = json.loads((run / "run.json").read_text())
    info["model_sha256"] = hash_file(run / "model.keras")
    (run / "run.json").write_text(json.dumps(info))
    (run / "decision_rule.json").unlink()
    found = {}
    for tta in ("none", "flips5"):
        settings = config.evaluate.model_copy(update={"tta": tta})
        changed = config.model_copy(update={"evaluate": settings})
        found[tta] = evaluate(run, shards, split="train", out=run / tta, config=changed)
    one, five = (found[tta].metrics["roc_auc"].value for tta in ("none", "flips5"))
    assert five != one
    assert found["flips5"].views_gain.value == pytest.approx(five - one)
    assert (found["none"].views_gain, found["none"].views_cost) == (None, 1)


def test_the_report_needs_nothing_beside_it(run, evaluation):
    text = (run / "test" / REPORT_FILE).read_text()
    assert text.count("data:image/png;base64,") == len(FIGURES) + 1  # and the curves
    assert not (run / "test" / MISTAKES_FIGURE).exists()  # there was none to show
    assert "http" not in text
    assert f"{evaluation.metrics['roc_auc'].value:.3f}" in text


@pytest.mark.skipif(not browser, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_browser_shows_the_whole_report(run, evaluation, tmp_path, width):
    path = run / "test" / REPORT_FILE
    found = show(path, width=width, folder=tmp_path)
    assert found["wide"] <= width
    assert found["images"] == [True] * (len(FIGURES) + 1)
    assert found["cut"] == 0
    headings = re.findall("<h2>(.*?)</h2>", path.read_text())
    assert found["headings"][1:] == headings
    assert len(headings) == 7


def test_the_worst_mistakes_are_shown_first(run, shards, config, tmp_path):
    settings = config.evaluate.model_copy(update={"threshold": 1.0})
    config = config.model_copy(update={"evaluate": settings})
    drawn = []
    out = shutil.copytree(run, tmp_path / "run") / "judged"
    with (
        mock.patch.object(figures, "plot_grid", lambda *args, **_: drawn.append(args)),
        mock.patch.object(page, "format_figures", return_value=""),
    ):
        evaluate(tmp_path / "run", shards, split="test", out=out, config=config)
    [(path, rows)] = drawn
    assert path.name == MISTAKES_FIGURE
    predictions = pd.read_csv(out / "predictions.csv")
    missed = predictions[predictions["grade"] > 0].nsmallest(4, "score")
    for title, pictures in rows:  # the photographs, and the maps laid over them
        assert_names(title, "diseased")
        names = [caption.split(",")[0] for caption, _ in pictures]
        assert names == missed["id"].tolist()


def test_every_figure_is_written(run, evaluation):
    for name in FIGURES:
        assert (run / "test" / name).read_bytes().startswith(b"\x89PNG")


def test_an_earlier_evaluation_is_replaced_only_when_asked(run, shards, config):
    out = run / "again"
    common = {"split": "test", "out": out, "config": config}
    evaluate(run, shards, **common)
    with raises_naming(DrtfError, out):
        evaluate(run, shards, **common)
    (out / GRADES_FIGURE).write_bytes(b"of an earlier one")
    evaluate(run, shards, overwrite=True, **common)
    assert not (out / GRADES_FIGURE).exists()
    # One that is stopped half-way leaves no metrics beside another's predictions.
    with (
        mock.patch.object(module, "write_report", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        evaluate(run, shards, overwrite=True, **common)
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize("name", ["predictions.csv", "roc.png", "mistakes.png"])
def test_what_is_not_an_evaluations_is_not_replaced(
    run, shards, config, tmp_path, name
):
    (tmp_path / name).write_text("a user's own")
    with raises_naming(DrtfError, tmp_path / name):
        evaluate(run, shards, split="test", out=tmp_path, config=config)
    assert [x.read_text() for x in tmp_path.iterdir()] == ["a user's own"]


def test_an_evaluation_is_known_by_its_set_too(run, evaluation, config, tmp_path):
    info = load_run(run).info
    assert is_evaluated(run / "test", info, config.evaluate)
    other = info.model_copy(update={"dataset_sha256": "of a hospital"})
    assert not is_evaluated(run / "test", other, config.evaluate)
    assert not is_evaluated(tmp_path, info, config.evaluate)


@pytest.mark.parametrize("change", [{"layer": "conv_9"}, {"colormap": "jett"}])
def test_heat_maps_that_can_not_be_are_refused_first(
    run, shards, config, tmp_path, change
):
    settings = config.gradcam.model_copy(update=change)
    config = config.model_copy(update={"gradcam": settings})
    with raises_naming(DrtfError, *change.values()):
        evaluate(run, shards, split="test", out=tmp_path / "e", config=config)
    assert not (tmp_path / "e").exists()


def test_threshold_and_calibration_are_told_with_where_they_come_from():
    common = {"split": "val", "tta": "none", "num_photographs": 20}
    chosen = Threshold(value=0.5, rule="youden", **common)
    assert_names(describe_threshold(chosen), "0.5000", "youden", "val", 20)
    given = Threshold(value=0.5, rule="given", **common)
    assert_names(describe_threshold(given), "0.5000")
    assert not re.search(r"\b(val|20)\b", describe_threshold(given))
    usual = Calibration(
        method="temperature", temperature=1.3, prior_shift=-0.5, **common
    )
    text = describe_calibration(usual)
    assert_names(text, "temperature", "1.30", "-0.50", "val")
    extreme = usual.model_copy(update={"temperature": 19.999})
    warned = describe_calibration(extreme)
    assert_names(warned, "20.00")
    assert len(warned) > len(text.replace("1.30", "20.00"))


def test_the_reliability_diagram_does_not_part_equal_chances(tmp_path):
    values = np.repeat([0.4, 0.1, 0.9], [30, 6, 4])
    parts = figures.equal_count_bins(values)
    assert [set(values[part]) for part in parts] == [{0.1}, {0.4}, {0.9}]
    assert sorted(np.concatenate(parts)) == list(range(40))
    rising = figures.equal_count_bins(np.arange(25) / 25)
    assert [len(part) for part in rising] == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]


def test_judging_on_the_validation_split_is_noted(
    run, evaluation, shards, config, tmp_path
):
    found = evaluate(run, shards, split="val", out=tmp_path / "val", config=config)
    (doubt,) = [note for note in found.notes if re.search(r"\bval\b", note)]
    assert doubt not in evaluation.notes


def test_a_set_made_otherwise_is_refused(run, photographs, config, tmp_path):
    images = config.images.model_copy(update={"contrast": "none"})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "other",
        config=config.model_copy(update={"images": images}),
    )
    other = tmp_path / "other"
    with raises_naming(DrtfError, other, "images.contrast", "none", run, "clahe"):
        evaluate(run, other, split="test", out=tmp_path / "e", config=config)


def test_another_set_is_noted_and_leaves_the_runs_threshold(
    run, evaluation, photographs, config, tmp_path
):
    run = shutil.copytree(run, tmp_path / "run")
    split = config.split.model_copy(update={"seed": 7})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "other",
        config=config.model_copy(update={"split": split}),
    )
    before = load_run(run).threshold
    found = evaluate(
        run, tmp_path / "other", split="test", out=tmp_path / "e", config=config
    )
    text = (tmp_path / "e" / REPORT_FILE).read_text()
    names = {
        value: name for name, value in re.findall("<th>(.*?)</th><td>(.*?)<", text)
    }
    judged = names[hash_manifest(tmp_path / "other")]
    trained = names[load_run(run).info.dataset_sha256]
    assert judged != trained
    for name in (judged, trained):
        assert_names(name, "SHA-256")
    assert OTHER_SET_NOTE in found.notes
    (advice,) = [note for note in found.notes if "--keep" in note]
    assert_names(advice, "drtf score", "evaluate.threshold=stored")
    assert load_run(run).threshold == before
    info = json.loads((run / "run.json").read_text())
    info["train_prior"] = 0.3  # as drawn there, whatever this set's own shares are
    (run / "run.json").write_text(json.dumps(info))
    kept = evaluate(
        run,
        tmp_path / "other",
        split="test",
        out=tmp_path / "kept",
        config=config,
        keep=True,
    )
    assert kept.replaced == before
    assert load_run(run).threshold == kept.decision_rule.threshold
    assert kept.decision_rule.threshold == found.decision_rule.threshold
    assert not any("--keep" in note for note in kept.notes)
    with ShardDataset(tmp_path / "other") as other:
        diseased = other.grades[other.split_rows("val")] > 0
    shift = logit(diseased.mean()) - logit(0.3)
    assert kept.decision_rule.calibration.prior_shift == pytest.approx(shift)


def test_a_run_is_judged_elsewhere_as_it_scores(
    run, evaluation, photographs, config, tmp_path
):
    run = shutil.copytree(run, tmp_path / "run")
    split = config.split.model_copy(update={"val_size": 0.0, "test_size": 0.5})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "other",
        config=config.model_copy(update={"split": split}),
    )
    own = load_run(run)

    def judge(name, **settings):
        settings = config.evaluate.model_copy(update=settings)
        return evaluate(
            run,
            tmp_path / "other",
            split="test",
            out=tmp_path / name,
            config=config.model_copy(update={"evaluate": settings}),
        )

    other_set, stored = tmp_path / "other", "--set evaluate.threshold=stored"
    with raises_naming(DrtfError, other_set, "val", stored):
        judge("chosen")
    found = judge("stored", threshold="stored", tta=own.tta)
    assert found.decision_rule == own.decision_rule
    assert found.operating_points == []
    table = pd.read_csv(tmp_path / "stored" / "predictions.csv")
    decided = (table["score"] >= own.threshold.value).astype(int)
    assert decided.tolist() == table["predicted_label"].tolist()
    rule = html.escape(RULES[-1])
    assert rule in (run / "test" / REPORT_FILE).read_text()
    assert rule not in (tmp_path / "stored" / REPORT_FILE).read_text()
    other = "none" if own.tta != "none" else "flips5"
    with raises_naming(DrtfError, run, f"--tta {own.tta}", other):
        judge("views", threshold="stored", tta=other)
    (run / "decision_rule.json").unlink()
    with raises_naming(DrtfError, run, "drtf evaluate"):
        judge("none", threshold="stored")


def test_an_unknown_split_is_named(run, shards, config, tmp_path):
    with raises_naming(RecordError, shards, "dev"):
        evaluate(run, shards, split="dev", out=tmp_path / "e", config=config)
    assert not (tmp_path / "e").exists()


def test_equal_runs_give_equal_figures(run, shards, config, tmp_path):
    results = [
        evaluate(run, shards, split="test", out=tmp_path / name, config=config)
        for name in ("one", "two")
    ]
    assert results[0] == results[1]
    assert np.isfinite(results[0].metrics["roc_auc"].value)


def test_a_network_of_grades_is_judged_by_referable_disease(shards, config, tmp_path):
    settings = config.train.model_copy(update={"task": "grades", "epochs": 1})
    config = config.model_copy(update={"train": settings})
    info = train(shards, out=tmp_path / "run", config=config)
    history = load_history(tmp_path / "run")
    assert {"accuracy", "val_kappa", "val_roc_auc"} <= set(history[0])
    assert info.best_epoch == 1
    run = load_run(tmp_path / "run")
    assert run.network.output_shape == (None, 5)
    found = evaluate(
        tmp_path / "run", shards, split="test", out=tmp_path / "out", config=config
    )
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    truth = predictions["grade"] >= 2
    kappa = cohen_kappa_score(
        predictions["grade"],
        predictions["predicted_grade"],
        labels=range(5),
        weights="quadratic",
    )
    found_kappa = found.metrics["grades_quadratic_kappa"].value
    assert found_kappa == pytest.approx(kappa, nan_ok=True)
    grades = predictions["grade"], predictions["predicted_grade"]
    matrix = confusion_matrix(*grades, labels=range(5))
    assert found.grade_confusion_matrix == matrix.tolist()
    for grade in set(predictions["grade"]):
        recall = matrix[grade, grade] / matrix[grade].sum()
        assert found.metrics[f"grades_recall_{grade}"].value == pytest.approx(recall)
        assert found.grade_classes[f"grade {grade}"]["recall"] == pytest.approx(recall)
    assert "<td>grade 4</td>" in (tmp_path / "out" / REPORT_FILE).read_text()
    # Grades that were never decided have no precision, and JSON no NaN.
    text = (tmp_path / "out" / "metrics.json").read_text()
    classes = json.loads(text, parse_constant=pytest.fail)["grade_classes"]
    assert None in [values["precision"] for values in classes.values()]
    assert found.metrics["roc_auc"].value == pytest.approx(
        roc_auc_score(truth, predictions["score"])
    )
    painted = gradcam(
        tmp_path / "run", out=tmp_path / "maps", config=config, shards=shards
    )
    assert all(path.exists() for path in painted.figures)

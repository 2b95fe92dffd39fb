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

from drtf import figures, page
from drtf.data.build import build_shards
from drtf.data.sources import Source
from drtf.errors import DrtfError, RecordError
from drtf.files import hash_file
from drtf.inference import evaluation as module
from drtf.inference.decision_rules import OPERATING_POINT_RULES
from drtf.inference.evaluation import evaluate
from drtf.inference.evaluation_result import (
    describe_calibration,
    describe_threshold,
    is_evaluated,
)
from drtf.inference.gradcam import gradcam
from drtf.inference.report import (
    FIGURES,
    GRADES_FIGURE,
    MISTAKES_FIGURE,
    REPORT_FILE,
    reader_notes,
)
from drtf.models.calibration import Calibration
from drtf.models.decision_rule import Threshold
from drtf.models.history import load_history
from drtf.models.run import load_info, load_run, save_info, save_model
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.training.run import train
from naming import assert_names, raises_naming


def sections(config):
    return {"config": config.evaluate, "gradcam": config.gradcam}


@pytest.fixture(scope="module")
def run(run_folder, tmp_path_factory):
    return shutil.copytree(run_folder, tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture(scope="module")
def evaluation(run, shards, config):
    return evaluate(run, shards, split="test", out=run / "test", **sections(config))


@pytest.fixture(scope="module")
def contents(run, evaluation):
    return json.loads((run / "test" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def predictions(run, evaluation):
    return pd.read_csv(run / "test" / "predictions.csv", dtype={"patient": str})


def test_predictions_have_one_row_per_photograph(predictions, shard_dataset):
    rows = shard_dataset.load_index().loc[shard_dataset.split_rows("test")]
    for column in ("id", "patient", "grade"):
        assert predictions[column].tolist() == rows[column].tolist()


def test_metrics_json_has_each_metric_with_its_interval(contents):
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


def test_metrics_agree_with_the_predictions(contents, predictions):
    labels = predictions["grade"] > 0
    auc = roc_auc_score(labels, predictions["score"])
    assert contents["roc_auc"]["value"] == pytest.approx(auc)
    matrix = confusion_matrix(labels, predictions["predicted_label"])
    assert contents["confusion_matrix"] == matrix.tolist()


def test_predicted_labels_follow_the_threshold(contents, predictions):
    threshold = contents["threshold"]["value"]
    assert (predictions["predicted_label"] == (predictions["score"] >= threshold)).all()


def test_threshold_is_chosen_on_validation_and_stored_in_the_run(run, evaluation):
    threshold = load_run(run).threshold
    assert threshold == evaluation.decision_rule.threshold
    assert (threshold.split, threshold.tta) == ("val", "flips5")
    assert threshold.num_photographs == 6


def test_patient_metrics_use_the_worse_eye(contents, predictions):
    patients = predictions.groupby("patient")[["grade", "score"]].max()
    expected = roc_auc_score(patients["grade"] > 0, patients["score"])
    assert contents["per_patient"]["roc_auc"]["value"] == pytest.approx(expected)


def notes_for(run, split="test", **changes):
    """Return the notes of an evaluation that needs none but for the changes."""
    common = {
        "same_dataset": True,
        "used_by_score": True,
        "patients": pd.Series(["anna", "anna"]),
        "validation_labels": pd.Series([0, 1] * 20),
    }
    return reader_notes(load_run(run), split, **common | changes)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"split": "val"}, ["val"]),
        ({"split": "train"}, []),
        ({"same_dataset": False}, []),
        (
            {"used_by_score": False},
            ["drtf score", "--store-threshold", "evaluate.threshold=stored"],
        ),
        ({"patients": pd.Series(["anna", "bert"])}, []),
        ({"validation_labels": pd.Series([0] * 38 + [1] * 19)}, [57, 19]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_reader_notes_name_each_limit(run, changes, facts):
    assert notes_for(run) == []
    (note,) = notes_for(run, **changes)
    if facts:
        assert_names(note, *facts)


def test_report_shows_notes_and_classes(run, evaluation):
    (note,) = evaluation.notes  # on the few photographs of the validation split
    assert_names(note, 6)
    text = (run / "test" / REPORT_FILE).read_text()
    assert html.escape(note) in text
    num_negative, num_positive = map(sum, evaluation.labels.confusion_matrix)
    (lead,) = re.findall(r'<p class="lead">([^<]*Threshold:[^<]*)', text)
    assert_names(lead, "grade 1", num_negative, num_positive)


def test_evaluate_notes_unknown_patients(photographs, run, config, tmp_path):
    labels = config.labels.model_copy(update={"patient_pattern": "(.+)"})
    config = config.model_copy(update={"labels": labels})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "dataset",
        config=config,
    )
    result = evaluate(
        run, tmp_path / "dataset", split="test", out=tmp_path / "e", **sections(config)
    )
    (note,) = notes_for(run, patients=pd.Series(["anna", "bert"]))
    assert note in result.notes


def test_calibration_is_stored_in_the_run(run, evaluation, contents, predictions):
    calibration = load_run(run).calibration
    assert calibration == evaluation.decision_rule.calibration
    assert (calibration.method, calibration.split) == ("temperature", "val")
    expected = calibration.apply(predictions["score"].to_numpy())
    assert predictions["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    labels = predictions["grade"] > 0
    brier_score = np.mean((expected - labels) ** 2)
    assert contents["brier_score"]["value"] == pytest.approx(brier_score, abs=1e-6)


def test_operating_points_are_chosen_on_validation(evaluation, contents):
    assert [point.rule for point in evaluation.operating_points] == list(
        OPERATING_POINT_RULES
    )
    chosen = evaluation.operating_points[0]
    assert chosen.threshold == evaluation.decision_rule.threshold.value
    assert chosen.sensitivity == evaluation.metrics["sensitivity"].value
    assert chosen.specificity == evaluation.metrics["specificity"].value
    assert contents["operating_points"][0]["rule"] == "youden"


def test_views_gain_is_the_difference_in_roc_auc(run, shards, config, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    network = load_run(run).network
    rng = np.random.default_rng(3)  # other weights, whose views disagree
    network.set_weights([rng.normal(0, 0.1, x.shape) for x in network.get_weights()])
    save_model(run, network)
    sha256 = hash_file(run / "model.keras")
    save_info(run, load_info(run).model_copy(update={"model_sha256": sha256}))
    (run / "decision_rule.json").unlink(missing_ok=True)
    found = {}
    for tta in ("none", "flips5"):
        settings = config.evaluate.model_copy(update={"tta": tta})
        changed = config.model_copy(update={"evaluate": settings})
        found[tta] = evaluate(
            run, shards, split="train", out=run / tta, **sections(changed)
        )
    one, five = (found[tta].metrics["roc_auc"].value for tta in ("none", "flips5"))
    assert five != one
    assert found["flips5"].views_gain.value == pytest.approx(five - one)
    assert (found["none"].views_gain, found["none"].views_cost) == (None, 1)


def test_report_is_self_contained(run, evaluation):
    text = (run / "test" / REPORT_FILE).read_text()
    assert text.count("data:image/png;base64,") == len(FIGURES) + 1  # and the curves
    assert not (run / "test" / MISTAKES_FIGURE).exists()
    assert "http" not in text
    assert f"{evaluation.metrics['roc_auc'].value:.3f}" in text


@pytest.mark.skipif(not browser, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_browser_shows_the_whole_report(run, evaluation, tmp_path, width):
    path = run / "test" / REPORT_FILE
    found = show(path, width=width, folder=tmp_path)
    assert found["wide"] <= width
    assert found["images"] == [True] * (len(FIGURES) + 1)
    assert found["cut"] == 0
    headings = re.findall("<h2>(.*?)</h2>", path.read_text())
    assert found["headings"][1:] == headings
    assert len(headings) == 7


def test_mistakes_figure_shows_the_worst_mistakes(run, shards, config, tmp_path):
    settings = config.evaluate.model_copy(update={"threshold": 1.0})
    config = config.model_copy(update={"evaluate": settings})
    drawn = []
    out = shutil.copytree(run, tmp_path / "run") / "evaluation"
    with (
        mock.patch.object(figures, "plot_grid", lambda *args, **_: drawn.append(args)),
        mock.patch.object(page, "format_figures", return_value=""),
    ):
        evaluate(tmp_path / "run", shards, split="test", out=out, **sections(config))
    [(path, rows)] = drawn
    assert path.name == MISTAKES_FIGURE
    predictions = pd.read_csv(out / "predictions.csv")
    missed = predictions[predictions["grade"] > 0].nsmallest(4, "score")
    for title, pictures in rows:  # photographs, then overlays
        assert title.startswith("diseased")
        names = [caption.split(",")[0] for caption, _ in pictures]
        assert names == missed["id"].tolist()


def test_evaluate_writes_every_figure(run, evaluation):
    for name in FIGURES:
        assert (run / "test" / name).read_bytes().startswith(b"\x89PNG")


def test_evaluate_overwrites_only_if_asked(run, shards, config):
    out = run / "again"
    common = {"split": "test", "out": out, **sections(config)}
    evaluate(run, shards, **common)
    with raises_naming(DrtfError, out / "metrics.json", "--overwrite"):
        evaluate(run, shards, **common)
    (out / GRADES_FIGURE).write_bytes(b"of an earlier one")
    evaluate(run, shards, overwrite=True, **common)
    assert not (out / GRADES_FIGURE).exists()
    # An interrupted evaluation leaves no metrics next to older predictions.
    with (
        mock.patch.object(module, "write_report", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        evaluate(run, shards, overwrite=True, **common)
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize("name", ["predictions.csv", "roc.png", "mistakes.png"])
def test_evaluate_keeps_other_files_in_the_folder(run, shards, config, tmp_path, name):
    (tmp_path / name).write_text("a user's own")
    with raises_naming(DrtfError, tmp_path / name):
        evaluate(run, shards, split="test", out=tmp_path, **sections(config))
    assert [x.read_text() for x in tmp_path.iterdir()] == ["a user's own"]


def test_is_evaluated_compares_the_dataset(run, evaluation, config, tmp_path):
    info = load_run(run).info
    assert is_evaluated(run / "test", info, config.evaluate)
    other = info.model_copy(update={"dataset_sha256": "another dataset"})
    assert not is_evaluated(run / "test", other, config.evaluate)
    assert not is_evaluated(tmp_path, info, config.evaluate)


@pytest.mark.parametrize("change", [{"layer": "conv_9"}, {"colormap": "jett"}])
def test_evaluate_refuses_invalid_heat_map_settings(
    run, shards, config, tmp_path, change
):
    settings = config.gradcam.model_copy(update=change)
    config = config.model_copy(update={"gradcam": settings})
    with raises_naming(DrtfError, *change.values()):
        evaluate(run, shards, split="test", out=tmp_path / "e", **sections(config))
    assert not (tmp_path / "e").exists()


def test_descriptions_name_values_and_split():
    common = {"split": "val", "tta": "none", "num_photographs": 20}
    chosen = Threshold(value=0.5, rule="youden", **common)
    assert_names(describe_threshold(chosen), "0.5000", "youden", 20, "val")
    given = Threshold(value=0.5, rule="given", **common)
    assert_names(describe_threshold(given), "0.5000")
    assert "val" not in describe_threshold(given)
    usual = Calibration(
        method="temperature", temperature=1.3, prior_shift=-0.5, **common
    )
    facts = "temperature", "1.30", "-0.50", "val"
    assert_names(describe_calibration(usual), *facts)
    assert "unreliable" not in describe_calibration(usual)
    extreme = usual.model_copy(update={"temperature": 19.999})
    assert_names(describe_calibration(extreme), "unreliable")


def test_equal_count_bins_keep_equal_values_together():
    values = np.repeat([0.4, 0.1, 0.9], [30, 6, 4])
    bins = figures.equal_count_bins(values)
    assert [set(values[members]) for members in bins] == [{0.1}, {0.4}, {0.9}]
    assert sorted(np.concatenate(bins)) == list(range(40))
    rising = figures.equal_count_bins(np.arange(25) / 25)
    assert [len(members) for members in rising] == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]


def test_evaluate_notes_the_validation_split(run, shards, config, tmp_path):
    out = tmp_path / "val"
    result = evaluate(run, shards, split="val", out=out, **sections(config))
    (note,) = notes_for(run, split="val")
    assert note in result.notes


def test_evaluate_refuses_a_dataset_with_other_preprocessing(
    run, photographs, config, tmp_path
):
    images = config.images.model_copy(update={"contrast": "none"})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "other",
        config=config.model_copy(update={"images": images}),
    )
    with raises_naming(
        DrtfError, tmp_path / "other", "images.contrast", "none", "clahe"
    ):
        evaluate(
            run,
            tmp_path / "other",
            split="test",
            out=tmp_path / "e",
            **sections(config),
        )


def test_evaluate_keeps_the_run_threshold_on_another_dataset(
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
        run, tmp_path / "other", split="test", out=tmp_path / "e", **sections(config)
    )
    text = (tmp_path / "e" / REPORT_FILE).read_text()
    for title, sha256 in (
        ("Evaluated dataset", hash_manifest(tmp_path / "other")),
        ("Training dataset", load_run(run).info.dataset_sha256),
    ):
        assert f"<th>{title}, SHA-256</th><td>{sha256}</td>" in text
    for changes in ({"same_dataset": False}, {"used_by_score": False}):
        assert notes_for(run, **changes)[0] in found.notes
    assert load_run(run).threshold == before
    # Of the training, whatever the fractions in this dataset are.
    save_info(run, load_info(run).model_copy(update={"train_prior": 0.3}))
    kept = evaluate(
        run,
        tmp_path / "other",
        split="test",
        out=tmp_path / "kept",
        **sections(config),
        store_threshold=True,
    )
    assert kept.replaced == before
    assert load_run(run).threshold == kept.decision_rule.threshold
    assert kept.decision_rule.threshold == found.decision_rule.threshold
    assert not any("--store-threshold" in note for note in kept.notes)
    with ShardDataset(tmp_path / "other") as other:
        diseased = other.grades[other.split_rows("val")] > 0
    shift = logit(diseased.mean()) - logit(0.3)
    assert kept.decision_rule.calibration.prior_shift == pytest.approx(shift)


def test_evaluate_uses_the_stored_threshold_on_another_dataset(
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

    def evaluate_other(name, **settings):
        settings = config.evaluate.model_copy(update=settings)
        return evaluate(
            run,
            tmp_path / "other",
            split="test",
            out=tmp_path / name,
            **sections(config.model_copy(update={"evaluate": settings})),
        )

    with raises_naming(
        DrtfError, tmp_path / "other", "val", "evaluate.threshold=stored"
    ):
        evaluate_other("chosen")
    found = evaluate_other("stored", threshold="stored", tta=own.tta)
    assert found.decision_rule == own.decision_rule
    assert found.operating_points == []
    table = pd.read_csv(tmp_path / "stored" / "predictions.csv")
    expected = (table["score"] >= own.threshold.value).astype(int)
    assert expected.tolist() == table["predicted_label"].tolist()
    rule = html.escape(OPERATING_POINT_RULES[-1])
    assert rule in (run / "test" / REPORT_FILE).read_text()
    assert rule not in (tmp_path / "stored" / REPORT_FILE).read_text()
    other = "none" if own.tta != "none" else "flips5"
    with raises_naming(DrtfError, run, own.tta, other, f"--tta {own.tta}"):
        evaluate_other("views", threshold="stored", tta=other)
    (run / "decision_rule.json").unlink()
    with raises_naming(DrtfError, run, "drtf evaluate"):
        evaluate_other("none", threshold="stored")


def test_evaluate_names_an_unknown_split(run, shards, config, tmp_path):
    with raises_naming(RecordError, shards, "dev"):
        evaluate(run, shards, split="dev", out=tmp_path / "e", **sections(config))
    assert not (tmp_path / "e").exists()


def test_evaluate_is_reproducible(run, shards, config, tmp_path):
    results = [
        evaluate(run, shards, split="test", out=tmp_path / name, **sections(config))
        for name in ("one", "two")
    ]
    assert results[0] == results[1]
    assert np.isfinite(results[0].metrics["roc_auc"].value)


def test_evaluate_measures_grades_and_referable_disease(shards, config, tmp_path):
    settings = config.train.model_copy(update={"task": "grades", "epochs": 1})
    config = config.model_copy(update={"train": settings})
    info = train(shards, out=tmp_path / "run", config=config)
    history = load_history(tmp_path / "run")
    assert {"accuracy", "val_kappa", "val_roc_auc"} <= set(history[0])
    assert info.best_epoch == 1
    run = load_run(tmp_path / "run")
    assert run.network.output_shape == (None, 5)
    found = evaluate(
        tmp_path / "run", shards, split="test", out=tmp_path / "out", **sections(config)
    )
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    labels = predictions["grade"] >= 2
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
    assert found.grades.confusion_matrix == matrix.tolist()
    for grade in set(predictions["grade"]):
        recall = matrix[grade, grade] / matrix[grade].sum()
        assert found.metrics[f"grades_recall_{grade}"].value == pytest.approx(recall)
        assert found.grades.metrics[f"grade {grade}"]["recall"] == pytest.approx(recall)
    assert (tmp_path / "out" / GRADES_FIGURE).exists()
    # A grade that is never predicted has no precision, and JSON has no NaN.
    text = (tmp_path / "out" / "metrics.json").read_text()
    classes = json.loads(text, parse_constant=pytest.fail)["grade_classes"]
    assert None in [values["precision"] for values in classes.values()]
    assert found.metrics["roc_auc"].value == pytest.approx(
        roc_auc_score(labels, predictions["score"])
    )
    report = gradcam(
        tmp_path / "run",
        out=tmp_path / "maps",
        config=config.gradcam,
        score=config.score,
        shards=shards,
    )
    assert all(path.exists() for path in report.figures)

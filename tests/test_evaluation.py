import html
import json
import re
import shutil
from dataclasses import replace
from datetime import date
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from browsing import DESK, PHONE, browser, show
from scipy.special import logit
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from drtf import __version__, figures, page
from drtf.building.build import build_shards
from drtf.errors import DrtfError, RecordError, RunError
from drtf.evaluation import evaluation as module
from drtf.evaluation.decision_rules import (
    OPERATING_POINT_RULES,
    RulePlan,
    load_evaluation_config,
)
from drtf.evaluation.evaluation import evaluate
from drtf.evaluation.folder import (
    FIGURES,
    GRADES_FIGURE,
    MISTAKES_FIGURE,
    REPORT_FILE,
)
from drtf.evaluation.group_results import GROUPS_FILE
from drtf.evaluation.report import reader_notes
from drtf.evaluation.result import (
    describe_calibration,
    describe_fellow_eye,
    describe_threshold,
    describe_views,
    find_differences,
    load_result,
    metric_rows,
    metric_title,
)
from drtf.files import hash_file
from drtf.heatmaps.gradcam import gradcam
from drtf.labels.sources import Source
from drtf.models.calibration import Calibration
from drtf.models.decision_rule import Threshold
from drtf.models.fellow_eye import FellowEye
from drtf.models.history import load_history
from drtf.models.run import (
    load_decision_rule,
    load_info,
    load_run,
    save_info,
    save_model,
)
from drtf.models.score_histograms import ScoreHistograms
from drtf.records.index import load_index
from drtf.records.manifest import UNKNOWN_PATIENTS_NOTE, hash_manifest, load_manifest
from drtf.records.reader import ShardDataset
from drtf.scoring.scoring import score
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
    assert (threshold.source, threshold.tta) == ("split val", "flips5")
    assert threshold.num_photographs == 6


def test_patient_metrics_use_the_worse_eye(contents, predictions):
    patients = predictions.groupby("patient")[["grade", "score"]].max()
    expected = roc_auc_score(patients["grade"] > 0, patients["score"])
    assert contents["per_patient"]["roc_auc"]["value"] == pytest.approx(expected)


def with_histograms(rule, num_negative, num_positive):
    """Return a rule whose calibration was fitted on this many photographs."""
    histograms = ScoreHistograms(
        edges=(0.3, 0.9),
        negative=(num_negative, 0, 0),
        positive=(0, num_positive, 0),
    )
    calibration = rule.calibration.model_copy(update={"histograms": histograms})
    return rule.model_copy(update={"calibration": calibration})


def notes_for(run, shards, split="test", *, chosen_on=(20, 20), **changes):
    """Return the notes of an evaluation that needs none but for the changes."""
    opened = load_run(run)
    opened = replace(
        opened, decision_rule=with_histograms(opened.decision_rule, *chosen_on)
    )
    if "rule" in changes:
        changes["rule"] = with_histograms(changes["rule"], *chosen_on)
    plan = RulePlan(
        kept=None, is_training_dataset=True, stores=True, is_read_only=False
    )
    manifest = load_manifest(shards).model_copy(update=changes.pop("manifest", {}))
    common = {
        "plan": replace(plan, **changes.pop("plan", {})),
        "rule": opened.decision_rule,
        "predictions": predictions_of([0.2, 0.6]),
        "num_in_training": 0,
        "validation": pd.DataFrame({"label": [0, 1] * 20}),
    }
    return reader_notes(opened, manifest, split, **common | changes)


def other_rule(run, value=0.125, **update):
    rule = load_run(run).decision_rule
    threshold = rule.threshold.model_copy(update={"value": value, **update})
    return rule.model_copy(update={"threshold": threshold})


def predictions_of(scores, probability=0.5):
    """Return predictions of these scores; every other photograph is positive."""
    names = [str(number) for number in range(len(scores))]
    labels = np.arange(len(scores)) % 2
    scores = {"own_score": scores, "score": scores, "probability": probability}
    return pd.DataFrame({"patient": names, "label": labels, **scores})


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"split": "val"}, ["val"]),
        ({"split": "train"}, []),
        ({"split": "val", "plan": {"is_training_dataset": False}}, ["val"]),
        (
            {"plan": {"is_training_dataset": False}, "num_in_training": 1},
            ["1 of these 2"],
        ),
        ({"manifest": {"patients_from": "none"}}, []),
        ({"manifest": {"provenance": {"sources": [{"synthetic": True}]}}}, []),
        ({"predictions": predictions_of([0.25, 0.25])}, ["0.2500"]),
        ({"chosen_on": (38, 19)}, [57, 19]),
        (
            {"predictions": predictions_of(np.linspace(0.98, 0.99, 200))},
            ["drtf recalibrate"],
        ),
        (
            {"predictions": predictions_of([0.2, 0.6] * 100, probability=0.9)},
            ["0.90", "0.50", "drtf recalibrate"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_reader_notes_name_each_limit(run, evaluation, shards, changes, facts):
    assert notes_for(run, shards) == []
    (note,) = notes_for(run, shards, **changes)
    if facts:
        assert_names(note, *facts)


@pytest.mark.parametrize(
    ("plan", "facts"),
    [
        ({"stores": True}, ["drtf score"]),
        ({"stores": False}, ["drtf score", "--store-threshold"]),
        (
            {"stores": False, "is_read_only": True},
            ["drtf score", "--decision-rule"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_reader_notes_name_the_threshold_of_scoring(
    run, evaluation, shards, plan, facts
):
    stored = f"{evaluation.decision_rule.threshold.value:.4f}"
    (note,) = notes_for(run, shards, plan=plan, rule=other_rule(run))
    assert_names(note, stored, "flips5", *facts)


def test_report_shows_notes_classes_and_names(run, shards, evaluation):
    (note,) = evaluation.notes  # on the few photographs of the validation split
    assert_names(note, 6)
    text = (run / "test" / REPORT_FILE).read_text()
    assert html.escape(note) in text
    num_negative, num_positive = map(sum, evaluation.labels.confusion_matrix)
    (lead,) = re.findall(r'<p class="lead">([^<]*Threshold:[^<]*)', text)
    assert_names(lead, "grade 1", num_negative, num_positive)
    (title,) = re.findall("<h1>(.*?)</h1>", text)
    assert_names(title, f"{run.parent.name}/{run.name}", "test", shards.name)
    (subtitle,) = re.findall('<p class="subtitle">(.*?)</p>', text)
    assert_names(subtitle, date.today().isoformat(), __version__)


def test_metric_titles_are_readable(evaluation):
    titles = list(map(metric_title, evaluation.metrics))
    assert len(set(titles)) == len(titles)
    assert not [title for title in titles if "_" in title or not title[0].isupper()]


def test_unknown_patients_have_no_metrics(photographs, run, config, tmp_path):
    labels = config.labels.model_copy(update={"patient_pattern": "^(none)$"})
    config = config.model_copy(update={"labels": labels})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "dataset",
        config=config,
    )
    result = evaluate(
        run, tmp_path / "dataset", split="test", out=tmp_path / "e", **sections(config)
    )
    assert result.notes[0] == UNKNOWN_PATIENTS_NOTE
    assert result.patient_metrics == {}
    assert {len(row) for row in metric_rows(result)} == {len(result.metric_columns)}
    assert not [x for x in result.metric_columns if "patient" in x]


def test_calibration_is_stored_in_the_run(run, evaluation, contents, predictions):
    calibration = load_run(run).calibration
    assert calibration == evaluation.decision_rule.calibration
    assert (calibration.method, calibration.source) == ("logistic", "split val")
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
    assert found["none"].views_gain is None
    assert_names(describe_views(found["flips5"]), "flips5", 5)


def test_evaluating_and_scoring_combine_both_eyes_equally(
    run_folder, photographs, shards, config, save_rule, tmp_path
):
    run = shutil.copytree(run_folder, tmp_path / "run")
    weights = FellowEye(offset=0.1, own=0.7, fellow=0.5, num_pairs=50)
    rule = save_rule(run, 0.5, tta="flips5", fellow_eye=weights)
    settings = config.evaluate.model_copy(update={"batch_size": 64})
    result = evaluate(
        run,
        shards,
        split="train",
        out=tmp_path / "e",
        config=settings,
        gradcam=config.gradcam,
    )
    assert result.decision_rule == rule
    found = pd.read_csv(tmp_path / "e" / "predictions.csv").set_index("id")
    images, out = photographs / "images", tmp_path / "s.csv"
    score(run, images, out=out, config=config.score)
    scored = pd.read_csv(out).set_index("id").loc[found.index]
    for column in ("own_score", "score"):
        expected = scored[column].to_numpy()
        assert found[column].to_numpy() == pytest.approx(expected, abs=1e-6)
    for column in ("patient", "eye", "fellow_used", "predicted_label"):
        assert found[column].tolist() == scored[column].tolist()
    assert found["fellow_used"].all()
    gain = result.fellow_gain
    assert gain.num_used == len(found)
    labels = found["grade"] > 0
    own, both = (roc_auc_score(labels, found[x]) for x in ("own_score", "score"))
    assert gain.own_roc_auc.value == pytest.approx(own)
    assert gain.gain.value == pytest.approx(both - own)
    assert result.metrics["roc_auc"].value == pytest.approx(both)
    loaded = load_result(tmp_path / "e").fellow_gain
    assert (loaded.num_used, loaded.own_roc_auc) == (len(found), gain.own_roc_auc)
    facts = f"{len(found)}", "0.70", "0.50", 50
    assert_names(describe_fellow_eye(result), *facts)


def test_each_eye_is_evaluated_by_itself_if_few_pairs_are_in_validation(
    run, evaluation, predictions, shards, config, tmp_path
):
    assert evaluation.decision_rule.fellow_eye == FellowEye.unused(3)
    assert evaluation.fellow_gain is None
    assert_names(describe_fellow_eye(evaluation), 3, 20, "val")
    assert not predictions["fellow_used"].any()
    assert (predictions["score"] == predictions["own_score"]).all()
    # With many pairs, the weight may be 0 because the other eye tells nothing.
    rule = evaluation.decision_rule.model_copy(
        update={"fellow_eye": FellowEye.unused(105)}
    )
    described = describe_fellow_eye(replace(evaluation, decision_rule=rule))
    assert_names(described, 105, "val")
    assert "20" not in described
    settings = config.evaluate.model_copy(update={"fellow_eye": False})
    sections = {"config": settings, "gradcam": config.gradcam}
    result = evaluate(run, shards, split="test", out=tmp_path / "e", **sections)
    assert result.decision_rule.fellow_eye is None
    assert load_run(run).decision_rule == evaluation.decision_rule
    assert load_result(tmp_path / "e").decision_rule == result.decision_rule


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
    assert len(headings) == 8


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


def test_a_complete_evaluation_is_returned_and_another_is_kept(run, shards, config):
    out = run / "again"
    first = evaluate(run, shards, split="test", out=out, **sections(config))
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = evaluate(run, shards, split="test", out=out, **sections(config))
    assert (first.is_reused, again.is_reused) == (False, True)
    assert repr(replace(again, is_reused=False)) == repr(first)
    with raises_naming(DrtfError, out, "split", "test", "val", "--overwrite"):
        evaluate(run, shards, split="val", out=out, **sections(config))
    other = config.evaluate.model_copy(update={"num_resamples": 100})
    changed = config.model_copy(update={"evaluate": other})
    with raises_naming(DrtfError, out, "evaluate.num_resamples", 100, 200):
        evaluate(run, shards, split="test", out=out, **sections(changed))
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    with raises_naming(DrtfError, run, "--out"):
        evaluate(run, shards, split="test", out=run, **sections(config))
    (out / GRADES_FIGURE).write_bytes(b"of an earlier one")
    common = {"split": "test", "out": out, **sections(config)}
    assert not evaluate(run, shards, overwrite=True, **common).is_reused
    assert not (out / GRADES_FIGURE).exists()


@pytest.mark.parametrize("stopped_in", ["write_report", "save_predictions", "rule"])
def test_a_stopped_evaluation_is_finished_by_the_same_call(
    run_folder, shards, config, tmp_path, stopped_in
):
    run = shutil.copytree(run_folder, tmp_path / "run")
    common = {"split": "test", "out": tmp_path / "e", **sections(config)}
    save = module.save_decision_rule

    def stop_in_the_run(folder, rule):
        save(folder, rule)
        if folder == run:
            raise KeyboardInterrupt

    name, stop = stopped_in, mock.Mock(side_effect=KeyboardInterrupt)
    if stopped_in == "rule":  # just before the last file
        name, stop = "save_decision_rule", stop_in_the_run
    with mock.patch.object(module, name, stop), pytest.raises(KeyboardInterrupt):
        evaluate(run, shards, **common)
    assert not (tmp_path / "e" / "metrics.json").exists()
    result = evaluate(run, shards, **common)
    assert load_run(run).decision_rule == result.decision_rule
    loaded = replace(load_result(tmp_path / "e"), is_reused=False)
    assert repr(loaded) == repr(result)  # by repr, as NaN is not equal to itself


def test_later_evaluations_leave_the_stored_rule_alone(
    run, shards, config, evaluation, tmp_path
):
    run = shutil.copytree(run, tmp_path / "run")
    before = load_run(run).decision_rule
    settings = config.evaluate.model_copy(update={"tta": "none", "threshold": 0.25})
    other = config.model_copy(update={"evaluate": settings})
    found = evaluate(run, shards, split="test", out=tmp_path / "e", **sections(other))
    assert found.decision_rule.threshold.value == 0.25
    assert load_run(run).decision_rule == before
    notes = [note for note in found.notes if "--store-threshold" in note]
    assert_names(notes[0], f"{before.threshold.value:.4f}", "flips5")
    # The command takes what is stored, unless a setting is named.
    assert load_evaluation_config(run).evaluate.tta == "flips5"
    arguments = {"split": "test", "out": tmp_path / "e", **sections(other)}
    with raises_naming(DrtfError, tmp_path / "e", run, "--overwrite"):
        evaluate(run, shards, store_threshold=True, **arguments)
    evaluate(run, shards, store_threshold=True, overwrite=True, **arguments)
    assert load_run(run).decision_rule == found.decision_rule
    stored = load_evaluation_config(run).evaluate
    assert (stored.tta, stored.threshold) == ("none", 0.25)
    named = load_evaluation_config(run, overrides=["evaluate.tta=dihedral8"]).evaluate
    assert (named.tta, named.threshold) == ("dihedral8", 0.25)
    assert load_evaluation_config(run, "eyenet-256").evaluate.threshold != 0.25


def test_a_read_only_run_is_evaluated_and_its_threshold_is_not_stored(
    run_folder, shards, config, tmp_path, monkeypatch
):
    run = shutil.copytree(run_folder, tmp_path / "run")
    for name in ("folder", "decision_rules"):
        monkeypatch.setattr(
            f"drtf.evaluation.{name}.is_writable", lambda x: run not in (x, *x.parents)
        )
    with raises_naming(DrtfError, run, "--out"):
        evaluate(run, shards, split="test", **sections(config))
    with raises_naming(DrtfError, run):
        evaluate(
            run,
            shards,
            split="test",
            out=tmp_path / "e",
            store_threshold=True,
            **sections(config),
        )
    assert not (tmp_path / "e").exists()
    found = evaluate(run, shards, split="test", out=tmp_path / "e", **sections(config))
    assert load_run(run).decision_rule is None
    notes = [note for note in found.notes if "--decision-rule" in note]
    assert_names(notes[0], "0.5")
    assert load_decision_rule(tmp_path / "e") == found.decision_rule


@pytest.mark.parametrize("name", ["predictions.csv", "roc.png", "mistakes.png"])
def test_evaluate_keeps_other_files_in_the_folder(run, shards, config, tmp_path, name):
    (tmp_path / name).write_text("a user's own")
    with raises_naming(DrtfError, tmp_path / name):
        evaluate(run, shards, split="test", out=tmp_path, **sections(config))
    assert [x.read_text() for x in tmp_path.iterdir()] == ["a user's own"]


def test_find_differences_names_what_differs(run, shards, evaluation, config, tmp_path):
    expected = {
        "model_sha256": load_run(run).info.model_sha256,
        "dataset_sha256": hash_manifest(shards),
        "table_sha256": "",
        "split": "test",
        "config": config.evaluate,
    }
    assert find_differences(run / "test", **expected) == []
    (found,) = find_differences(run / "test", **expected | {"split": "val"})
    assert_names(found, "split", "test", "val")
    (found,) = find_differences(tmp_path, **expected)
    assert_names(found, "metrics.json")
    (tmp_path / "metrics.json").write_text("[1]")
    (found,) = find_differences(tmp_path, **expected)
    assert_names(found, "metrics.json")
    with raises_naming(RunError, tmp_path / "metrics.json", "--overwrite"):
        load_result(tmp_path)


@pytest.mark.parametrize("change", [{"layer": "conv_9"}, {"colormap": "jett"}])
def test_evaluate_refuses_invalid_heat_map_settings(
    run, shards, config, tmp_path, change
):
    settings = config.gradcam.model_copy(update=change)
    config = config.model_copy(update={"gradcam": settings})
    with raises_naming(DrtfError, *change.values()):
        evaluate(run, shards, split="test", out=tmp_path / "e", **sections(config))
    assert not (tmp_path / "e").exists()


def test_groups_are_reported_and_compared_with_the_whole(
    run, shards, evaluation, config, tmp_path
):
    index = load_index(shards / "index.parquet", ["patient"])
    rows = "".join(f"{x},{20 + int(x)}\n" for x in index["patient"].unique())
    table = tmp_path / "patients.csv"
    table.write_text(f"patient,age\n{rows}")
    by = ("eye", "age:30,40")
    settings = {"by": by, "min_group_patients": 2, "num_resamples": 100}
    evaluate_config = config.evaluate.model_copy(update=settings)
    request = {"split": "test", "config": evaluate_config, "gradcam": config.gradcam}
    out = tmp_path / "e"
    kill = mock.patch.object(module, "save_groups", side_effect=KeyboardInterrupt)
    with kill, pytest.raises(KeyboardInterrupt):
        evaluate(run, shards, table=table, out=out, **request)
    result = evaluate(run, shards, table=table, out=out, **request)
    assert not result.is_reused
    again = evaluate(run, shards, table=table, out=out, **request)
    assert again.is_reused
    # Undefined metrics are not equal to themselves.
    assert repr(again.groups) == repr(result.groups)
    assert [x.title for x in result.groups] == ["eye", "age"]
    predictions = pd.read_csv(out / "predictions.csv", dtype={"patient": str})
    left = predictions[predictions["id"].str.endswith("left")]
    (group,) = [x for x in result.groups[0].groups if x.name == "left"]
    assert (group.num_photographs, group.num_patients) == (len(left), len(left))
    expected = roc_auc_score(left["grade"] > 0, left["score"])
    assert group.metrics["roc_auc"].value == pytest.approx(expected)
    for name, value in result.metrics.items():
        assert result.groups[0].whole.metrics[name] == value
    ages = predictions["patient"].astype(int) + 20
    sizes = {x.name: x.num_photographs for x in result.groups[1].groups}
    assert sizes == {
        name: n
        for name, n in {
            "< 30": (ages < 30).sum(),
            "30 to < 40": ((ages >= 30) & (ages < 40)).sum(),
            ">= 40": (ages >= 40).sum(),
        }.items()
        if n
    }
    saved = pd.read_csv(out / GROUPS_FILE, keep_default_na=False)
    assert set(saved["by"]) == {"eye", "age"}
    text = (out / REPORT_FILE).read_text()
    assert text.count("data:image/png;base64,") == len(FIGURES) + 3
    # Another table is another evaluation; without --by, nothing of it is left.
    table.write_text(f"patient,age\n{rows}".replace("21\n", "22\n"))
    with raises_naming(DrtfError, out, "table_sha256", "--overwrite"):
        evaluate(run, shards, table=table, out=out, **request)
    evaluate(run, shards, out=out, overwrite=True, split="test", **sections(config))
    assert not [x for x in out.iterdir() if x.name.startswith("groups")]


def test_groups_are_refused_before_the_work_when_a_column_is_missing(
    run, shards, config, tmp_path
):
    def evaluate_by(*by, **changes):
        settings = config.evaluate.model_copy(update={"by": by})
        changed = config.model_copy(update={"evaluate": settings})
        out = tmp_path / "e"
        evaluate(run, shards, split="test", out=out, **sections(changed), **changes)

    with raises_naming(DrtfError, "'agee'", shards, "eye", "labels.keep_columns"):
        evaluate_by("agee")
    with raises_naming(DrtfError, "--table", "--by", tmp_path / "t.csv"):
        evaluate_by(table=tmp_path / "t.csv")
    with raises_naming(DrtfError, "--table", tmp_path / "t.csv"):
        evaluate_by("age", table=tmp_path / "t.csv")
    with raises_naming(DrtfError, "--table", tmp_path):
        evaluate_by("age", table=tmp_path)
    assert not (tmp_path / "e").exists()


def test_descriptions_name_values_and_split():
    common = {"source": "split val", "tta": "none"}
    chosen = Threshold(value=0.5, rule="youden", num_photographs=20, **common)
    assert_names(describe_threshold(chosen), "0.5000", "youden", 20, "val")
    given = Threshold(value=0.5, rule="given", num_photographs=20, **common)
    assert_names(describe_threshold(given), "0.5000")
    assert "val" not in describe_threshold(given)
    values = {"temperature": 1.3, "offset": 0.25, "prior_shift": -0.5}
    histograms = ScoreHistograms(edges=(), negative=(15,), positive=(5,))
    calibration = Calibration(
        method="logistic", histograms=histograms, **values, **common
    )
    facts = "logistic", "1.30", "+0.25", "-0.50", "val"
    assert_names(describe_calibration(calibration), *facts, "0.25")
    moved = calibration.with_prevalence(0.6)
    assert_names(describe_calibration(moved), *facts, "+1.50", "0.60")


def test_equal_count_bins_keep_equal_values_together():
    values = np.repeat([0.4, 0.1, 0.9], [30, 6, 4])
    bins = figures.equal_count_bins(values)
    assert [set(values[members]) for members in bins] == [{0.1}, {0.4}, {0.9}]
    assert sorted(np.concatenate(bins)) == list(range(40))
    rising = figures.equal_count_bins(np.arange(25) / 25)
    assert [len(members) for members in rising] == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]


def test_evaluate_notes_the_validation_split(run, shards, evaluation, config, tmp_path):
    out = tmp_path / "val"
    result = evaluate(run, shards, split="val", out=out, **sections(config))
    (note,) = notes_for(run, shards, split="val")
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


def test_another_dataset_never_moves_the_stored_threshold(
    run, evaluation, photographs, shards, config, tmp_path
):
    run = shutil.copytree(run, tmp_path / "run")
    split = config.split.model_copy(update={"seed": 7})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "other",
        config=config.model_copy(update={"split": split}),
    )
    before = load_run(run).decision_rule
    found = evaluate(run, tmp_path / "other", split="test", **sections(config))
    assert found.folder == run / "evaluation-other-test"
    with ShardDataset(tmp_path / "other") as other, ShardDataset(shards) as trained:
        tested = other.load_index(["id"], other.split_rows("test"))["id"]
        kept = trained.load_index(["id"], trained.split_rows("test"))["id"]
        num_in_training = int((~tested.isin(kept)).sum())
    assert num_in_training
    assert_names(found.notes[0], f"{num_in_training} of these {len(tested)}")
    text = (found.folder / REPORT_FILE).read_text()
    for title, sha256 in (
        ("Evaluated dataset", hash_manifest(tmp_path / "other")),
        ("Training dataset", load_run(run).info.dataset_sha256),
    ):
        assert f"<th>{title}, SHA-256</th><td>{sha256}</td>" in text
    assert found.decision_rule == before
    assert found.operating_points == []
    assert OPERATING_POINT_RULES[-1] not in html.unescape(text)
    assert load_run(run).decision_rule == before
    # Of the training, whatever the fractions in this dataset are.
    save_info(run, load_info(run).model_copy(update={"train_prior": 0.3}))
    moved = evaluate(
        run,
        tmp_path / "other",
        split="test",
        out=tmp_path / "moved",
        **sections(config),
        store_threshold=True,
    )
    assert load_run(run).decision_rule == moved.decision_rule != before
    notes = [note for note in moved.notes if "drtf score" in note]
    assert_names(notes[0], f"{before.threshold.value:.4f}")
    with ShardDataset(tmp_path / "other") as other:
        diseased = other.grades[other.split_rows("val")] > 0
    shift = logit(diseased.mean()) - logit(0.3)
    assert moved.decision_rule.calibration.prior_shift == pytest.approx(shift)


def test_a_dataset_without_a_validation_split_needs_a_stored_threshold(
    run, evaluation, photographs, config, tmp_path
):
    run = shutil.copytree(run, tmp_path / "run")
    split = config.split.model_copy(update={"val_size": 0.0, "test_size": 0.5})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=tmp_path / "other",
        config=config.model_copy(update={"split": split}),
    )
    threshold = load_run(run).threshold.value
    evaluate(run, tmp_path / "other", split="test", **sections(config))
    table = pd.read_csv(run / "evaluation-other-test" / "predictions.csv")
    expected = (table["score"] >= threshold).astype(int)
    assert expected.tolist() == table["predicted_label"].tolist()
    settings = config.evaluate.model_copy(update={"tta": "none"})
    changed = config.model_copy(update={"evaluate": settings})
    out = tmp_path / "e"
    with raises_naming(DrtfError, tmp_path / "other", "'val'"):
        evaluate(run, tmp_path / "other", split="test", out=out, **sections(changed))
    (run / "decision_rule.json").unlink()
    with raises_naming(DrtfError, tmp_path / "other", "'val'"):
        evaluate(run, tmp_path / "other", split="test", out=out, **sections(config))
    assert not out.exists()


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


def test_evaluate_measures_grades_and_referable_disease(
    grades_run_folder, shards, config, tmp_path
):
    shutil.copytree(grades_run_folder, tmp_path / "run")
    history = load_history(tmp_path / "run")
    assert {"accuracy", "val_kappa", "val_roc_auc"} <= set(history[0])
    run = load_run(tmp_path / "run")
    assert run.info.best_epoch == 1
    assert run.network.output_shape == (None, 5)
    found = evaluate(
        tmp_path / "run", shards, split="test", out=tmp_path / "out", **sections(config)
    )
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    cut_points = found.decision_rule.cut_points
    assert load_run(tmp_path / "run").cut_points == cut_points
    reached = predictions[["expected_grade"]].to_numpy() >= np.array(cut_points)
    assert (predictions["predicted_grade"] == reached.sum(axis=1)).all()
    assert_names(found.notes[-1], "cut points", "grade 0", "grade 4")
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

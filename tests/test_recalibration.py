"""Recalibration: a run's decision rule is moved to other photographs."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import drtf
from drtf.adaptation.recalibration import NO_PROBABILITY, OF_TRAINING, recalibrate
from drtf.config import LabelsConfig
from drtf.errors import DrtfError
from drtf.evaluation.decision_rules import fit_decision_rule
from drtf.models.decision_rule import save_decision_rule
from drtf.models.run import load_decision_rule, load_run
from drtf.scoring.score_table import COLUMNS, encode_header, encode_row, write_csv
from naming import assert_names, raises_naming


def draw(num, prevalence, *, shift=0.0, seed=0):
    """Return labels and scores; `shift` moves all scores, as another camera does."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(num) < prevalence * num).astype(int)
    return labels, expit(rng.normal(2.5 * labels - 1.2 + shift, 1.2))


@pytest.fixture(scope="module")
def run(run_folder, tmp_path_factory):
    """A run that was evaluated on 600 photographs."""
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("run") / "run")
    labels, scores = draw(600, 0.3, seed=1)
    opened = load_run(folder)
    labeled = pd.DataFrame({"label": labels, "grade": labels, "score": scores})
    labeled["expected_grade"] = scores
    labeled["patient"] = labeled["eye"] = ""
    settings = opened.config.evaluate
    rule = fit_decision_rule(opened, labeled, settings, source="split val")
    save_decision_rule(folder, rule)
    return folder


@pytest.fixture
def write_scores(run, tmp_path):
    """Write a table of scores as drtf score does."""

    def write(scores, **changes):
        info = load_run(run).info
        cells = {"model": info.model_sha256[:16], "num_views": "5", "probability": "0"}
        lines = []
        for number, score in enumerate(scores):
            name = f"a/{number}.jpg"
            row = dict.fromkeys(COLUMNS, "") | cells | changes
            lines.append(encode_row(row | {"path": name, "own_score": f"{score:.6f}"}))
        write_csv(encode_header(), lines, tmp_path / "scores.csv")
        return tmp_path / "scores.csv"

    return write


@pytest.fixture
def write_labels(tmp_path):
    def write(grades):
        names = [f"{number}.jpg" for number in range(len(grades))]
        table = pd.DataFrame({"image": names, "level": grades})
        table.to_csv(tmp_path / "labels.csv", index=False)
        return tmp_path / "labels.csv"

    return write


@pytest.fixture
def adapt_rule(run, tmp_path):
    def adapt(**request):
        return recalibrate(run, out=tmp_path / "rule", config=LabelsConfig(), **request)

    return adapt


def test_a_given_prevalence_moves_the_probabilities(run, tmp_path):
    before = load_decision_rule(run)
    found = drtf.recalibrate(run, str(tmp_path / "rule"), prevalence=0.7)
    rule = found.rule
    assert_names(found._repr_html_(), "0.70")
    assert load_run(run, rule_folder=tmp_path / "rule").decision_rule == rule
    assert rule.calibration.prevalence == pytest.approx(0.7)
    assert rule.threshold == before.threshold
    assert load_decision_rule(run) == before


def test_scores_show_the_prevalence(adapt_rule, write_scores):
    labels, scores = draw(400, 0.7)
    found = adapt_rule(scores=write_scores(scores))
    assert found.num_photographs == 400
    assert found.rule.calibration.prevalence == found.mixture.prevalence.value
    assert found.mixture.prevalence.value == pytest.approx(labels.mean(), abs=0.06)


def test_labels_choose_threshold_and_calibration(
    adapt_rule, write_scores, write_labels
):
    """Another camera gives higher scores; the last photograph has no label."""
    labels, scores = draw(300, 0.6, shift=2.0)
    table, names = write_scores(scores), write_labels([*labels[:-1]])
    found = adapt_rule(scores=table, labels=names)
    assert (found.num_photographs, found.mixture) == (299, None)
    assert found.left_out["scores without a label"] == 1
    calibration = found.rule.calibration
    assert calibration.source == found.rule.threshold.source == "labels.csv"
    assert calibration.apply(scores).mean() == pytest.approx(0.6, abs=0.02)
    predicted = scores >= found.rule.threshold.value
    assert (predicted == labels).mean() > 0.75
    assert found.notes() == []


def test_few_labels_are_reported(adapt_rule, write_scores, write_labels):
    labels, scores = draw(40, 0.3)
    (note,) = adapt_rule(
        scores=write_scores(scores), labels=write_labels(labels)
    ).notes()
    assert "20" in note


@pytest.mark.parametrize(
    ("num", "shift", "facts"),
    [(300, 3.0, ["--labels", "--prevalence"]), (40, 0.0, ["40", "50"])],
)
def test_scores_that_do_not_show_the_prevalence_are_refused(
    adapt_rule, write_scores, tmp_path, num, shift, facts
):
    table = write_scores(draw(num, 0.3, shift=shift)[1])
    with raises_naming(DrtfError, *facts):
        adapt_rule(scores=table)
    assert not (tmp_path / "rule").exists()


def test_photographs_without_probability_or_of_training_are_not_used(
    adapt_rule, write_scores
):
    scores = draw(10, 0.5)[1]
    with raises_naming(DrtfError, f"10 {NO_PROBABILITY}"):
        adapt_rule(scores=write_scores(scores, probability=""))
    with raises_naming(DrtfError, f"10 {OF_TRAINING}"):
        adapt_rule(scores=write_scores(scores, in_training="1"))


def test_wrong_requests_are_refused(
    run, run_folder, adapt_rule, write_scores, write_labels, tmp_path
):
    labels, scores = draw(100, 0.5)
    table, names = write_scores(scores), write_labels(labels)
    for request in ({}, {"prevalence": 0.1, "scores": table}):
        with raises_naming(DrtfError, "--prevalence", "--scores"):
            adapt_rule(**request)
    with raises_naming(DrtfError, "--labels", "--scores"):
        adapt_rule(prevalence=0.1, labels=names)
    for prevalence in (0.0, 1.0):
        with raises_naming(DrtfError, "--prevalence", prevalence):
            adapt_rule(prevalence=prevalence)
    for num_positive in (100, 91, 9, 0):
        grades = np.where(np.arange(100) < num_positive, 2, 0)
        with raises_naming(DrtfError, num_positive, 100 - num_positive, 10):
            adapt_rule(scores=table, labels=write_labels(grades))
    common = {"config": LabelsConfig(), "prevalence": 0.1}
    with raises_naming(DrtfError, run, "--out"):
        recalibrate(run, out=run, **common)
    with raises_naming(DrtfError, run_folder, "drtf evaluate"):
        recalibrate(run_folder, out=tmp_path / "rule", **common)
    adapt_rule(prevalence=0.1)
    with raises_naming(DrtfError, tmp_path / "rule", "--overwrite"):
        adapt_rule(prevalence=0.2)
    moved = adapt_rule(prevalence=0.2, overwrite=True)
    assert moved.rule.calibration.prevalence == pytest.approx(0.2)
    for changes in ({"model": "0" * 16}, {"num_views": "1"}):
        with raises_naming(DrtfError, table, run):
            adapt_rule(scores=write_scores(scores, **changes), overwrite=True)

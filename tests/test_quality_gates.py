import csv
import json
import shutil

import keras
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf import DrtfError
from drtf.adaptation.quality_gates import (
    MIN_PHOTOGRAPHS,
    fit_gate,
    fit_logistic_regression,
    out_of_fold_probabilities,
)
from drtf.building.build import build_shards
from drtf.config import ModelConfig
from drtf.errors import LabelError, RunError
from drtf.labels.sources import Source
from drtf.models.ensemble import build_ensemble
from drtf.models.network import build_feature_model, build_network
from drtf.models.prediction import build_feature_predictor, build_predictor
from drtf.models.run import load_quality_gate, load_run
from drtf.models.run_files import QUALITY_GATE_FILE
from drtf.models.stored_run import fetch_run
from drtf.scoring.scoring import score
from drtf.seals import dump_sealed
from drtf.storage import read_object, write_object
from drtf.tasks import TASKS
from naming import assert_names, raises_naming

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def write_table(photographs, path, *, header="image,gradable", num=48):
    """Call the diseased photographs ungradable, which the features can tell."""
    lines = (photographs / "labels.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines][:num]
    text = "\n".join([header, *(f"{name},{int(grade == '0')}" for name, grade in rows)])
    path.write_text(text + "\n")
    return path


@pytest.fixture
def table(photographs, tmp_path):
    return write_table(photographs, tmp_path / "gradable.csv")


@pytest.fixture
def run_copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


@pytest.fixture(scope="module")
def gated(run_folder, photographs, config, tmp_path_factory):
    """A run with a gate, which tests must not change, and the report of its fitting."""
    folder = tmp_path_factory.mktemp("gated")
    run = shutil.copytree(run_folder, folder / "run")
    table = write_table(photographs, folder / "gradable.csv")
    images = photographs / "images"
    return run, fit_gate(run, config=config, images=images, table=table)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_features_are_those_of_the_first_view_and_predictions_are_unchanged():
    config = ModelConfig(name="eyenet", weights="none")
    network = build_network(config, image_size=32, load_weights=False)
    by_view, features = build_feature_predictor(network, "flips5")(IMAGES)
    expected = build_predictor(network, "flips5")(IMAGES).numpy()
    assert by_view.numpy() == pytest.approx(expected, abs=1e-6)
    single = build_feature_model(network)(IMAGES.astype(np.float32) / 255)[1].numpy()
    assert features.numpy() == pytest.approx(single, abs=1e-5)
    maps = [x.output for x in network.layers if len(x.output.shape) == 4]
    deepest = keras.Model(network.input, maps[-1])(IMAGES.astype(np.float32) / 255)
    expected = deepest.numpy().mean(axis=(1, 2))
    assert single[:, -expected.shape[1] :] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mean", ["scores", "logits"])
def test_features_of_an_ensemble_are_its_members(mean, tiny):
    config = ModelConfig(name="tiny", weights="none")
    networks = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        networks.append(build_network(config, image_size=32, load_weights=False))
    ensemble = build_ensemble(networks, mean=mean, task=TASKS["binary"])
    images = IMAGES.astype(np.float32) / 255
    own = [build_feature_model(network)(images)[1].numpy() for network in networks]
    output, features = build_feature_model(ensemble)(images)
    assert features.numpy() == pytest.approx(np.concatenate(own, axis=1), abs=1e-5)
    assert output.numpy() == pytest.approx(ensemble(images).numpy(), abs=1e-6)


def test_probabilities_are_of_folds_that_have_no_other_photograph_of_a_patient():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 2)
    is_ungradable = np.repeat(rng.random(60) < 0.5, 2)
    # Only the patient tells the class: one column for each.
    features = np.eye(60)[patients] * 100
    probabilities = out_of_fold_probabilities(features, is_ungradable, patients)
    told = probabilities[is_ungradable].mean() - probabilities[~is_ungradable].mean()
    assert told < 0.05


def test_weights_apply_to_features_that_are_not_standardized():
    rng = np.random.default_rng(0)
    features = rng.normal(5, [1, 100, 0], (400, 3))
    is_ungradable = features[:, 0] > 5
    weights, bias = fit_logistic_regression(features, is_ungradable)
    logits = features @ weights + bias
    assert logits[is_ungradable].mean() > logits[~is_ungradable].mean()
    assert abs(weights[1]) < abs(weights[0]) / 50


def test_a_gate_is_fitted_on_photographs_and_stored(gated, photographs):
    run, report = gated
    gate = load_run(run).quality_gate
    assert gate == report.gate
    assert (gate.num_gradable, gate.num_ungradable) == (24, 24)
    assert (gate.dataset_name, gate.splits) == (str(photographs / "images"), ())
    assert report.roc_auc.value == gate.roc_auc > 0.8
    assert report.num_flagged["gradable"]["gate"] <= 0.05 * 24
    assert report.num_flagged["ungradable"]["gate"] == gate.fraction_caught * 24
    # The rules flag all drawn photographs: they look like no fundus.
    assert report.num_flagged["ungradable"]["rules"] == 24
    assert report.num_flagged["ungradable"]["either"] == 24
    assert report.has_patients
    assert 0 < report.num_in_training < 48
    assert "24" in report._repr_html_()
    assert "gate" in load_run(run)._repr_html_()


def test_a_gate_is_fitted_on_a_dataset_and_replaces_the_one_before(
    run_copy, shards, config, photographs, table
):
    first = fit_gate(run_copy, config=config, shards=shards, table=table)
    assert (first.gate.num_gradable, first.gate.num_ungradable) == (24, 24)
    assert first.gate.splits == ("train", "val", "test")
    assert "rules" not in first.num_flagged["gradable"]
    images = photographs / "images"
    second = fit_gate(
        run_copy, config=config, images=images, table=table, max_flagged=0.5
    )
    assert second.replaced == first.gate
    assert second.gate.weights == pytest.approx(first.gate.weights, rel=1e-3)
    assert second.gate.threshold < first.gate.threshold


def test_scores_are_flagged_by_the_gate(gated, photographs, config, tmp_path):
    run, report = gated
    settings = {"on_ungradable": "predict"}
    options = config.score.model_copy(update=settings)
    out = tmp_path / "scores.csv"
    summary = score(run, photographs / "images", out=out, config=options).summary
    assert summary.num_flagged == 48
    rows = read(out)
    for row in rows:
        is_flagged = float(row["ungradable_probability"]) >= report.gate.threshold
        assert ("quality_gate" in row["flags"].split(";")) == is_flagged
        assert row["predicted_label"]
    probabilities = [float(row["ungradable_probability"]) for row in rows]
    told = [row["id"] for row in rows if float(row["ungradable_probability"]) > 0.5]
    assert np.ptp(probabilities) > 0.1
    assert told


def test_scores_without_a_gate_have_no_probability_and_are_scored_again_with_one(
    gated, run_folder, photographs, config, tmp_path
):
    run, _ = gated
    out, images = tmp_path / "scores.csv", photographs / "images"
    score(run_folder, images, out=out, config=config.score)
    assert {row["ungradable_probability"] for row in read(out)} == {""}
    with raises_naming(DrtfError, out):
        score(run, images, out=out, config=config.score)


def test_a_rejected_photograph_keeps_the_probability(gated, tmp_path, config):
    run, report = gated
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.png").write_bytes(encode(draw_fundus(seed=1, diseased=True)))
    options = config.score.model_copy(update={"on_ungradable": "reject"})
    score(run, images, out=tmp_path / "s.csv", config=options)
    (row,) = read(tmp_path / "s.csv")
    assert (row["score"], row["error"][:10]) == ("", "ungradable")
    assert row["ungradable_probability"]
    assert len(report.gate.weights) > 3


def test_a_gate_that_was_changed_or_is_of_another_model_is_refused(gated, tmp_path):
    original, report = gated
    run = shutil.copytree(original, tmp_path / "run")
    path = run / QUALITY_GATE_FILE
    text = path.read_text()
    path.write_text(text.replace('"num_gradable": 24', '"num_gradable": 25'))
    with raises_naming(RunError, path, "drtf fit-gate"):
        load_run(run)
    path.write_text(text[:100])
    with raises_naming(RunError, path):
        load_run(run)
    path.unlink()
    path.mkdir()
    with raises_naming(RunError, path):
        load_run(run)
    path.rmdir()
    contents = report.gate.model_dump(mode="json")
    path.write_text(dump_sealed(contents | {"model_sha256": "0" * 64}))
    with raises_naming(RunError, path, run, "drtf fit-gate"):
        load_run(run)
    path.write_text(dump_sealed(contents | {"threshold": 2}))
    with raises_naming(RunError, path, "threshold"):
        load_run(run)
    path.write_text(dump_sealed(contents | {"weights": [1.0, 2.0]}))
    gate = load_quality_gate(run, load_run(run).info)
    with raises_naming(RunError, QUALITY_GATE_FILE, 2, 7):
        gate.apply(np.zeros((1, 7)))
    path.write_text(json.dumps([]))
    with raises_naming(RunError, path):
        load_run(run)


def test_too_few_photographs_of_a_class_are_refused_before_the_work(
    run_copy, photographs, config, tmp_path, shards
):
    table = write_table(photographs, tmp_path / "few.csv", num=20)
    for place in ({"images": photographs / "images"}, {"shards": shards}):
        with raises_naming(DrtfError, MIN_PHOTOGRAPHS, 10, "gradable") as error:
            fit_gate(run_copy, config=config, table=table, **place)
        assert_names(error.value, "'0' = ungradable")
    assert not (run_copy / QUALITY_GATE_FILE).exists()


def test_features_that_tell_nothing_are_refused(
    run_copy, photographs, config, tmp_path
):
    path = tmp_path / "random.csv"
    flags = np.random.default_rng(1).permutation(np.arange(48) % 2)
    names = sorted(x.stem for x in (photographs / "images").iterdir())
    lines = [f"{name},{flag}" for name, flag in zip(names, flags, strict=True)]
    path.write_text("\n".join(["image,gradable", *lines]))
    with raises_naming(DrtfError, run_copy, "gradable"):
        fit_gate(run_copy, config=config, images=photographs / "images", table=path)
    assert not (run_copy / QUALITY_GATE_FILE).exists()


def test_a_gate_needs_photographs_and_a_table_that_names_some(
    run_copy, photographs, config, tmp_path, shards
):
    with raises_naming(DrtfError, "--shards", "--images"):
        fit_gate(run_copy, config=config)
    with raises_naming(LabelError, shards, "--table", "labels.keep_columns"):
        fit_gate(run_copy, config=config, shards=shards)
    other = tmp_path / "other.csv"
    other.write_text("image,gradable\nx_left,1\ny_left,0\n")
    with raises_naming(LabelError, other, "x_left"):
        fit_gate(run_copy, config=config, images=photographs / "images", table=other)


def test_a_gate_is_fitted_on_a_column_that_the_dataset_kept(
    run_copy, photographs, config, table, tmp_path
):
    labels = tmp_path / "labels.csv"
    grades = (photographs / "labels.csv").read_text().splitlines()
    flags = [line.split(",")[1] for line in table.read_text().splitlines()]
    lines = [f"{x},{flag}" for x, flag in zip(grades, flags, strict=True)]
    labels.write_text("\n".join(lines))
    kept = config.labels.model_copy(update={"keep_columns": ("gradable",)})
    shards = tmp_path / "kept"
    build_shards(
        [Source(photographs / "images", labels)],
        out=shards,
        config=config.model_copy(update={"labels": kept}),
    )
    report = fit_gate(run_copy, config=config, shards=shards)
    assert (report.column, report.gate.num_ungradable) == ("gradable", 24)
    with raises_naming(DrtfError, MIN_PHOTOGRAPHS, "gradable"):
        fit_gate(run_copy, config=config, shards=shards, splits=["test"])


def test_the_gate_of_a_run_in_a_store_is_uploaded(
    run_folder, photographs, config, table
):
    location = "memory://runs/gate/clinic/first"
    for path in run_folder.iterdir():
        if path.is_file():
            write_object(f"{location}/{path.name}", path.read_bytes())
    run = fetch_run(location)
    report = fit_gate(run, config=config, images=photographs / "images", table=table)
    stored = json.loads(read_object(f"{location}/{QUALITY_GATE_FILE}"))
    assert stored["threshold"] == report.gate.threshold
    assert load_run(fetch_run(location)).quality_gate == report.gate


def test_the_command_takes_either_photographs_or_a_dataset(run, run_copy, shards):
    for words in (
        (),
        ("--images", "x", "--shards", shards),
        ("--images", "x", "--split", "a"),
    ):
        code, _, err = run("fit-gate", run_copy, *words)
        assert code == 2
        assert_names(err, "--shards")

import json
import shutil
from importlib.util import find_spec

import cv2
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from drtf.building.build import build_shards
from drtf.data.loader import read_batch
from drtf.errors import DrtfError, RecordError
from drtf.export.comparison import add_predictions, build_uint8_views
from drtf.export.export import export, matching_cut
from drtf.export.formats import FORMATS, Loaded
from drtf.export.graph import build_graph, calibrate, interpolate
from drtf.export.packages import import_package
from drtf.labels.sources import Source
from drtf.models.calibration import fit_calibration
from drtf.models.fellow_eye import FellowEye
from drtf.models.run import load_run
from drtf.photographs.listing import list_photographs
from drtf.scoring.photograph_scores import prepare_photographs
from drtf.scoring.scoring import score
from naming import raises_naming

# TensorFlow's advice on the interpreter's next home is not for those who test it.
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")

PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "coreml": ("coremltools", "onnx", "onnxruntime", "tf2onnx"),
    "litert": ("ai_edge_litert",),
}
# How much scores may differ from Keras.
TOLERANCES = dict.fromkeys(FORMATS, 1e-5) | {"tflite-float16": 0.01, "tflite-int8": 0.1}


def out_path(tmp_path, target):
    return tmp_path / f"model{FORMATS[target].suffix}"


def skip_without_packages(target):
    missing = [name for name in PACKAGES.get(target, ()) if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def ruled_run(run_folder, save_rule, tmp_path_factory):
    """A run with a decision rule, whose threshold half of the test photographs reach.

    Its rule combines both eyes, which a network cannot.
    """
    copy = shutil.copytree(run_folder, tmp_path_factory.mktemp("export") / "run")
    pairs = FellowEye(offset=0.1, own=0.7, fellow=0.4, num_pairs=30)
    save_rule(copy, 0.5, tta="flips5", fellow_eye=pairs)
    return copy


@pytest.fixture(scope="module")
def ruled_grades_run(grades_run_folder, save_rule, tmp_path_factory):
    copy = shutil.copytree(grades_run_folder, tmp_path_factory.mktemp("export") / "run")
    save_rule(copy, 0.5, tta="dihedral8", cut_points=(0.5, 1.9, 2.1, 3.0))
    return copy


@pytest.mark.parametrize("target", FORMATS)
def test_each_format_gives_the_predictions_of_keras(
    target, ruled_run, shards, shard_dataset, tmp_path
):
    skip_without_packages(target)
    out = out_path(tmp_path, target)
    found = export(ruled_run, shards, out=out, target=target)
    result = found.measured.comparison
    # The brighter view is rounded to uint8.
    assert result.max_difference <= max(TOLERANCES[target], 0.005)
    assert result.roc_auc == pytest.approx(result.keras_roc_auc, abs=0.1)
    facts = json.loads((tmp_path / f"{out.name}.json").read_text())
    assert facts["size_bytes"] == found.measured.size_bytes > 0
    assert facts["preprocessing"]["size"] == 32
    assert len(facts["views"]) == 5
    assert facts["fellow_eye"]["own"] == 0.7
    assert list(facts["outputs"]) == ["score"]
    if not FORMATS[target].is_quantized:
        assert facts["threshold"]["value"] == found.threshold == 0.5

    run = load_run(ruled_run)
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    expected = run.task.disease_scores(run.network(images / np.float32(255)).numpy())
    loaded = FORMATS[target].load(out, build_graph(run, whole=False))
    scores = loaded.predict(images)["score"]
    assert scores == pytest.approx(expected, abs=TOLERANCES[target])
    # Of another size it is resized inside.
    large = np.stack([cv2.resize(x, (64, 64)) for x in images[:1]])
    assert loaded.predict(large)["score"] == pytest.approx(expected[:1], abs=0.2)
    # The same call returns what is complete, and no other call replaces it.
    written = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    again = export(ruled_run, shards, out=out, target=target)
    assert again.is_reused
    assert again.measured == found.measured
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == written
    with raises_naming(DrtfError, out):
        export(ruled_run, shards, out=out, target=target, split="val")


@pytest.mark.parametrize("target", ["savedmodel", "onnx", "coreml", "litert"])
def test_the_whole_graph_gives_the_rows_of_scoring(
    target, ruled_grades_run, shards, shard_dataset, tmp_path
):
    skip_without_packages(target)
    out = out_path(tmp_path, target)
    found = export(ruled_grades_run, shards, out=out, target=target, whole=True)
    result = found.measured.comparison
    assert result.max_difference <= 1e-5
    assert result.max_probability_difference <= 1e-5
    assert result.num_changed_predictions == result.num_changed_grades == 0
    run = load_run(ruled_grades_run)
    loaded = FORMATS[target].load(out, build_graph(run, whole=True))
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    outputs = loaded.predict(images[:1])
    assert list(outputs) == [
        "score",
        "probability",
        "predicted_label",
        "expected_grade",
        "predicted_grade",
    ]
    assert all(values.shape == (1,) for values in outputs.values())
    facts = json.loads((tmp_path / f"{out.name}.json").read_text())
    assert list(facts["outputs"]) == list(outputs)
    assert facts["views"] == ["unchanged"]
    assert facts["cut_points"] == [0.5, 1.9, 2.1, 3.0]


def test_the_whole_graph_gives_the_numbers_of_the_table_of_scores(
    ruled_grades_run, photographs, config, tmp_path
):
    report = score(
        ruled_grades_run,
        photographs / "images",
        out=tmp_path / "scores.csv",
        config=config.score,
    )
    table = report.load_table()
    run = load_run(ruled_grades_run)
    listing = list_photographs(photographs / "images")
    prepared = prepare_photographs(run, listing.photographs, num_workers=1)
    images = np.stack([photograph.image for photograph in prepared])
    outputs = build_graph(run, whole=True).compile()(tf.constant(images))
    for name, values in outputs.items():
        assert values.numpy() == pytest.approx(table[name].to_numpy(), abs=1e-5), name


def test_grades_are_the_second_output_without_the_rule(
    grades_run_folder, shards, shard_dataset, tmp_path
):
    run = load_run(grades_run_folder)
    out = tmp_path / "model.tflite"
    found = export(grades_run_folder, shards, out=out, target="tflite")
    assert found.measured.comparison.max_difference <= 1e-5
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    expected = run.network(images / np.float32(255)).numpy() @ np.arange(5)
    outputs = FORMATS["tflite"].load(out, build_graph(run, whole=False)).predict(images)
    assert outputs["expected_grade"] == pytest.approx(expected, abs=1e-5)
    with raises_naming(DrtfError, "--whole", grades_run_folder):
        build_graph(run, whole=True)


@pytest.mark.parametrize("method", ["none", "logistic", "isotonic"])
@pytest.mark.parametrize("prevalence", [None, 0.02])
def test_the_graph_calibrates_as_scoring_does(method, prevalence):
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1], 60)
    fitted_on = np.clip(rng.normal(0.3 + 0.3 * y_true, 0.2), 0, 1)
    calibration = fit_calibration(
        y_true, fitted_on, method=method, train_prior=0.4, source="", tta="none"
    )
    if prevalence:
        calibration = calibration.with_prevalence(prevalence)
    scores = np.concatenate([[0, 1], rng.random(500)]).astype(np.float32)
    expected = calibration.apply_rounded(scores)
    found = calibrate(tf.constant(scores), calibration).numpy()
    # A value halfway between two roundings may take the other one.
    differences = np.abs(found - expected)
    assert (differences < 1e-6).mean() > 0.99
    assert differences.max() < 0.0011


def test_a_curve_is_interpolated_as_numpy_does():
    xs, ys = [0.1, 0.4, 0.4, 0.7], [0.0, 0.2, 0.5, 1.0]
    x = np.array([0.0, 0.1, 0.25, 0.39, 0.41, 0.6, 0.7, 1.0], np.float32)
    assert interpolate(tf.constant(x), xs, ys).numpy() == pytest.approx(
        np.interp(x, xs, ys), abs=1e-5
    )
    assert interpolate(tf.constant(x), [0.5], [0.3]).numpy() == pytest.approx(0.3)


def test_a_matching_cut_keeps_the_number_of_positives():
    values, others = np.array([0.1, 0.3, 0.6, 0.9]), np.array([0.5, 0.2, 0.8, 0.4])
    assert matching_cut(0.5, values, others) == pytest.approx(0.45)
    assert matching_cut(0.95, values, others) == 0.95
    assert matching_cut(0.05, values, others) == 0.05


def test_quantized_exports_have_their_own_threshold(
    ruled_run, shards, tmp_path, monkeypatch
):
    """A network whose scores are halved keeps its decisions with half the threshold."""
    run = load_run(ruled_run)

    def load(self, path, graph):
        def predict(images):
            scores = run.network(images / np.float32(255)).numpy()[:, 0]
            return {"score": scores / 2}

        return Loaded(predict, "halved")

    monkeypatch.setattr("drtf.export.formats.Format.load", load)
    monkeypatch.setattr(
        "drtf.export.formats.Format.write",
        lambda self, graph, path, samples: path.write_bytes(b"x"),
    )
    found = export(ruled_run, shards, out=tmp_path / "model", target="tflite-int8")
    assert found.has_own_threshold
    assert found.measured.runtime == "halved"
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["threshold"]["value"] == found.threshold < 0.5
    assert facts["made_from"]["decision_rule"]["threshold"]["value"] == 0.5
    with raises_naming(DrtfError, "--whole", "tflite-int8"):
        export(
            ruled_run,
            shards,
            out=tmp_path / "whole",
            target="tflite-int8",
            whole=True,
        )


def test_predictions_are_added_by_the_rule(ruled_run):
    run = load_run(ruled_run)
    table = add_predictions(pd.DataFrame({"score": [0.2, 0.5]}), run)
    assert table["predicted_label"].tolist() == [0, 1]
    assert table["probability"].between(0, 1).all()
    # What the graph returned itself is kept.
    table = add_predictions(pd.DataFrame({"score": [0.2], "predicted_label": [1]}), run)
    assert table["predicted_label"].tolist() == [1]


def test_views_of_uint8_images_are_uint8():
    image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    views = build_uint8_views(image, "flips5")
    assert views.dtype == np.uint8
    assert views.shape == (5, 4, 4, 3)
    assert (views[1] == image[0, :, ::-1]).all()
    assert views[4].max() == round(47 * 1.1)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    with raises_naming(DrtfError, "no_such_package", "drtf[onnx]"):
        import_package("no_such_package", extra="onnx")


def test_core_ml_requires_its_suffix(ruled_run, shards, tmp_path):
    with raises_naming(DrtfError, ".mlpackage", tmp_path / "model"):
        export(ruled_run, shards, out=tmp_path / "model", target="coreml")


def test_export_refuses_a_dataset_with_other_preprocessing(
    run_folder, photographs, config, tmp_path
):
    images = config.images.model_copy(update={"clahe_tiles": 4})
    other = tmp_path / "other"
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=other,
        config=config.model_copy(update={"images": images}),
    )
    with raises_naming(DrtfError, "images.clahe_tiles", 4, 8, other, run_folder):
        export(run_folder, other, out=tmp_path / "model", target="savedmodel")
    assert not (tmp_path / "model").exists()


def test_failed_export_leaves_no_files(run_folder, shards, tmp_path):
    out = tmp_path / "model"
    with raises_naming(RecordError, shards, "dev"):
        export(run_folder, shards, out=out, target="tflite", split="dev")
    assert not list(tmp_path.iterdir())
    (tmp_path / "other.json").write_text('{"a user\'s": "own"}')
    with raises_naming(DrtfError, tmp_path / "other.json"):
        export(run_folder, shards, out=tmp_path / "other", target="tflite")
    (tmp_path / "other.json").unlink()
    (tmp_path / ".model.partial").write_bytes(b"of a call that was killed")
    export(run_folder, shards, out=out, target="savedmodel")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.json"]
    # A call that was killed before its last step leaves the description.
    shutil.rmtree(out)
    assert not export(run_folder, shards, out=out, target="savedmodel").is_reused

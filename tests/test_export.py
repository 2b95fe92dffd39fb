import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from drtf.building.build import build_shards
from drtf.data.loader import read_batch
from drtf.errors import DrtfError, RecordError
from drtf.labels.sources import Source
from drtf.models.export import export
from drtf.models.run import load_run
from naming import raises_naming


def run_lite(path, images, number=0):
    interpreter = tf.lite.Interpreter(str(path))
    source = interpreter.get_input_details()[0]
    assert source["dtype"] == np.uint8
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[number]["index"])


def run_saved(path, images, name="score"):
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return serve(image=tf.constant(images))[name].numpy()


# TensorFlow's advice on the interpreter's next home is not for those who test it.
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")


@pytest.mark.parametrize(
    ("target", "name", "tolerance"),
    [
        ("savedmodel", "model", 1e-6),
        ("tflite", "model.tflite", 1e-5),
        ("tflite-int8", "model.tflite", 0.1),
    ],
)
def test_exported_network_gives_the_scores_of_keras(
    run_folder, shards, shard_dataset, tmp_path, target, name, tolerance
):
    out = tmp_path / name
    found = export(run_folder, shards, out=out, target=target)
    assert found.max_difference <= tolerance
    assert found.roc_auc == pytest.approx(found.keras_roc_auc, abs=0.1)
    facts = json.loads((tmp_path / f"{name}.json").read_text())
    assert facts["size_bytes"] == found.size_bytes > 0
    assert facts["preprocessing"]["size"] == 32
    assert facts["views"] == ["unchanged"]

    run = load_run(run_folder)
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    expected = run.task.disease_scores(run.network(images / np.float32(255)).numpy())
    call = run_saved if target == "savedmodel" else run_lite
    scores = call(out, images)
    assert scores == pytest.approx(expected, abs=tolerance)
    otherwise = ((scores >= 0.5) != (expected >= 0.5)).sum()
    assert (
        facts["num_changed_predictions"] == found.num_changed_predictions == otherwise
    )
    # Of another size it is resized inside.
    large = np.stack([cv2.resize(x, (64, 64)) for x in images[:1]])
    assert call(out, large) == pytest.approx(expected[:1], abs=0.2)
    # The same call returns what is complete, and finishes what a kill left.
    written = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    assert export(run_folder, shards, out=out, target=target) == found
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == written
    with raises_naming(DrtfError, out):
        export(run_folder, shards, out=out, target=target, split="val")
    if target == "tflite":
        out.unlink()
        export(run_folder, shards, out=out, target=target)
        (tmp_path / "other.json").write_text('{"a user\'s": "own"}')
        with raises_naming(DrtfError, tmp_path / "other.json"):
            export(run_folder, shards, out=tmp_path / "other", target=target)


@pytest.mark.parametrize("target", ["savedmodel", "tflite"])
def test_exported_network_gives_the_expected_grade(
    grades_run_folder, shards, shard_dataset, tmp_path, target
):
    out = tmp_path / "model"
    found = export(grades_run_folder, shards, out=out, target=target)
    assert found.max_difference <= 1e-5
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["cut_points"] == [0.5, 1.5, 2.5, 3.5]
    run = load_run(grades_run_folder)
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    expected = run.network(images / np.float32(255)).numpy() @ np.arange(5)
    if target == "savedmodel":
        grades = run_saved(out, images, "expected_grade")
    else:
        grades = run_lite(out, images, number=1)
    assert grades == pytest.approx(expected, abs=1e-5)
    # The same call finds what it wrote.
    assert export(grades_run_folder, shards, out=out, target=target) == found


def test_export_counts_changed_predictions_by_the_run_threshold(
    run_folder, shards, shard_dataset, tmp_path, save_rule, monkeypatch
):
    run_copy = shutil.copytree(run_folder, tmp_path / "run")

    def serve(images):
        return {"score": tf.zeros(len(images))}

    loaded = SimpleNamespace(signatures={"serving_default": serve})
    monkeypatch.setattr(tf.saved_model, "load", lambda folder: loaded)
    run = load_run(run_copy)
    images = read_batch(shard_dataset, shard_dataset.split_rows("test"))
    scores = run.task.disease_scores(run.network(images / np.float32(255)).numpy())
    save_rule(run_copy, float(np.sort(scores)[-3:].mean()))
    expected = (scores >= load_run(run_copy).effective_threshold).sum()
    found = export(run_copy, shards, out=tmp_path / "model", target="savedmodel")
    assert found.num_changed_predictions == expected > 0


def test_int8_export_is_smaller(run_folder, shards, tmp_path):
    sizes = [
        export(run_folder, shards, out=tmp_path / target, target=target).size_bytes
        for target in ("tflite", "tflite-int8")
    ]
    assert sizes[1] < sizes[0] / 2


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
    (tmp_path / ".model.partial").write_bytes(b"of a call that was killed")
    export(run_folder, shards, out=out, target="savedmodel")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.json"]

import shutil

import cv2
import keras
import numpy as np
import pytest

from drtf.bench.heatmaps import bench_heatmaps
from drtf.building.build import build_shards
from drtf.config import GradcamConfig, ModelConfig, load_config
from drtf.errors import DrtfError, RunError
from drtf.evaluation.evaluation import evaluate
from drtf.export.export import export
from drtf.files import hash_file
from drtf.heatmaps.heatmaps import build_map_function, check_settings
from drtf.labels.sources import Source
from drtf.models.ensemble import build_ensemble, combine
from drtf.models.head import LOGITS
from drtf.models.network import build_network
from drtf.models.run import load_info, load_run, save_config, save_info
from drtf.models.run_files import CONFIG_FILE
from drtf.models.training_photographs import PHOTOGRAPHS_FILE, load_photographs
from drtf.records.reader import ShardDataset
from drtf.tasks import TASKS
from drtf.training.own_model import save_run
from naming import raises_naming


@pytest.fixture(scope="module")
def large_shards(photographs, config, tmp_path_factory):
    """The photographs of `shards` at 64 px."""
    out = tmp_path_factory.mktemp("tfrecords") / "large"
    images = config.images.model_copy(update={"size": 64})
    build_shards(
        [Source(photographs / "images", photographs / "labels.csv")],
        out=out,
        config=config.model_copy(update={"images": images}),
    )
    return out


@pytest.fixture(scope="module")
def large_run(large_shards, config, tmp_path_factory):
    """A run at 64 px whose backbone is a user's own."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Conv2D(8, 5, strides=4, activation="relu", name="features"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    out = tmp_path_factory.mktemp("runs") / "large"
    with ShardDataset(large_shards) as dataset:
        save_run(
            model,
            dataset,
            out,
            task="binary",
            takes_unit_range=True,
            sampling=config.sampling,
        )
    return out


@pytest.fixture(scope="module")
def ensemble(run_folder, large_run, tmp_path_factory):
    """The mean of a run at 32 px and one at 64 px with another backbone."""
    out = tmp_path_factory.mktemp("runs") / "ensemble"
    combine([run_folder, large_run], out=out, mean="scores")
    return out


@pytest.mark.parametrize(
    ("task", "sizes"),
    [("binary", (32, 32)), ("grades", (32, 32)), ("binary", (32, 56))],
)
def test_build_ensemble_averages_its_members(task, sizes, tmp_path, tiny):
    config = ModelConfig(name="tiny", weights="none", head_units=(8,))
    images = np.random.default_rng(0).random((4, max(sizes), max(sizes), 3), np.float32)
    networks, scores = [], []
    for seed, size in enumerate(sizes):
        keras.utils.set_random_seed(seed)
        network = build_network(
            config, image_size=size, load_weights=False, task=TASKS[task]
        )
        kernel, bias = network.get_layer(LOGITS).get_weights()
        network.get_layer(LOGITS).set_weights([kernel * 30, bias + seed])
        networks.append(network)
        shrunk = [
            cv2.resize(x, (size, size), interpolation=cv2.INTER_AREA) for x in images
        ]
        scores.append(network(np.stack(shrunk)).numpy())
    scores = np.stack(scores)
    if task == "binary":
        geometric = 1 / (1 + np.exp(-np.log(scores / (1 - scores)).mean(axis=0)))
    else:
        powers = np.exp(np.log(scores).mean(axis=0))
        geometric = powers / powers.sum(axis=1, keepdims=True)
    for mean, expected in (("scores", scores.mean(axis=0)), ("logits", geometric)):
        ensemble = build_ensemble(networks, mean=mean, task=TASKS[task])
        assert ensemble(images).numpy() == pytest.approx(expected, abs=1e-5)
        path = tmp_path / f"{mean}.keras"
        ensemble.save(path)
        loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
        assert (loaded(images).numpy() == ensemble(images).numpy()).all()


def test_an_ensemble_of_two_sizes_is_evaluated_on_the_larger_dataset(
    ensemble, shards, large_shards, config, tmp_path
):
    copy = tmp_path / "ensemble"
    shutil.copytree(ensemble, copy)
    common = {
        "split": "test",
        "out": tmp_path / "evaluation",
        "config": config.evaluate,
        "gradcam": config.gradcam,
    }
    with raises_naming(DrtfError, shards, "images.size", 32, 64):
        evaluate(copy, shards, **common)
    found = evaluate(copy, large_shards, **common)
    run = load_run(copy)
    assert run.threshold == found.decision_rule.threshold
    assert not any("photographs were in" in note for note in found.notes)
    members = [(x.backbone, x.image_size) for x in run.info.members]
    assert members == [("own-model", 64), ("eyenet", 32)]


def test_the_map_of_an_ensemble_is_the_mean_of_its_members(
    ensemble, run_folder, large_run
):
    run, large, small = map(load_run, (ensemble, large_run, run_folder))
    layers = check_settings(run, GradcamConfig())
    assert layers[0].name == "features"
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    settings = GradcamConfig(method="layercam")
    enlarged = images.repeat(2, axis=1).repeat(2, axis=2)
    maps = [
        build_map_function(x, settings)(seen).heat
        for x, seen in ((run, enlarged), (large, enlarged), (small, images))
    ]
    assert maps[0].shape == (2, 64, 64)
    # The heat per 1 % of the picture does not depend on its size.
    total, *parts = (heat.mean(axis=(1, 2)) for heat in maps)
    assert parts[0].any()
    assert parts[1].any()
    assert total == pytest.approx(np.mean(parts, axis=0), rel=1e-2)
    with raises_naming(DrtfError, "gradcam.layer", "conv_2"):
        check_settings(run, GradcamConfig(layer="conv_2"))


@pytest.mark.parametrize("target", ["savedmodel", "onnx", "tflite", "tflite-int8"])
def test_an_ensemble_of_two_sizes_is_exported(target, ensemble, large_shards, tmp_path):
    out = tmp_path / "out"
    result = export(ensemble, large_shards, out=out, target=target).measured.comparison
    assert result.max_difference < (0.05 if target == "tflite-int8" else 1e-5)


def test_an_ensemble_is_scored_and_its_maps_are_measured(
    ensemble, run_folder, photographs, tmp_path, run
):
    images, scores = photographs / "images", tmp_path / "scores.csv"
    code, _, _ = run("score", ensemble, "--images", images, "--out", scores)
    assert code == 0
    assert len(scores.read_text().splitlines()) == 1 + len(list(images.iterdir()))
    mask = np.zeros((120, 160), np.uint8)
    mask[50:62, 90:100] = 1
    cv2.imwrite(str(tmp_path / "0_left_MA.png"), mask)
    report = bench_heatmaps(
        [ensemble], images=images, masks=tmp_path, methods=("gradcam", "saliency")
    )
    assert [x.cells for x in report.results] == [15, 64]
    assert report.results[0].is_default
    with raises_naming(DrtfError, ensemble, run_folder):
        bench_heatmaps([ensemble, run_folder], images=images, masks=tmp_path)


def relabel(run_folder, out, *settings, photographs=None):
    """Copy a run, as if it had been trained with other settings or photographs."""
    shutil.copytree(run_folder, out)
    save_config(out, load_config(str(out / CONFIG_FILE), settings))
    if photographs is not None:
        (out / PHOTOGRAPHS_FILE).write_bytes(photographs.tobytes())
    hashes = {
        "config_sha256": hash_file(out / CONFIG_FILE),
        "photographs_sha256": hash_file(out / PHOTOGRAPHS_FILE),
    }
    save_info(out, load_info(out).model_copy(update=hashes))
    return out


def test_combine_refuses_runs_that_do_not_fit_together(run_folder, large_run, tmp_path):
    with raises_naming(RunError, 2, 1):
        combine([run_folder], out=tmp_path / "out", mean="scores")
    with raises_naming(RunError, tmp_path):
        combine([run_folder, large_run], out=tmp_path, mean="scores")
    both = [run_folder, large_run]
    info = combine(both, out=tmp_path / "both", mean="scores")
    assert combine(both, out=tmp_path / "both", mean="scores") == info  # complete
    assert combine(both[::-1], out=tmp_path / "both", mean="scores") == info
    with raises_naming(RunError, tmp_path / "both", "logits"):
        combine(both, out=tmp_path / "both", mean="logits")
    third = relabel(large_run, tmp_path / "third", "train.task=referable")
    with raises_naming(RunError, tmp_path / "both"):
        combine([*both, run_folder], out=tmp_path / "both", mean="scores")
    with raises_naming(RunError, third, "'referable'", run_folder, "'binary'"):
        combine([run_folder, third], out=tmp_path / "out", mean="scores")
    tested = relabel(large_run, tmp_path / "tested", "train.validation_split=test")
    with raises_naming(RunError, tested, "'test'", run_folder, "'val'"):
        combine([run_folder, tested], out=tmp_path / "out", mean="scores")
    with raises_naming(RunError, tmp_path / "both"):
        combine([run_folder, tmp_path / "both"], out=tmp_path / "out", mean="scores")
    with raises_naming(RunError, run_folder):
        combine([run_folder, run_folder], out=tmp_path / "out", mean="scores")
    graham = relabel(
        large_run, tmp_path / "x", "images.contrast=graham", "images.mask=true"
    )
    differing = "images.contrast='graham'", "'clahe'", "images.mask=True"
    with raises_naming(RunError, graham, run_folder, *differing):
        combine([run_folder, graham], out=tmp_path / "out", mean="scores")
    assert not (tmp_path / "out").exists()


def test_combine_refuses_runs_with_other_splits(run_folder, large_run, tmp_path):
    photographs = load_photographs(large_run)
    moved = photographs.copy()
    moved["use"][:3] = (moved["use"][:3] + 1) % 3
    other = relabel(large_run, tmp_path / "moved", photographs=moved)
    with raises_naming(RunError, other, run_folder, 3, len(moved)):
        combine([run_folder, other], out=tmp_path / "out", mean="scores")
    moved["prefix"] += np.uint64(1)
    other = relabel(large_run, tmp_path / "unknown", photographs=moved)
    with raises_naming(RunError, other, run_folder):
        combine([run_folder, other], out=tmp_path / "out", mean="scores")
    # One run may have been trained on photographs that the other one does not have.
    more = relabel(large_run, tmp_path / "more", photographs=photographs[1:])
    combine([run_folder, more], out=tmp_path / "out", mean="scores")

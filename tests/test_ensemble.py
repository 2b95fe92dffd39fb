import shutil

import keras
import numpy as np
import pytest

from drtf.config import GradcamConfig, ModelConfig, load_config
from drtf.errors import RunError
from drtf.files import hash_file
from drtf.inference.ensemble import build_ensemble, combine
from drtf.inference.evaluation import evaluate
from drtf.inference.heatmaps import compute_maps
from drtf.models.head import LOGITS
from drtf.models.network import build_network
from drtf.models.run import load_info, load_run, save_config, save_info
from drtf.models.run_files import CONFIG_FILE
from drtf.tasks import TASKS
from drtf.training.run import train
from naming import raises_naming


@pytest.fixture(scope="module")
def other_run(shards, config, tmp_path_factory):
    settings = config.train.model_copy(update={"seed": 7, "epochs": 1})
    config = config.model_copy(update={"train": settings})
    out = tmp_path_factory.mktemp("runs") / "other"
    train(shards, out=out, config=config)
    return out


@pytest.mark.parametrize("task", ["binary", "grades"])
def test_build_ensemble_averages_its_members(task, tmp_path, tiny):
    config = ModelConfig(name="tiny", weights="none", head_units=(8,))
    networks = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        network = build_network(
            config, image_size=32, load_weights=False, task=TASKS[task]
        )
        kernel, bias = network.get_layer(LOGITS).get_weights()
        network.get_layer(LOGITS).set_weights([kernel * 30, bias + seed])
        networks.append(network)
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    scores = np.stack([network(images).numpy() for network in networks])
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


def test_combine_writes_a_run_that_can_be_evaluated(
    run_folder, other_run, shards, config, shard_dataset, tmp_path
):
    out = tmp_path / "ensemble"
    info = combine([run_folder, other_run], out=out, mean="scores")
    members = [load_run(folder) for folder in (run_folder, other_run)]
    assert info.members == tuple(run.info.model_sha256 for run in members)
    found = evaluate(
        out,
        shards,
        split="test",
        out=tmp_path / "evaluation",
        config=config.evaluate,
        gradcam=config.gradcam,
    )
    run = load_run(out)
    assert run.threshold == found.decision_rule.threshold
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    settings = GradcamConfig(layer="conv_2", method="layercam")
    maps = [compute_maps(x, images, settings).heat for x in (run, *members)]
    assert maps[0] == pytest.approx(np.mean(maps[1:], axis=0), rel=1e-4)


def relabel(run_folder, out, *settings):
    """Copy a run, as if it had been trained with other settings."""
    shutil.copytree(run_folder, out)
    save_config(out, load_config(str(out / CONFIG_FILE), settings))
    sha256 = hash_file(out / CONFIG_FILE)
    save_info(out, load_info(out).model_copy(update={"config_sha256": sha256}))


def test_combine_refuses_runs_that_do_not_fit_together(run_folder, other_run, tmp_path):
    with raises_naming(RunError, 2, 1):
        combine([run_folder], out=tmp_path / "out", mean="scores")
    with raises_naming(RunError, tmp_path):
        combine([run_folder, other_run], out=tmp_path, mean="scores")
    both = [run_folder, other_run]
    info = combine(both, out=tmp_path / "both", mean="scores")
    assert combine(both, out=tmp_path / "both", mean="scores") == info  # complete
    with raises_naming(RunError, tmp_path / "both", "logits"):
        combine(both, out=tmp_path / "both", mean="logits")
    with raises_naming(RunError, tmp_path / "both"):
        combine(both[::-1], out=tmp_path / "both", mean="scores")
    relabel(other_run, tmp_path / "mobile", "model.name=mobilenetv2")
    mobile = (tmp_path / "mobile", "'mobilenetv2'")
    with raises_naming(RunError, *mobile, run_folder, "'eyenet'"):
        combine([run_folder, tmp_path / "mobile"], out=tmp_path / "x", mean="scores")
    relabel(other_run, tmp_path / "tested", "train.validation_split=test")
    with raises_naming(RunError, tmp_path / "tested", "'test'", run_folder, "'val'"):
        combine([run_folder, tmp_path / "tested"], out=tmp_path / "x", mean="scores")
    with raises_naming(RunError, tmp_path / "both"):
        combine([run_folder, tmp_path / "both"], out=tmp_path / "out", mean="scores")
    with raises_naming(RunError, run_folder):
        combine([run_folder, run_folder], out=tmp_path / "out", mean="scores")
    third = tmp_path / "third"
    relabel(other_run, third, "train.task=referable")
    with raises_naming(RunError, third, "'referable'", run_folder, "'binary'"):
        combine([run_folder, third], out=tmp_path / "out", mean="scores")
    assert not (tmp_path / "out").exists()

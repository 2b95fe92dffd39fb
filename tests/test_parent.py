"""Trainings that start from an earlier run, which `model.weights` names."""

import shutil

import keras
import numpy as np
import pytest

from drtf.bench.sweep import sweep
from drtf.building.build import build_shards
from drtf.config import ImagesConfig, ModelConfig, load_config
from drtf.errors import ConfigError, DrtfError, RunError
from drtf.evaluation.evaluation import evaluate
from drtf.files import hash_file
from drtf.labels.sources import Source
from drtf.models.backbones import OWN_MODEL
from drtf.models.decision_rule import DECISION_RULE_FILE
from drtf.models.ensemble import combine
from drtf.models.network import build_network
from drtf.models.run import (
    CONFIG_FILE,
    INFO_FILE,
    MODEL_FILE,
    Ancestor,
    load_info,
    load_run,
    save_config,
    save_info,
    save_model,
)
from drtf.models.stored_run import location_of
from drtf.models.training_photographs import load_training_photographs
from drtf.storage import write_object
from drtf.training import loop
from drtf.training import run as training_run
from drtf.training.checkpoint import list_checkpoints
from drtf.training.parent import (
    Parent,
    adopt_network,
    build_initial_network,
    describe_start,
    load_parent,
)
from drtf.training.run import train
from drtf.training.train_plan import plan_training
from naming import assert_names, raises_naming

pytestmark = pytest.mark.usefixtures("no_tensorboard_images")


def child_config(config, parent, **train_settings):
    """Return a config that names a run, and nothing else of its network."""
    settings = config.train.model_copy(update={"epochs": 1, **train_settings})
    model = ModelConfig(weights=str(parent))
    return config.model_copy(update={"model": model, "train": settings})


def weights_of(network, *names):
    return [network.get_layer(name).get_weights() for name in names]


def are_equal(first, second):
    return all(
        np.array_equal(x, y)
        for pair in zip(first, second, strict=True)
        for x, y in zip(*pair, strict=True)
    )


def write_run(folder, template, *, model=None, change=lambda network: None):
    """Copy a run, with another `model` section or a change to its network.

    With another section the network is new and random.
    """
    ignored = shutil.ignore_patterns("checkpoints", "logs", DECISION_RULE_FILE)
    shutil.copytree(template, folder, ignore=ignored)
    run = load_run(template)
    network = run.network
    if model:
        save_config(folder, run.config.model_copy(update={"model": model}))
        if model.name != OWN_MODEL.name:
            keras.utils.set_random_seed(1)
            network = build_network(model, image_size=32, load_weights=False)
    change(network)
    save_model(folder, network)
    update = {
        "model_sha256": hash_file(folder / MODEL_FILE),
        "config_sha256": hash_file(folder / CONFIG_FILE),
    }
    save_info(folder, load_info(folder).model_copy(update=update))
    return folder


def shift_bias(network):
    network.get_layer("class_logits").bias.assign([0.5, -0.5])


@pytest.fixture(scope="module")
def mobilenet(run_folder, tmp_path_factory):
    """A run of MobileNetV2 with alpha 0.35 that was not trained."""
    settings = "model.name=mobilenetv2", "model.alpha=0.35", "model.head_units=[4]"
    return write_run(
        tmp_path_factory.mktemp("runs") / "mobilenet",
        run_folder,
        model=load_config("", settings).model,
    )


@pytest.fixture(scope="module")
def other_shards(photographs, config, tmp_path_factory):
    """A dataset of the same photographs in other splits."""
    out = tmp_path_factory.mktemp("tfrecords") / "clinic"
    split = config.split.model_copy(update={"seed": 7, "val_size": 0.3})
    source = Source(photographs / "images", photographs / "labels.csv")
    build_shards([source], out=out, config=config.model_copy(update={"split": split}))
    return out


@pytest.fixture(scope="module")
def child(run_folder, other_shards, config, tmp_path_factory):
    """A run that started from `run_folder`."""
    out = tmp_path_factory.mktemp("runs") / "child"
    train(other_shards, out=out, config=child_config(config, run_folder))
    return out


def parent_with(**settings):
    model = ModelConfig(name="mobilenetv2", **settings)
    return Parent(model, (Ancestor(dataset_name="a", model_sha256="b"),), None)


def test_settings_of_the_network_that_are_not_given_are_the_parents():
    parent = parent_with(
        alpha=0.35, input_range="unit", upsampling=1.5, head_units=(8,), dropout=0.5
    )
    config = load_config("", ["model.weights=runs/a", "model.trainable_layers=3"])
    model = adopt_network(config, parent).model
    assert (model.alpha, model.input_range, model.upsampling) == (0.35, "unit", 1.5)
    assert model.head_units == (8,)
    # Settings of the training are the new ones.
    assert (model.weights, model.trainable_layers) == ("runs/a", 3)
    assert model.dropout == ModelConfig().dropout


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("model.name=eyenet", ("model.name", "eyenet", "mobilenetv2")),
        ("model.alpha=0.5", ("model.alpha", 0.5, 0.35)),
        ("model.input_range=unit", ("model.input_range", "unit", "symmetric")),
        ("model.dropout=[0.1]", ("model.dropout", 2, "model.head_units")),
    ],
)
def test_a_given_setting_that_does_not_fit_the_parent_is_refused(override, facts):
    config = load_config("", ["model.weights=runs/a", override])
    with raises_naming(ConfigError, "model.weights", "runs/a", *facts):
        adopt_network(config, parent_with(alpha=0.35, head_units=(8,)))


def test_given_settings_that_fit_any_weights_are_kept():
    config = load_config("", ["model.upsampling=2", "model.head_units=[]"])
    model = adopt_network(config, parent_with(upsampling=1.5, head_units=(8,))).model
    assert (model.upsampling, model.head_units) == (2, ())


def start(config, folder, *overrides):
    """Return the initial network of a training, and what it takes from a run."""
    given = load_config("", [f"model.weights={folder}", *overrides])
    given = given.model_copy(update={"images": config.images})
    if "images.size=64" in overrides:
        given = given.model_copy(update={"images": ImagesConfig(size=64)})
    parent = load_parent(given.model.weights)
    given = adopt_network(given, parent)
    network = build_initial_network(given, parent, load_weights=True)
    return network, describe_start(parent, given)


def test_backbone_and_head_are_taken_when_the_task_is_equal(config, mobilenet):
    network, text = start(config, mobilenet)
    assert are_equal(
        [network.get_weights()], [load_run(mobilenet).network.get_weights()]
    )
    assert_names(text, mobilenet, "drawn", "alpha 0.35", "head")


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["train.task=referable"], ("train.task", "'referable'", "'binary'")),
        (["model.head_units=[]"], ("model.head_units", "()", "(4,)")),
        (["train.task=grades"], ("train.task", "'grades'", "'binary'")),
    ],
)
def test_only_the_backbone_is_taken_when_the_head_differs(
    overrides, facts, config, mobilenet
):
    network, text = start(config, mobilenet, *overrides)
    old = load_run(mobilenet).network
    names = "Conv1", "bn_Conv1", "Conv_1"
    assert are_equal(weights_of(network, *names), weights_of(old, *names))
    assert not are_equal(weights_of(network, "logits"), weights_of(old, "logits"))
    assert_names(text, mobilenet, *facts)


def test_a_backbone_of_convolutions_is_taken_at_another_size(config, mobilenet):
    network, _ = start(config, mobilenet, "images.size=64")
    old = load_run(mobilenet).network
    assert network.input_shape == (None, 64, 64, 3)
    assert are_equal([network.get_weights()], [old.get_weights()])


def test_another_size_is_refused_when_the_weights_depend_on_it(config, run_folder):
    with raises_naming(DrtfError, run_folder, "eyenet", 32, 64, "dense"):
        start(config, run_folder, "images.size=64")


def test_the_run_names_its_parent_and_counts_its_photographs(
    child, run_folder, other_shards
):
    parent, run = load_run(run_folder), load_run(child)
    (ancestor,) = run.info.ancestors
    assert ancestor.model_sha256 == parent.info.model_sha256
    assert ancestor.dataset_name == parent.info.dataset_name
    assert run.config.model.name == "eyenet"
    for text in (repr(run), run._repr_html_()):
        assert_names(text, parent.info.dataset_name)
    seen, seen_before = map(load_training_photographs, (child, run_folder))
    assert set(seen) > set(seen_before)
    assert (np.diff(seen) > 0).all()


def test_the_report_counts_photographs_of_the_parent_in_the_test_split(
    child, other_shards, config, tmp_path
):
    result = evaluate(
        child,
        other_shards,
        split="test",
        out=tmp_path / "evaluation",
        config=config.evaluate,
        gradcam=config.gradcam,
    )
    assert any(f"of these {result.num_photographs}" in note for note in result.notes)
    report = (tmp_path / "evaluation" / "report.html").read_text()
    assert_names(report, load_info(child).ancestors[0].model_sha256)


def test_a_run_names_all_its_ancestors_and_warns_of_known_photographs(
    child, run_folder, shards, config, tmp_path, caplog, capsys
):
    out = tmp_path / "grandchild"
    train(shards, out=out, config=child_config(config, child, task="referable"))
    hashes = [x.model_sha256 for x in load_info(out).ancestors]
    assert hashes == [load_info(x).model_sha256 for x in (child, run_folder)]
    assert_names(capsys.readouterr().err, child, "train.task")
    for split in ("val", "test"):
        (warning,) = [x for x in caplog.messages if f"'{split}'" in x]
        assert_names(warning, child, shards)
    other = write_run(tmp_path / "other", child, change=shift_bias)
    ensemble = combine([child, other], out=tmp_path / "ensemble", mean="logits")
    assert ensemble.ancestors == load_info(child).ancestors


def test_training_resumes_when_the_parent_was_deleted(
    child, run_folder, other_shards, config, tmp_path, monkeypatch
):
    def interrupt(*args):
        raise KeyboardInterrupt

    parent = shutil.copytree(run_folder, tmp_path / "parent")
    config = child_config(config, parent, checkpoint_minutes=0)
    given = {"out": tmp_path / "out", "config": config}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_history", interrupt)
        train(other_shards, **given)
    assert list_checkpoints(tmp_path / "out")
    shutil.rmtree(parent)
    write_run(parent, run_folder, change=shift_bias)
    hashes = [load_info(x).model_sha256 for x in (run_folder, parent)]
    with raises_naming(RunError, "model.weights", tmp_path / "out", *hashes):
        train(other_shards, **given, resume=True)
    shutil.rmtree(parent)
    info = train(other_shards, **given, resume=True)
    whole = load_info(child)
    assert info.ancestors == whole.ancestors
    assert info.photographs_sha256 == whole.photographs_sha256
    # Both were trained from the same weights.
    networks = load_run(tmp_path / "out").network, load_run(child).network
    assert are_equal(*([x.get_weights()] for x in networks))
    assert train(other_shards, **given, resume=True) == info


def test_a_training_without_a_checkpoint_requires_its_parent(
    run_folder, shards, config, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise DrtfError("failed")

    parent = shutil.copytree(run_folder, tmp_path / "parent")
    given = {"out": tmp_path / "out", "config": child_config(config, parent)}
    with monkeypatch.context() as patch, raises_naming(DrtfError, "failed"):
        patch.setattr(training_run, "run_epochs", fail)
        train(shards, **given)
    shutil.rmtree(parent)
    with raises_naming(RunError, "model.weights", parent, "--out"):
        train(shards, **given, resume=True)


def test_the_parent_may_be_in_a_store(run_folder):
    location = "memory://runs/parent"
    with raises_naming(RunError, location, INFO_FILE):
        load_parent(location)
    for path in run_folder.iterdir():
        if path.is_file():
            write_object(f"{location}/{path.name}", path.read_bytes())
    parent = load_parent(location)
    assert parent.ancestors == load_parent(str(run_folder)).ancestors
    assert location_of(parent.run.folder) == location


def damage(folder):
    data = bytearray((folder / MODEL_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(data)


def make_own(folder):
    template = folder.rename(folder.with_name("template"))
    write_run(folder, template, model=ModelConfig(name=OWN_MODEL.name, weights="none"))


def make_ensemble(folder):
    first = folder.rename(folder.with_name("first"))
    other = write_run(folder.with_name("other"), first, change=shift_bias)
    combine([first, other], out=folder, mean="scores")


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (damage, (MODEL_FILE,)),
        (lambda folder: (folder / INFO_FILE).unlink(), (INFO_FILE,)),
        (make_own, ("model.weights",)),
        (make_ensemble, ("model.weights",)),
    ],
)
def test_a_parent_that_cannot_be_trained_is_refused_before_anything_is_written(
    change, facts, run_folder, shards, config, tmp_path
):
    parent = shutil.copytree(run_folder, tmp_path / "parent")
    change(parent)
    with raises_naming(RunError, parent, *facts) as error:
        train(shards, out=tmp_path / "out", config=child_config(config, parent))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_run_is_refused_as_its_own_parent(run_folder, shards, config):
    given = child_config(config, run_folder)
    for resume in (False, True):
        with raises_naming(DrtfError, run_folder, "--out"):
            train(shards, out=run_folder, config=given, resume=resume)


def test_a_file_of_a_run_is_refused_as_weights(run_folder, shards, config):
    given = child_config(config, run_folder / MODEL_FILE)
    given = given.model_copy(
        update={"model": given.model.model_copy(update={"name": "eyenet"})}
    )
    with raises_naming(DrtfError, "model.weights", f"model.weights={run_folder}"):
        plan_training(shards, config=given)


def test_the_plan_names_what_is_taken_and_warns_of_other_images(
    run, mobilenet, photographs, config, tmp_path
):
    contrast = config.images.model_copy(update={"contrast": "none"})
    source = Source(photographs / "images", photographs / "labels.csv")
    images = config.model_copy(update={"images": contrast})
    build_shards([source], out=tmp_path / "shards", config=images)
    words = ("train", "--shards", tmp_path / "shards", "--out", tmp_path / "out")
    words += ("--dry-run", "--config", "finetune-96", "--set")
    code, out, err = run(*words, f"model.weights={mobilenet}")
    assert code == 0
    assert_names(out, mobilenet, "mobilenetv2", "alpha 0.35", "drawn")
    assert_names(err, mobilenet, "images.contrast", "'none'", "'clahe'")
    code, _, err = run(*words, f"model.weights={tmp_path}")
    assert code == 1
    assert_names(err, tmp_path, INFO_FILE)


def test_sweep_refuses_a_parent_that_does_not_fit_before_any_training(
    mobilenet, config, tmp_path
):
    model = ModelConfig(weights=str(mobilenet), alpha=0.5)
    given = config.model_copy(update={"model": model})
    with raises_naming(DrtfError, "clinic", "model.alpha", 0.5, 0.35):
        sweep([("clinic", given)], [], out=tmp_path / "out", num_seeds=1)

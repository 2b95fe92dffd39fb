"""The identity of a training, which `--resume` compares."""

import json

import pytest

from drtf.config import load_config
from drtf.errors import RunError
from drtf.models.run import RUN_FORMAT_VERSION
from drtf.training.identity import check_identity, save_identity, training_identity
from naming import raises_naming

RESOLVED = {
    "precision": "float32",
    "num_devices": 1,
    "num_hosts": 1,
    "dataset_sha256": "ab",
}


def identity_of(*overrides, **changes):
    return training_identity(load_config("", overrides), **RESOLVED | changes)


@pytest.mark.parametrize(
    "override",
    [
        "train.checkpoint_minutes=1",
        "train.num_checkpoints=9",
        "train.num_devices=1",
        "train.precision=float32",
        "train.steps_per_execution=7",
        "evaluate.seed=1",
        "score.batch_size=1",
    ],
)
def test_identity_is_equal_when_a_setting_does_not_shape_the_weights(override):
    assert identity_of(override) == identity_of()


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("train.learning_rate=0.5", ("train.learning_rate", "0.001", "0.5")),
        ("augment.zoom=0.3", ("augment.zoom", "0.2", "0.3")),
        ("sampling.mode=natural", ("sampling.mode", "balanced", "natural")),
        ("model.alpha=0.5", ("model.alpha", "1.0", "0.5")),
    ],
)
def test_check_names_the_setting_and_both_values_when_one_differs(
    tmp_path, override, facts
):
    save_identity(tmp_path, identity_of())
    with raises_naming(RunError, tmp_path, *facts):
        check_identity(tmp_path, identity_of(override))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "mixed_float16"),
        ("num_devices", 2),
        ("num_hosts", 2),
        ("dataset_sha256", "cd"),
    ],
)
def test_check_names_what_was_resolved_when_it_differs(tmp_path, name, value):
    save_identity(tmp_path, identity_of())
    with raises_naming(RunError, name, RESOLVED[name], value):
        check_identity(tmp_path, identity_of(**{name: value}))


def test_check_passes_when_nothing_differs(tmp_path):
    save_identity(tmp_path, identity_of())
    check_identity(tmp_path, identity_of())


def test_check_names_the_format_version_when_the_folder_is_older(tmp_path):
    older = identity_of()
    del older["run_format_version"]
    (tmp_path / "identity.json").write_text(json.dumps(older))
    with raises_naming(RunError, "run_format_version", RUN_FORMAT_VERSION):
        check_identity(tmp_path, identity_of())


@pytest.mark.parametrize("content", [None, "", "{"])
def test_check_names_the_file_when_it_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "identity.json").write_text(content)
    with raises_naming(RunError, tmp_path / "identity.json"):
        check_identity(tmp_path, identity_of())


@pytest.mark.parametrize("text", ["[]", "3", "{", ""])
def test_an_identity_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "identity.json").write_text(text)
    with raises_naming(RunError, tmp_path / "identity.json"):
        check_identity(tmp_path, identity_of())

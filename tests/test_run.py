import hashlib
import json
import shutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from drtf.errors import RunError
from drtf.models.decision_rule import save_decision_rule
from drtf.models.history import HISTORY_FILE, load_history
from drtf.models.run import RUN_FORMAT_VERSION, load_run, load_run_config
from drtf.models.run_files import (
    CONFIG_FILE,
    DECISION_RULE_FILE,
    INFO_FILE,
    MODEL_FILE,
)
from drtf.seals import SEAL, dump_sealed
from naming import raises_naming

PARTS = (MODEL_FILE, CONFIG_FILE, INFO_FILE)
MEMBERS = [
    {"backbone": "eyenet", "image_size": 32, "model_sha256": letter} for letter in "ab"
]


@pytest.fixture
def copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def load_network(folder):
    return load_run(folder).network


def test_load_run_reads_a_copied_folder(copy, run_folder):
    assert load_run(copy).info == load_run(run_folder).info


def test_load_run_returns_the_saved_decision_rule(copy, save_rule):
    rule = save_rule(copy, 0.25, tta="flips5")
    run = load_run(copy)
    assert run.decision_rule == rule
    assert (run.threshold.value, run.calibration.temperature) == (0.25, 1)
    assert run.tta == "flips5"


@pytest.mark.parametrize(
    ("name", "facts"),
    [(INFO_FILE, ("drtf train",)), (MODEL_FILE, ()), (CONFIG_FILE, ())],
)
def test_load_run_names_a_missing_file(copy, name, facts):
    (copy / name).unlink()
    with raises_naming(RunError, copy, name, *facts) as error:
        load_run(copy)
    others = {INFO_FILE, MODEL_FILE, CONFIG_FILE} - {name}
    assert not any(other in str(error.value) for other in others)


def test_load_run_names_a_missing_folder(tmp_path):
    with raises_naming(RunError, tmp_path / "nothing", "drtf train"):
        load_run(tmp_path / "nothing")


def damage(data, rng):
    """Change a file's bytes in one of the ways in which files are damaged."""
    data = bytearray(data)
    place = int(rng.integers(len(data)))
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    kind = rng.choice(["flip", "cut", "insert", "append", "truncate", "digit", "zeros"])
    if kind == "flip":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[place : place + int(rng.integers(1, 9))]
    elif kind == "insert":
        data[place:place] = rng.choice([b" ", b"0", b"\n", b"]"]).tobytes()
    elif kind == "append":
        data += rng.choice([b" ", b"\n", b"1"]).tobytes()
    elif kind == "truncate":
        del data[place:]
    elif kind == "digit":
        i = rng.choice(digits)
        data[i] = ord("0") + (data[i] - ord("0") + int(rng.integers(1, 10))) % 10
    else:
        data[place : place + 4] = b"\0\0\0\0"
    return bytes(data)


RUN_FILES = (MODEL_FILE, CONFIG_FILE, HISTORY_FILE, INFO_FILE, DECISION_RULE_FILE)


@pytest.mark.parametrize("name", RUN_FILES)
def test_load_run_refuses_every_changed_file_in_one_line(copy, save_rule, name):
    save_rule(copy, 0.25)
    whole = (copy / name).read_bytes()
    rng = np.random.default_rng(len(whole))
    for _ in range(60):
        damaged = damage(whole, rng)
        assert damaged != whole
        (copy / name).write_bytes(damaged)
        with raises_naming(RunError, copy) as error:
            load_run(copy)
        assert "\n" not in str(error.value)
    (copy / name).write_bytes(whole)
    assert load_run(copy)


def test_load_run_refuses_json_that_is_nested_deeper_than_python_can_write(copy):
    text = (copy / INFO_FILE).read_text()
    nested = "[" * 600 + "]" * 600
    (copy / INFO_FILE).write_text(text.replace("[]", nested))
    with raises_naming(RunError, copy / INFO_FILE):
        load_run(copy)


def change(path, values):
    """Change values in a JSON file, and seal it again."""
    contents = json.loads(path.read_text()) | values
    del contents[SEAL]
    path.write_text(dump_sealed(contents))


def seal(folder, model):
    """Replace the model of a run and the hash in run.json."""
    (folder / MODEL_FILE).write_bytes(model)
    change(folder / INFO_FILE, {"model_sha256": hashlib.sha256(model).hexdigest()})


def test_load_run_refuses_an_unreadable_model_in_one_line(copy):
    seal(copy, b"not a model")
    with raises_naming(RunError, copy / MODEL_FILE) as error:
        load_network(copy)
    assert INFO_FILE not in str(error.value)
    assert "\n" not in str(error.value)


def test_load_run_refuses_a_model_that_contains_code(copy, tmp_path):
    image = keras.Input((32, 32, 3))
    flat = keras.layers.Flatten()(image)
    code = keras.layers.Lambda(lambda x: x * 2)(flat)
    path = tmp_path / "code.keras"
    keras.Model(image, keras.layers.Dense(1)(code)).save(path)
    seal(copy, path.read_bytes())
    with raises_naming(RunError, copy / MODEL_FILE, "Lambda") as error:
        load_network(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"image_size": 64}, (*PARTS, "32 px", "binary", "64 px", "0 members")),
        ({"members": MEMBERS}, (*PARTS, "32 px", "2 members")),
        ({"members": [{**MEMBERS[0], "backbone": "vgg"}]}, ("'vgg'", "mobilenetv2")),
        ({"encoding": "gif"}, (INFO_FILE, "encoding", "raw", "png", "jpeg")),
        ({"jpeg_quality": -5}, (INFO_FILE, "jpeg_quality", 1)),
    ],
)
def test_load_run_refuses_a_run_json_that_does_not_fit(copy, values, facts):
    change(copy / INFO_FILE, values)
    with raises_naming(RunError, copy, *facts) as error:
        load_network(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "width"), [(32, 3), (64, 1), (32, 5)])
def test_load_run_refuses_a_model_of_another_shape(copy, tmp_path, size, width):
    image = keras.Input((size, size, 3))
    flat = keras.layers.GlobalAveragePooling2D()(image)
    path = tmp_path / "other.keras"
    keras.Model(image, keras.layers.Dense(width, name="logits")(flat)).save(path)
    seal(copy, path.read_bytes())
    with raises_naming(RunError, copy, *PARTS, f"({size}, {size}, 3)", f"({width},)"):
        load_network(copy)


def build_with_other_logits():
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    logits = keras.layers.Dense(3, name="logits")(x)
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(logits))


@pytest.mark.parametrize(
    "build",
    [
        build_with_other_logits,
        lambda: keras.Sequential([keras.layers.Dense(1, name="logits")]),
        lambda: keras.layers.Dense(1, name="logits"),
    ],
    ids=["three logits", "never built", "a layer"],
)
def test_load_run_refuses_other_keras_objects(copy, tmp_path, build):
    path = tmp_path / "other.keras"
    with warnings.catch_warnings(action="ignore"):
        keras.saving.save_model(build(), path)
    seal(copy, path.read_bytes())
    with raises_naming(RunError, copy, *PARTS):
        load_network(copy)


def test_load_run_refuses_a_config_that_extends_another(copy, tmp_path):
    (tmp_path / "outside.toml").write_text("")
    text = f'extends = "{tmp_path}/outside.toml"\n'
    (copy / CONFIG_FILE).write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    change(copy / INFO_FILE, {"config_sha256": sha256})
    for open_run in (load_run_config, load_run):
        with raises_naming(RunError, copy / CONFIG_FILE, "extends"):
            open_run(copy)


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "epoch\n1\n"])
def test_load_history_refuses_a_history_without_validation(copy, text):
    (copy / HISTORY_FILE).write_text(text)
    with raises_naming(RunError, copy / HISTORY_FILE, "drtf train"):
        load_history(copy)


@pytest.mark.parametrize("name", [INFO_FILE, DECISION_RULE_FILE])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"value": "high"}'])
def test_load_run_names_a_damaged_json_file(copy, name, text):
    (copy / name).write_text(text)
    with raises_naming(RunError, copy / name) as error:
        load_run(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [4, RUN_FORMAT_VERSION + 1])
def test_load_run_refuses_another_format_version(copy, version):
    change(copy / INFO_FILE, {"format_version": version})
    with raises_naming(RunError, copy, version, RUN_FORMAT_VERSION):
        load_run(copy)


def test_load_run_refuses_a_decision_rule_of_another_model(copy, save_rule):
    rule = save_rule(copy, 0.25)
    save_decision_rule(copy, rule.model_copy(update={"model_sha256": "0" * 64}))
    with raises_naming(RunError, copy / DECISION_RULE_FILE, "drtf evaluate"):
        load_run(copy)


@pytest.mark.parametrize(
    ("name", "values", "facts"),
    [
        ("threshold", {"value": 7.5}, ("value", 1)),
        ("calibration", {"temperature": 0}, ("temperature", 0.05)),
        ("calibration", {"method": "isotonic"}, ("method", "isotonic")),
        ("calibration", {"tta": "dihedral8"}, ("threshold",)),
        ("calibration", {"temperature": 1e-308}, ("temperature", 0.05)),
        ("calibration", {"prior_shift": 1e308}, ("prior_shift", 40)),
        ("calibration", {"offset": -1e308}, ("offset", -40)),
        (
            "calibration",
            {"scores": [0, 1], "probabilities": [0.9, 0.1]},
            ("scores", "probabilities"),
        ),
        (
            "calibration",
            {"scores": [0, 1], "probabilities": [-3, 5]},
            ("probabilities", 0),
        ),
    ],
)
def test_load_run_refuses_an_invalid_decision_rule(
    copy, save_rule, name, values, facts
):
    rule = save_rule(copy, 0.25, tta="flips5")
    assert load_run(copy).decision_rule == rule
    contents = json.loads((copy / DECISION_RULE_FILE).read_text())
    change(copy / DECISION_RULE_FILE, {name: contents[name] | values})
    with raises_naming(RunError, copy / DECISION_RULE_FILE, name, *facts):
        load_run(copy)


def test_another_folder_can_have_the_decision_rule(run_folder, save_rule, tmp_path):
    with raises_naming(RunError, tmp_path, "decision_rule.json", run_folder):
        load_run(run_folder, rule_folder=tmp_path)
    run = shutil.copytree(run_folder, tmp_path / "run")
    rule = save_rule(run, 0.25)
    assert load_run(run_folder, rule_folder=run).decision_rule == rule
    assert load_run(run_folder).decision_rule is None
    other = rule.model_copy(update={"model_sha256": "0" * 64})
    save_decision_rule(run, other)
    with raises_naming(RunError, run / "decision_rule.json", run_folder):
        load_run(run_folder, rule_folder=run)


def test_a_network_has_its_weights_when_it_is_first_used_in_a_function(run_folder):
    images = tf.random.stateless_uniform((2, 32, 32, 3), seed=(1, 2))
    traced = load_run(run_folder)
    predict = tf.function(lambda x: traced.network(x, training=False))
    expected = load_run(run_folder).network(images, training=False)
    np.testing.assert_allclose(predict(images), expected, atol=1e-5)

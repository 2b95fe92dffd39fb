import hashlib
import json
import shutil
import warnings

import keras
import pytest

from drtf.errors import RunError
from drtf.models.run import (
    CONFIG_FILE,
    DECISION_RULE_FILE,
    HISTORY_FILE,
    INFO_FILE,
    MODEL_FILE,
    RUN_FORMAT_VERSION,
    load_history,
    load_run,
    load_run_config,
    save_decision_rule,
)
from naming import raises_naming


@pytest.fixture
def copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def test_a_run_moved_elsewhere_loads(copy, run_folder):
    assert load_run(copy).info == load_run(run_folder).info


def test_load_run_returns_the_saved_decision_rule(copy, save_rule):
    rule = save_rule(copy, 0.25, tta="flips5")
    run = load_run(copy)
    assert run.decision_rule == rule
    assert (run.threshold.value, run.calibration.temperature) == (0.25, 1)
    assert run.tta == "flips5"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (INFO_FILE, r"not a finished run: it has no run\.json"),
        (MODEL_FILE, r"not a whole run: it has no model\.keras"),
        (CONFIG_FILE, r"not a whole run: it has no config\.toml"),
    ],
)
def test_a_missing_part_is_named(copy, name, message):
    (copy / name).unlink()
    with pytest.raises(RunError, match=message):
        load_run(copy)


def test_no_folder_at_all_is_named(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize("name", [MODEL_FILE, CONFIG_FILE])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_changed_part_is_refused(copy, name, share):
    data = bytearray((copy / name).read_bytes())
    data[int(share * len(data))] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(RunError, match=rf"{name} was changed: it is not the one that"):
        load_run(copy)


def seal(folder, model):
    """Put another model into a run as if it had been trained there."""
    (folder / MODEL_FILE).write_bytes(model)
    info = json.loads((folder / INFO_FILE).read_text())
    info["model_sha256"] = hashlib.sha256(model).hexdigest()
    (folder / INFO_FILE).write_text(json.dumps(info))


def test_a_file_that_is_no_model_is_refused_in_one_line(copy):
    seal(copy, b"not a model")
    with pytest.raises(RunError, match=r"can't load .*model\.keras") as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


def test_a_model_that_brings_code_is_refused(copy, tmp_path):
    image = keras.Input((32, 32, 3))
    flat = keras.layers.Flatten()(image)
    code = keras.layers.Lambda(lambda x: x * 2)(flat)
    path = tmp_path / "code.keras"
    keras.Model(image, keras.layers.Dense(1)(code)).save(path)
    seal(copy, path.read_bytes())
    with pytest.raises(RunError, match=r"can't load .*model\.keras.*Lambda") as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image_size": 64}, r"\(32 px, task binary\) and .*\(64 px, 0 members\) are"),
        ({"members": ["a", "b"]}, r"\(32 px, 2 members\) are not of one run"),
        ({"encoding": "gif"}, r"run\.json is not what drtf wrote"),
        ({"jpeg_quality": -5}, r"run\.json is not what drtf wrote"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(copy, change, match):
    info = json.loads((copy / INFO_FILE).read_text()) | change
    (copy / INFO_FILE).write_text(json.dumps(info))
    with pytest.raises(RunError, match=match) as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "width"), [(32, 3), (64, 1), (32, 5)])
def test_another_kind_of_model_is_refused(copy, tmp_path, size, width):
    image = keras.Input((size, size, 3))
    flat = keras.layers.GlobalAveragePooling2D()(image)
    path = tmp_path / "other.keras"
    keras.Model(image, keras.layers.Dense(width, name="logits")(flat)).save(path)
    seal(copy, path.read_bytes())
    with pytest.raises(RunError, match="are not of one run"):
        load_run(copy)


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
def test_what_keras_loads_beside_networks_is_refused(copy, tmp_path, build):
    path = tmp_path / "other.keras"
    with warnings.catch_warnings(action="ignore"):
        keras.saving.save_model(build(), path)
    seal(copy, path.read_bytes())
    with pytest.raises(RunError, match="are not of one run"):
        load_run(copy)


def test_a_config_that_leads_elsewhere_is_refused(copy, tmp_path):
    (tmp_path / "outside.toml").write_text("")
    text = f'extends = "{tmp_path}/outside.toml"\n'
    (copy / CONFIG_FILE).write_text(text)
    info = json.loads((copy / INFO_FILE).read_text())
    info["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (copy / INFO_FILE).write_text(json.dumps(info))
    for open_run in (load_run_config, load_run):
        with pytest.raises(RunError, match="a run's config stands alone"):
            open_run(copy)


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "epoch\n1\n"])
def test_a_history_without_epochs_is_refused(copy, text):
    (copy / HISTORY_FILE).write_text(text)
    with pytest.raises(RunError, match=r"history\.csv is not what .* no validation"):
        load_history(copy)


@pytest.mark.parametrize("name", [INFO_FILE, DECISION_RULE_FILE])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"value": "high"}'])
def test_a_damaged_part_is_named(copy, name, text):
    (copy / name).write_text(text)
    with pytest.raises(RunError, match=name.replace(".", r"\.")) as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [4, 9])
def test_load_run_refuses_another_format_version(copy, version):
    info = json.loads((copy / INFO_FILE).read_text()) | {"format_version": version}
    (copy / INFO_FILE).write_text(json.dumps(info))
    with raises_naming(RunError, str(copy), version, RUN_FORMAT_VERSION):
        load_run(copy)


def test_load_run_refuses_a_decision_rule_of_another_model(copy, save_rule):
    rule = save_rule(copy, 0.25)
    save_decision_rule(copy, rule.model_copy(update={"model_sha256": "0" * 64}))
    with pytest.raises(
        RunError, match=r"decision_rule\.json belongs to another model: remove"
    ):
        load_run(copy)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("threshold", {"value": 7.5}),
        ("calibration", {"temperature": 0}),
        ("calibration", {"method": "isotonic"}),
        ("calibration", {"tta": "dihedral8"}),
        ("calibration", {"temperature": 1e-308}),
        ("calibration", {"prior_shift": 1e308}),
        ("calibration", {"scores": [0, 1], "probabilities": [0.9, 0.1]}),
        ("calibration", {"scores": [0, 1], "probabilities": [-3, 5]}),
    ],
)
def test_load_run_refuses_an_invalid_decision_rule(copy, save_rule, name, change):
    rule = save_rule(copy, 0.25, tta="flips5")
    assert load_run(copy).decision_rule == rule
    contents = json.loads((copy / DECISION_RULE_FILE).read_text())
    contents[name] |= change
    (copy / DECISION_RULE_FILE).write_text(json.dumps(contents))
    with pytest.raises(RunError, match=r"decision_rule\.json is not what drtf wrote"):
        load_run(copy)

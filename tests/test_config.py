import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtf.config import (
    Config,
    dump_config,
    find_presets,
    load_config,
    parse_config,
)
from drtf.errors import ConfigError


def test_without_a_source_the_defaults_hold():
    assert load_config() == Config()


def test_the_presets_are_those_that_are_promised():
    assert find_presets() == [
        "demo",
        "eyenet-256",
        "mobilenetv2-224-fast",
        "mobilenetv2-96",
        "mobilenetv2-96-fast",
    ]


@pytest.mark.parametrize("name", find_presets())
def test_a_preset_survives_being_written_and_read_again(name, tmp_path):
    config = load_config(name)
    path = tmp_path / "config.toml"
    path.write_text(dump_config(config))
    assert load_config(str(path)) == config


def test_the_notebooks_preset_is_the_notebook():
    config = load_config("mobilenetv2-96")
    assert (config.images.size, config.images.decode) == (96, "exact")
    assert (config.split.by, config.split.test_size) == ("image", 0.2)
    assert (config.train.batch_size, config.train.epochs) == (10, 35)
    assert (config.train.focal_gamma, config.train.focal_alpha) == (1.5, 0.5)
    assert config.model.trainable_layers == 50
    assert config.train.learning_rate == 5e-4
    assert config.evaluate.tta == "flips5"
    assert load_config("eyenet-256").evaluate.tta == "none"


def test_set_overrides_a_file_and_a_file_the_defaults(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[train]\nepochs = 3\nbatch_size = 7\n")
    config = load_config(str(path), ["train.epochs=5", "model.weights=/a b/c.h5"])
    assert (config.train.epochs, config.train.batch_size) == (5, 7)
    assert config.model.weights == "/a b/c.h5"


def test_a_file_extends_a_preset_or_another_file(tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('extends = "mobilenetv2-96"\n[train]\nepochs = 3\n')
    second.write_text('extends = "first.toml"\n[train]\nbatch_size = 7\n')
    notebook, config = load_config("mobilenetv2-96"), load_config(str(second))
    changes = {"epochs": 3, "batch_size": 7}
    assert config == notebook.model_copy(
        update={"train": notebook.train.model_copy(update=changes)}
    )


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('"own.toml"', "which extends it"),
        ('"mobilenetv2-69"', "did you mean 'mobilenetv2-96'?"),
        ('"other.toml"', "can't read the config file"),
        ("3", "extends takes a preset's name or the path of a TOML file; got 3"),
    ],
)
def test_what_a_file_can_not_extend_is_named(base, message, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(f"extends = {base}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("images.sise=96", "unknown key 'images.sise'; did you mean 'images.size'?"),
        ("image.size=96", "unknown key 'image'; did you mean 'images'?"),
        ("images.size=7", "images.size: input should be greater than or equal to 32"),
        ("images.size=big", "images.size: input should be a valid integer"),
        ("build.shard_size_mb=inf", "build.shard_size_mb: input should be a finite"),
        ("split.val_size=0.9", "val_size and test_size together must be below 1"),
        ("split.by=eye", "split.by: input should be 'patient' or 'image'"),
        ("labels.patient_pattern=(", "not a regular expression"),
        ("labels.patient_pattern=abc", "needs exactly one group"),
        ("epochs=3", "--set takes section.key=value"),
        ("train.epochs", "--set takes section.key=value"),
    ],
)
def test_a_wrong_override_is_named_with_what_was_expected(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("", [override])
    assert message in str(caught.value)
    assert override in str(caught.value)


def test_augmentation_may_differ_by_class():
    set_to = ("augment.max_degrees=[0, 90]", "augment.vertical_flip=[false, true]")
    augment = load_config("", set_to).augment
    assert augment.max_degrees == (0, 90)
    assert augment.vertical_flip == (False, True)
    assert augment.zoom == 0.2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.max_degrees=[0, 181]", "augment.max_degrees: .*180; got 181"),
        ("augment.max_degrees=181", "augment.max_degrees: .*180; got 181"),
        ("augment.zoom=[0.1]", "a list for augment.zoom needs 2 values.*0.1"),
        ("train.class_weights=[1, 2, 3]", "train.class_weights needs 2 values"),
        ("evaluate.threshold=1.5", "threshold: .*'stored', or .* to 1; got 1.5"),
        ("train.class_weights=[1, -2]", "train.class_weights: .*0; got -2"),
        ("augment.zoom=[]", "a list for augment.zoom needs 2 values"),
    ],
)
def test_a_list_by_class_of_another_length_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("", (override,))


def test_labels_are_smoothed_for_crossentropy_alone():
    smoothed = "train.label_smoothing=0.1"
    assert load_config("", [smoothed]).train.label_smoothing == 0.1
    with pytest.raises(ConfigError, match="goes with loss 'crossentropy' alone"):
        load_config("", ["train.loss=focal", smoothed])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.focal_gamma=2", "train: focal_gamma goes with loss 'focal' alone"),
        ("train.momentum=0.8", "momentum goes with optimizer 'sgd' alone"),
        ("train.warmup_share=0.1", "warmup_share goes with schedule 'cosine' alone"),
        ("train.plateau_patience=2", "goes with schedule 'plateau' alone"),
        ("sampling.weights=[1, 2]", "sampling: weights goes with mode 'weights' alone"),
    ],
)
def test_what_nothing_would_read_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("", [override])


def test_keras_has_its_weights_for_some_widths_alone():
    with pytest.raises(ConfigError, match=r"alpha of 0\.35, .*; got 0\.6; weights of"):
        load_config("", ["model.alpha=0.6"])
    assert load_config("", ["model.alpha=0.6", "model.weights=none"]).model.alpha == 0.6


def test_a_list_that_is_not_toml_is_told_as_such():
    with pytest.raises(ConfigError, match=r"zoom=\[0,\.1\]: not a list as TOML has it"):
        load_config("", ["augment.zoom=[0,.1]"])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'mobilenetv2"):
        load_config("mobilenet-96")


def test_a_missing_and_a_broken_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"can't read the config file .*no\.toml"):
        load_config(str(tmp_path / "no.toml"))
    path = tmp_path / "broken.toml"
    path.write_text("[train\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        load_config(str(path))


def test_settings_cannot_be_changed_once_made():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3


@given(st.text(max_size=40))
def test_any_override_is_taken_or_refused_in_one_way(text):
    try:
        load_config("", [text])
    except ConfigError as error:
        assert "\n" not in str(error).replace(text, "")


def test_parse_names_the_source():
    with pytest.raises(ConfigError, match=r"^here: unknown key"):
        parse_config({"nothing": 1}, where="here")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dropout=[0.1,0.2]", "a list for dropout needs 1 values"),
        ("model.head_batch_norm=[]", "a list for head_batch_norm needs 1 values"),
        ("train.loss=focal", "task 'grades' goes with loss 'crossentropy' alone"),
        ("train.class_weights=[1,2]", "needs 5 values, one for each class"),
        ("train.class_weights=[0,0,0,0,0]", "class_weights must not all be zero"),
        ("train.head_epochs=12", "head_epochs=12 must be below epochs=12"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("", ["train.task=grades", override])


def test_what_eyenet_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"model: alpha is of mobilenetv2.*hed$"):
        load_config("eyenet-256", ["model.alpha=0.35"])


def test_each_class_needs_its_weight():
    weights = ["sampling.mode=weights", "sampling.weights=[1,2,3]"]
    with pytest.raises(ConfigError, match=r"sampling\.weights needs 2 values"):
        load_config("", weights)


def test_a_kappa_is_of_grades_alone():
    with pytest.raises(ConfigError, match="monitor 'kappa' goes with task 'grades'"):
        load_config("", ["train.monitor=kappa"])


def test_a_network_without_a_backbone_has_no_head_to_train_first():
    with pytest.raises(ConfigError, match=r"train\.head_epochs is of mobilenetv2"):
        load_config("eyenet-256", ["train.head_epochs=1"])

import tomllib
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from drtf.config import (
    Config,
    ModelConfig,
    dump_config,
    list_presets,
    load_config,
    parse_config,
)
from drtf.config.schema import section_model
from drtf.errors import ConfigError
from drtf.tools.train import train
from naming import assert_names, raises_naming


def refuse(source: str, *overrides: str) -> str:
    """Return the error message for settings, with the settings themselves removed."""
    with raises_naming(ConfigError, *overrides) as error:
        load_config(source, overrides)
    message = str(error.value)
    for words in filter(None, (source, *overrides)):
        message = message.replace(words, "", 1)
    return message


def test_load_config_returns_the_defaults_without_a_source():
    assert load_config() == Config()


def test_list_presets_returns_all_presets():
    assert list_presets() == [
        "demo",
        "eyenet-256",
        "finetune-224",
        "finetune-96",
        "mobilenetv2-224",
        "mobilenetv2-96",
        "notebook-96",
    ]


def test_help_names_every_preset():
    help_texts = {p.name: p.help for p in train.params if isinstance(p, click.Option)}
    assert_names(help_texts["config_source"], *list_presets())


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_is_unchanged_after_dump_and_load(name, tmp_path):
    config = load_config(name)
    path = tmp_path / "config.toml"
    path.write_text(dump_config(config))
    assert load_config(str(path)) == config


# Settings of the predecessors that two presets reproduce. A preset has to set them
# itself, so that defaults may change.
COMMON = {
    "sampling": {"mode": "balanced", "on_damaged": "error"},
    "train": {
        "task": "binary",
        "head_epochs": 0,
        "class_weights": [],
        "optimizer": "adam",
        "ema_momentum": 0.0,
        "schedule": "plateau",
        "plateau_monitor": "loss",
        "plateau_factor": 0.5,
        "plateau_patience": 3,
        "monitor": "auto",
        "precision": "auto",
        "max_skipped_steps": 20,
        "num_devices": 0,
        "steps_per_execution": "auto",
        "jit_compile": "auto",
        "deterministic": False,
        "checkpoint_minutes": 10.0,
        "num_checkpoints": 2,
        "seed": 42,
    },
    "evaluate": {
        "calibration": "logistic",
        "num_resamples": 1000,
        "batch_size": 256,
        "seed": 42,
    },
}
NOTEBOOK = {
    "split": {
        "by": "image",
        "stratify": "binary",
        "val_size": 0.0,
        "test_size": 0.2,
        "seed": 42,
    },
    "images": {
        "size": 96,
        "decode": "exact",
        "crop": "none",
        "mask": False,
        "contrast": "clahe",
        "clahe_clip_limit": 2.0,
        "clahe_tiles": 8,
        "reject_blank": False,
    },
    "build": {"encoding": "raw", "shard_size_mb": 96, "seed": 42, "num_workers": 0},
    "sampling": COMMON["sampling"],
    "augment": {
        "horizontal_flip": True,
        "vertical_flip": False,
        "max_degrees": 36.0,
        "zoom": 0.1,
        "shift": 0.0,
        "brightness": 0.0,
        "contrast": 0.1,
        "saturation": 0.0,
    },
    "model": {
        "name": "mobilenetv2",
        "weights": "imagenet",
        "alpha": 1.0,
        "input_range": "unit",
        "upsampling": 1.0,
        "trainable_layers": 50,
        "batch_norm_momentum": 0.999,
        "head_units": [256, 128],
        "head_batch_norm": [True, True, False],
        "dropout": [0.5, 0.3, 0.2],
    },
    "train": {
        **COMMON["train"],
        "epochs": 35,
        "batch_size": 10,
        "loss": "focal",
        "focal_gamma": 1.5,
        "focal_alpha": 0.5,
        "learning_rate": 5e-4,
        "early_stopping_patience": 10,
        "validation_split": "test",
    },
    "evaluate": {**COMMON["evaluate"], "tta": "flips5", "threshold": "accuracy"},
    "gradcam": {"layer": "Conv_1", "colormap": "jet"},
}
EYENET = {
    "split": {
        "by": "patient",
        "stratify": "grade",
        "val_size": 0.1,
        "test_size": 0.2,
        "seed": 42,
    },
    "images": {
        "size": 256,
        "decode": "scaled",
        "crop": "retina",
        "mask": False,
        "contrast": "none",
        "reject_blank": True,
    },
    "build": {
        "encoding": "jpeg",
        "jpeg_quality": 95,
        "shard_size_mb": 96,
        "seed": 42,
        "num_workers": 0,
    },
    "sampling": COMMON["sampling"],
    "augment": {
        "horizontal_flip": True,
        "vertical_flip": False,
        "max_degrees": [0, 180],
        "zoom": 0.0,
        "shift": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
    },
    "model": {"name": "eyenet", "weights": "none", "input_range": "unit"},
    "train": {
        **COMMON["train"],
        "epochs": 30,
        "batch_size": 128,
        "loss": "crossentropy",
        "label_smoothing": 0.0,
        "learning_rate": 1e-3,
        "early_stopping_patience": 0,
        "validation_split": "val",
    },
    "evaluate": {**COMMON["evaluate"], "tta": "none", "threshold": "youden"},
}
# Settings that the optimizer, schedule and sampling of both presets do not use.
NO_EFFECT = {
    "sampling.weights",
    "train.momentum",
    "train.weight_decay",
    "train.warmup_fraction",
}
PREDECESSORS = {
    "notebook-96": (NOTEBOOK, {"build.jpeg_quality", "train.label_smoothing"}),
    "eyenet-256": (
        EYENET,
        {
            "images.clahe_clip_limit",
            "images.clahe_tiles",
            "train.focal_gamma",
            "train.focal_alpha",
            *(
                f"model.{name}"
                for name in ModelConfig.model_fields
                if name not in ("name", "weights", "input_range")
            ),
        },
    ),
}
PINNED_SECTIONS = {
    "split",
    "images",
    "build",
    "sampling",
    "augment",
    "model",
    "train",
    "evaluate",
}


@pytest.mark.parametrize("name", PREDECESSORS)
def test_a_predecessors_preset_has_its_settings(name):
    settings, _ = PREDECESSORS[name]
    config = load_config(name).model_dump(mode="json")
    resolved = {
        section: {key: config[section][key] for key in values}
        for section, values in settings.items()
    }
    assert resolved == settings


@pytest.mark.parametrize("name", PREDECESSORS)
def test_a_predecessors_preset_sets_every_setting_that_has_an_effect(name):
    _, no_effect = PREDECESSORS[name]
    path = Path(__file__).parents[1] / "configs" / f"{name}.toml"
    own = tomllib.loads(path.read_text())
    missing = {
        f"{section}.{key}"
        for section in PINNED_SECTIONS
        for key in section_model(section).model_fields.keys() - own[section].keys()
    }
    assert missing == NO_EFFECT | no_effect


def test_set_overrides_a_file_which_overrides_the_defaults(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[train]\nepochs = 3\nbatch_size = 7\n")
    config = load_config(str(path), ["train.epochs=5", "model.weights=/a b/c.h5"])
    assert (config.train.epochs, config.train.batch_size) == (5, 7)
    assert config.model.weights == "/a b/c.h5"


def test_extends_takes_a_preset_or_another_file(tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('extends = "notebook-96"\n[train]\nepochs = 3\n')
    second.write_text('extends = "first.toml"\n[train]\nbatch_size = 7\n')
    notebook, config = load_config("notebook-96"), load_config(str(second))
    changes = {"epochs": 3, "batch_size": 7}
    assert config == notebook.model_copy(
        update={"train": notebook.train.model_copy(update=changes)}
    )


@pytest.mark.parametrize(
    ("base", "facts"),
    [
        ('"own.toml"', ("own.toml", "extends")),
        ('"mobilenetv2-69"', ("mobilenetv2-69", "mobilenetv2-96")),
        ('"other.toml"', ("other.toml",)),
        ("3", ("own.toml", "extends", 3)),
    ],
)
def test_extends_is_refused_when_circular_or_unknown(base, facts, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(f"extends = {base}\n")
    with raises_naming(ConfigError, *facts):
        load_config(str(path))


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("images.sise=96", ("images.sise", "images.size")),
        ("image.size=96", ("image", "images")),
        ("images.size=7", ("images.size", 32, 7)),
        ("images.size=big", ("images.size", "integer", "big")),
        ("build.shard_size_mb=inf", ("build.shard_size_mb", "finite", "inf")),
        ("split.val_size=0.9", ("split.val_size", "split.test_size", 1)),
        ("split.by=eye", ("split.by", "patient", "image", "eye")),
        ("labels.patient_pattern=(", ("labels.patient_pattern", "unterminated", "(")),
        ("labels.patient_pattern=abc", ("labels.patient_pattern", 0, "abc")),
        ("labels.grade_values=[a,b,c,d,e,f]", ("labels.grade_values", 5)),
        ("labels.image_column=[left,right]", ("labels.grade_column", "list")),
        ("epochs=3", ("--set", "section.key=value", "train.epochs")),
        ("size=224", ("images.size",)),
        ("train.size=224", ("train.size", "images.size")),
        ("images.size=224,build.encoding=jpeg", ("own --set",)),
        ("images.size=224 build.encoding=jpeg", ("own --set",)),
        ("evaluate.threshold=>=0.9", ("evaluate.threshold", "sensitivity>=X")),
        ("train.epochs", ("--set", "section.key=value")),
    ],
)
def test_an_invalid_override_is_named_with_the_expected_value(override, facts):
    assert_names(refuse("", override), *facts)


def test_augmentation_may_have_one_value_per_class():
    set_to = ("augment.max_degrees=[0, 90]", "augment.vertical_flip=[false, true]")
    augment = load_config("", set_to).augment
    assert augment.max_degrees == (0, 90)
    assert augment.vertical_flip == (False, True)
    assert augment.zoom == 0.2


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("augment.max_degrees=[0, 181]", ("augment.max_degrees", 180, 181)),
        ("augment.max_degrees=181", ("augment.max_degrees", 180, 181)),
        ("augment.zoom=[0.1]", ("augment.zoom", 2, 0.1)),
        ("train.class_weights=[1, 2, 3]", ("train.class_weights", 2)),
        ("evaluate.threshold=1.5", ("evaluate.threshold", "youden", 1, 1.5)),
        ("train.class_weights=[1, -2]", ("train.class_weights", 0, -2)),
        ("augment.zoom=[]", ("augment.zoom", 2)),
    ],
)
def test_a_value_per_class_is_refused_when_invalid(override, facts):
    assert_names(refuse("", override), *facts)


def test_label_smoothing_requires_crossentropy():
    smoothed = "train.label_smoothing=0.1"
    assert load_config("", [smoothed]).train.label_smoothing == 0.1
    message = refuse("", "train.loss=focal", smoothed)
    assert_names(message, "train.label_smoothing", "train.loss", "crossentropy")


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("train.focal_gamma=2", ("train.loss", "focal", "crossentropy")),
        ("build.jpeg_quality=90", ("build.encoding", "jpeg", "raw")),
        ("train.momentum=0.8", ("train.optimizer", "sgd", "adamw")),
        ("train.warmup_fraction=0.1", ("train.schedule", "cosine", "constant")),
        ("train.plateau_patience=2", ("train.schedule", "plateau", "constant")),
        ("sampling.weights=[1, 2]", ("sampling.mode", "weights", "balanced")),
        ("train.monitor=kappa", ("train.task", "grades", "binary")),
        ("train.loss=mse", ("train.task", "grades", "binary")),
        ("augment.balanced_mixup=0.1", ("sampling.mode", "natural", "balanced")),
        ("train.loss=coral", ("train.task", "grades", "binary")),
        ("train.soft_weight=0.3", ("train.soft_labels",)),
        ("train.plateau_monitor=kappa", ("train.schedule", "plateau", "constant")),
    ],
)
def test_a_setting_is_refused_when_the_one_it_requires_differs(override, facts):
    with raises_naming(ConfigError, override.partition("=")[0], *facts):
        load_config("", [override])


def test_a_requirement_may_be_met_by_another_override():
    overrides = ["train.loss=focal", "train.focal_gamma=2"]
    assert load_config("", overrides).train.focal_gamma == 2


def test_an_invalid_list_is_reported_as_invalid_toml():
    assert_names(refuse("", "augment.zoom=[0,x]"), "--set", "TOML")


def test_an_unknown_preset_is_refused_with_the_nearest_name():
    with raises_naming(ConfigError, "mobilenet-96", *list_presets()) as error:
        load_config("mobilenet-96")
    # The nearest comes before the list of all presets.
    message = str(error.value)
    assert message.index("mobilenetv2") < message.index(list_presets()[0])


@pytest.mark.parametrize(
    ("text", "column"),
    [("1", "1"), ("true", "true"), ("1.0", "1.0"), ('"a b"', "a b"), ("a=b", "a=b")],
)
def test_an_override_of_a_text_may_look_like_a_number(text, column):
    config = load_config("", [f"labels.patient_column={text}"])
    assert config.labels.patient_column == column


def test_an_override_keeps_the_types_of_other_settings():
    config = load_config("", ["augment.zoom=[0, 0.1]", "images.mask=true"])
    assert config.augment.zoom == (0, 0.1)
    assert config.images.mask is True


def test_an_override_holds_one_value_only():
    refuse("", "images.size=224\nextends='demo'")


BOMBS = {
    "deep arrays": "a = " + "[" * 100_000,
    "deep tables": "a = " + "{a=" * 100_000,
    "a long integer": "[images]\nsize = " + "9" * 5000,
    "a long hexadecimal integer": "[images]\nsize = 0x" + "f" * 50_000,
    "a long key": ".".join("a" * 20_000) + " = 1",
    "a long quoted key": "x = {" + " . ".join(["'a'"] * 20_000) + " = 1}",
    "a long header": "[" + ".".join("a" * 20_000) + "]",
    "endless text": "#" * (2 << 20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_exhaust_the_parser_is_refused(name, tmp_path):
    path = tmp_path / "bomb.toml"
    path.write_text(BOMBS[name])
    with raises_naming(ConfigError, path):
        load_config(str(path))


@pytest.mark.parametrize(
    "text", ["[" * 20_000, "{a=" * 20_000, "9" * 5000, "0x" + "f" * 50_000]
)
def test_an_override_that_would_exhaust_the_parser_is_refused(text):
    for override in (f"images.size={text}", ".".join("a" * 20_000) + "=1"):
        with raises_naming(ConfigError, "--set") as error:
            load_config("", [override])
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_a_byte_order_mark(encoding, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes("# 안저\r\n[images]\r\nsize = 224\r\n".encode(encoding))
    assert load_config(str(path)).images.size == 224


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes("[images]\n# 안저\n".encode("cp949"))
    with raises_naming(ConfigError, path, "line 2", "UTF-8"):
        load_config(str(path))


def test_a_missing_file_with_the_name_of_a_preset_names_the_preset(tmp_path):
    with raises_naming(ConfigError, "demo.toml", "'demo'"):
        load_config("demo.toml")
    (tmp_path / "mine.toml").write_text('extends = "demo.toml"\n')
    with raises_naming(ConfigError, tmp_path / "demo.toml", "'demo'"):
        load_config(str(tmp_path / "mine.toml"))


def test_a_missing_or_invalid_file_is_named(tmp_path):
    with raises_naming(ConfigError, tmp_path / "no.toml", "No such file"):
        load_config(str(tmp_path / "no.toml"))
    path = tmp_path / "broken.toml"
    path.write_text("[train\n")
    with raises_naming(ConfigError, path, "TOML", "line 1, column 7"):
        load_config(str(path))


def test_settings_are_frozen():
    with pytest.raises(ValidationError) as caught:
        Config().train.epochs = 3
    assert [error["type"] for error in caught.value.errors()] == ["frozen_instance"]


@given(st.text(max_size=40))
def test_any_override_is_accepted_or_refused_with_one_line(text):
    try:
        load_config("", [text])
    except ConfigError as error:
        assert "\n" not in str(error).replace(text, "")


def test_parse_config_names_the_source():
    with raises_naming(ConfigError, "here", "nothing"):
        parse_config({"nothing": 1}, where="here")


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("model.dropout=[0.1,0.2]", ("model.dropout", 1, "model.head_units")),
        ("model.head_batch_norm=[]", ("model.head_batch_norm", 1, "model.head_units")),
        ("train.loss=focal", ("train.task", "grades", "train.loss", "crossentropy")),
        ("train.class_weights=[1,2]", ("train.class_weights", 5)),
        ("train.soft_labels=score", ("train.task", "binary", "referable")),
        ("train.head_epochs=12", ("train.head_epochs", "train.epochs", 12)),
    ],
)
def test_settings_are_refused_when_they_contradict_each_other(override, facts):
    assert_names(refuse("", "train.task=grades", override), *facts)


def test_a_list_of_texts_needs_no_quotes_because_a_shell_removes_them():
    values = load_config("", ["labels.grade_values=[R0, 'R1',R2]"]).labels.grade_values
    assert values == ("R0", "R1", "R2")
    pattern = "[a-z]+_([0-9]+)"
    labels = load_config("", [f"labels.patient_pattern={pattern}"]).labels
    assert labels.patient_pattern == pattern


@pytest.mark.parametrize("other", ["augment.mixup", "augment.cutmix"])
def test_one_mixing_is_refused_when_the_partners_are_balanced(other):
    balanced = "sampling.mode=natural", "augment.balanced_mixup=0.1"
    assert load_config("", balanced).augment.balanced_mixup == 0.1
    message = refuse("", *balanced, f"{other}=0.5")
    assert_names(message, other, "augment.balanced_mixup", 0.1)


def test_class_weights_are_refused_when_all_are_zero():
    assert_names(refuse("", "train.class_weights=[0,0]"), "train.class_weights")
    assert load_config("", ["train.class_weights=[0,1]"]).train.class_weights == (0, 1)


def test_sampling_weights_are_refused_without_one_per_class():
    weights = ["sampling.mode=weights", "sampling.weights=[1,2,3]"]
    assert_names(refuse("", *weights), "sampling.weights", 2)

"""drtf settings, and the page that it generates."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from drtf.config import Config
from drtf.config.reference import list_settings
from drtf.config.requirements import REQUIREMENTS
from drtf.tools.settings import settings
from naming import assert_names

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
SECTIONS = list(Config.model_fields)


def printed(*words: str) -> str:
    result = CliRunner().invoke(settings, words, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_settings_page_is_current():
    assert PAGE.read_text() == printed("--markdown"), "run make settings"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_a_description(section):
    for setting in list_settings(section):
        assert setting.description.endswith("."), setting.key
        assert setting.values


def test_settings_prints_every_setting_without_a_section():
    keys = re.findall(r"^(\w+\.\w+) = ", printed(), re.MULTILINE)
    assert keys == [s.key for section in SECTIONS for s in list_settings(section)]


def test_settings_prints_only_the_section_asked_for():
    keys = re.findall(r"^(\w+)\.\w+ = ", printed("split"), re.MULTILINE)
    assert set(keys) == {"split"}


@pytest.mark.parametrize(
    ("key", "default", "values"),
    [
        ("images.size", "96", "integer from 32 to 2048"),
        ("images.contrast", '"clahe"', '`"clahe"`, `"graham"`, `"none"`'),
        ("images.mask", "false", "`true`, `false`"),
        ("split.val_size", "0.1", "number >= 0 and < 1"),
        ("augment.zoom", "0.2", "number >= 0 and < 1, or a list of these"),
        ("model.head_units", "[]", "list of integers >= 1"),
        ("model.weights", '"imagenet"', "text"),
        ("train.jit_compile", '"auto"', '`"auto"`, `true`, `false`'),
    ],
)
def test_list_settings_describes_defaults_and_values(key, default, values):
    (setting,) = [s for s in list_settings(key.split(".")[0]) if s.key == key]
    assert (setting.default, setting.values) == (default, values)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_list_settings_names_each_requirement(requirement):
    (setting,) = [
        setting
        for setting in list_settings(requirement.key.split(".")[0])
        if setting.key == requirement.key
    ]
    text = " ".join(setting.requires)
    for value in requirement.values:
        assert f"`{requirement.other}={json.dumps(value)}`" in text


def test_an_unknown_section_is_wrong_usage_with_the_nearest_name():
    result = CliRunner().invoke(settings, ["tran"])
    assert result.exit_code == 2
    assert_names(result.stderr, "SECTION", "tran", "train", *SECTIONS)

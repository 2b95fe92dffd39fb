"""Load a config from presets, TOML files and key=value overrides, and dump it."""

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from drtf.config.messages import did_you_mean, validation_message
from drtf.config.schema import Config
from drtf.errors import ConfigError


def list_presets() -> list[str]:
    """List the names of the presets that come with drtf."""
    files = resources.files("drtf.configs").iterdir()
    return sorted(file.name[:-5] for file in files if file.name.endswith(".toml"))


def load_config(
    source: str = "",
    overrides: Iterable[str] = (),
    *,
    sections: Iterable[str] = tuple(Config.model_fields),
) -> Config:
    """Load the defaults, overridden by a preset or TOML file, then by `key=value`.

    A file with `extends = SOURCE` above its sections overrides that source.

    Args:
        source: a preset's name, the path of a TOML file, or empty.
        overrides: dotted keys with values in TOML, such as `images.size=224`; a
            value that isn't TOML is taken as a string.
        sections: that the caller reads, so that others are not overridden for nothing.

    Raises:
        ConfigError: for an unknown preset, a file that isn't TOML, an unknown key, a
            value that doesn't fit, or an override that nothing would read.
    """
    settings, where = _load_source(source) if source else ({}, "defaults")
    for override in overrides:
        section = override.partition(".")[0].strip()
        if section in Config.model_fields.keys() - set(sections):
            raise ConfigError(
                f"--set {override} would change nothing: of a config this command "
                f"reads only {', '.join(sections)}"
            )
        _apply_override(settings, override)
        where = f"{where} with --set {override}"
    return parse_config(settings, where=where)


def parse_config(settings: Mapping[str, Any], *, where: str) -> Config:
    """Check settings and fill in the defaults; `where` names them in an error.

    Raises:
        ConfigError: for an unknown key or a value that doesn't fit.
    """
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{where}: {validation_message(error)}") from error


def dump_config(config: Config) -> str:
    """Write a config as TOML that `load_config` reads back to an equal one."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def _load_source(source: str, *heirs: str) -> tuple[dict[str, Any], str]:
    text, where = _read_source(source)
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error
    if "extends" in settings:
        base = settings.pop("extends")
        if not isinstance(base, str):
            raise ConfigError(
                f"{where}: extends takes a preset's name or the path of a TOML file; "
                f"got {base!r}"
            )
        if base.endswith(".toml"):
            base = str(Path(source).parent / base)
        if base in (source, *heirs):
            raise ConfigError(f"{where} extends {base}, which extends it")
        inherited, _ = _load_source(base, source, *heirs)
        settings = _merge(inherited, settings)
    return settings, where


def _merge(base: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for section, values in settings.items():
        if isinstance(values, dict) and isinstance(base.get(section), dict):
            values = {**base[section], **values}
        merged[section] = values
    return merged


def _read_source(source: str) -> tuple[str, str]:
    path = Path(source)
    if path.suffix == ".toml" or len(path.parts) > 1:
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read the config file {path}: {error}") from error
    presets = list_presets()
    if source not in presets:
        raise ConfigError(
            f"no preset {source!r}{did_you_mean(source, presets)}; presets are "
            f"{', '.join(presets)}, and a config file's name ends in .toml"
        )
    file = resources.files("drtf.configs") / f"{source}.toml"
    return file.read_text(encoding="utf-8"), f"preset {source}"


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise ConfigError(
            f"--set takes section.key=value, such as images.size=224; got {override!r}"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text.lstrip().startswith("["):
            raise ConfigError(
                f"--set {override}: not a list as TOML has it, such as [0.1, 0.2]: "
                f"{error}"
            ) from error
        value = text
    table = settings.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{section!r} must be a table of settings; got {table!r}")
    table[name] = value

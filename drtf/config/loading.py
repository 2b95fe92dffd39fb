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
    """Return the sorted names of the presets."""
    files = resources.files("drtf.configs").iterdir()
    names = (file.name for file in files)
    return sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml"))


def load_config(
    source: str = "",
    overrides: Iterable[str] = (),
    *,
    sections: Iterable[str] = tuple(Config.model_fields),
) -> Config:
    """Load the defaults, overridden by a preset or TOML file, then by `key=value`.

    A file that starts with `extends = SOURCE` overrides that preset or file instead of
    the defaults.

    Args:
        source: Name of a preset, path of a TOML file, or empty.
        overrides: Dotted keys with TOML values, such as `images.size=224`. A value that
            is not TOML is taken as a string.
        sections: Names of the sections that the caller reads. Overrides of other
            sections are refused.

    Raises:
        ConfigError: If the preset is unknown, the file is not valid TOML, a key is
            unknown, a value is not allowed, or an override has no effect.
    """
    settings, where = _load_source(source) if source else ({}, "")
    for override in overrides:
        section = override.partition(".")[0].strip()
        if section in Config.model_fields.keys() - set(sections):
            raise ConfigError(
                f"--set {override} has no effect here: this command reads only the "
                f"sections {', '.join(sections)}"
            )
        _apply_override(settings, override)
        where = f"{where} with --set {override}" if where else f"--set {override}"
    return parse_config(settings, where=where)


def parse_config(settings: Mapping[str, Any], *, where: str) -> Config:
    """Check settings and fill in the defaults.

    Args:
        settings: Tables of settings by section.
        where: Where the settings come from, for error messages.

    Raises:
        ConfigError: If a key is unknown or a value is not allowed.
    """
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{where}: {validation_message(error)}") from error


def dump_config(config: Config) -> str:
    """Return a config as TOML text, which `load_config` reads back unchanged."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def _load_source(source: str, *extending: str) -> tuple[dict[str, Any], str]:
    """Return the settings of a preset or file, and its name for error messages.

    Args:
        source: Name of a preset or path of a TOML file.
        *extending: The sources that extend this one, the nearest first.
    """
    text, where = _read_source(source)
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error
    if "extends" in settings:
        base = settings.pop("extends")
        if not isinstance(base, str):
            raise ConfigError(
                f"{where}: extends must be the name of a preset or the path of a TOML "
                f"file; got {base!r}"
            )
        if base.endswith(".toml"):
            base = str(Path(source).parent / base)
        if base in (source, *extending):
            raise ConfigError(f"{where}: extends={base!r} is circular")
        inherited, _ = _load_source(base, source, *extending)
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
            raise ConfigError(f"cannot read config file {path}: {error}") from error
    presets = list_presets()
    if source not in presets:
        raise ConfigError(
            f"unknown preset {source!r}{did_you_mean(source, presets)}; presets are "
            f"{', '.join(presets)}; the name of a config file must end in .toml"
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
                f"--set {override}: not a valid TOML list, such as [0.1, 0.2]: {error}"
            ) from error
        value = text
    table = settings.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{section!r} must be a section, not a value; got {table!r}")
    table[name] = value

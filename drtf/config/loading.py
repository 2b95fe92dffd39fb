"""Load a config from presets, TOML files and key=value overrides, and dump it."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from drtf.config.messages import (
    did_you_mean,
    quote_value,
    shorten,
    validation_message,
)
from drtf.config.schema import Config
from drtf.config.values import has_setting, is_allowed
from drtf.errors import ConfigError
from drtf.files import decode_text, read_regular
from drtf.locations import expand_home

MAX_CONFIG_BYTES = 1 << 20
# A dotted key with many parts, which takes a parser time by the square of their number.
LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*"|'[^'\n]*')[ \t]*+\.[ \t]*+){20}"""
)
SEVERAL_SETTINGS = re.compile(r"[,;\s]\s*\w+\.\w+\s*=")


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
        sections: Names of the sections that the caller reads, or dotted keys of single
            settings. Overrides of other settings are refused.

    Raises:
        ConfigError: If the preset is unknown, the file is not valid TOML, a key is
            unknown, a value is not allowed, or an override has no effect.
    """
    settings, where = _load_source(source) if source else ({}, "")
    for override in overrides:
        key = override.partition("=")[0].strip()
        section, _, name = key.partition(".")
        if section in Config.model_fields and not {section, key} & set(sections):
            read = [f"{x}.{name}" for x in sections if has_setting(x, name)]
            hint = f"; did you mean {read[0]}?" if read else ""
            raise ConfigError(
                f"--set {shorten(override)} has no effect here: this command reads "
                f"only {', '.join(sections)}{hint}"
            )
        _apply_override(settings, override)
        change = f"--set {shorten(override)}"
        where = f"{where} with {change}" if where else change
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


def load_toml(path: Path) -> dict[str, Any]:
    """Load a TOML file.

    Raises:
        ConfigError: If it cannot be read, is not text or not valid TOML.
    """
    try:
        text = decode_text(read_regular(path, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(
            f"cannot read config file {path}: {error.strerror}{_preset_hint(path)}"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} is not UTF-8 text (line {line}); save it with the encoding UTF-8"
        ) from error
    try:
        return _parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML that may have been made to exhaust the parser.

    Raises:
        ValueError: If it is not valid TOML, or nested too deeply.
    """
    if LONG_KEY.search(text):
        raise ValueError("a key has too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _preset_hint(path: Path) -> str:
    """Return a hint if a missing file has the name of a preset; else empty."""
    if path.exists() or path.stem not in list_presets():
        return ""
    return f"; did you mean the preset {path.stem!r}, without .toml?"


def _load_source(source: str, *extending: str) -> tuple[dict[str, Any], str]:
    """Return the settings of a preset or file, and its name for error messages.

    Args:
        source: Name of a preset or path of a TOML file.
        *extending: The sources that extend this one, the nearest first.
    """
    settings, where = _read_source(source)
    if "extends" in settings:
        base = settings.pop("extends")
        if not isinstance(base, str):
            raise ConfigError(
                f"{where}: extends must be the name of a preset or the path of a TOML "
                f"file; got {quote_value(base)}"
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


def _read_source(source: str) -> tuple[dict[str, Any], str]:
    path = Path(expand_home(source))
    if path.suffix == ".toml" or len(path.parts) > 1:
        return load_toml(path), str(path)
    presets = list_presets()
    if source not in presets:
        raise ConfigError(
            f"unknown preset {source!r}{did_you_mean(source, presets)}; presets are "
            f"{', '.join(presets)}; the name of a config file must end in .toml"
        )
    file = resources.files("drtf.configs") / f"{source}.toml"
    return _parse_toml(file.read_text(encoding="utf-8")), f"preset {source}"


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        known = [x for x in Config.model_fields if has_setting(x, section)]
        hint = f"; did you mean {known[0]}.{section}?" if known else ""
        raise ConfigError(
            "--set takes section.key=value, such as images.size=224, without spaces "
            f"around =; got {quote_value(override)}{hint}"
        )
    value = _parse_value(section, name, text)
    table = settings.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(
            f"{section!r} must be a section, not a value; got {quote_value(table)}"
        )
    table[name] = value


def _parse_value(section: str, name: str, text: str) -> Any:
    """Parse the value of an override: as TOML, or as it is if only text is allowed.

    Raises:
        ConfigError: If it is neither a value nor a list.
    """
    try:
        parsed = _parse_toml(f"value = {text}")
    except ValueError as error:
        parsed = {"value": text}
        if text.startswith("[") and has_setting(section, name):
            # Such as [R0, R1], because a shell removes quotes.
            parts = [part.strip(" '\"") for part in text.strip(" []").split(",")]
            if is_allowed(section, name, parts):
                return parts
            if not is_allowed(section, name, text):
                raise ConfigError(
                    f"--set {section}.{name}={shorten(text)}: not a valid TOML list, "
                    f"such as [0.1, 0.2]: {error}"
                ) from error
    value = parsed["value"] if len(parsed) == 1 else text
    if has_setting(section, name) and not is_allowed(section, name, value):
        if is_allowed(section, name, text):
            return text  # such as the name of a column that is a number
        if SEVERAL_SETTINGS.search(text):
            raise ConfigError(
                f"--set {section}.{name}={shorten(text)}: give each setting its own "
                "--set"
            )
    return value

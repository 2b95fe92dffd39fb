"""Describe the values that a setting allows, for messages and the settings page."""

import json
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from drtf.config.schema import Config, section_model

NOUNS = {int: "integer", float: "number", str: "text"}
SYMBOLS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def allowed_values(section: str, name: str) -> str:
    """Return the values that a setting allows, in words and TOML.

    Raises:
        KeyError: If there is no such setting.
    """
    hints = get_type_hints(section_model(section), include_extras=True)
    return _describe_type(hints[name])


def has_setting(section: str, name: str) -> bool:
    """Return whether there is a setting `section.name`."""
    sections = Config.model_fields
    return section in sections and name in section_model(section).model_fields


def is_allowed(section: str, name: str, value: Any) -> bool:
    """Return whether a setting allows a value, regardless of all other settings.

    Raises:
        KeyError: If there is no such setting.
    """
    hints = get_type_hints(section_model(section), include_extras=True)
    try:
        TypeAdapter(hints[name]).validate_python(value)
    except ValidationError:
        return False
    return True


def _describe_type(hint: Any) -> str:
    """Describe the values that a type hint allows."""
    if hint is bool:
        return "`true`, `false`"
    if hint in NOUNS:
        return NOUNS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is Annotated:
        infos = [info for info in arguments[1:] if isinstance(info, FieldInfo)]
        if infos and infos[0].description:
            return infos[0].description
        bounds = [bound for info in infos for bound in info.metadata]
        return _describe_type(arguments[0]) + _describe_bounds(bounds)
    if origin in (Union, types.UnionType):
        first, *others = (_describe_type(part) for part in arguments)
        if others == [_list_of(first)]:
            others = ["or a list of these"]
        return ", ".join([first, *others])
    if origin is tuple:
        return _list_of(_describe_type(arguments[0]))
    raise TypeError(f"cannot describe settings of type {hint}")


def _list_of(values: str) -> str:
    noun, *bounds = values.split(" ", 1)
    return " ".join([f"list of {noun}s", *bounds])


def _describe_bounds(bounds: Sequence[Any]) -> str:
    """Describe the bounds of a number; empty if there are none."""
    limits = {
        name: getattr(bound, name)
        for bound in bounds
        for name in SYMBOLS
        if hasattr(bound, name)
    }
    if limits.keys() == {"ge", "le"}:
        return f" from {limits['ge']} to {limits['le']}"
    return " and".join(f" {SYMBOLS[name]} {limit}" for name, limit in limits.items())

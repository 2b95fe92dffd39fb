"""Turn a validation error into one line for the user."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from drtf.config.schema import Config, section_model
from drtf.config.values import allowed_values, has_setting

MAX_QUOTED = 200


def validation_message(validation_error: ValidationError) -> str:
    """Return one line about the first setting that failed validation."""
    error = validation_error.errors()[0]
    keys = [str(part) for part in error["loc"]]
    key = ".".join(keys[:2])
    if error["type"] == "extra_forbidden":
        return f"unknown key {quote_value(key)}{_nearest_key(*keys)}"
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and len(keys) < 2:
        return text  # from a check of several settings, which names their keys
    got = f"got {quote_value(error['input'])}"
    if error["type"] == "value_error":
        return f"{key}: {text}; {got}"
    if len(keys) < 2:
        return f"{key}: expected a section of settings; {got}"
    values = allowed_values(*keys[:2]).replace("`", "")
    if error["type"] == "finite_number":
        values = f"finite {values}"
    return f"{key}: expected {values}; {got}"


def quote_value(value: object) -> str:
    """Return the beginning of a value as Python code."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return "a value that is too long to show"
    return shorten(text)


def shorten(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."


def _nearest_key(section: str, name: str = "") -> str:
    """Return a hint that names the known key nearest to an unknown one, if any."""
    elsewhere = [x for x in Config.model_fields if has_setting(x, name or section)]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}.{name or section}'?"
    if not name:
        return did_you_mean(section, Config.model_fields)
    names = section_model(section).model_fields
    return did_you_mean(f"{section}.{name}", [f"{section}.{x}" for x in names])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `word`; empty if none is."""
    matches = difflib.get_close_matches(word[:MAX_QUOTED], known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""

"""Turn a validation error into one line for the user."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from drtf.config.schema import Config, section_model
from drtf.config.values import allowed_values


def validation_message(validation_error: ValidationError) -> str:
    """Return one line about the first setting that failed validation."""
    error = validation_error.errors()[0]
    keys = [str(part) for part in error["loc"]]
    key = ".".join(keys[:2])
    if error["type"] == "extra_forbidden":
        known = list(Config.model_fields)
        if len(keys) > 1:
            names = section_model(keys[0]).model_fields
            known = [f"{keys[0]}.{name}" for name in names]
        return f"unknown key {key!r}{did_you_mean(key, known)}"
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and len(keys) < 2:
        return text  # from a check of several settings, which names their keys
    got = f"got {error['input']!r}"
    if error["type"] == "value_error":
        return f"{key}: {text}; {got}"
    if len(keys) < 2:
        return f"{key}: expected a section of settings; {got}"
    values = allowed_values(*keys[:2]).replace("`", "")
    if error["type"] == "finite_number":
        values = f"finite {values}"
    return f"{key}: expected {values}; {got}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `word`; empty if none is."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""

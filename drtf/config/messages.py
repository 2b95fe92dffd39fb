"""Turn a validation error into one line for the user."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from drtf.config.schema import Config, section_model


def validation_message(validation_error: ValidationError) -> str:
    """Return one line about the first setting that failed validation."""
    errors = validation_error.errors()
    error = errors[0]
    keys = [str(part) for part in error["loc"]]
    key = ".".join(keys[:2])
    if error["type"] == "extra_forbidden":
        known = list(Config.model_fields)
        if len(keys) > 1:
            names = section_model(keys[0]).model_fields
            known = [f"{keys[0]}.{name}" for name in names]
        return f"unknown key {key!r}{did_you_mean(key, known)}"
    # A value that may have several types has one error for each of them.
    expected = [
        other["msg"].removeprefix("Value error, ")
        for other in errors
        if other["loc"][:2] == error["loc"][:2]
    ]
    if error["type"] == "value_error" and len(keys) < 2:
        return expected[0]  # from a check of several settings, which names their keys
    wanted = ", or ".join(text[0].lower() + text[1:] for text in expected)
    return f"{key}: {wanted}; got {error['input']!r}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `word`; empty if none is."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""

"""Turn a validation error into one line for the user."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from drtf.config.schema import Config


def validation_message(validation_error: ValidationError) -> str:
    """Return one line about the first setting that failed validation."""
    errors = validation_error.errors()
    error = errors[0]
    keys = [str(part) for part in error["loc"]]
    dotted = ".".join(keys[:2])
    if error["type"] == "extra_forbidden":
        known = list(Config.model_fields)
        if len(keys) > 1:
            section = Config.model_fields[keys[0]].annotation
            known = [f"{keys[0]}.{name}" for name in section.model_fields]  # type: ignore[union-attr]
        return f"unknown key {dotted!r}{did_you_mean(dotted, known)}"
    messages = [
        x["msg"].removeprefix("Value error, ")
        for x in errors
        if x["loc"][:2] == error["loc"][:2]
    ]
    if not keys:
        return messages[0]
    if isinstance(error["input"], dict):  # settings that do not go together
        return f"{dotted}: {messages[0]}"
    wanted = ", or ".join(message[0].lower() + message[1:] for message in messages)
    return f"{dotted}: {wanted}; got {error['input']!r}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `word`; empty if none is."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""

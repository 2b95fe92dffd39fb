"""Check which facts a message names, whatever its sentence says."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def assert_names(message: object, *facts: object) -> None:
    """Assert that a message contains each fact as a whole word.

    A number does not count as part of a longer number (5 is not in "256" or "0.5").

    Args:
        message: An error, or text such as a command's output; str() of it is searched.
        *facts: At least one. What the message must contain, as str(): a dotted key, a
            path, a row, a value, a bound, an option. Not words of its sentence.
    """
    if not facts:
        raise ValueError("give at least one fact")
    text = str(message)
    for fact in map(str, facts):
        word = rf"(?<!\w)(?<!\d\.){re.escape(fact)}(?!\w|\.\d)"
        if not re.search(word, text):
            pytest.fail(f"{fact!r} is missing from the message: {text!r}")


@contextmanager
def raises_naming(
    error_type: type[BaseException], *facts: object
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Expect an error whose message contains each fact as a whole word."""
    with pytest.raises(error_type) as error:
        yield error
    assert_names(error.value, *facts)

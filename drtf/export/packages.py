"""Packages that only some formats need, and silencing their output."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import absl.logging

from drtf.errors import DrtfError
from drtf.models.device import silence_stderr


def import_package(name: str, *, extra: str) -> Any:
    """Import a package that an extra of drtf installs.

    Args:
        name: The package, or a module of it.
        extra: Name of the extra.

    Raises:
        DrtfError: If it is missing, or does not work with the other packages.
    """
    try:
        with quiet():
            return importlib.import_module(name)
    except Exception as error:
        # A package that was built for other versions raises any kind of error.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DrtfError(
            f"cannot import {name} ({reason}): pip install 'drtf[{extra}]'"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence converters; the C++ code of some has no log level."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with silence_stderr(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
        absl.logging.set_verbosity(verbosity)

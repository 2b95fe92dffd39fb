"""Seals: a JSON file holds a hash of its own contents, so that any change shows."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from drtf.files import encode_json

SEAL = "sha256"


def dump_sealed(contents: Mapping[str, Any]) -> str:
    """Return the text of a JSON file that holds the hash of all its other keys."""
    canonical = json.dumps(contents, sort_keys=True, allow_nan=False).encode()
    seal = hashlib.sha256(canonical).hexdigest()
    return encode_json({**contents, SEAL: seal})


def is_intact(text: str, contents: Mapping[str, Any]) -> bool:
    """Return whether a sealed file is exactly as `dump_sealed` wrote it.

    Args:
        text: The text of the file.
        contents: The keys and values in it, with or without the seal.
    """
    others = {key: value for key, value in contents.items() if key != SEAL}
    try:
        return text == dump_sealed(others)
    except (RecursionError, ValueError):  # nested deeper than what drtf writes, or NaN
        return False

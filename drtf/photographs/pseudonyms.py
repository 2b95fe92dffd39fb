"""Pseudonyms: keyed hashes that stand for the patients of DICOM files.

Who has the key can compute the pseudonym of a known patient; nobody can compute the
patient from it.
"""

import contextlib
import functools
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

from drtf.errors import PatientKeyError
from drtf.files import create_link, read_regular

_log = logging.getLogger(__name__)

KEY_VARIABLE = "DRTF_PATIENT_KEY"
DEFAULT_KEY_FILE = "~/.config/drtf/patient.key"
# What stands in the key's place to write the identifiers themselves.
PLAIN = "plain"
KEY_BYTES = 32
MIN_KEY_CHARACTERS = 16
MAX_KEY_FILE_BYTES = 10_000
# 64 bits: two of a million patients share a pseudonym with a probability of 3e-8.
NUM_DIGITS = 16
# So that a spreadsheet does not take the digits for a number.
PREFIX = "P"


def pseudonym(patient_id: str, issuer: str = "") -> str:
    """Return the text that stands for a patient in datasets and tables of scores.

    It is a hash with the key of `load_key`, or the identifier itself if the variable
    DRTF_PATIENT_KEY is `plain`.

    Args:
        patient_id: The identifier of the patient.
        issuer: Who issued the identifier.

    Raises:
        PatientKeyError: As `load_key`.
    """
    if os.environ.get(KEY_VARIABLE) == PLAIN:
        return patient_id
    text = f"{issuer}\0{patient_id}".encode(errors="surrogateescape")
    digest = hmac.new(load_key(_key_file()), text, hashlib.sha256).hexdigest()
    return PREFIX + digest[:NUM_DIGITS]


@functools.lru_cache(maxsize=1)
def load_key(path: Path) -> bytes:
    """Load the key of the pseudonyms; create it if there is none.

    Args:
        path: The file with the key: $DRTF_PATIENT_KEY, by default
            ~/.config/drtf/patient.key.

    Raises:
        PatientKeyError: If it cannot be read or created, or is too short.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read_key(path)
        _create_key(path)
        return _read_key(path)
    except OSError as error:
        raise PatientKeyError(
            f"cannot read or create the key of the patients' pseudonyms {path}: "
            f"{error.strerror}. Set {KEY_VARIABLE} to the path of a file with the key"
        ) from error


def _key_file() -> Path:
    path = Path(os.environ.get(KEY_VARIABLE) or DEFAULT_KEY_FILE)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise PatientKeyError(
            f"cannot find the key of the patients' pseudonyms {path}, because this "
            f"user has no home folder: set {KEY_VARIABLE} to the path of a file with "
            "the key"
        ) from error


def _read_key(path: Path) -> bytes:
    key = read_regular(path, MAX_KEY_FILE_BYTES).strip()
    if len(key) < MIN_KEY_CHARACTERS:
        raise PatientKeyError(
            f"the key of the patients' pseudonyms {path} has {len(key)} characters; it "
            f"must have at least {MIN_KEY_CHARACTERS}"
        )
    return key


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(partial, flags, mode=0o600)  # only its owner may read it
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        is_new = create_link(partial, path)  # of several processes, one wins
    finally:
        partial.unlink(missing_ok=True)
    if is_new:
        _log.warning(
            "created the key of the patients' pseudonyms %s: keep it, and copy it to "
            "other machines on which the same patient must get the same pseudonym",
            path,
        )

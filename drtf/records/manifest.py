"""The manifest: what makes a folder of shards a set, and what stands in it."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from drtf.errors import RecordError
from drtf.files import write_atomic

FORMAT_VERSION: Final = 1
MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.parquet"
REJECTED_FILE = "rejected.csv"


class _Table(BaseModel):
    # What a later drtf adds is no reason for this one to refuse the set.
    model_config = ConfigDict(frozen=True, extra="ignore")


class ShardEntry(_Table):
    """One shard as it was written."""

    file: str
    split: str
    num_records: int
    size_bytes: int
    sha256: str


class Manifest(_Table):
    """The contents of manifest.json.

    Attributes:
        format_version: raised when a reader of the old format would misread the new.
        name: the set's name, the first part of its shards' names.
        encoding: of the images: `raw`, `png` or `jpeg`.
        image_size: height and width of every image, in px.
        preprocessing: the `images` section that made the pixels.
        settings: the other sections that shaped the set.
        num_records: photographs by split and grade.
        num_patients: patients by split.
        shards: every shard in reading order.
        files: the SHA-256 of every file beside the shards and the manifest.
        rejected: photographs set aside, by reason.
        quality: of each figure in the index the minimum, 5th percentile, median, 95th
            percentile and maximum.
        provenance: where the photographs came from, and the versions that read them.
        plan_sha256: equal where labels, photographs, settings and versions are.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    encoding: Literal["raw", "png", "jpeg"]
    image_size: int
    preprocessing: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    num_records: dict[str, dict[str, int]]
    num_patients: dict[str, int]
    shards: tuple[ShardEntry, ...]
    files: dict[str, str]
    rejected: dict[str, int]
    quality: dict[str, tuple[float, ...]]
    provenance: dict[str, Any]
    plan_sha256: str

    @model_validator(mode="after")
    def _stays_in_its_folder(self) -> Self:
        for file in (*self.files, *(shard.file for shard in self.shards)):
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"it names {file!r}, outside its folder")
        return self

    @property
    def size_bytes(self) -> int:
        """The size of all shards together."""
        return sum(shard.size_bytes for shard in self.shards)


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, sealed by its own hash; from then on the folder is a set."""
    contents = manifest.model_dump(mode="json")
    write_atomic(folder / MANIFEST_FILE, _dump(contents))


def load_manifest(folder: Path) -> Manifest:
    """Load a set's manifest.

    Raises:
        RecordError: if there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(
            f"{folder} is not a set of shards: it has no {MANIFEST_FILE}; "
            "make one with drtf build-shards"
        ) from error
    except OSError as error:
        raise RecordError(f"can't read {path}: {error}") from error
    return parse_manifest(data, path=str(path))


def parse_manifest(data: bytes, *, path: str) -> Manifest:
    """Parse the bytes of a manifest; `path` names it in an error.

    Raises:
        RecordError: if it is damaged or of another format.
    """
    try:
        text = data.decode()
        contents = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"can't read {path}: {error}") from error
    if not isinstance(contents, dict) or "format_version" not in contents:
        raise RecordError(f"{path} is not a manifest of drtf")
    if contents["format_version"] != FORMAT_VERSION:
        raise RecordError(
            f"{path} has format version {contents['format_version']}, this drtf reads "
            f"{FORMAT_VERSION}: build the set again, or install the drtf that made it"
        )
    contents.pop("sha256", None)
    if text != _dump(contents):
        raise RecordError(f"{path} was changed after it was written: hashes differ")
    try:
        return Manifest.model_validate(contents)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise RecordError(f"{path} is not a manifest of drtf: {reason}") from error


def hash_manifest(folder: Path) -> str:
    """Return the hash that names a set's contents in all that is made from it.

    Raises:
        RecordError: if there is no whole manifest.
    """
    load_manifest(folder)
    return json.loads((folder / MANIFEST_FILE).read_bytes())["sha256"]


def _dump(contents: dict[str, Any]) -> str:
    """Write the one text of these contents, sealed by the hash of all the rest."""
    canonical = json.dumps(contents, sort_keys=True).encode()
    sealed = contents | {"sha256": hashlib.sha256(canonical).hexdigest()}
    return json.dumps(sealed, indent=2) + "\n"

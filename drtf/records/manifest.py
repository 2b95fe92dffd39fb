"""The manifest: the file that makes a folder of shards a dataset, and describes it."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drtf import page
from drtf.errors import RecordError
from drtf.files import parse_json, read_regular, write_atomic
from drtf.records.framing import FRAME_BYTES
from drtf.seals import SEAL, dump_sealed, is_intact

FORMAT_VERSION: Final = 4
MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.parquet"
REJECTED_FILE = "rejected.csv"
UNMATCHED_FILE = "unmatched.csv"
SYNTHETIC_NOTE = (
    "The photographs are synthetic: drtf drew them. Results show that the software "
    "works and support no conclusion about eyes or patients."
)
UNKNOWN_PATIENTS_NOTE = (
    "No patients are known, so each photograph counts as a patient. Both eyes of a "
    "patient may be in different splits, results may be optimistic, and intervals are "
    "too narrow."
)
PatientsFrom = Literal["column", "stated", "name", "none"]


# Far above what any dataset has, and safe for int64 arithmetic.
Count = Annotated[int, Field(ge=0, le=1 << 50, strict=True)]

# The minimum, 5th percentile, median, 95th percentile and maximum.
Quantiles = tuple[float, float, float, float, float]


class _Table(BaseModel):
    # Keys that a later version of drtf adds are ignored.
    model_config = ConfigDict(frozen=True, extra="ignore")


class ShardEntry(_Table):
    """One shard of a dataset."""

    file: str
    split: str
    num_records: Count
    size_bytes: Count
    sha256: str


class Manifest(_Table):
    """The contents of manifest.json.

    Attributes:
        format_version: Raised when a reader of the old format would misread the new.
        name: The dataset's name, with which the names of its shards begin.
        encoding: Encoding of the images: `raw`, `png` or `jpeg`.
        image_size: Height and width of every image, in px.
        preprocessing: The `images` section that produced the pixels.
        settings: The other sections that determined the dataset.
        num_records: Number of records by split and grade.
        num_patients: Number of patients by split.
        patients_from: Where the patients come from: a `column` of the label file, the
            list of photographs or the DICOM tags that `stated` them, or the `name` of
            the photographs. `none` if some source's patients are unknown;
            each of its photographs then counts as a patient of its own.
        shards: Every shard, in reading order.
        files: SHA-256 of every file other than the shards and the manifest.
        rejected: Number of rejected photographs by reason.
        quality: For each measure of quality in the index, the minimum, 5th percentile,
            median, 95th percentile and maximum.
        provenance: The label files or class folders, counts, and software versions.
        plan_sha256: Hash of the photographs, labels, settings and versions.
    """

    format_version: Literal[4] = FORMAT_VERSION
    name: str
    encoding: Literal["raw", "png", "jpeg"]
    image_size: Annotated[Count, Field(gt=0, le=1 << 14)]
    preprocessing: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    num_records: dict[str, dict[str, Count]]
    num_patients: dict[str, Count]
    patients_from: PatientsFrom
    shards: tuple[ShardEntry, ...]
    files: dict[str, str]
    rejected: dict[str, Count]
    quality: dict[str, Quantiles]
    provenance: dict[str, Any]
    plan_sha256: str

    @model_validator(mode="after")
    def _check_paths(self) -> Self:
        for file in (*self.files, *(shard.file for shard in self.shards)):
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\0" in file:
                raise ValueError(f"{file!r} is outside its folder")
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        sources = self.provenance.get("sources", [])
        if not all(isinstance(source, dict) for source in sources):
            raise ValueError("provenance.sources is not a list of tables")
        return self

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        for split, by_grade in self.num_records.items():
            shards = [shard for shard in self.shards if shard.split == split]
            in_shards = sum(shard.num_records for shard in shards)
            if sum(by_grade.values()) != in_shards:
                raise ValueError(
                    f"num_records has {sum(by_grade.values())} in {split}; its shards "
                    f"have {in_shards}"
                )
        for shard in self.shards:
            if shard.split not in self.num_records:
                raise ValueError(f"{shard.file} is of the unknown split {shard.split}")
            if shard.size_bytes < shard.num_records * FRAME_BYTES:
                raise ValueError(
                    f"{shard.file} has too few bytes for {shard.num_records} records"
                )
        if self.num_patients.keys() != self.num_records.keys():
            raise ValueError("num_patients and num_records have different splits")
        return self

    def __repr__(self) -> str:
        """Return the name, and how many photographs each split has."""
        counts = ", ".join(
            f"{sum(by_grade.values()):,} {split}"
            for split, by_grade in self.num_records.items()
        )
        return f"<{self.name}: {counts} photographs of {self.image_size} px>"

    def _repr_html_(self) -> str:
        """Show the counts in a notebook: photographs by split and grade."""
        grades = next(iter(self.num_records.values()), {})
        rows = [
            (
                split,
                *(f"{count:,}" for count in counts.values()),
                f"{sum(counts.values()):,}",
                f"{self.num_patients[split]:,}",
            )
            for split, counts in self.num_records.items()
        ]
        rejected = ", ".join(f"{n:,} {reason}" for reason, n in self.rejected.items())
        title = (
            f"{self.name}: {self.image_size} px, {self.encoding}, "
            f"{self.size_bytes / 1e6:,.1f} MB"
        )
        columns = ("split", *(f"grade {grade}" for grade in grades), "all", "patients")
        return (
            page.format_notes(self.notes)
            + page.format_table(title, columns, rows)
            + page.format_text("", f"Rejected: {rejected or 'none'}")
        )

    @property
    def notes(self) -> list[str]:
        """Notes that every reader about this dataset must see first."""
        notes = []
        if any(x.get("synthetic") for x in self.provenance.get("sources", [])):
            notes.append(SYNTHETIC_NOTE)
        num_unknown = sum(
            x.get("num_without_patient", 0) for x in self.provenance.get("sources", [])
        )
        if self.patients_from == "none":
            notes.append(UNKNOWN_PATIENTS_NOTE)
        elif num_unknown:
            notes.append(
                f"The patients of {num_unknown:,} photographs are unknown, so each of "
                "these counts as a patient. Both eyes of such a patient may be in "
                "different splits."
            )
        return notes

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The columns of the label file that the index has."""
        return tuple(self.settings["labels"]["keep_columns"])

    @property
    def size_bytes(self) -> int:
        """Total size of the shards."""
        return sum(shard.size_bytes for shard in self.shards)


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Save the manifest, sealed with its own hash; this makes the folder a dataset."""
    contents = manifest.model_dump(mode="json")
    write_atomic(folder / MANIFEST_FILE, dump_sealed(contents))


def load_manifest(folder: Path) -> Manifest:
    """Load a dataset's manifest.

    Raises:
        RecordError: If it is missing, damaged, or has another format version.
    """
    path = folder / MANIFEST_FILE
    try:
        data = read_regular(path)
    except FileNotFoundError as error:
        raise RecordError(
            f"{folder} is not a dataset: it has no {MANIFEST_FILE}; build one with "
            "drtf build-shards"
        ) from error
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error}") from error
    return parse_manifest(data, path=str(path))


def parse_manifest(data: bytes, *, path: str) -> Manifest:
    """Parse the bytes of a manifest.

    Args:
        data: The bytes.
        path: The manifest's path or location, for error messages.

    Raises:
        RecordError: If it is damaged, or has another format version.
    """
    try:
        text = data.decode()
        contents = parse_json(text)
    except ValueError as error:
        raise RecordError(f"cannot read {path}: {error}") from error
    if not isinstance(contents, dict) or "format_version" not in contents:
        raise RecordError(f"{path} is not a manifest of drtf")
    if contents["format_version"] != FORMAT_VERSION:
        raise RecordError(
            f"{path} has format version {contents['format_version']}, but this version "
            f"of drtf reads format version {FORMAT_VERSION}: build the dataset again, "
            "or install the version of drtf that built it"
        )
    if not is_intact(text, contents):
        raise RecordError(f"{path} was changed after it was written: its hash differs")
    try:
        return Manifest.model_validate(contents)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "its contents"
        raise RecordError(
            f"{path} is not a manifest of drtf: {key}: {problem['msg']}"
        ) from error


def hash_manifest(folder: Path) -> str:
    """Return the hash in a dataset's manifest, which identifies its contents.

    Raises:
        RecordError: If the manifest is missing or damaged.
    """
    load_manifest(folder)
    return parse_json(read_regular(folder / MANIFEST_FILE))[SEAL]

"""The file that holds the plan of a build for its tasks, which run on other hosts."""

import base64
import dataclasses
import hashlib
import io
import json
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drtf.building.plan import (
    BuildPlan,
    current_versions,
    describe_differences,
    hash_rows,
)
from drtf.config import BuildConfig, ImagesConfig, LabelsConfig, SplitConfig
from drtf.errors import DrtfError
from drtf.files import sync_file
from drtf.labels.sources import Catalog
from drtf.locations import is_remote
from drtf.photographs.contents import Conflict
from drtf.photographs.listing import SkippedFile
from drtf.records.plan import ShardPlan
from drtf.records.rejected import CONFLICTING, RejectedRow
from drtf.records.unmatched import UnmatchedRow
from drtf.synthetic import draw_photograph
from drtf.texts import TEXT, Row, TextRows

PHOTOGRAPHS = "photographs"
DIGEST_BYTES = hashlib.sha256().digest_size
LENGTH = struct.Struct("<q")


@dataclass(frozen=True)
class SavedPlan:
    """A plan as its file holds it.

    Attributes:
        plan: The plan. Image folders are absolute.
        sha256: Hash that identifies it.
        probe: A drawn photograph as a JPEG file. Hosts that convert it to equal bytes
            convert all photographs alike.
    """

    plan: BuildPlan
    sha256: str
    probe: bytes


class _FilePart(io.RawIOBase):
    """A part of a file that can be read like a whole file."""

    def __init__(self, file: io.BufferedReader, start: int, size_bytes: int) -> None:
        """Begin with the position and the size of the part."""
        self._file, self._start, self._size_bytes = file, start, size_bytes
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, as every file does."""
        origins = {io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = origins.get(whence, 0) + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read at most so many bytes, or all that remain."""
        remaining = self._size_bytes - self._position
        self._file.seek(self._start + self._position)
        data = self._file.read(remaining if size < 0 else min(size, remaining))
        self._position += len(data)
        return data


class PlanFile:
    """The file of a plan, which is read in parts: it may be large.

    It begins with a hash of the rest. Then come the length of a JSON text, this text,
    and several Parquet files.

    Attributes:
        sha256: Hash that identifies the plan.
        resume_sha256: As in `BuildPlan`.
        flat_settings: As in `BuildPlan`.
    """

    def __init__(self, file: io.BufferedReader, *, path: str) -> None:
        """Take an open file.

        Args:
            file: The file, which remains open as long as it is used.
            path: Its path or location, for error messages.

        Raises:
            DrtfError: If it is damaged, or was made by other versions.
        """
        digest = file.read(DIGEST_BYTES)
        if hashlib.file_digest(file, "sha256").digest() != digest:
            raise DrtfError(
                f"{path} is damaged or is not a plan: it does not begin with its hash. "
                "Remove its folder and run drtf build-shards --plan again"
            )
        file.seek(DIGEST_BYTES)
        text_bytes = LENGTH.unpack(file.read(LENGTH.size))[0]
        try:
            contents = json.loads(file.read(text_bytes))
        except ValueError as error:
            raise DrtfError(
                f"{path} was made by another version of drtf: install that version, or "
                "remove its folder and run drtf build-shards --plan again"
            ) from error
        start = file.tell()
        self._tables: dict[str, _FilePart] = {}
        for name, size_bytes in contents["tables"].items():
            self._tables[name] = _FilePart(file, start, size_bytes)
            start += size_bytes
        self.sha256: str = contents["sha256"]
        self.resume_sha256: str = contents["resume_sha256"]
        self.flat_settings: dict[str, Any] = contents["flat_settings"]
        self._probe = base64.b64decode(contents["probe"])
        self._fields: dict[str, Any] = contents["plan"]
        versions, own = self._fields["versions"], current_versions()
        if versions != own:
            raise DrtfError(
                f"{path} was made by other versions: "
                f"{describe_differences(versions, own)}. Install the same versions on "
                "all hosts"
            )

    def load(self) -> SavedPlan:
        """Load the plan."""
        file = pq.ParquetFile(self._tables[PHOTOGRAPHS])
        columns = {}
        for name in file.schema_arrow.names:  # one at a time, because all are large
            frame = file.read([name]).to_pandas(
                types_mapper={pa.large_string(): TEXT}.get, self_destruct=True
            )
            columns[name] = frame[name]
            pa.default_memory_pool().release_unused()
        table = pd.DataFrame(columns, copy=False)
        return SavedPlan(self._parse_plan(table), self.sha256, self._probe)

    def iterate(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield some columns of the plan's table in batches of rows."""
        file = pq.ParquetFile(self._tables[PHOTOGRAPHS])
        for batch in file.iter_batches(columns=list(columns)):
            yield batch.to_pandas(types_mapper={pa.large_string(): TEXT}.get)

    def _parse_plan(self, table: pd.DataFrame) -> BuildPlan:
        fields = self._fields
        rejected = self._load_rows("rejected", RejectedRow)
        catalog = Catalog(
            table=table,
            folders={
                source: folder if is_remote(folder) else Path(folder)
                for source, folder in fields["folders"].items()
            },
            rejected=TextRows(
                RejectedRow, (row for row in rejected if row.reason != CONFLICTING)
            ),
            unmatched=self._load_rows("unmatched", UnmatchedRow),
            num_repeated=fields["num_repeated"],
            patients_from=fields["patients_from"],
            provenance=fields["provenance"],
            skipped=self._load_rows("skipped", SkippedFile),
        )
        return BuildPlan(
            name=fields["name"],
            labels=LabelsConfig.model_validate(fields["labels"]),
            split=SplitConfig.model_validate(fields["split"]),
            images=ImagesConfig.model_validate(fields["images"]),
            build=BuildConfig.model_validate(fields["build"]),
            catalog=catalog,
            table=table,
            shards=[ShardPlan(*shard) for shard in fields["shards"]],
            conflicts=[
                Conflict(tuple(ids), tuple(grades))
                for ids, grades in fields["conflicts"]
            ],
            rejected=rejected,
        )

    def _load_rows(self, name: str, kind: type[Row]) -> TextRows[Row]:
        return TextRows.from_table(kind, pq.read_table(self._tables[name]))


def prepare_plan(plan: BuildPlan) -> SavedPlan:
    """Return a plan with the hash and the photograph that its file also has."""
    image = draw_photograph(2, patient_seed=1, eye="left", seed=0).image
    probe = cv2.imencode(".jpeg", image[..., ::-1])[1].tobytes()
    sha256 = json.dumps(_plan_fields(plan))
    for rows in _listed_rows(plan).values():
        sha256 = hash_rows(rows.to_frame(), sha256)
    return SavedPlan(plan, hash_rows(plan.table, sha256), probe)


def write_plan(saved: SavedPlan, path: Path) -> None:
    """Write a plan as a `PlanFile`, which is not atomic.

    Args:
        saved: The plan.
        path: The file. The tables are first written next to it.

    Raises:
        OSError: If the disk is full.
    """
    plan = saved.plan
    tables = {name: rows.to_table() for name, rows in _listed_rows(plan).items()}
    tables[PHOTOGRAPHS] = pa.Table.from_pandas(plan.table, preserve_index=False)
    parts = {name: path.with_name(f"{path.name}.{name}") for name in tables}
    for name, part in parts.items():
        pq.write_table(tables.pop(name), part, compression="zstd")
    contents = {
        "tables": {name: part.stat().st_size for name, part in parts.items()},
        "sha256": saved.sha256,
        "resume_sha256": plan.resume_sha256,
        "flat_settings": plan.flat_settings,
        "probe": base64.b64encode(saved.probe).decode(),
        "plan": _plan_fields(plan),
    }
    text = json.dumps(contents).encode()
    with path.open("wb+") as file:
        file.write(bytes(DIGEST_BYTES) + LENGTH.pack(len(text)) + text)
        for part in parts.values():
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
            part.unlink()
        file.seek(DIGEST_BYTES)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        file.write(digest)
        file.flush()
        sync_file(file)


def _listed_rows(plan: BuildPlan) -> dict[str, TextRows[Any]]:
    return {
        "rejected": plan.rejected,
        "unmatched": plan.catalog.unmatched,
        "skipped": plan.catalog.skipped,
    }


def _plan_fields(plan: BuildPlan) -> dict[str, Any]:
    catalog = plan.catalog
    return {
        "versions": plan.versions,
        "name": plan.name,
        "labels": plan.labels.model_dump(mode="json"),
        "split": plan.split.model_dump(mode="json"),
        "images": plan.images.model_dump(mode="json"),
        # Each host has its own number of workers.
        "build": plan.build.model_dump(mode="json", exclude={"num_workers"}),
        "folders": {name: _absolute(x) for name, x in catalog.folders.items()},
        "shards": [dataclasses.astuple(shard) for shard in plan.shards],
        "conflicts": [dataclasses.astuple(conflict) for conflict in plan.conflicts],
        "num_repeated": catalog.num_repeated,
        "patients_from": catalog.patients_from,
        "provenance": catalog.provenance,
    }


def _absolute(folder: Path | str) -> str:
    return str(folder) if is_remote(folder) else str(Path(folder).absolute())

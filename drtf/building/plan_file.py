"""The file that holds the plan of a build for its tasks, which run on other hosts."""

import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
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
from drtf.labels.sources import Catalog
from drtf.photographs.contents import Conflict
from drtf.photographs.listing import SkippedFile
from drtf.records.plan import ShardPlan
from drtf.records.rejected import CONFLICTING, RejectedRow
from drtf.records.unmatched import UnmatchedRow
from drtf.storage import is_remote
from drtf.synthetic import draw_photograph
from drtf.texts import TEXT

METADATA = b"drtf"
DIGEST_BYTES = hashlib.sha256().digest_size


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


def encode_plan(plan: BuildPlan) -> bytes:
    """Encode a plan as a hash, then a Parquet file with all but its table as metadata.

    The hash is of the Parquet file, so that any damage shows.
    """
    fields = _plan_fields(plan)
    image = draw_photograph(2, patient_seed=1, eye="left", seed=0).image
    probe = cv2.imencode(".jpeg", image[..., ::-1])[1].tobytes()
    contents = {
        "plan_sha256": hash_rows(plan.table, json.dumps(fields)),
        "probe": base64.b64encode(probe).decode(),
        "plan": fields,
    }
    table = pa.Table.from_pandas(plan.table, preserve_index=False)
    table = table.replace_schema_metadata({METADATA: json.dumps(contents)})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    content = file.getbuffer()
    return b"".join([hashlib.sha256(content).digest(), content])


def parse_plan(data: bytes, *, path: str) -> SavedPlan:
    """Parse a plan; the inverse of `encode_plan`.

    Args:
        data: The bytes.
        path: The path or location of the plan's file, for error messages.

    Raises:
        DrtfError: If it is damaged, or was made by other versions.
    """
    seal, content = data[:DIGEST_BYTES], memoryview(data)[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != seal:
        raise DrtfError(
            f"{path} is damaged or is not a plan: it does not begin with its hash. "
            "Remove its folder and run drtf build-shards --plan again"
        )
    file = pq.ParquetFile(pa.BufferReader(content))
    contents = json.loads(file.schema_arrow.metadata[METADATA])
    # Each column of the file is released when the one of the table is made.
    table = file.read().to_pandas(
        types_mapper={pa.large_string(): TEXT}.get,
        split_blocks=True,
        self_destruct=True,
    )
    pa.default_memory_pool().release_unused()
    fields, versions = contents["plan"], contents["plan"]["versions"]
    own = current_versions()
    if versions != own:
        raise DrtfError(
            f"{path} was made by other versions: "
            f"{describe_differences(versions, own)}. Install the same versions on all "
            "hosts"
        )
    probe = base64.b64decode(contents["probe"])
    return SavedPlan(_parse_fields(fields, table), contents["plan_sha256"], probe)


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
        "rejected": plan.rejected,
        "unmatched": catalog.unmatched,
        "num_repeated": catalog.num_repeated,
        "patients_from": catalog.patients_from,
        "provenance": catalog.provenance,
        "skipped": catalog.skipped,
    }


def _parse_fields(fields: Mapping[str, Any], table: pd.DataFrame) -> BuildPlan:
    rejected = [RejectedRow(*row) for row in fields["rejected"]]
    catalog = Catalog(
        table=table,
        folders={
            source: folder if is_remote(folder) else Path(folder)
            for source, folder in fields["folders"].items()
        },
        rejected=[row for row in rejected if row.reason != CONFLICTING],
        unmatched=[UnmatchedRow(*row) for row in fields["unmatched"]],
        num_repeated=fields["num_repeated"],
        patients_from=fields["patients_from"],
        provenance=fields["provenance"],
        skipped=[SkippedFile(*row) for row in fields["skipped"]],
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
            Conflict(tuple(ids), tuple(grades)) for ids, grades in fields["conflicts"]
        ],
        rejected=rejected,
    )


def _absolute(folder: Path | str) -> str:
    return str(folder) if is_remote(folder) else str(Path(folder).absolute())

"""The file that holds the plan of a build for its tasks, which run on other hosts."""

import base64
import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from drtf.config import BuildConfig, ImagesConfig, LabelsConfig, SplitConfig
from drtf.data.build_plan import BuildPlan, current_versions, describe_differences
from drtf.data.contents import Conflict
from drtf.data.listing import SkippedFile
from drtf.data.photographs import PhotographRef
from drtf.data.sources import Catalog
from drtf.errors import DrtfError
from drtf.records.plan import ShardPlan
from drtf.records.rejected import UNGRADED, RejectedRow
from drtf.records.unmatched import UnmatchedRow
from drtf.storage import is_remote
from drtf.synthetic import draw_photograph

COLUMNS = (
    "id",
    "patient",
    "grade",
    "source",
    "published",
    "path",
    "split",
    "size_bytes",
    "changed_ns",
    "version",
    "kept",
)


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
    """Encode a plan as compressed JSON, with a probe."""
    fields = _plan_fields(plan)
    image = draw_photograph(2, patient_seed=1, eye="left", seed=0).image
    probe = cv2.imencode(".jpeg", image[..., ::-1])[1].tobytes()
    contents = {
        "sha256": hashlib.sha256(json.dumps(fields).encode()).hexdigest(),
        "probe": base64.b64encode(probe).decode(),
        "plan": fields,
    }
    return gzip.compress(json.dumps(contents).encode(), mtime=0)


def parse_plan(data: bytes, *, path: str) -> SavedPlan:
    """Parse a plan; the inverse of `encode_plan`.

    Args:
        data: The bytes.
        path: The path or location of the plan's file, for error messages.

    Raises:
        DrtfError: If it is damaged, or was made by other versions.
    """
    try:
        contents = json.loads(gzip.decompress(data))
        fields, sha256 = contents["plan"], contents["sha256"]
        versions = fields["versions"]
        probe = base64.b64decode(contents["probe"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DrtfError(
            f"{path} is damaged or is not a plan: {error}. Remove its folder and run "
            "drtf build-shards --plan again"
        ) from error
    own = current_versions()
    if versions != own:
        raise DrtfError(
            f"{path} was made by other versions: "
            f"{describe_differences(versions, own)}. Install the same versions on all "
            "hosts"
        )
    return SavedPlan(_parse_fields(fields), sha256, probe)


def _plan_fields(plan: BuildPlan) -> dict[str, Any]:
    catalog = plan.catalog
    photographs = zip(plan.table["source"], plan.table["photograph"], strict=True)
    folders = {source: photograph.folder for source, photograph in photographs}
    return {
        "versions": plan.versions,
        "name": plan.name,
        "labels": plan.labels.model_dump(mode="json"),
        "split": plan.split.model_dump(mode="json"),
        "images": plan.images.model_dump(mode="json"),
        # Each host has its own number of workers.
        "build": plan.build.model_dump(mode="json", exclude={"num_workers"}),
        "folders": {source: _absolute(folder) for source, folder in folders.items()},
        "table": {name: plan.table[name].tolist() for name in COLUMNS},
        "shards": [dataclasses.astuple(shard) for shard in plan.shards],
        "conflicts": [dataclasses.astuple(conflict) for conflict in plan.conflicts],
        "rejected": plan.rejected,
        "unmatched": catalog.unmatched,
        "num_repeated": catalog.num_repeated,
        "patients_from": catalog.patients_from,
        "provenance": catalog.provenance,
        "skipped": catalog.skipped,
    }


def _parse_fields(fields: Mapping[str, Any]) -> BuildPlan:
    # As objects: pandas 3 stores text as UTF-8, which not every name is.
    table = pd.DataFrame(fields["table"], dtype=object).astype({"grade": "int8"})
    table["kept"] = table["kept"].map(tuple)
    folders = {
        source: folder if is_remote(folder) else Path(folder)
        for source, folder in fields["folders"].items()
    }
    photographs = [
        PhotographRef(folders[source], path)
        for source, path in zip(table["source"], table["path"], strict=True)
    ]
    table["photograph"] = pd.Series(photographs, dtype=object)
    rejected = [RejectedRow(*row) for row in fields["rejected"]]
    catalog = Catalog(
        table=table,
        ungraded=[row for row in rejected if row.reason == UNGRADED],
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

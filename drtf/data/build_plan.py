"""The plan of a build: which photograph stands where, before one is decoded."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd

from drtf import __version__
from drtf.config import Config
from drtf.data.contents import (
    Conflict,
    drop_conflicts,
    find_conflicts,
    group_identical_files,
)
from drtf.data.sources import Catalog, Source, load_sources
from drtf.data.splits import plan_splits
from drtf.errors import DrtfError
from drtf.records.plan import SPLITS, ShardPlan, plan_shards
from drtf.records.rejected import Rejection

# Bytes a pixel that fundus photographs were seen to take; only shard sizes lean on it.
BYTES_PER_PIXEL = {"raw": 3.0, "png": 1.7, "jpeg": 0.5}


@dataclass(frozen=True)
class BuildPlan:
    """All that a build will do, known before a photograph is decoded.

    Attributes:
        catalog: what the sources hold.
        table: the photographs to be converted, in the order of the records: the
            catalog's columns and `split`.
        shards: which of them stands where.
        conflicts: identical photographs with different grades.
        rejected: the photographs dropped for such a conflict.
        sha256: equal where photographs, labels, settings and versions are.
        resume_sha256: the same but for the sizes of the photographs' files, since some
            may be mended before the build goes on.
    """

    catalog: Catalog
    table: pd.DataFrame
    shards: list[ShardPlan]
    conflicts: list[Conflict]
    rejected: list[Rejection]
    sha256: str
    resume_sha256: str


def plan_build(sources: Sequence[Source], *, name: str, config: Config) -> BuildPlan:
    """Plan a build: which photographs, in which split, shard and order.

    Raises:
        LabelError: if labels and photographs don't go together.
    """
    catalog = load_sources(sources, config.labels)
    table = catalog.table.assign(content=group_identical_files(catalog.table))
    conflicts = find_conflicts(table)
    table, dropped = drop_conflicts(table, conflicts, config.labels.conflicts)
    if not len(table):
        raise DrtfError("every photograph was dropped: labels.conflicts is drop")
    table["split"] = plan_splits(table, config.split)
    table = _lay_out(table, config.build.seed)
    pixel_bytes = config.images.size**2 * BYTES_PER_PIXEL[config.build.encoding]
    shards = plan_shards(
        {
            split: int(count)
            for split in SPLITS
            if (count := (table["split"] == split).sum())
        },
        record_bytes=math.ceil(pixel_bytes),
        shard_bytes=int(config.build.shard_size_mb * 1e6),
    )
    rejected = [
        Rejection(path, "conflicting_grade", f"grade {grade}", source)
        for path, grade, source in zip(
            dropped["path"], dropped["grade"], dropped["source"], strict=True
        )
    ]
    resume_sha256 = _hash_plan(table, rejected, catalog, name=name, config=config)
    sizes = json.dumps([resume_sha256, table["size_bytes"].tolist()])
    sha256 = hashlib.sha256(sizes.encode()).hexdigest()
    return BuildPlan(catalog, table, shards, conflicts, rejected, sha256, resume_sha256)


def _lay_out(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Put the splits one after the other, each in a seeded order of its own."""
    parts = []
    for number, split in enumerate(SPLITS):
        part = table[table["split"] == split]
        order = np.random.default_rng([seed, number]).permutation(len(part))
        parts.append(part.iloc[order])
    return pd.concat(parts, ignore_index=True)


def dataset_settings(config: Config) -> dict[str, dict[str, Any]]:
    """Return the sections beside `images` that shape a set."""
    return {
        "labels": config.labels.model_dump(mode="json"),
        "split": config.split.model_dump(mode="json"),
        "build": config.build.model_dump(mode="json", exclude={"num_workers"}),
    }


def dataset_versions() -> dict[str, str]:
    """Return the versions that shape a set."""
    return {"drtf": __version__, "opencv": cv2.__version__}


def _hash_plan(
    table: pd.DataFrame,
    rejected: list[Rejection],
    catalog: Catalog,
    *,
    name: str,
    config: Config,
) -> str:
    columns = ["id", "patient", "grade", "source", "path", "split"]
    contents = {
        "name": name,
        "images": config.images.model_dump(mode="json"),
        "settings": dataset_settings(config),
        "versions": dataset_versions(),
        "sources": catalog.provenance,
        "rejected": rejected,
        "photographs": table[columns].to_dict("split", index=False)["data"],
    }
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def place_shards(plan: BuildPlan) -> Iterator[tuple[int, ShardPlan, int, int]]:
    """Yield each shard with its number, and where in the table it starts and stops."""
    start = 0
    for number, shard in enumerate(plan.shards):
        stop = start + shard.stop - shard.start
        yield number, shard, start, stop
        start = stop

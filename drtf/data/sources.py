"""Sources: folders of photographs with their label files, brought into one table."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from drtf.config import LabelsConfig
from drtf.data.labels import load_labels, match_photographs
from drtf.data.photographs import (
    NUM_FETCHED_AHEAD,
    PhotographRef,
    list_photographs,
)
from drtf.errors import LabelError
from drtf.files import hash_file


@dataclass(frozen=True)
class Source:
    """A collection of photographs.

    Attributes:
        images: their folder, local or s3://, searched in depth, or a CSV that lists
            them.
        labels: the label file.
        name: put before its ids and patients as `name/`; empty where there is but one
            source.
    """

    images: Path | str
    labels: Path
    name: str = ""


@dataclass(frozen=True)
class Catalog:
    """What the sources hold.

    Attributes:
        table: a row a labelled photograph: `id`, `grade` (0-4), `patient`, `source`
            (its name), `folder` (a Path or s3://), `path` (below it) and `size_bytes`
            (-1 where the file can't be asked for it).
        missing: ids that have a row and no photograph.
        unlabelled: paths of photographs that have no row.
        num_repeated: rows left out since they repeat another one word for word.
        provenance: a dict a source: which label file, and what of it was used.
    """

    table: pd.DataFrame
    missing: list[str]
    unlabelled: list[str]
    num_repeated: int
    provenance: list[dict[str, object]]


def load_sources(sources: Sequence[Source], config: LabelsConfig) -> Catalog:
    """Read label files, find photographs, and bring them together.

    Raises:
        LabelError: if a source's labels and photographs don't go together, or two
            sources have one name.
    """
    _check_names(sources)
    tables, missing, unlabelled, provenance = [], [], [], []
    num_repeated = 0
    for source in sources:
        labels = load_labels(source.labels, config)
        photographs = list_photographs(source.images)
        matches = match_photographs(labels.table, [item.path for item in photographs])
        by_path = {photograph.path: photograph for photograph in photographs}
        prefix = f"{source.name}/" if source.name else ""
        table = matches.table[["id", "grade", "patient", "path"]].assign(
            source=source.name, photograph=matches.table["path"].map(by_path)
        )
        table["id"] = prefix + table["id"]
        table["patient"] = prefix + table["patient"]
        with ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool:  # a store answers slowly
            sizes = pool.map(PhotographRef.size_bytes, table["photograph"])
            table["size_bytes"] = list(sizes)
        tables.append(table)
        missing += [prefix + name for name in matches.missing]
        unlabelled += [prefix + path for path in matches.unlabelled]
        num_repeated += labels.num_repeated
        provenance.append(
            {
                "name": source.name,
                "labels_file": source.labels.name,
                "labels_sha256": hash_file(source.labels),
                "num_labels": len(labels.table),
                "num_labels_repeated": labels.num_repeated,
                "num_labels_without_photograph": len(matches.missing),
                "num_photographs_without_label": len(matches.unlabelled),
            }
        )
    return Catalog(
        pd.concat(tables, ignore_index=True),
        missing,
        unlabelled,
        num_repeated,
        provenance,
    )


def _check_names(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise LabelError(f"two sources are named {name!r}: give each its own name")
        if name and not re.fullmatch(r"\w[\w.-]*", name):
            raise LabelError(
                "a source's name has letters and digits, and after the first '.', '_' "
                f"and '-' too; got {name!r}"
            )

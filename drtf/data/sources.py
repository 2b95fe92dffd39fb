"""Sources: folders of photographs with their labels, combined into one table."""

import contextlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from drtf.config import LabelsConfig
from drtf.data.class_folders import label_by_folder
from drtf.data.labels import Matches, load_labels, match_photographs
from drtf.data.listing import SkippedFile, list_photographs
from drtf.data.photographs import (
    NUM_FETCHED_AHEAD,
    PhotographRef,
)
from drtf.errors import LabelError, PhotographError
from drtf.files import hash_file
from drtf.records.manifest import PatientsFrom
from drtf.synthetic import is_synthetic

# From the least to the most certain.
_CERTAINTY: tuple[PatientsFrom, ...] = ("none", "name", "column")


@dataclass(frozen=True)
class Source:
    """A collection of photographs.

    Attributes:
        images: Their folder, local or s3://, searched recursively; or a CSV file that
            lists them.
        labels: The label file. None: the folders of the photographs are their labels.
        name: Prefix of the ids and patients, as `name/`; empty if there is only one
            source.
    """

    images: Path | str
    labels: Path | None
    name: str = ""


@dataclass(frozen=True)
class Catalog:
    """The labelled photographs of all sources.

    Attributes:
        table: One row per labelled photograph: `id`, `grade` (0-4), `patient`,
            `source` (its name), `photograph` (a PhotographRef), `path` (relative to
            the image folder), `size_bytes` and `changed_ns` (see `FileStatus`).
        missing: Ids of labels that have no photograph.
        unlabelled: Paths of photographs that have no label.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        patients_from: Where the patients come from, as in the manifest.
        provenance: For each source, its label file or class folders, and counts, as in
            the manifest.
        skipped: Files of the image folders that are not photographs.
    """

    table: pd.DataFrame
    missing: list[str]
    unlabelled: list[str]
    num_repeated: int
    patients_from: PatientsFrom
    provenance: list[dict[str, Any]]
    skipped: list[SkippedFile]


@dataclass(frozen=True)
class _Labelled:
    """The photographs and labels of one source.

    Attributes:
        photographs: Every photograph, by its path.
        skipped: The other files of the image folder.
        matches: The labels matched with the photographs.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        origin: Where the labels come from, as in the manifest.
    """

    photographs: dict[str, PhotographRef]
    skipped: list[SkippedFile]
    matches: Matches
    num_repeated: int
    origin: dict[str, object]


def load_sources(sources: Sequence[Source], config: LabelsConfig) -> Catalog:
    """List the photographs and label them, by a label file or by their folders.

    Args:
        sources: The sources.
        config: The `labels` section.

    Raises:
        LabelError: If a source's labels and photographs do not match, or two sources
            have the same name.
        StorageError: If an object store fails.
    """
    _check_names(sources)
    tables, missing, unlabelled = [], [], []
    provenance: list[dict[str, Any]] = []
    skipped: list[SkippedFile] = []
    num_repeated = 0
    for source in sources:
        labelled = _label_photographs(source, config)
        matches = labelled.matches
        prefix = f"{source.name}/" if source.name else ""
        table = matches.table[["id", "grade", "patient", "path"]].assign(
            source=source.name,
            # Not by Series.map: pandas 3 refuses keys that are not UTF-8.
            photograph=pd.Series(
                [labelled.photographs[path] for path in matches.table["path"]],
                index=matches.table.index,
                dtype=object,
            ),
        )
        table["id"] = prefix + table["id"]
        table["patient"] = prefix + table["patient"]
        # In parallel, because object stores respond slowly.
        with ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool:
            statuses = list(pool.map(PhotographRef.status, table["photograph"]))
        table["size_bytes"] = [status.size_bytes for status in statuses]
        table["changed_ns"] = [status.changed_ns for status in statuses]
        tables.append(table)
        missing += [prefix + name for name in matches.missing]
        unlabelled += [prefix + path for path in matches.unlabelled]
        skipped += [SkippedFile(prefix + x.path, x.kind) for x in labelled.skipped]
        num_repeated += labelled.num_repeated
        provenance.append(
            {
                "name": source.name,
                **labelled.origin,
                "patients_from": _patients_from(matches.table, config),
                "synthetic": _is_synthetic(table["photograph"]),
                "num_labels": len(matches.table) + len(matches.missing),
                "num_labels_repeated": labelled.num_repeated,
                "num_labels_without_photograph": len(matches.missing),
                "num_photographs_without_label": len(matches.unlabelled),
            }
        )
    return Catalog(
        pd.concat(tables, ignore_index=True),
        missing,
        unlabelled,
        num_repeated,
        min((x["patients_from"] for x in provenance), key=_CERTAINTY.index),
        provenance,
        skipped,
    )


def _label_photographs(source: Source, config: LabelsConfig) -> _Labelled:
    labels = load_labels(source.labels, config) if source.labels else None
    listing = list_photographs(source.images)
    photographs = {photograph.path: photograph for photograph in listing.photographs}
    if source.labels is not None and labels is not None:
        return _Labelled(
            photographs,
            listing.skipped,
            match_photographs(labels.table, list(photographs)),
            num_repeated=labels.num_repeated,
            origin={
                "labels_file": source.labels.name,
                "labels_sha256": hash_file(source.labels),
            },
        )
    try:
        table = label_by_folder(list(photographs), config)
    except LabelError as error:
        raise LabelError(f"{source.images}: {error}") from error
    by_grade = table.sort_values("grade", kind="stable")
    grades = zip(by_grade["folder"], by_grade["grade"].tolist(), strict=True)
    return _Labelled(
        photographs,
        listing.skipped,
        Matches(table, missing=[], unlabelled=[]),
        num_repeated=0,
        origin={"class_folders": dict(grades)},
    )


def _patients_from(table: pd.DataFrame, config: LabelsConfig) -> PatientsFrom:
    if config.patient_column:
        return "column"
    return "name" if (table["patient"] != table["id"]).any() else "none"


def _is_synthetic(photographs: Iterable[PhotographRef]) -> bool:
    """Return whether drtf drew the first readable photograph of a source."""
    for photograph in photographs:
        with contextlib.suppress(PhotographError):
            return is_synthetic(photograph.read())
    return False


def _check_names(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise LabelError(f"two sources are named {name!r}: choose another name")
        if name and not re.fullmatch(r"\w[\w.-]*", name):
            raise LabelError(
                "the name of a source consists of letters, digits, '_', '.' and '-', "
                f"and does not begin with '.' or '-'; got {name!r}"
            )

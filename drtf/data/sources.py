"""Sources: folders of photographs with their labels, combined into one table."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from drtf.config import LabelsConfig
from drtf.data.class_folders import label_by_folder
from drtf.data.grouping import CLASS, EYE
from drtf.data.labels import load_labels
from drtf.data.listing import SkippedFile, list_photographs
from drtf.data.matching import match_photographs
from drtf.data.patients import patients_by_name
from drtf.data.photographs import (
    NUM_FETCHED_AHEAD,
    PhotographRef,
)
from drtf.errors import LabelError, PhotographError
from drtf.files import hash_file
from drtf.images.quality import Quality
from drtf.records.index import COLUMNS
from drtf.records.manifest import PatientsFrom
from drtf.records.rejected import UNGRADED, RejectedRow
from drtf.records.unmatched import UnmatchedRow
from drtf.synthetic import is_synthetic

# From the least to the most certain.
CERTAINTY: tuple[PatientsFrom, ...] = ("none", "name", "column")


@dataclass(frozen=True)
class Source:
    """A collection of photographs.

    Attributes:
        images: Their folder, local or in a store, searched recursively; or a CSV file
            that lists them.
        labels: The label file. None: the folders of the photographs are their labels.
        name: Prefix of the ids and patients, as `name/`; empty if there is only one
            source.
        split: The published split that all its photographs are in: `train`, `val` or
            `test`. Empty: they are split at random, or as `labels.split_column` says.
    """

    images: Path | str
    labels: Path | None
    name: str = ""
    split: str = ""


@dataclass(frozen=True)
class Catalog:
    """The labelled photographs of all sources.

    Attributes:
        table: One row per graded photograph: `id`, `grade` (0-4), `patient`, `source`
            (its name), `published` (the published split, or an empty text),
            `kept` (a tuple with the text of each of `labels.keep_columns`),
            `photograph` (a PhotographRef), `path` (relative to the image folder),
            `size_bytes`, `changed_ns` and `version` (see `FileStatus`).
        ungraded: The photographs whose label has no grade, as in rejected.csv.
        unmatched: The labels without a photograph, and the photographs without a label.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        patients_from: Where the patients come from, as in the manifest.
        provenance: For each source, its label file or class folders, and counts, as in
            the manifest.
        skipped: Files of the image folders that are not photographs.
    """

    table: pd.DataFrame
    ungraded: list[RejectedRow]
    unmatched: list[UnmatchedRow]
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
        table: The labels that have a photograph: `id`, `grade` (0-4, or NA), `value`
            (of the label), `path`, `kept` (as in the catalog), `name` (from which a
            patient can be told) and, if they are known, `patient` and `split`.
        missing: Names of labels that have no photograph.
        unlabelled: Paths of photographs that have no label.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        origin: Where the labels come from, as in the manifest.
    """

    photographs: dict[str, PhotographRef]
    skipped: list[SkippedFile]
    table: pd.DataFrame
    missing: list[str]
    unlabelled: list[str]
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
    _check_keep_columns(config)
    labelled = [_label_photographs(source, config) for source in sources]
    # Sources that share a folder, one for each split, label each other's photographs.
    used = {
        (str(source.images), path)
        for source, own in zip(sources, labelled, strict=True)
        for path in own.table["path"]
    }
    tables = []
    ungraded: list[RejectedRow] = []
    unmatched: list[UnmatchedRow] = []
    skipped: list[SkippedFile] = []
    folders: set[Path | str] = set()
    provenance: list[dict[str, Any]] = []
    for source, own in zip(sources, labelled, strict=True):
        patients, patients_from = _load_patients(own.table, config)
        is_graded = own.table["grade"].notna()
        tables.append(_catalog_table(source, own, patients)[is_graded])
        rejected = own.table[~is_graded]
        ungraded += [
            RejectedRow(path, UNGRADED, f"its label is {value!r}", source.name)
            for path, value in zip(rejected["path"], rejected["value"], strict=True)
        ]
        unlabelled = [
            path for path in own.unlabelled if (str(source.images), path) not in used
        ]
        unmatched += [UnmatchedRow("label", x, source.name) for x in own.missing]
        unmatched += [UnmatchedRow("photograph", x, source.name) for x in unlabelled]
        prefix = f"{source.name}/" if source.name else ""
        if source.images not in folders:  # its files are listed once
            skipped += [SkippedFile(prefix + x.path, x.kind) for x in own.skipped]
        folders.add(source.images)
        provenance.append(
            {
                "name": source.name,
                **own.origin,
                "patients_from": patients_from,
                "synthetic": _is_synthetic(tables[-1]["photograph"]),
                "num_labels": len(own.table) + len(own.missing),
                "num_labels_repeated": own.num_repeated,
                "num_labels_without_photograph": len(own.missing),
                "num_photographs_without_label": len(unlabelled),
                "num_ungraded": rejected["value"].value_counts().to_dict(),
            }
        )
    _check_kept(provenance, config)
    table = pd.concat(tables, ignore_index=True)
    if not len(table):
        raise LabelError("no photograph has a grade: each label means that it has none")
    return Catalog(
        table,
        ungraded,
        unmatched,
        sum(own.num_repeated for own in labelled),
        min((x["patients_from"] for x in provenance), key=CERTAINTY.index),
        provenance,
        skipped,
    )


def _catalog_table(
    source: Source, labelled: _Labelled, patients: pd.Series
) -> pd.DataFrame:
    """Return the photographs of a source with the columns of the catalog."""
    table = labelled.table
    prefix = f"{source.name}/" if source.name else ""
    photographs = [labelled.photographs[path] for path in table["path"]]
    # In parallel, because object stores respond slowly.
    with ThreadPoolExecutor(NUM_FETCHED_AHEAD) as pool:
        statuses = list(pool.map(PhotographRef.status, photographs))
    return pd.DataFrame(
        {
            "id": prefix + table["id"],
            "grade": table["grade"].fillna(0).astype("int8"),
            "patient": prefix + patients,
            "path": table["path"],
            "source": source.name,
            "published": source.split or table.get("split", ""),
            "kept": table["kept"],
            "photograph": pd.Series(photographs, index=table.index, dtype=object),
            "size_bytes": [status.size_bytes for status in statuses],
            "changed_ns": [status.changed_ns for status in statuses],
            "version": [status.version for status in statuses],
        }
    )


def _load_patients(
    table: pd.DataFrame, config: LabelsConfig
) -> tuple[pd.Series, PatientsFrom]:
    """Return the patient of each photograph, and where the patients come from."""
    if "patient" in table:
        return table["patient"], "column"
    patients = patients_by_name(table["name"], config.patient_pattern)
    known = patients.notna().any()
    return patients.fillna(table["id"]), "name" if known else "none"


def _label_photographs(source: Source, config: LabelsConfig) -> _Labelled:
    if source.labels is None:
        return _label_by_folder(source, config)
    labels = load_labels(source.labels, config)
    listing = list_photographs(source.images)
    photographs = {photograph.path: photograph for photograph in listing.photographs}
    matches = match_photographs(labels.table, list(photographs))
    origin: dict[str, object] = {
        "labels_file": source.labels.name,
        "labels_sha256": hash_file(source.labels),
        "columns": labels.columns.roles,
        "columns_not_kept": [
            name
            for name, column in zip(
                config.keep_columns, labels.columns.kept, strict=True
            )
            if column is None
        ],
        "unread_columns": labels.unread,
        "unread_split_column": labels.unread_split,
    }
    if labels.columns.note:
        origin["note"] = labels.columns.note
    return _Labelled(
        photographs,
        listing.skipped,
        matches.table.assign(name=matches.table["id"]),
        matches.missing,
        matches.unlabelled,
        labels.num_repeated,
        origin,
    )


def _label_by_folder(source: Source, config: LabelsConfig) -> _Labelled:
    listing = list_photographs(source.images)
    photographs = {photograph.path: photograph for photograph in listing.photographs}
    try:
        table = label_by_folder(list(photographs), config)
    except LabelError as error:
        raise LabelError(f"{source.images}: {error}") from error
    by_grade = table.dropna(subset="grade").sort_values("grade", kind="stable")
    grades = zip(by_grade["folder"], by_grade["grade"].tolist(), strict=True)
    return _Labelled(
        photographs,
        listing.skipped,
        table.assign(value=table["folder"]),
        missing=[],
        unlabelled=[],
        num_repeated=0,
        origin={
            "class_folders": dict(grades),
            "columns_not_kept": list(config.keep_columns),
        },
    )


def _check_keep_columns(config: LabelsConfig) -> None:
    """Check that the columns to keep have names that are free in the index.

    Raises:
        LabelError: If not, or if one is named twice.
    """
    taken = {*COLUMNS.names, *Quality._fields, EYE, CLASS}
    for name in config.keep_columns:
        if name in {"", *taken}:
            raise LabelError(
                f"labels.keep_columns={list(config.keep_columns)}: {name!r} is empty, "
                "is named twice or is the name of another column of the dataset "
                f"({', '.join(sorted(taken))}): rename the column in the label file"
            )
        taken.add(name)


def _check_kept(provenance: Sequence[Mapping[str, Any]], config: LabelsConfig) -> None:
    """Check that at least one source has each column to keep.

    Raises:
        LabelError: If not.
    """
    for name in config.keep_columns:
        if all(name in source["columns_not_kept"] for source in provenance):
            columns = {
                column
                for source in provenance
                if "columns" in source
                for column in (*source["columns"].values(), *source["unread_columns"])
            }
            raise LabelError(
                f"no label file has the column {name!r} (labels.keep_columns); the "
                f"columns are {sorted(columns)}"
            )


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

"""Sources: folders of photographs with their labels, combined into one table."""

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drtf.config import LabelsConfig
from drtf.errors import LabelError, PhotographError
from drtf.files import hash_file
from drtf.images.quality import Quality
from drtf.labels.class_folders import label_by_folder
from drtf.labels.grouping import CLASS
from drtf.labels.label_files import KEPT, load_labels
from drtf.labels.matching import match_photographs
from drtf.labels.patients import patients_by_name
from drtf.labels.splits import find_split_folders
from drtf.photographs.listing import Listing, SkippedFile, list_photographs
from drtf.photographs.patient_columns import EYE_COLUMNS, fold_name
from drtf.photographs.references import (
    PhotographRef,
    map_in_threads,
    photographs_of,
)
from drtf.records.index import COLUMNS
from drtf.records.manifest import PatientsFrom
from drtf.records.rejected import UNGRADED, RejectedRow
from drtf.records.unmatched import UnmatchedRow
from drtf.synthetic import is_synthetic
from drtf.texts import TextRows, iterate_texts, take_texts, text_column

# From the least to the most certain.
CERTAINTY: tuple[PatientsFrom, ...] = ("none", "name", "stated", "column")
ListImages = Callable[[Path | str], Listing]
# Columns to keep that are no columns of a label file but of the table of a listing.
TAG_COLUMNS = {"dicom_camera": "camera", "dicom_date": "acquired"}
NOT_UTF8 = "its path is not UTF-8, which the index needs"


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
    """The labeled photographs of all sources.

    Attributes:
        table: One row per graded photograph: `id`, `grade` (0-4), `patient`, `source`
            (its name), `published` (the published split, or an empty text), `path`
            (relative to the image folder), `size_bytes`, `changed_ns` and `version`
            (see `FileStatus`), and one for each of `labels.keep_columns` (see
            `Labels`).
        folders: The image folder of each source, by its name.
        rejected: The photographs whose label has no grade or whose path is not UTF-8,
            as in rejected.csv.
        unmatched: The labels without a photograph, and the photographs without a label.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        patients_from: Where the patients come from, as in the manifest.
        provenance: For each source, its label file or class folders, and counts, as in
            the manifest.
        skipped: Files of the image folders that are not photographs.
    """

    table: pd.DataFrame
    folders: dict[str, Path | str]
    rejected: TextRows[RejectedRow]
    unmatched: TextRows[UnmatchedRow]
    num_repeated: int
    patients_from: PatientsFrom
    provenance: list[dict[str, Any]]
    skipped: TextRows[SkippedFile]


@dataclass(frozen=True)
class _Labeled:
    """The photographs and labels of one source.

    Attributes:
        listing: The photographs and the other files of the image folder.
        table: The labels that have a photograph: `id`, `grade` (0-4, or NA), `value`
            (of the label), `row` (of the listing's table), `name` (from which a patient
            can be told), the columns to keep and, if they are known, `patient` and
            `split`.
        missing: Names of labels that have no photograph, a text column.
        is_unlabeled: bool [n], whether each path of the listing has no label.
        num_repeated: Number of rows skipped because they repeat an earlier row.
        origin: Where the labels come from, as in the manifest.
    """

    listing: Listing
    table: pd.DataFrame
    missing: pd.Series
    is_unlabeled: np.ndarray
    num_repeated: int
    origin: dict[str, Any]


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
    list_once = functools.cache(list_photographs)
    tables: list[pd.DataFrame] = []
    labeled: list[_Labeled] = []
    origins: list[tuple[PatientsFrom, int]] = []
    for source in sources:
        own = _label_photographs(source, config, list_once)
        own = _with_stated_columns(own, config.keep_columns)
        patients, origin = _load_patients(own, config)
        tables.append(_catalog_table(source, own, patients, config.keep_columns))
        origins.append(origin)
        # The rows with a grade are in the catalog now.
        ungraded = own.table[own.table["grade"].isna()]
        labeled.append(replace(own, table=ungraded))
        del own, patients
    rejected = TextRows(RejectedRow)
    unmatched = TextRows(UnmatchedRow)
    skipped = TextRows(SkippedFile)
    folders: dict[str, Path | str] = {}
    listed: set[Path | str] = set()
    provenance: list[dict[str, Any]] = []
    for source, own, table, (patients_from, num_unknown) in zip(
        sources, labeled, tables, origins, strict=True
    ):
        listing, ungraded = own.listing, own.table
        rejected.extend(
            RejectedRow(path, UNGRADED, f"its label is {value!r}", source.name)
            for path, value in zip(
                iterate_texts(listing.paths, ungraded["row"].to_numpy()),
                ungraded["value"],
                strict=True,
            )
        )
        # Sources of one folder, one for each split, label each other's photographs.
        is_unlabeled = np.logical_and.reduce(
            [x.is_unlabeled for x in labeled if x.listing is listing]
        )
        unlabeled = np.flatnonzero(is_unlabeled)
        unmatched.extend(
            UnmatchedRow("label", name, source.name)
            for name in iterate_texts(own.missing)
        )
        unmatched.extend(
            UnmatchedRow("photograph", path, source.name)
            for path in iterate_texts(listing.paths, unlabeled)
        )
        prefix = f"{source.name}/" if source.name else ""
        folders[source.name] = listing.folder
        if source.images not in listed:  # its files are listed once
            skipped.extend(
                SkippedFile(prefix + x.path, x.kind) for x in listing.skipped
            )
            rejected.extend(
                RejectedRow(x.path, "unreadable", NOT_UTF8, source.name)
                for x in listing.unnamed
            )
        listed.add(source.images)
        provenance.append(
            {
                "name": source.name,
                **own.origin,
                "patients_from": patients_from,
                "num_without_patient": num_unknown,
                "synthetic": _is_synthetic(photographs_of(table, folders)),
                "num_labels": len(table) + len(ungraded) + len(own.missing),
                "num_labels_repeated": own.num_repeated,
                "num_labels_without_photograph": len(own.missing),
                "num_photographs_without_label": len(unlabeled),
                "num_ungraded": dict(Counter(ungraded["value"]).most_common()),
            }
        )
    _check_kept(provenance, config)
    num_repeated = sum(own.num_repeated for own in labeled)
    del labeled, own, listing, list_once  # the lists of the photographs
    table = pd.concat(tables, ignore_index=True).astype(
        {"source": "category", "published": "category"}
    )
    if not len(table):
        raise LabelError("no photograph has a grade: each label means that it has none")
    return Catalog(
        table,
        folders,
        rejected,
        unmatched,
        num_repeated,
        min((kind for kind, _ in origins), key=CERTAINTY.index),
        provenance,
        skipped,
    )


def _catalog_table(
    source: Source,
    labeled: _Labeled,
    patients: pd.Series,
    keep_columns: Sequence[str],
) -> pd.DataFrame:
    """Return the graded photographs of a source with the columns of the catalog."""
    is_graded = labeled.table["grade"].notna()
    table = labeled.table
    if not is_graded.all():
        table, patients = table[is_graded], patients[is_graded]
    listing, rows = labeled.listing, table["row"].to_numpy()
    paths = take_texts(listing.paths, rows).set_axis(table.index)
    prefix = f"{source.name}/" if source.name else ""
    kept = [KEPT + name for name in keep_columns]
    table = pd.DataFrame(
        {
            "id": prefix + table["id"] if prefix else table["id"],
            "grade": table["grade"].astype("int8"),
            "patient": prefix + patients if prefix else patients,
            "path": paths,
            "source": pd.Series(source.name, table.index, dtype="category"),
            "published": source.split or table.get("split", ""),
            **{name: table[name] for name in kept},
        }
    ).astype({"published": "category"})
    sizes, times = np.empty(len(table), np.int64), np.empty(len(table), np.int64)

    def keep_numbers() -> Iterator[str]:
        photographs = listing.photographs_at(rows)
        # In parallel, because object stores respond slowly.
        statuses = map_in_threads(PhotographRef.status, photographs)
        for row, status in enumerate(statuses):
            sizes[row], times[row] = status.size_bytes, status.changed_ns
            yield status.version

    version = text_column(keep_numbers(), table.index)
    return table.assign(size_bytes=sizes, changed_ns=times, version=version)


def _with_stated_columns(labeled: _Labeled, keep_columns: Sequence[str]) -> _Labeled:
    """Fill columns to keep, such as `eye`, with what the photographs state.

    What the label file has in such a column comes first.
    """
    table, rows = labeled.table, labeled.table["row"].to_numpy()
    not_kept = list(labeled.origin["columns_not_kept"])
    listed = labeled.listing.table
    for name in keep_columns:
        column = "eye" if fold_name(name) in EYE_COLUMNS else TAG_COLUMNS.get(name)
        if column not in listed:
            continue
        stated = listed[column].take(rows).set_axis(table.index)
        if (stated != "").any():
            own = table[KEPT + name]
            table = table.assign(**{KEPT + name: own.where(own != "", stated)})
            not_kept = [other for other in not_kept if other != name]
    origin = labeled.origin | {"columns_not_kept": not_kept}
    return replace(labeled, table=table, origin=origin)


def _load_patients(
    labeled: _Labeled, config: LabelsConfig
) -> tuple[pd.Series, tuple[PatientsFrom, int]]:
    """Return the patient of each photograph, and where the patients come from.

    The number of graded photographs whose patient is unknown comes with the latter.
    """
    table, listed = labeled.table, labeled.listing.table
    if "patient" in table:
        return table["patient"], ("column", 0)
    patients = patients_by_name(table["name"], config.patient_pattern)
    source: PatientsFrom = "name" if patients.notna().any() else "none"
    if "patient" in listed:
        rows = table["row"].to_numpy()
        own = listed["patient"].take(rows).set_axis(table.index)
        own = own.mask(own == "")
        if own.notna().all():
            source = "stated"
        patients = own.fillna(patients)
    num_unknown = int((patients.isna() & table["grade"].notna()).sum())
    return patients.fillna(table["id"]), (source, num_unknown)


def _label_photographs(
    source: Source, config: LabelsConfig, list_once: ListImages
) -> _Labeled:
    if source.labels is None:
        return _label_by_folder(source, config, list_once)
    labels = load_labels(source.labels, config)
    listing = list_once(source.images)
    matches = match_photographs(labels.table, listing.paths)
    origin: dict[str, Any] = {
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
        "unread_split_folders": [],
    }
    if not source.split and "split" not in matches.table:
        labeled = listing.paths[~matches.is_unlabeled]
        origin["unread_split_folders"] = find_split_folders(labeled)
    if labels.columns.note:
        origin["note"] = labels.columns.note
    return _Labeled(
        listing,
        matches.table.assign(name=matches.table["id"]).reset_index(drop=True),
        matches.missing,
        matches.is_unlabeled,
        labels.num_repeated,
        origin,
    )


def _label_by_folder(
    source: Source, config: LabelsConfig, list_once: ListImages
) -> _Labeled:
    listing = list_once(source.images)
    try:
        table = label_by_folder(listing.paths, config)
    except LabelError as error:
        raise LabelError(f"{source.images}: {error}") from error
    classes = table[["folder", "grade"]].dropna().drop_duplicates()
    by_grade = classes.sort_values("grade", kind="stable")
    grades = zip(by_grade["folder"], by_grade["grade"].tolist(), strict=True)
    return _Labeled(
        listing,
        table.assign(value=table["folder"]),
        missing=text_column([]),
        is_unlabeled=np.zeros(len(table), bool),
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
    taken = {*COLUMNS.names, *Quality._fields, CLASS}
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

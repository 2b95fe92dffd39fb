"""Matching: which photograph each row of a label file is about."""

import operator
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd

from drtf.errors import LabelError
from drtf.photographs.references import strip_suffix
from drtf.texts import (
    TEXT,
    are_repeated_texts,
    hash_texts,
    iterate_texts,
    text_column,
)

# Straight, English, German and French ones.
QUOTES = "\"'\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"

LABELS_PER_BATCH = 1 << 17


@dataclass(frozen=True)
class Matches:
    """Labels matched with photographs.

    Attributes:
        table: The labels that have a photograph, without `name`, and with two columns
            added: `row`, that of the photograph in the list; and `id`, the part of the
            label's name that the path has too, without its extension.
        missing: Names of labels that have no photograph, a text column.
        is_unlabeled: bool [n], whether each photograph has no label.
    """

    table: pd.DataFrame
    missing: pd.Series
    is_unlabeled: np.ndarray


def clean_path(name: str) -> str:
    r"""Return a photograph's name in a label file as a relative POSIX path.

    Windows separators, drives, leading `/`, `./` and `../` are removed, and composed
    and decomposed Unicode characters become equal: `C:\images\1.jpg` is `images/1.jpg`.
    """
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    parts = re.sub("^[A-Za-z]:/", "", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def match_photographs(labels: pd.DataFrame, paths: pd.Series) -> Matches:
    """Match each label with a photograph, by its file name and the folders above it.

    The label may have the path of another computer, or no folder at all: as far as both
    name folders, these must be the same. A file name with the same extension comes
    before one with another. Photographs that are left may also be matched by names that
    a spreadsheet, a link or another file system has changed (see `_fold_name`).

    Args:
        labels: Column `name`, cleaned by `clean_path`, and any others.
        paths: The photographs' paths relative to the image folder, a text column whose
            rows are numbered.

    Raises:
        LabelError: If a label matches two photographs, two labels match the same one,
            or no label matches a photograph.
    """
    names = labels["name"].astype(TEXT).reset_index(drop=True)
    matcher = _Matcher(names, paths)
    everything = np.arange(len(paths), dtype=np.int32)
    for key in (str, _lower_suffix, strip_suffix):
        matcher.match(key, everything)
    matcher.match(_fold_name, np.setdiff1d(everything, matcher.rows))
    rows = matcher.rows
    del matcher, everything
    has_photograph = rows >= 0
    if not has_photograph.any():
        raise LabelError(
            "no label matches a photograph: the names in the label file are like "
            f"{next(iter(names), '')!r}, but those of the photographs are like "
            f"{next(iter(paths), '')!r}. Check that the labels are of these "
            "photographs"
        )
    _check_taken_once(names, paths, rows)
    missing = names[~has_photograph]
    matched = labels.drop(columns="name")
    if len(missing):
        matched, names = matched[has_photograph], names[has_photograph]
        rows = rows[has_photograph]
    matched = matched.assign(row=rows)
    matched["id"] = _ids(names, paths, rows).set_axis(matched.index)
    is_unlabeled = np.ones(len(paths), bool)
    is_unlabeled[rows] = False
    return Matches(matched, missing, is_unlabeled)


def _check_taken_once(names: pd.Series, paths: pd.Series, rows: np.ndarray) -> None:
    """Check that no two labels match one photograph.

    Args:
        names: The names of the labels.
        paths: The paths of the photographs.
        rows: int [n], for each label the row of its photograph in `paths`, or -1.

    Raises:
        LabelError: If two do.
    """
    repeated = np.bincount(rows + 1)[rows + 1] > 1
    repeated &= rows >= 0
    shared = pd.DataFrame({"name": names[repeated], "row": rows[repeated]})
    for row, group in shared.groupby("row", sort=False)["name"]:
        first, *others = group.unique()
        if others:
            raise LabelError(
                f"{first} and {others[0]} are the same photograph, {paths[row]}: keep "
                "only one of the two rows"
            )


def _ids(names: pd.Series, paths: pd.Series, rows: np.ndarray) -> pd.Series:
    """Return the end of each photograph's path that the label's name has too.

    The extension is left out, unless it distinguishes two photographs.

    Args:
        names: The names of the labels.
        paths: The paths of the photographs.
        rows: int [n], for each label the row of its photograph in `paths`.
    """
    tails = (
        _tail(clean_path(path), name.count("/"))
        for name, path in zip(
            iterate_texts(names), iterate_texts(paths, rows), strict=True
        )
    )
    ids = text_column(map(strip_suffix, tails))
    repeated = are_repeated_texts(ids)
    if repeated.any():
        suffixes = (PurePosixPath(path).suffix for path in iterate_texts(paths, rows))
        ids = ids.mask(repeated, ids + text_column(suffixes))
    return ids


class _SortedPhotographs(NamedTuple):
    """Photographs, sorted by the hash of what a label has to name.

    Attributes:
        hashes: uint64 [n], ascending.
        rows: int32 [n], their rows.
        is_own: bool [n], whether they have no other folders than those that the hash is
            of. Of equal hashes, these come first.
    """

    hashes: np.ndarray
    rows: np.ndarray
    is_own: np.ndarray


class _Matcher:
    """Finds the photographs of labels, by one property of their names after another.

    Attributes:
        rows: int32 [n], for each label the row of its photograph, or -1 if none was
            found.
    """

    def __init__(self, names: pd.Series, paths: pd.Series) -> None:
        """Prepare for names of labels, and paths of photographs."""
        self._names = names
        self._name_depths = _count_folders(names)
        cleaned = text_column(map(_clean_place, iterate_texts(paths)))
        self._paths = paths if cleaned.equals(paths) else cleaned
        self._path_depths = _count_folders(self._paths)
        self._original = paths
        self.rows = np.full(len(names), -1, np.int32)

    def match(self, key: Callable[[str], str], candidates: np.ndarray) -> None:
        """Find the photographs of labels that have none yet.

        The photograph that shares the most folders with the label comes first. Of
        these, one in just the folder that the label names comes first.

        Args:
            key: What must be equal of the two file names.
            candidates: int32 [m], the rows of the photographs to choose from.

        Raises:
            LabelError: If a label matches two photographs.
        """
        for depth in range(self._name_depths.max(initial=0), -1, -1):
            depths = self._path_depths[candidates]
            is_open = self.rows < 0
            # A label that names `depth` folders, and any path that ends in them.
            self._join(
                key,
                depth,
                np.flatnonzero(is_open & (self._name_depths == depth)),
                candidates[depths >= depth],
            )
            # A label that names more, and a path that has no others.
            self._join(
                key,
                depth,
                np.flatnonzero(is_open & (self._name_depths > depth)),
                candidates[depths == depth],
            )

    def _join(
        self,
        key: Callable[[str], str],
        depth: int,
        labels: np.ndarray,
        candidates: np.ndarray,
    ) -> None:
        """Match labels with candidates whose last `depth` folders and key are equal."""
        if not len(labels) or not len(candidates):
            return
        # Of equal hashes, those in just the folder that a label names come first.
        is_own = self._path_depths[candidates] == depth
        candidates = np.concatenate([candidates[is_own], candidates[~is_own]])
        hashes = hash_texts(_keyed_tails(self._paths, candidates, key, depth))
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        photographs = _SortedPhotographs(
            hashes[order], candidates[order], order < is_own.sum()
        )
        del hashes, order, candidates
        for start in range(0, len(labels), LABELS_PER_BATCH):
            batch = labels[start : start + LABELS_PER_BATCH]
            self._match_batch(key, depth, batch, photographs)

    def _match_batch(
        self,
        key: Callable[[str], str],
        depth: int,
        labels: np.ndarray,
        photographs: "_SortedPhotographs",
    ) -> None:
        """Match some labels, as `_join` does."""
        wanted = hash_texts(_keyed_tails(self._names, labels, key, depth))
        start, stop = (
            np.searchsorted(photographs.hashes, wanted, side)
            for side in ("left", "right")
        )
        counts = stop - start
        found = np.flatnonzero(counts)
        first = start[found]
        has_one = counts[found] == 1
        second = np.where(has_one, first, first + 1)
        is_clear = has_one | (photographs.is_own[first] & ~photographs.is_own[second])
        rows = photographs.rows[first]
        is_clear &= np.fromiter(
            map(
                operator.eq,
                _keyed_tails(self._names, labels[found], key, depth),
                _keyed_tails(self._paths, rows, key, depth),
            ),
            bool,
            len(found),
        )
        for number in np.flatnonzero(~is_clear):
            label = found[number]
            alike = np.sort(photographs.rows[start[label] : stop[label]])
            rows[number] = self._choose(key, depth, labels[label], alike)
        self.rows[labels[found]] = rows

    def _choose(
        self,
        key: Callable[[str], str],
        depth: int,
        label: int,
        candidates: np.ndarray,
    ) -> int:
        """Return the row of a label's photograph among a few candidates, or -1.

        Raises:
            LabelError: If the label matches two photographs.
        """
        name = next(_keyed_tails(self._names, np.array([label]), key, depth))
        tails = _keyed_tails(self._paths, candidates, key, depth)
        equal = [
            int(row)
            for row, tail in zip(candidates, tails, strict=True)
            if tail == name
        ]
        own = [row for row in equal if self._path_depths[row] == depth]
        chosen = own if len(own) == 1 else equal
        if len(chosen) > 1:
            first, second = equal[:2]
            raise LabelError(
                f"{self._names[label]} matches {len(equal)} photographs, "
                f"{self._original[first]} and {self._original[second]}: write the "
                "subfolder and the extension in the label file, or move one of them"
            )
        return int(chosen[0]) if chosen else -1


def _count_folders(paths: pd.Series) -> np.ndarray:
    """Count the folders in each path, int16 [n]."""
    counts = (path.count("/") for path in iterate_texts(paths))
    return np.fromiter(counts, np.int16, len(paths))


def _clean_place(path: str) -> str:
    """Clean a photograph's path; spaces around the file's name are removed too."""
    folders, _, file = path.rpartition("/")
    return "/".join(filter(None, (clean_path(folders), clean_path(file))))


def _tail(path: str, depth: int) -> str:
    """Return the file name of a path with the last `depth` folders."""
    return "/".join(path.split("/")[-1 - depth :])


def _keyed_tails(
    paths: pd.Series, rows: np.ndarray, key: Callable[[str], str], depth: int
) -> Iterator[str]:
    """Yield the last `depth` folders of some paths with the keys of their file names.

    Args:
        paths: A text column.
        rows: int [n], the rows of the paths.
        key: Applied to the file name.
        depth: Number of folders.
    """
    for path in iterate_texts(paths, rows):
        *folders, file = path.rsplit("/", depth + 1)
        yield "/".join([*folders[-depth:], key(file)]) if depth else key(file)


def _lower_suffix(name: str) -> str:
    stem = strip_suffix(name)
    return stem + name[len(stem) :].lower()


def _fold_name(name: str) -> str:
    """Return a file name without the changes of programs that store or send it.

    These are the case, quotes, kinds of spaces, invisible characters, an encoding as a
    link (`%20`), and for numbers leading zeros and `.0`.
    """
    name = unquote(name.partition("?")[0]).strip(QUOTES)
    name = unicodedata.normalize("NFKC", strip_suffix(name)).casefold()
    name = "".join(c for c in name if unicodedata.category(c) != "Cf").strip()
    return re.sub(r"^0*(\d+)(\.0)?$", r"\1", name)

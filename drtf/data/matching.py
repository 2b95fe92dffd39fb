"""Matching: which photograph each row of a label file is about."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

import pandas as pd

from drtf.data.photographs import strip_suffix
from drtf.errors import LabelError

# Straight, English, German and French ones.
QUOTES = "\"'\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"


@dataclass(frozen=True)
class Matches:
    """Labels matched with photographs.

    Attributes:
        table: The labels that have a photograph, with two columns added: `path`, that
            of the photograph relative to the image folder, and `id`, the part of the
            label's name that the path has too, without its extension.
        missing: Names of labels that have no photograph.
        unlabelled: Paths of photographs that have no label.
    """

    table: pd.DataFrame
    missing: list[str]
    unlabelled: list[str]


def clean_path(name: str) -> str:
    r"""Return a photograph's name in a label file as a relative POSIX path.

    Windows separators, drives, leading `/`, `./` and `../` are removed, and composed
    and decomposed Unicode characters become equal: `C:\images\1.jpg` is `images/1.jpg`.
    """
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    parts = re.sub("^[A-Za-z]:/", "", name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def match_photographs(labels: pd.DataFrame, paths: Sequence[str]) -> Matches:
    """Match each label with a photograph, by its file name and the folders above it.

    The label may have the path of another computer, or no folder at all: as far as both
    name folders, these must be the same. A file name with the same extension comes
    before one with another. Photographs that are left may also be matched by names that
    a spreadsheet, a link or another file system has changed (see `_fold_name`).

    Args:
        labels: Column `name`, cleaned by `clean_path`, and any others.
        paths: The photographs' paths relative to the image folder.

    Raises:
        LabelError: If a label matches two photographs, two labels match the same one,
            or no label has a photograph.
    """
    exact = _Finder(paths, (str, _lower_suffix, strip_suffix))
    matched = [exact.find(name) for name in labels["name"]]
    others = _Finder(sorted(set(paths) - set(matched)), (_fold_name,))
    matched = [
        path or others.find(name)
        for name, path in zip(labels["name"], matched, strict=True)
    ]
    taken: dict[str, str] = {}
    for name, path in zip(labels["name"], matched, strict=True):
        if path and taken.setdefault(path, name) != name:
            raise LabelError(
                f"{taken[path]} and {name} are the same photograph, {path}: keep only "
                "one of the two rows"
            )
    table = labels.assign(path=pd.Series(matched, index=labels.index, dtype=object))
    has_photograph = table["path"].notna()
    if not has_photograph.any():
        raise LabelError(
            f"no label has a photograph: the label file contains "
            f"{labels['name'].iloc[0]!r}, and the folder contains "
            f"{next(iter(paths), '')!r}"
        )
    table = table.assign(id=_ids(table[has_photograph]))
    return Matches(
        table[has_photograph],
        missing=table["name"][~has_photograph].tolist(),
        unlabelled=[path for path in paths if path not in taken],
    )


def _ids(table: pd.DataFrame) -> pd.Series:
    """Return the end of each photograph's path that the label's name has too.

    The extension is left out, unless it distinguishes two photographs.
    """
    short = [
        "/".join(clean_path(path).split("/")[-1 - name.count("/") :])
        for name, path in zip(table["name"], table["path"], strict=True)
    ]
    ids = pd.Series(
        [strip_suffix(name) for name in short], index=table.index, dtype=str
    )
    full = [
        f"{name}{PurePosixPath(path).suffix}"
        for name, path in zip(ids, table["path"], strict=True)
    ]
    return ids.mask(ids.duplicated(keep=False), pd.Series(full, index=table.index))


class _Finder:
    """Finds photographs by their names.

    Args:
        paths: The photographs' paths.
        keys: What must be equal of two file names, from the most to the least exact.
    """

    def __init__(
        self, paths: Sequence[str], keys: Sequence[Callable[[str], str]]
    ) -> None:
        self._paths = [(key, dict[str, list[str]]()) for key in keys]
        for path in paths:
            name = clean_path(PurePosixPath(path).name)
            for key, by_name in self._paths:
                by_name.setdefault(key(name), []).append(path)

    def find(self, name: str) -> str | None:
        """Find the photograph of a label.

        Raises:
            LabelError: If there are two.
        """
        *folders, last = name.split("/")
        for key, by_name in self._paths:
            depths = {
                path: depth
                for path in by_name.get(key(last), ())
                if (depth := _common_depth(folders, path)) is not None
            }
            best = [p for p, depth in depths.items() if depth == max(depths.values())]
            if len(best) > 1:
                # A photograph in just the folder that the label names comes first.
                own = [p for p in best if p.count("/") == len(folders)]
                best = own if len(own) == 1 else best
            if len(best) > 1:
                raise LabelError(
                    f"{name} matches {len(best)} photographs, {best[0]} and {best[1]}: "
                    "write the subfolder and the extension in the label file, or move "
                    "one of them"
                )
            if best:
                return best[0]
        return None


def _lower_suffix(name: str) -> str:
    stem = strip_suffix(name)
    return stem + name[len(stem) :].lower()


def _fold_name(name: str) -> str:
    """Return a file name without what programs change when they store or send it.

    These are the case, quotes, kinds of spaces, invisible characters, an encoding as a
    link (`%20`), and for numbers leading zeros and `.0`.
    """
    name = unquote(name.partition("?")[0]).strip(QUOTES)
    name = unicodedata.normalize("NFKC", strip_suffix(name)).casefold()
    name = "".join(c for c in name if unicodedata.category(c) != "Cf").strip()
    return re.sub(r"^0*(\d+)(\.0)?$", r"\1", name)


def _common_depth(folders: list[str], path: str) -> int | None:
    """Count the folders that a label and a path share; None if they contradict."""
    own = clean_path(path).split("/")[:-1]
    depth = min(len(folders), len(own))
    if folders[len(folders) - depth :] == own[len(own) - depth :]:
        return depth
    return None

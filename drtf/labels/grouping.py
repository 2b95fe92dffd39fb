"""Groups of photographs: those with the same value in a column, or in the same band."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drtf.config.messages import did_you_mean
from drtf.errors import DrtfError
from drtf.images.quality import Quality
from drtf.labels.columns import find_column
from drtf.labels.extra_columns import MATCHED_COLUMNS, load_extra_columns
from drtf.labels.patients import eyes_by_name
from drtf.photographs.patient_columns import EYE_COLUMNS, fold_name, parse_eye
from drtf.photographs.references import strip_suffix
from drtf.records.reader import ShardDataset

CLASS = "class"  # of the task; only sampling has groups by it
EYE = "eye"  # from the names of the photographs, or a column kept from the label file
DATASET_COLUMNS = ("source", EYE, "grade", "has_field", *Quality._fields)
MISSING = "missing"
MISSING_VALUES = {"na", "nan", "nat", "null"}
EACH_VALUE = "each"
MAX_VALUES = 10  # a numeric column with more values is cut into quartiles
MAX_GROUPS = 50
NUMBER = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?"
# A number may be an age as DICOM files have it, such as 057Y.
NUMERIC_CELL = re.compile(rf"({NUMBER})Y?")
EDGE = r"[+-]?\d+(?:\.\d+)?"
GROUPING = re.compile(rf"(.+):({EACH_VALUE}|{EDGE}(?:,{EDGE})*)", re.DOTALL)


@dataclass(frozen=True)
class Grouping:
    """A column, and how it divides photographs into groups.

    Attributes:
        column: Its name.
        edges: The lower edges of all bands but the lowest, ascending. Empty: quartiles
            if the column has more than MAX_VALUES numbers, or else each value.
        by_value: Whether each value is a group, however many numbers there are.
    """

    column: str
    edges: tuple[float, ...] = ()
    by_value: bool = False


@dataclass(frozen=True)
class Groups:
    """The groups that photographs are divided into.

    Attributes:
        title: The column, and how it was cut if it was.
        names: object [n], the name of each photograph's group, a str.
    """

    title: str
    names: np.ndarray


def parse_grouping(text: str) -> Grouping:
    """Parse `COLUMN`, `COLUMN:EDGE,EDGE` or `COLUMN:each`, such as `age:40,60`.

    Raises:
        DrtfError: If the edges do not ascend.
    """
    match = GROUPING.fullmatch(text)
    if match is None:
        return Grouping(text)
    column, cut = match.groups()
    if cut == EACH_VALUE:
        return Grouping(column, by_value=True)
    edges = tuple(map(float, cut.split(",")))
    if list(edges) != sorted(set(edges)):
        raise DrtfError(f"column {text!r}: the edges of its bands must ascend")
    return Grouping(column, edges)


def load_groups(
    shards: ShardDataset, split: str, by: Sequence[str], table: Path | None = None
) -> list[Groups]:
    """Divide the photographs of a split into groups by each of several columns.

    Args:
        shards: An open dataset.
        split: The split.
        by: The columns, as `parse_grouping` takes them.
        table: A table with further columns, one row per photograph or per patient. Its
            columns come before those of the dataset.

    Returns:
        For each column the groups of the photographs, in the order of the index.

    Raises:
        LabelError: If the table cannot be read or matched, or has none of the columns.
        DrtfError: If there is no such column, or a column makes too many groups.
    """
    groupings = [parse_grouping(text) for text in dict.fromkeys(by)]
    rows = shards.split_rows(split)
    columns = [grouping.column for grouping in groupings]
    extra = {}
    if table:
        photographs = shards.load_index(MATCHED_COLUMNS)
        extra = load_extra_columns(table, photographs, columns)
    groups = []
    for grouping in groupings:
        if grouping.column in extra:
            values = extra[grouping.column].iloc[rows].reset_index(drop=True)
        else:
            values = load_column(shards, grouping.column, rows)
        groups.append(divide(values, grouping))
    return groups


def load_column(shards: ShardDataset, name: str, rows: np.ndarray) -> pd.Series:
    """Load the text in a column of a dataset.

    Args:
        shards: An open dataset.
        name: One of DATASET_COLUMNS or of the columns kept from the label file.
        rows: int64 [n], rows of the index.

    Raises:
        DrtfError: If there is no such column.
    """
    known = [*shards.manifest.kept_columns, *DATASET_COLUMNS]
    own = find_column(known, name)
    if own is None:
        raise DrtfError(
            f"{shards.location} has no column {name!r}{did_you_mean(name, known)}; it "
            f"has {', '.join(known)}. To keep a column of the label file, build the "
            "dataset with labels.keep_columns"
        )
    if own == EYE:
        return load_eyes(shards, rows)
    values = shards.load_index([own], rows)[own]
    if own == "source":
        return values.replace("", shards.manifest.name)
    if pd.api.types.is_bool_dtype(values):
        return values.map({True: "yes", False: "no"})
    is_float = pd.api.types.is_float_dtype(values)
    return values.map("{:.6g}".format) if is_float else values.astype(str)


def load_eyes(shards: ShardDataset, rows: np.ndarray) -> pd.Series:
    """Load the eye of each photograph: `left`, `right` or an empty text.

    It is in the photograph's name, or in a column kept from the label file, such as
    `laterality`.

    Args:
        shards: An open dataset.
        rows: int64 [n], rows of the index.
    """
    eyes = eyes_by_name(shards.load_index(["id"], rows)["id"].map(strip_suffix))
    for name in shards.manifest.kept_columns:
        if fold_name(name) in EYE_COLUMNS:
            column = shards.load_index([name], rows)[name].map(parse_eye)
            eyes = eyes.where(eyes != "", column)
    return eyes


def divide(values: pd.Series, grouping: Grouping) -> Groups:
    """Divide photographs into groups by their values in a column.

    Photographs without a value are a group of their own. So are those with the same
    text in a column of numbers.

    Args:
        values: The text in the column, for each photograph.
        grouping: The column and how to cut it.

    Raises:
        DrtfError: If there are no numbers between the edges, or too many groups.
    """
    texts = {x: MISSING if is_missing(x) else x for x in values.unique()}
    names = values.map(texts).astype(object)
    numbers = names.map({x: parse_number(x) for x in texts.values()}).astype(float)
    filled = numbers[numbers.notna()]
    edges, title = grouping.edges, grouping.column
    if edges and not len(filled):
        raise DrtfError(
            f"column {grouping.column!r} has no numbers to cut at {list(edges)}; it "
            f"has values such as {names.iloc[0]!r}"
        )
    if not (edges or grouping.by_value) and filled.nunique() > MAX_VALUES:
        quartiles = np.quantile(filled, (0.25, 0.5, 0.75))
        lowest, second = np.unique(filled)[:2]
        # If most numbers are equal, there are fewer bands.
        edges = tuple(sorted({_round(x) for x in quartiles if x > lowest})) or (second,)
        title = f"{grouping.column}, in quartiles"
    if edges:
        bounds = [f"{edge:.10g}" for edge in edges]
        between = (f"{low} to < {high}" for low, high in itertools.pairwise(bounds))
        bands = [f"< {bounds[0]}", *between, f">= {bounds[-1]}"]
        names[filled.index] = np.array(bands, object)[np.digitize(filled, edges)]
    if names.nunique() > MAX_GROUPS:
        raise DrtfError(
            f"column {grouping.column!r} divides the photographs into "
            f"{names.nunique():,} groups, such as {names.iloc[0]!r}, more than "
            f"{MAX_GROUPS}. A column of numbers can be cut into bands, as in age:40,60"
        )
    return Groups(title, names.to_numpy(object))


def is_missing(cell: str) -> bool:
    """Return whether a cell of a table is empty, or says so, such as `NA`."""
    return not cell or fold_name(cell) in MISSING_VALUES


def _round(edge: float) -> float:
    """Round an edge to four digits, so that its name is exact."""
    return float(f"{edge:.4g}")


def parse_number(cell: str) -> float | None:
    match = NUMERIC_CELL.fullmatch(cell)
    return float(match[1].replace(",", ".")) if match else None

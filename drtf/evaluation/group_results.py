"""Results by subgroup: the metrics of each group of photographs, the worst first."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from drtf.config import EvaluateConfig
from drtf.files import escape_formula, write_atomic
from drtf.intervals import Estimate, format_estimate, format_value

GROUPS_FILE = "groups.csv"
# The metrics that are shown of each group; groups.csv has all of them.
SHOWN_METRICS = {
    "roc_auc": "ROC AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}
GROUP_COLUMNS = (
    "group",
    "photographs",
    "patients",
    "positive",
    *SHOWN_METRICS.values(),
    "ROC AUC, difference from the rest",
)
ALL = "all photographs"


@dataclass(frozen=True)
class GroupResult:
    """The results of one group of photographs.

    Attributes:
        name: Its name.
        num_photographs: Number of its photographs.
        num_patients: Number of their patients.
        num_positive: Number of its positive photographs.
        metrics: Estimates by name, per photograph. Empty if the group is too small.
        differences: How much higher each metric is than on all other photographs.
            Empty if the group is too small, or the others are too few.
    """

    name: str
    num_photographs: int
    num_patients: int
    num_positive: int
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate]


@dataclass(frozen=True)
class GroupedResult:
    """The results of the groups that a column makes.

    Attributes:
        title: The column, and how it was cut if it was.
        groups: The groups by ascending ROC AUC; those without one follow, and then
            those that are too small.
        whole: The results on all photographs.
    """

    title: str
    groups: list[GroupResult]
    whole: GroupResult


def parse_grouped_result(contents: Mapping[str, Any]) -> GroupedResult:
    """Parse a GroupedResult; the inverse of `dataclasses.asdict`.

    Raises:
        KeyError: If a key is missing.
        TypeError: If there are other keys.
    """
    return GroupedResult(
        contents["title"],
        [_parse_group(group) for group in contents["groups"]],
        _parse_group(contents["whole"]),
    )


def _parse_group(contents: Mapping[str, Any]) -> GroupResult:
    estimates = {
        key: {name: Estimate(**values) for name, values in contents[key].items()}
        for key in ("metrics", "differences")
    }
    return GroupResult(**{**contents, **estimates})


def group_rows(result: GroupedResult) -> list[tuple[str, ...]]:
    """Format the groups as rows of a table with GROUP_COLUMNS, then the whole."""
    return [
        (
            group.name,
            f"{group.num_photographs:,}",
            f"{group.num_patients:,}",
            f"{group.num_positive:,}",
            *(_format_cell(group.metrics.get(name)) for name in SHOWN_METRICS),
            _format_cell(group.differences.get("roc_auc"), sign="+"),
        )
        for group in (*result.groups, result.whole)
    ]


def _format_cell(estimate: Estimate | None, *, sign: str = "") -> str:
    if estimate is None:
        return ""
    return format_estimate(estimate, sign=sign) or format_value(estimate.value)


def describe_groups(results: Sequence[GroupedResult], config: EvaluateConfig) -> str:
    """Describe how to read the results of groups, and their limits."""
    num_differences = sum(
        bool(group.differences) for result in results for group in result.groups
    )
    text = (
        "The group with the lowest ROC AUC comes first. All groups have the same "
        "threshold. Groups with fewer than "
        f"{config.min_group_patients} patients are listed without metrics."
    )
    if num_differences:
        text += (
            f" Of the {num_differences} intervals of differences from the rest, about "
            f"{0.05 * num_differences:.1f} would exclude 0 by chance if the model were "
            "equally good in all groups. A difference does not show its cause: groups "
            "also differ in how severe the disease is and in how photographs were "
            "taken."
        )
    return text


def save_groups(folder: Path, results: Sequence[GroupedResult]) -> None:
    """Write groups.csv: one row for each metric of each group."""
    table = pd.DataFrame(row for result in results for row in _long_rows(result))
    for name in ("by", "group"):
        table[name] = table[name].map(escape_formula)
    write_atomic(folder / GROUPS_FILE, table.to_csv(index=False))


def _long_rows(result: GroupedResult) -> Iterator[dict[str, Any]]:
    for group in (*result.groups, result.whole):
        common = {
            "by": result.title,
            "group": group.name,
            "photographs": group.num_photographs,
            "patients": group.num_patients,
            "positive": group.num_positive,
        }
        if not group.metrics:
            yield {**common, "metric": ""}
        for name, estimate in group.metrics.items():
            row = {**common, "metric": name, **dataclasses.asdict(estimate)}
            if name in group.differences:
                values = dataclasses.asdict(group.differences[name])
                row |= {f"difference_{key}": value for key, value in values.items()}
            yield row

"""Planning a build again: which shards of its tasks are still valid."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from drtf.building.plan import BuildPlan, ShardRange
from drtf.building.plan_file import PlanFile, SavedPlan
from drtf.building.reports import ShardReport
from drtf.building.resume import is_valid
from drtf.building.shared_build import SharedBuild
from drtf.building.shared_files import NUM_PARALLEL_REQUESTS, file_sizes
from drtf.progress import progress

FILE_COLUMNS = ["size_bytes", "changed_ns", "version"]


def keep_valid_shards(shared: SharedBuild, found: PlanFile, saved: SavedPlan) -> None:
    """Remove the shards of a build that a new plan makes invalid, and keep the others.

    A shard is valid if each of its photographs would become the same again.

    Args:
        shared: The build.
        found: The file of its plan.
        saved: The new plan. It may differ only in the files of the photographs.

    Raises:
        StorageError: If an object store fails.
        OSError: If a file cannot be written or removed.
    """
    is_untouched = _are_untouched(found, saved.plan.table)

    def update(shard: ShardRange) -> None:
        report = shared.find_report(shard)
        if report is None:
            # Perhaps a task is about to write the report.
            if found.sha256 != saved.sha256:
                shared.remove(shard)
        elif report.plan_sha256 not in (found.sha256, saved.sha256) or not _is_valid(
            report, shard, saved.plan, is_untouched
        ):
            shared.remove(shard)
        elif report.plan_sha256 != saved.sha256:
            report = dataclasses.replace(report, plan_sha256=saved.sha256)
            shared.replace_report(shard, report)

    present = file_sizes(shared.root).keys() | shared.find_reported()
    shards = [x for x in saved.plan.shard_ranges() if x.file in present]
    with (
        ThreadPoolExecutor(NUM_PARALLEL_REQUESTS) as pool,
        progress("Checking finished shards", len(shards)) as advance,
    ):
        for _ in pool.map(update, shards):
            advance()


def _are_untouched(found: PlanFile, table: pd.DataFrame) -> np.ndarray:
    """Return for each photograph of a new plan whether its file is the same, bool [n].

    Args:
        found: The file of the earlier plan, which has the same photographs.
        table: The table of the new plan.
    """
    parts = []
    start = 0
    for before in found.iterate(FILE_COLUMNS):
        now = table[start : start + len(before)][FILE_COLUMNS]
        start += len(before)
        is_equal = before.set_axis(now.index) == now
        parts.append(is_equal.all(axis=1).to_numpy(bool))
    return np.concatenate(parts)


def _is_valid(
    report: ShardReport, shard: ShardRange, plan: BuildPlan, is_untouched: np.ndarray
) -> bool:
    """Return whether the photographs of a shard would become the same again.

    Args:
        report: The report of the shard.
        shard: The shard.
        plan: The plan.
        is_untouched: bool [n], whether the file of each photograph of the plan is the
            one that the shard was made from.
    """
    rows = slice(shard.start, shard.stop)
    return all(
        is_valid(entry, photograph, is_untouched=untouched, plan=plan)
        for entry, photograph, untouched in zip(
            report.entries,
            plan.photographs(rows),
            is_untouched[rows],
            strict=True,
        )
    )

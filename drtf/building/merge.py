"""Merging the shards that the tasks of a build published into a dataset."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drtf.building.changes import remember_photographs
from drtf.building.finished import check_same_plan, load_finished
from drtf.building.metadata import FinishedShard, save_metadata
from drtf.building.plan import BuildPlan
from drtf.building.plan_file import SavedPlan
from drtf.building.reports import Host, check_alike
from drtf.building.shared_build import TASKS_FOLDER, SharedBuild, explained_errors
from drtf.building.shared_files import file_sizes, join, remove_folder
from drtf.building.write import check_num_rejected
from drtf.errors import DrtfError
from drtf.files import sync_folder
from drtf.locations import is_remote
from drtf.locks import lock_or_fail
from drtf.records.manifest import Manifest
from drtf.records.remote import upload_dataset
from drtf.temporary_folders import temporary_folder

LOCK_FILE = ".merge.lock"
MAX_NAMED = 5


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge.

    Attributes:
        manifest: The manifest of the dataset.
        plan: The plan of its build; None if the dataset was complete already.
    """

    manifest: Manifest
    plan: BuildPlan | None


def merge_tasks(out: Path | str, *, max_rejected: float = 1.0) -> MergeReport:
    """Make the shards that the tasks of a build published a dataset.

    Args:
        out: The dataset, as for `plan_tasks`.
        max_rejected: Fraction of the photographs, in [0, 1], that may be rejected.

    Raises:
        StorageError: If an object store fails.
        DrtfError: If there is no plan, a shard is missing or belongs to another plan,
            hosts convert photographs differently, or too many were rejected.
    """
    shared = SharedBuild.at(out)
    with explained_errors(shared):
        saved = shared.load_plan()
        manifest = load_finished(out)
        is_new = manifest is None
        if manifest is None:
            if saved is None:
                raise shared.missing_plan()
            _check_complete(shared, saved)
            if is_remote(out):
                manifest = _merge_in_store(shared, saved, max_rejected)
            else:
                manifest = _merge_in_folder(shared, saved, Path(out), max_rejected)
        elif saved:
            check_same_plan(manifest, saved.plan, out)
        remove_folder(join(out, TASKS_FOLDER))
        if not is_remote(out):
            remove_folder(shared.root)
    return MergeReport(manifest, saved.plan if saved and is_new else None)


def _merge_in_folder(
    shared: SharedBuild, saved: SavedPlan, out: Path, max_rejected: float
) -> Manifest:
    root = Path(shared.root)
    with lock_or_fail(Path(shared.tasks) / LOCK_FILE):
        shards = _reported_shards(shared, saved)
        manifest = save_metadata(root, saved.plan, shards)
        check_num_rejected(saved.plan, manifest.rejected, max_rejected)
        remember_photographs(root, saved.plan)
        sync_folder(root)
        root.rename(out)
    sync_folder(out.parent)
    return manifest


def _merge_in_store(
    shared: SharedBuild, saved: SavedPlan, max_rejected: float
) -> Manifest:
    with temporary_folder() as folder:
        shards = _reported_shards(shared, saved)
        manifest = save_metadata(folder, saved.plan, shards)
        check_num_rejected(saved.plan, manifest.rejected, max_rejected)
        upload_dataset(folder, str(shared.root))
    return manifest


def _check_complete(shared: SharedBuild, saved: SavedPlan) -> None:
    """Check that each shard has a report.

    Raises:
        DrtfError: If not; it names the tasks.
    """
    reported = shared.find_reported()
    shards = list(saved.plan.shard_ranges())
    missing = [shard for shard in shards if shard.file not in reported]
    if not missing:
        return
    command = "drtf build-shards --task"
    present = [shard for shard in shards if shard.file in reported]
    if not present:
        raise DrtfError(
            f"no shard in {shared.root} is complete: run {command} I/N for each I from "
            "1 to N, and then merge"
        )
    num_tasks = shared.load_report(present[0], saved).task[1]
    tasks = sorted({shard.number % num_tasks + 1 for shard in missing})
    names = ", ".join(f"{number}/{num_tasks}" for number in tasks[:MAX_NAMED])
    more = ", ..." if len(tasks) > MAX_NAMED else ""
    raise DrtfError(
        f"{len(missing)} of {len(shards)} shards in {shared.root} are missing, the "
        f"first one is {missing[0].file}: wait for {command} {names}{more}, or run "
        "them again"
    )


def _reported_shards(shared: SharedBuild, saved: SavedPlan) -> Iterator[FinishedShard]:
    """Yield the shards in the order of the plan.

    Raises:
        DrtfError: If a report or a shard is damaged, or hosts differ.
    """
    sizes = file_sizes(shared.root)
    first: Host | None = None
    shards = list(saved.plan.shard_ranges())
    for shard, report in zip(shards, shared.load_reports(shards, saved), strict=True):
        first = first or report.host
        check_alike(first, report.host)
        if sizes.get(shard.file) != report.size_bytes:
            number, num_tasks = report.task
            raise DrtfError(
                f"{join(shared.root, shard.file)} should have {report.size_bytes} "
                f"bytes, as its report says; found {sizes.get(shard.file, 'no file')}. "
                f"Remove it and {shared.report(shard)}, and run drtf build-shards "
                f"--task {number}/{num_tasks} again"
            )
        yield FinishedShard(report.size_bytes, report.sha256, report.entries)

"""Tasks of a build: they convert the shards of a saved plan, on any number of hosts.

A task never replaces what another one published. `merge_tasks` then makes a dataset of
it, which is byte for byte the one that a build on one machine gives.
"""

import dataclasses
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from drtf.building.finished import check_same_plan, load_finished
from drtf.building.journal import Entry
from drtf.building.plan import (
    BuildPlan,
    ShardRange,
    describe_differences,
    plan_dataset,
)
from drtf.building.plan_file import (
    PlanFile,
    SavedPlan,
    prepare_plan,
    write_plan,
)
from drtf.building.replan import keep_valid_shards
from drtf.building.reports import Host, ShardReport, check_alike, describe_host
from drtf.building.shared_build import (
    PLAN_FILE,
    TASKS_FOLDER,
    SharedBuild,
    explained_errors,
)
from drtf.building.shared_files import (
    create_file,
    file_sizes,
    join,
    remove_folder,
    replace_file,
)
from drtf.building.write import (
    check_num_rejected,
    convert_photographs,
    rejection_reasons,
    write_records,
)
from drtf.config import Config
from drtf.errors import DrtfError
from drtf.files import hash_file
from drtf.labels.sources import Source
from drtf.locations import is_remote
from drtf.photographs.references import PhotographRef, map_in_threads
from drtf.progress import progress
from drtf.records.writer import ShardWriter
from drtf.temporary_folders import temporary_folder


@dataclass(frozen=True)
class TaskReport:
    """The result of a task.

    Attributes:
        num_shards: Number of shards of the task; 0 if the dataset was complete already.
        num_converted: Number of these shards that were missing.
        num_photographs: Number of photographs in the missing shards.
        num_rejected: Number of these photographs that were rejected.
    """

    num_shards: int
    num_converted: int = 0
    num_photographs: int = 0
    num_rejected: int = 0


def plan_tasks(
    sources: Sequence[Source], out: Path | str, *, config: Config
) -> BuildPlan:
    """Plan a build, and save the plan for its tasks.

    The same call changes nothing if the plan is there already. If photographs changed
    since, the plan is replaced, and only the shards with these photographs are removed.

    Args:
        sources: Folders of photographs and their labels. All hosts must find the
            photographs at the same place.
        out: The folder of the dataset, local or in a store, which all hosts share.
        config: Its sections `labels`, `split`, `images` and `build` are used, except
            for `build.num_workers`.

    Raises:
        LabelError: If a source's labels and photographs do not match.
        StorageError: If an object store fails.
        DrtfError: If there is another plan or dataset.
    """
    plan = plan_dataset(sources, out, config=config)
    if finished := load_finished(out):
        check_same_plan(finished, plan, out)
    else:
        save_plan(plan, out)
    return plan


def save_plan(plan: BuildPlan, out: Path | str) -> None:
    """Save the plan of a build for its tasks, as `plan_tasks` does.

    Raises:
        StorageError: If an object store fails.
        DrtfError: If there is another plan, or something else.
    """
    shared = SharedBuild.at(out)
    saved = prepare_plan(plan)
    with explained_errors(shared):
        with shared.open_plan() as found:
            if found:
                _replace_plan(shared, found, saved)
                return
        if present := file_sizes(shared.root):
            raise DrtfError(
                f"{shared.root} has files, such as {min(present)}, but no plan: remove "
                "it, or choose another --out"
            )
        with _written_plan(shared, saved) as path:
            if create_file(shared.plan, path):
                return
        # Another host was faster.
        with shared.open_plan() as found:
            if found:
                _replace_plan(shared, found, saved)


def _replace_plan(shared: SharedBuild, found: PlanFile, saved: SavedPlan) -> None:
    """Replace a plan from which only the files of the photographs may differ.

    Raises:
        StorageError: If an object store fails.
        DrtfError: If anything else differs.
    """
    if found.resume_sha256 != saved.plan.resume_sha256:
        differences = describe_differences(
            found.flat_settings, saved.plan.flat_settings
        )
        raise DrtfError(
            f"{shared.plan} differs from what this command plans: {differences}. "
            f"Remove {shared.root} to start again, or choose another --out"
        )
    keep_valid_shards(shared, found, saved)
    if found.sha256 != saved.sha256:
        with _written_plan(shared, saved) as path:
            replace_file(shared.plan, path)


@contextmanager
def _written_plan(shared: SharedBuild, saved: SavedPlan) -> Iterator[Path]:
    """Yield a temporary file with a plan."""
    if not is_remote(shared.root):
        Path(shared.tasks).mkdir(parents=True, exist_ok=True)
    with _work_folder(shared) as folder:
        path = folder / PLAN_FILE
        write_plan(saved, path)
        yield path


def run_task(
    out: Path | str,
    task: tuple[int, int],
    *,
    num_workers: int = 0,
    max_rejected: float = 1.0,
) -> TaskReport:
    """Convert those shards of a task that are missing, and publish them.

    A task may be repeated, also while it runs elsewhere, and tasks may run in any
    order. A shard appears complete or not at all, so a task that was killed resumes at
    the first shard that is missing.

    Args:
        out: As for `plan_tasks`.
        task: The task's number, from 1, and the number of tasks.
        num_workers: Number of processes that convert photographs; 0: one per CPU, as
            far as memory allows.
        max_rejected: Fraction of all photographs of the build, in [0, 1], that this
            task may reject.

    Raises:
        StorageError: If an object store fails.
        DrtfError: If there is no plan, a photograph changed after the plan was made,
            too many were rejected, or another host converts photographs differently.
    """
    number, num_tasks = task
    if not 1 <= number <= num_tasks:
        raise DrtfError(
            f"the tasks of a build in {num_tasks} tasks are 1 to {num_tasks}; got "
            f"{number}"
        )
    shared = SharedBuild.at(out)
    with explained_errors(shared):
        saved = shared.load_plan()
        if saved is None:
            if load_finished(out):
                return TaskReport(0)
            raise shared.missing_plan()
        try:
            report = _convert_missing(shared, saved, task, num_workers, max_rejected)
        except FileNotFoundError:
            if load_finished(out):  # while this task ran, others did it and were merged
                return TaskReport(0)
            raise
        if load_finished(out):
            remove_folder(join(out, TASKS_FOLDER))
    return report


def _convert_missing(
    shared: SharedBuild,
    saved: SavedPlan,
    task: tuple[int, int],
    num_workers: int,
    max_rejected: float,
) -> TaskReport:
    build = saved.plan.build.model_copy(update={"num_workers": num_workers})
    plan = dataclasses.replace(saved.plan, build=build)
    reported = shared.find_reported()
    own = task_shards(plan, task)
    missing = [shard for shard in own if shard.file not in reported]
    if not missing:
        return TaskReport(len(own))
    host = describe_host(saved)
    others = (shard for shard in plan.shard_ranges() if shard.file in reported)
    for other in itertools.islice(others, 1):
        check_alike(host, shared.load_report(other, saved).host)
    num_missing = sum(shard.stop - shard.start for shard in missing)
    done = [shard for shard in own if shard.file in reported]
    num_done = sum(shard.stop - shard.start for shard in done)
    reasons = Counter(row.reason for row in plan.rejected)
    for report in shared.load_reports(done, saved):
        reasons.update(rejection_reasons(report.entries))
    check_num_rejected(plan, reasons, max_rejected)
    num_before = reasons.total()
    photographs = (
        photograph
        for shard in missing
        for photograph in plan.photographs(slice(shard.start, shard.stop))
    )
    results = convert_photographs(plan, photographs)
    total = num_done + num_missing
    with (
        closing(results),
        _work_folder(shared) as work,
        progress("Converting photographs", total, done=num_done) as advance,
        ThreadPoolExecutor(1) as publisher,
    ):
        publishing: Future[None] | None = None
        for shard in missing:
            path = work / shard.file
            entries = []
            with ShardWriter(path) as writer:
                for entry in write_records(writer, plan, shard, results):
                    entries.append(entry)
                    reasons.update(rejection_reasons([entry]))
                    check_num_rejected(plan, reasons, max_rejected)
                    advance(f"{reasons.total()} rejected")
            if publishing:
                publishing.result()
            # While it is uploaded, the next shard is converted.
            publishing = publisher.submit(
                _publish,
                shared,
                saved,
                task=task,
                shard=shard,
                path=path,
                host=host,
                entries=entries,
            )
        if publishing:
            publishing.result()
    num_rejected = reasons.total() - num_before
    return TaskReport(len(own), len(missing), num_missing, num_rejected)


def _publish(
    shared: SharedBuild,
    saved: SavedPlan,
    *,
    task: tuple[int, int],
    shard: ShardRange,
    path: Path,
    host: Host,
    entries: list[Entry],
) -> None:
    """Publish a converted shard, unless one of its photographs changed meanwhile."""
    _check_unchanged(saved.plan, shard, shared)
    report = ShardReport(
        plan_sha256=saved.sha256,
        task=task,
        size_bytes=path.stat().st_size,
        sha256=hash_file(path),
        host=host,
        entries=entries,
    )
    shared.publish(shard, path, report, saved)
    path.unlink(missing_ok=True)  # renamed on a disk without hard links


def task_shards(plan: BuildPlan, task: tuple[int, int]) -> list[ShardRange]:
    """Return the shards that a task converts: every N-th of the plan.

    The shards of a split follow each other in the plan, so each task gets shards of
    all splits. Published splits may have photographs of other sizes.

    Args:
        plan: The plan.
        task: The task's number, from 1, and the number of tasks.
    """
    number, num_tasks = task
    return [x for x in plan.shard_ranges() if x.number % num_tasks == number - 1]


def _check_unchanged(plan: BuildPlan, shard: ShardRange, shared: SharedBuild) -> None:
    """Check that the photographs of a shard are those that the plan was made with.

    Raises:
        DrtfError: If the size or the version of a file is another one.
    """
    rows = slice(shard.start, shard.stop)
    planned = plan.table[["size_bytes", "version"]][rows].itertuples(index=False)
    statuses = map_in_threads(PhotographRef.status, plan.photographs(rows))
    with closing(statuses):
        for photograph, row, status in zip(
            plan.photographs(rows), planned, statuses, strict=True
        ):
            if (status.size_bytes, status.version) == row:
                continue
            change = "was removed" if status.size_bytes < 0 else "changed"
            raise DrtfError(
                f"{photograph} {change} after the plan {shared.plan} was made. "
                "Restore it, or run the command that made the plan again: shards "
                "without changed photographs are kept"
            )


@contextmanager
def _work_folder(shared: SharedBuild) -> Iterator[Path]:
    """Yield a folder for unfinished shards, if possible where they are published."""
    if is_remote(shared.root):
        with temporary_folder() as folder:
            yield folder
    else:  # --merge removes what a killed task leaves
        with tempfile.TemporaryDirectory(
            dir=shared.tasks, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)

"""Building a dataset of shards from labeled photographs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drtf.building.changes import remember_photographs
from drtf.building.finished import (
    check_same_plan,
    check_unchanged,
    load_finished,
)
from drtf.building.journal import JOURNALS_FOLDER, Journal, hold_build
from drtf.building.merge import merge_tasks
from drtf.building.metadata import FinishedShard, save_metadata
from drtf.building.plan import BuildPlan, plan_dataset
from drtf.building.shared_build import TASKS_FOLDER
from drtf.building.shared_files import join, remove_folder
from drtf.building.tasks import run_task, save_plan
from drtf.building.write import check_num_rejected, write_shards
from drtf.config import Config
from drtf.errors import DrtfError
from drtf.files import hash_file, partial_path, sync_folder
from drtf.labels.sources import Source
from drtf.locations import is_remote
from drtf.records.manifest import Manifest


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
        manifest: The manifest of the dataset.
        plan: The plan of the build.
        is_reused: Whether the same call had built the dataset before.
    """

    manifest: Manifest
    plan: BuildPlan
    is_reused: bool

    def __repr__(self) -> str:
        """Return the dataset, and how many photographs were rejected."""
        num_rejected = sum(self.manifest.rejected.values())
        return f"<BuildReport {self.manifest!r}, {num_rejected:,} rejected>"

    def _repr_html_(self) -> str:
        """Show the dataset in a notebook: photographs by split and grade."""
        return self.manifest._repr_html_()


def build_shards(
    sources: Sequence[Source],
    out: Path | str,
    *,
    config: Config,
    max_rejected: float = 1.0,
) -> BuildReport:
    """Convert labeled photographs to a dataset of shards.

    A local dataset is built in a hidden folder next to `out`, which is renamed when it
    is complete. In a store, the manifest comes last and completes it. The dataset's
    bytes depend only on the photographs, their labels and the config, not on the number
    of workers or on how often the build was killed: the same call resumes where the
    last one stopped.

    Args:
        sources: Folders of photographs and their labels.
        out: The folder to create. In a store, each shard is uploaded when it is
            complete.
        config: Its sections `labels`, `split`, `images` and `build` are used.
        max_rejected: Fraction of the photographs, in [0, 1], that may be rejected.

    Raises:
        LabelError: If a source's labels and photographs do not match.
        StorageError: If an object store fails.
        DrtfError: If `out` exists and this call would build something else, too many
            photographs were rejected, or the disk is full.
    """
    plan = plan_dataset(sources, out, config=config)
    finished = _reuse_finished(out, plan)
    if finished:
        check_num_rejected(plan, finished.rejected, max_rejected)
        return BuildReport(finished, plan, is_reused=True)
    if is_remote(out):
        manifest = _build_in_store(plan, str(out), max_rejected)
    else:
        manifest = _build(plan, Path(out), max_rejected)
    return BuildReport(manifest, plan, is_reused=False)


def _build_in_store(plan: BuildPlan, location: str, max_rejected: float) -> Manifest:
    """Build a dataset in a store, or resume its build: a plan with a single task."""
    save_plan(plan, location)
    run_task(
        location,
        (1, 1),
        num_workers=plan.build.num_workers,
        max_rejected=max_rejected,
    )
    return merge_tasks(location, max_rejected=max_rejected).manifest


def _build(plan: BuildPlan, out: Path, max_rejected: float) -> Manifest:
    """Build a dataset in a local folder, or resume its build."""
    partial = partial_path(out)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DrtfError(
            f"cannot create {partial}: {error.strerror}; check --out"
        ) from error
    try:
        with hold_build(partial, plan):
            write_shards(partial, plan, max_rejected=max_rejected)
            manifest = save_metadata(partial, plan, _finished_shards(partial, plan))
            remember_photographs(partial, plan)
            sync_folder(partial)
            partial.rename(out)
        sync_folder(out.parent)
        remove_folder(out / JOURNALS_FOLDER)
    except OSError as error:
        raise DrtfError(
            f"cannot write {partial}: {error.strerror or error}. Completed work is "
            "kept. Fix the problem and run the same command again to resume."
        ) from error
    return manifest


def _finished_shards(partial: Path, plan: BuildPlan) -> Iterator[FinishedShard]:
    for shard in plan.shard_ranges():
        path = partial / shard.file
        with Journal(partial, plan, shard) as journal:
            yield FinishedShard(path.stat().st_size, hash_file(path), journal.entries)


def _reuse_finished(out: Path | str, plan: BuildPlan) -> Manifest | None:
    """Return the manifest of a dataset that the same call built before.

    If that call was killed at its very end, what it left is deleted.

    Returns:
        The manifest, or None if `out` does not exist.

    Raises:
        DrtfError: If `out` is something else, is damaged, or a photograph has changed.
    """
    manifest = load_finished(out)
    if manifest is None:
        return None
    check_same_plan(manifest, plan, out)
    if is_remote(out):
        remove_folder(join(out, TASKS_FOLDER))
    else:
        check_unchanged(Path(out), plan)
        remove_folder(join(out, JOURNALS_FOLDER))
    return manifest

"""The plan, shards and reports of a build that several hosts share."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from drtf.building.plan import ShardRange, dataset_name
from drtf.building.plan_file import PlanFile, SavedPlan
from drtf.building.reports import ShardReport, encode_report, parse_report
from drtf.building.shared_files import (
    NUM_PARALLEL_REQUESTS,
    Location,
    create_file,
    file_sizes,
    hash_shared_file,
    join,
    open_file,
    read_file,
    remove_file,
    replace_file,
)
from drtf.errors import DrtfError
from drtf.locations import is_remote

TASKS_FOLDER = ".build-tasks"  # a name that no user gives a folder of a dataset
PLAN_FILE = "plan.bin"
REPORT_SUFFIX = ".report.json.gz"


@dataclass(frozen=True)
class SharedBuild:
    """Where the hosts of a build put its plan, its shards and their reports.

    In a store, this is the place of the dataset, which has no manifest until it is
    complete. Otherwise it is a hidden folder next to it, which the merge renames.

    Attributes:
        root: The folder or location of the shards.
    """

    root: Location

    @classmethod
    def at(cls, out: Path | str) -> "SharedBuild":
        """Return the build of the dataset `out`.

        Raises:
            DrtfError: If `out` has no printable name.
        """
        name = dataset_name(out)
        if is_remote(out):
            return cls(str(out).rstrip("/"))
        return cls(Path(out).with_name(f".{name}.tasks"))

    @property
    def tasks(self) -> Location:
        """The folder of everything that is not a part of the dataset."""
        return join(self.root, TASKS_FOLDER)

    @property
    def plan(self) -> Location:
        """The file of the plan."""
        return join(self.tasks, PLAN_FILE)

    def report(self, shard: ShardRange) -> Location:
        """The file of a shard's report."""
        return join(self.tasks, shard.file + REPORT_SUFFIX)

    def load_plan(self) -> SavedPlan | None:
        """Load the plan; None if there is none.

        Raises:
            DrtfError: If it is damaged, or was made by other versions.
        """
        with self.open_plan() as opened:
            return None if opened is None else opened.load()

    @contextmanager
    def open_plan(self) -> Iterator[PlanFile | None]:
        """Yield the open file of the plan; None if there is none.

        Raises:
            DrtfError: As `load_plan`.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open_file(self.plan))
            except FileNotFoundError:
                yield None
            else:
                yield PlanFile(file, path=str(self.plan))

    def missing_plan(self) -> DrtfError:
        """Return the error that there is no plan."""
        return DrtfError(
            f"there is no plan {self.plan}: make one with drtf build-shards --plan and "
            "the same --out"
        )

    def find_reported(self) -> set[str]:
        """Return the names of the shards that have a report."""
        return {
            name.removesuffix(REPORT_SUFFIX)
            for name in file_sizes(self.tasks)
            if name.endswith(REPORT_SUFFIX)
        }

    def find_report(self, shard: ShardRange) -> ShardReport | None:
        """Load the report of a shard, of any plan; None if there is none.

        Raises:
            DrtfError: If it is damaged.
        """
        location = self.report(shard)
        data = read_file(location)
        return None if data is None else parse_report(data, path=str(location))

    def load_report(self, shard: ShardRange, saved: SavedPlan) -> ShardReport:
        """Load the report of a shard.

        Raises:
            DrtfError: If it is missing or damaged, or belongs to another plan.
        """
        location = self.report(shard)
        report = self.find_report(shard)
        if report is None:
            raise DrtfError(f"{location} was removed while it was needed")
        if report.plan_sha256 != saved.sha256:
            raise DrtfError(
                f"{location} belongs to another plan than {self.plan}: run the command "
                "that made the plan again, which removes this shard, and then its task"
            )
        return report

    def load_reports(
        self, shards: Sequence[ShardRange], saved: SavedPlan
    ) -> Iterator[ShardReport]:
        """Load the reports of shards, several at a time, and yield them in order.

        Raises:
            DrtfError: If one is missing or damaged, or belongs to another plan.
        """
        with ThreadPoolExecutor(NUM_PARALLEL_REQUESTS) as pool:
            for start in range(0, len(shards), NUM_PARALLEL_REQUESTS):
                some = shards[start : start + NUM_PARALLEL_REQUESTS]
                yield from pool.map(lambda shard: self.load_report(shard, saved), some)

    def replace_report(self, shard: ShardRange, report: ShardReport) -> None:
        """Replace the report of a shard."""
        replace_file(self.report(shard), encode_report(report))

    def remove(self, shard: ShardRange) -> None:
        """Remove a shard and its report."""
        # In this order, because the merge notices a report without its shard.
        remove_file(join(self.root, shard.file))
        remove_file(self.report(shard))

    def publish(
        self, shard: ShardRange, path: Path, report: ShardReport, saved: SavedPlan
    ) -> None:
        """Publish a shard and its report, unless equal ones are there already.

        Args:
            shard: The shard.
            path: Its file.
            report: Its report.
            saved: The plan.

        Raises:
            DrtfError: If there is another shard, or a report of another plan.
        """
        location = join(self.root, shard.file)
        is_new = create_file(location, path)
        found = report.sha256 if is_new else hash_shared_file(location)
        is_first = found == report.sha256 and create_file(
            self.report(shard), encode_report(report)
        )
        if is_first:
            return
        author = "a host that left no report"
        if shard.file in self.find_reported():
            author = str(self.load_report(shard, saved).host)
        if found != report.sha256:
            raise DrtfError(
                f"{location}, written by {author}, differs from what {report.host} "
                f"makes of the same photographs (SHA-256 {found[:12]} there, "
                f"{report.sha256[:12]} here). Run all tasks on hosts of one kind; to "
                f"start again, remove {self.root}"
            )


@contextmanager
def explained_errors(build: SharedBuild) -> Iterator[None]:
    """Turn an error of the file system into one with advice.

    Raises:
        DrtfError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        # A store raises no OSError, but a shard is written to a local disk first.
        place = tempfile.gettempdir() if is_remote(build.root) else build.root
        raise DrtfError(
            f"cannot use {place}: {error.strerror or error}. Completed work is "
            "kept. Fix the problem and run the same command again to resume."
        ) from error

"""Writing the shards of a build."""

import functools
import shutil
from collections import Counter
from collections.abc import (
    Container,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import closing
from pathlib import Path
from typing import Any

from drtf.building.journal import JOURNALS_FOLDER, Entry, Journal, Written, journal_path
from drtf.building.plan import BuildPlan, ShardRange
from drtf.building.resume import count_valid_entries
from drtf.errors import DrtfError
from drtf.files import partial_path
from drtf.photographs.prepare import (
    Rejected,
    ShardImage,
    map_photographs,
    prepare_for_shard,
)
from drtf.photographs.references import PhotographRef
from drtf.progress import progress
from drtf.records.framing import FRAME_BYTES
from drtf.records.rejected import UNGRADED
from drtf.records.schema import Record
from drtf.records.writer import ShardWriter


def write_shards(partial: Path, plan: BuildPlan, *, max_rejected: float) -> None:
    """Write the shards that are still missing, and a journal for each.

    Args:
        partial: Folder of the unfinished dataset.
        plan: The plan of the build. This process holds the build.
        max_rejected: Fraction of the photographs, in [0, 1], that may be rejected.

    Raises:
        StorageError: If an object store fails.
        DrtfError: If too many photographs were rejected.
        OSError: If the disk is full.
    """
    shards = list(plan.shard_ranges())
    files = [partial / shard.file for shard in shards]
    _clear(partial, keep={*files, *map(partial_path, files)})
    reasons = Counter(row.reason for row in plan.rejected)
    num_done = [_resume_shard(partial, plan, shard, reasons) for shard in shards]
    check_num_rejected(plan, reasons, max_rejected)
    photographs = (
        photograph
        for shard, done in zip(shards, num_done, strict=True)
        for photograph in plan.photographs(slice(shard.start + done, shard.stop))
    )
    results = convert_photographs(plan, photographs)
    with (
        closing(results),
        progress(
            "Converting photographs", len(plan.table), done=sum(num_done)
        ) as advance,
    ):
        for shard, done in zip(shards, num_done, strict=True):
            path = partial / shard.file
            if path.exists() and done == shard.stop - shard.start:
                continue
            with Journal(partial, plan, shard) as journal:
                size_bytes = _count_bytes(journal.entries)
                with ShardWriter(path, keep_bytes=size_bytes) as writer:
                    for entry in write_records(
                        writer, plan, shard, results, num_done=done
                    ):
                        journal.append(entry)
                        reasons.update(rejection_reasons([entry]))
                        check_num_rejected(plan, reasons, max_rejected)
                        advance(f"{reasons.total()} rejected")
                    journal.sync()


def rejection_reasons(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the reason of each rejected photograph."""
    for entry in entries:
        if isinstance(entry.result, Rejected):
            yield entry.result.reason


def _resume_shard(
    partial: Path, plan: BuildPlan, shard: ShardRange, reasons: Counter[str]
) -> int:
    """Count the photographs of a shard that are finished, and drop all after them.

    Args:
        partial: Folder of the unfinished dataset.
        plan: The plan of the build.
        shard: The shard.
        reasons: The reasons of rejections, to which those of the shard are added.
    """
    path = partial / shard.file
    if not journal_path(partial, shard).exists():
        return 0
    with Journal(partial, plan, shard) as journal:
        num_done = count_valid_entries(partial, plan, shard, journal.entries)
        journal.truncate(num_done)
        reasons.update(rejection_reasons(journal.entries))
        size_bytes = _count_bytes(journal.entries)
    is_full = num_done == shard.stop - shard.start
    if path.exists() and not (is_full and path.stat().st_size == size_bytes):
        path.rename(partial_path(path))
    return num_done


def convert_photographs(
    plan: BuildPlan, photographs: Iterable[PhotographRef]
) -> Generator[ShardImage | Rejected, None, None]:
    """Convert photographs in worker processes, as a plan says, in order.

    Raises:
        StorageError: If an object store fails.
        DrtfError: If a photograph cannot be read or processed, although nothing is
            wrong with it.
    """
    return map_photographs(
        functools.partial(prepare_for_shard, images=plan.images, build=plan.build),
        photographs,
        num_workers=plan.build.num_workers,
    )


def write_records(
    writer: ShardWriter,
    plan: BuildPlan,
    shard: ShardRange,
    results: Iterator[ShardImage | Rejected],
    *,
    num_done: int = 0,
) -> Iterator[Entry]:
    """Write the records of a shard, and yield the entry of each photograph.

    Args:
        writer: The writer of the shard.
        plan: The plan of the build.
        shard: The shard.
        results: The converted photographs, those of this shard first.
        num_done: Number of the shard's photographs that were converted before.
    """
    rows = plan.table[shard.start + num_done : shard.stop]
    # The rows come first, so that no result is lost when they end.
    for row, result in zip(rows.to_dict("records"), results, strict=False):
        yield _write_record(writer, row, result, plan, shard.number)


def check_num_rejected(
    plan: BuildPlan, reasons: Mapping[str, int], max_rejected: float
) -> None:
    """Refuse a build in which too many photographs are rejected.

    Ungraded photographs do not count: the label file already said so.

    Args:
        plan: The plan of the build.
        reasons: Number of rejected photographs by reason.
        max_rejected: Fraction of the photographs, in [0, 1], that may be rejected.

    Raises:
        DrtfError: If more photographs are rejected.
    """
    reasons = {reason: n for reason, n in reasons.items() if reason != UNGRADED}
    count = sum(reasons.values())
    # The tolerance is for bounds such as 0.29 * 100, which is 28.999999999999996.
    if count > max_rejected * plan.num_photographs + 1e-6:
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        raise DrtfError(
            f"{count} of {plan.num_photographs} photographs were rejected ({counts}), "
            f"more than --max-rejected {max_rejected:.3%} allows: fix them, or allow "
            "more"
        )


def _write_record(
    writer: ShardWriter,
    row: dict[Hashable, Any],
    result: ShardImage | Rejected,
    plan: BuildPlan,
    shard: int,
) -> Entry:
    """Write a photograph's record and return its journal entry.

    Args:
        writer: The writer of the shard.
        row: The photograph's row in the plan's table.
        result: The prepared photograph. If it was rejected, nothing is written.
        plan: The plan of the build.
        shard: The shard's position in the plan.
    """
    if isinstance(result, Rejected):
        return Entry(row["size_bytes"], row["changed_ns"], result)
    location = writer.append(
        Record(
            image=result.data,
            format=plan.build.encoding,
            height=plan.images.size,
            width=plan.images.size,
            grade=row["grade"],
            id=row["id"],
            patient=row["patient"],
        )
    )
    written = Written(
        shard=shard,
        location=location,
        sha256=result.sha256,
        has_field=result.has_field,
        quality=result.quality,
    )
    return Entry(row["size_bytes"], row["changed_ns"], written)


def _clear(partial: Path, *, keep: Container[Path]) -> None:
    """Remove everything but the journals and some files from an unfinished dataset."""
    for path in partial.iterdir():
        if path.is_dir():
            if path.name != JOURNALS_FOLDER:
                shutil.rmtree(path)
        elif path not in keep:
            path.unlink()


def _count_bytes(entries: list[Entry]) -> int:
    """Count the bytes of a shard that these entries' records take."""
    return sum(
        entry.result.location.length + FRAME_BYTES
        for entry in entries
        if isinstance(entry.result, Written)
    )

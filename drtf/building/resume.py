"""Resuming a build: which entries of its journals are still valid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drtf.building.journal import Entry, Written
from drtf.building.plan import BuildPlan, ShardRange
from drtf.files import partial_path
from drtf.photographs.prepare import Rejected, prepare_for_shard
from drtf.photographs.references import PhotographRef
from drtf.records.framing import FRAME_BYTES, find_frame_fault, read_footer


def count_valid_entries(
    partial: Path, plan: BuildPlan, shard: ShardRange, entries: Sequence[Entry]
) -> int:
    """Count the entries of a shard up to the first that no longer holds.

    A written photograph's entry holds if its record is intact and its file is the same.
    A rejected photograph's entry holds if its file was not touched since. A remote file
    has no time of change, so it is tried again. So is a file of an unsupported format,
    because the library that reads it may be installed now.

    Args:
        partial: Folder of the unfinished dataset.
        plan: The plan of the build.
        shard: The shard.
        entries: Its entries, which an earlier build left.
    """
    rows = slice(shard.start, shard.stop)
    statuses = plan.table[["size_bytes", "changed_ns"]][rows].itertuples(index=False)
    data = _load_shard(partial / shard.file)
    offset = num_valid = 0
    for entry, photograph, status in zip(
        entries, plan.photographs(rows), statuses, strict=False
    ):
        # Times are only compared for equality: clocks differ, and may be set back.
        is_untouched = (entry.size_bytes, entry.changed_ns) == status
        if not is_valid(entry, photograph, is_untouched=is_untouched, plan=plan):
            break
        if isinstance(entry.result, Written):
            location = entry.result.location
            frame = data[offset : offset + location.length + FRAME_BYTES]
            if (
                (entry.result.shard, location.offset) != (shard.number, offset)
                or find_frame_fault(frame, length=location.length)
                or read_footer(frame) != location.crc32c
            ):
                break
            offset += len(frame)
        num_valid += 1
    return num_valid


def _load_shard(path: Path) -> np.ndarray:
    """Load a shard's bytes, finished or not, as uint8 [n]; empty if it is missing."""
    path = path if path.exists() else partial_path(path)
    return np.fromfile(path, np.uint8) if path.exists() else np.empty(0, np.uint8)


def is_valid(
    entry: Entry, photograph: PhotographRef, *, is_untouched: bool, plan: BuildPlan
) -> bool:
    """Return whether converting a photograph again would give the result of its entry.

    Args:
        entry: The entry.
        photograph: The photograph.
        is_untouched: Whether its file has the size and the times of the one that the
            entry was made from.
        plan: The plan of the build.
    """
    if isinstance(entry.result, Written):
        return is_untouched or photograph.sha256() == entry.result.sha256
    may_differ = photograph.is_remote or entry.result.reason == "unsupported"
    return is_untouched and not (may_differ and _is_usable(photograph, plan))


def _is_usable(photograph: PhotographRef, plan: BuildPlan) -> bool:
    """Return whether a photograph that was rejected can be used now."""
    prepared = prepare_for_shard(photograph, images=plan.images, build=plan.build)
    return not isinstance(prepared, Rejected)

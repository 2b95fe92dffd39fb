"""Resuming a build: which entries of its journal still hold."""

from pathlib import Path

import numpy as np

from drtf.data.build_plan import BuildPlan
from drtf.data.journal import Journal, Written
from drtf.data.photographs import PhotographRef
from drtf.data.prepare import Rejected, prepare_for_shard
from drtf.files import partial_path
from drtf.records.framing import FRAME_BYTES, find_frame_fault


def count_valid_entries(partial: Path, plan: BuildPlan, journal: Journal) -> int:
    """Count the journal's entries up to the first that no longer holds.

    A written photograph's entry holds if its record is intact and its file is the same.
    A rejected photograph's entry holds if the file was not touched since; a remote file
    has no time of change, so it is tried again.

    Args:
        partial: Folder of the unfinished dataset.
        plan: The plan of the build.
        journal: The journal that an earlier build left.
    """
    entries = journal.entries
    photographs = plan.table["photograph"].tolist()
    sizes = plan.table["size_bytes"].tolist()
    for shard in plan.shard_ranges():
        data = _load_shard(partial / shard.file)
        for row in range(shard.start, min(shard.stop, len(entries))):
            entry, photograph = entries[row], photographs[row]
            was_touched = photograph.change_time() >= journal.last_written
            if isinstance(entry, Written):
                holds = (
                    entry.size_bytes == sizes[row]
                    and (not was_touched or photograph.sha256() == entry.sha256)
                    and _is_record_intact(data, entry)
                )
            else:
                holds = not was_touched and not _is_fixed(photograph, plan)
            if not holds:
                return row
        if shard.stop >= len(entries):
            break
    return len(entries)


def _load_shard(path: Path) -> np.ndarray:
    """Load a shard's bytes, finished or not, as uint8 [n]; empty if it is missing."""
    path = path if path.exists() else partial_path(path)
    return np.fromfile(path, np.uint8) if path.exists() else np.empty(0, np.uint8)


def _is_record_intact(data: np.ndarray, entry: Written) -> bool:
    offset, length = entry.location.offset, entry.location.length
    frame = data[offset : offset + length + FRAME_BYTES]
    return not find_frame_fault(frame, length=length)


def _is_fixed(photograph: PhotographRef, plan: BuildPlan) -> bool:
    """Return whether a remote photograph that was rejected can be used now."""
    if not photograph.is_remote:
        return False
    prepared = prepare_for_shard(photograph, images=plan.images, build=plan.build)
    return not isinstance(prepared, Rejected)

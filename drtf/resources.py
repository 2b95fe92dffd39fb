"""The kind of CPU, and the CPU cores and memory that this process may use.

A container or a batch system limits both with control groups:
https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MEMORY_INFO = Path("/proc/meminfo")
CPU_INFO = Path("/proc/cpuinfo")


def cpu_model() -> str:
    """Return the name of the kind of CPU, or its architecture if that is unknown."""
    for line in _read(CPU_INFO).splitlines():
        name, _, model = line.partition(":")
        if name.strip() == "model name":
            return model.strip()
    return platform.machine()


def count_cores() -> int:
    """Count the CPU cores that this process may use.

    A container's quota counts like its number of cores, rounded up.
    """
    cores = len(os.sched_getaffinity(0))
    return min(cores, max(1, math.ceil(min(_cpu_quotas(), default=cores))))


def available_memory_bytes() -> int | None:
    """Return how much memory new processes may take, or None if that is unknown."""
    return min(_free_memory(), default=None)


def _cpu_quotas() -> Iterator[float]:
    """Yield each quota that holds for this process, in cores."""
    for folder in _cgroup_folders("cpu"):
        # Version 2 has one file "QUOTA PERIOD", where "max" is no quota; version 1 has
        # two files, where -1 is none.
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _free_memory() -> Iterator[int]:
    """Yield how much each limit leaves of this process's memory, in bytes."""
    for line in _read(MEMORY_INFO).splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    for folder in _cgroup_folders("memory"):
        for limit_file, usage_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _read(folder / limit_file), _read(folder / usage_file)
            if limit.isdecimal() and usage.isdecimal():
                # Cached files count as used, although they make room when needed.
                pairs = map(str.split, _read(folder / "memory.stat").splitlines())
                statistics = {pair[0]: int(pair[1]) for pair in pairs}
                yield max(0, int(limit) - int(usage) + statistics.get(cache, 0))


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folder of this process's control group, and of each group around it.

    Inside a container, the group's path may be the one outside it; the container's own
    group is then the root, which is always yielded.
    """
    for line in _read(OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2, whose line names no controllers, has a single tree.
        for root in {
            CGROUPS / name for name in (controllers, controllers and controller)
        }:
            group = root / path.lstrip("/")
            yield from (x for x in (group, *group.parents) if x.is_relative_to(root))


def _read(path: Path) -> str:
    """Return a small file's text, or an empty one if it does not exist."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""

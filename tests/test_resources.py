import os

import pytest

from drtf import resources
from drtf.resources import available_memory_bytes, count_cores

GB = 1 << 30


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """A folder for the files of control groups, on a machine with 8 cores and 16 GB."""
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(resources, "MEMORY_INFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemAvailable:   {16 * GB // 1024} kB\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "num_cores"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),
        ("0::/job/step\n", {"job/cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
            8,
        ),
        (  # a container that sees its own group as the root
            "4:cpu,cpuacct:/docker/1\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "300000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            3,
        ),
    ],
)
def test_cores_are_those_of_the_quota(cgroups, own, files, num_cores):
    cgroups(own, files)
    assert count_cores() == num_cores


@pytest.mark.parametrize(
    ("own", "files", "size_bytes"),
    [
        ("", {}, 16 * GB),
        ("0::/\n", {"memory.max": "max", "memory.current": f"{GB}"}, 16 * GB),
        ("0::/a\n", {"a/memory.max": f"{4 * GB}", "a/memory.current": f"{GB}"}, 3 * GB),
        (
            "0::/\n",
            {
                "memory.max": f"{4 * GB}",
                "memory.current": f"{3 * GB}",
                "memory.stat": f"anon {GB}\ninactive_file {2 * GB}\n",
            },
            3 * GB,
        ),
        (
            "7:memory:/\n",
            {
                "memory/memory.limit_in_bytes": f"{2 * GB}",
                "memory/memory.usage_in_bytes": f"{3 * GB}",
            },
            0,
        ),
    ],
)
def test_memory_is_what_the_limit_leaves(cgroups, own, files, size_bytes):
    cgroups(own, files)
    assert available_memory_bytes() == size_bytes


def test_memory_is_unknown_without_its_files(cgroups, tmp_path):
    (tmp_path / "meminfo").unlink()
    assert available_memory_bytes() is None

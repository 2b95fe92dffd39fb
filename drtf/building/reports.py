"""The report of a shard that a task converted, with the host that did."""

import dataclasses
import gzip
import hashlib
import json
import socket
import zlib
from dataclasses import dataclass

import numpy as np

from drtf.building.journal import Entry, encode_entry, parse_entry
from drtf.building.plan import BuildPlan, current_versions
from drtf.building.plan_file import SavedPlan
from drtf.errors import DrtfError
from drtf.photographs.prepare import Rejected, prepare_for_shard
from drtf.photographs.references import PrefetchedPhotograph
from drtf.resources import cpu_model


@dataclass(frozen=True)
class Host:
    """The host and software that converted a shard.

    Attributes:
        name: The host's name.
        cpu: The kind of its CPU.
        versions: Versions of the software that determines a dataset.
        probe_sha256: Hash of what a dataset would store of the plan's probe.
    """

    name: str
    cpu: str
    versions: dict[str, str]
    probe_sha256: str

    def __str__(self) -> str:
        """Return the name, the versions and the CPU."""
        versions = ", ".join(f"{name} {x}" for name, x in self.versions.items())
        return f"{self.name} ({versions}, {self.cpu})"


@dataclass(frozen=True)
class ShardReport:
    """The report that a task publishes about a shard.

    Attributes:
        plan_sha256: Hash of the plan.
        task: The task's number, from 1, and the number of tasks.
        size_bytes: Size of the shard.
        sha256: Hash of the shard.
        host: What converted it.
        entries: One entry per photograph that the plan puts in it.
    """

    plan_sha256: str
    task: tuple[int, int]
    size_bytes: int
    sha256: str
    host: Host
    entries: list[Entry]


def encode_report(report: ShardReport) -> bytes:
    """Encode a report as compressed lines of JSON."""
    header = {
        "plan_sha256": report.plan_sha256,
        "task": report.task,
        "size_bytes": report.size_bytes,
        "sha256": report.sha256,
        "host": dataclasses.asdict(report.host),
    }
    lines = [json.dumps(header).encode(), *map(encode_entry, report.entries)]
    return gzip.compress(b"\n".join(lines), mtime=0)


def parse_report(data: bytes, *, path: str) -> ShardReport:
    """Parse a report; the inverse of `encode_report`.

    Args:
        data: The bytes.
        path: The report's path or location, for error messages.

    Raises:
        DrtfError: If it is damaged.
    """
    try:
        first, *lines = gzip.decompress(data).split(b"\n")
        header = json.loads(first)
        return ShardReport(
            plan_sha256=header["plan_sha256"],
            task=tuple(header["task"]),
            size_bytes=header["size_bytes"],
            sha256=header["sha256"],
            host=Host(**header["host"]),
            entries=[parse_entry(line) for line in lines],
        )
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DrtfError(
            f"{path} is damaged: {error}. Remove it and run its task again"
        ) from error


def describe_host(saved: SavedPlan) -> Host:
    """Describe this host, which includes converting the plan's probe."""
    return Host(
        name=socket.gethostname(),
        cpu=cpu_model(),
        versions=current_versions(),
        probe_sha256=_hash_converted(saved.plan, saved.probe),
    )


def check_alike(host: Host, other: Host) -> None:
    """Check that two hosts convert photographs to the same bytes.

    Raises:
        DrtfError: If they converted the plan's probe differently.
    """
    if host.probe_sha256 != other.probe_sha256:
        raise DrtfError(
            f"{host} and {other} convert the same photograph differently: run all "
            "tasks of a build on hosts of one kind, and start again with another --out"
        )


def _hash_converted(plan: BuildPlan, data: bytes) -> str:
    photograph = PrefetchedPhotograph("", "probe.jpeg", data, error=None)
    result = prepare_for_shard(photograph, images=plan.images, build=plan.build)
    if isinstance(result, Rejected):
        stored = str(result).encode()
    else:
        quality = np.array(result.quality, np.float32)
        stored = result.data + quality.tobytes()
    return hashlib.sha256(stored).hexdigest()

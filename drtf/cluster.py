"""Several hosts that train one model: TF_CONFIG, and waiting until all have started."""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from drtf.errors import ConfigError, DrtfError
from drtf.files import parse_json
from drtf.progress import announce

VARIABLE = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["HOST0:PORT", "HOST1:PORT"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
JOBS = ("chief", "worker")
MAX_PORT = 65535
# Schedulers start hosts minutes apart, and people type one command after the other.
START_SECONDS = 600.0
SECONDS_BETWEEN_TRIES = 0.5
# For a stranger that connects to the port and sends nothing.
SECONDS_TO_SEND = 5.0
MAX_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Cluster:
    """The hosts that train one model together.

    Attributes:
        addresses: `HOST:PORT` of each host.
        index: This host's place in `addresses`. Host 0 writes the run folder.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def num_hosts(self) -> int:
        """The number of hosts, at least 2."""
        return len(self.addresses)

    def name(self, index: int) -> str:
        """Return a host's number and address, for the user."""
        return f"host {index} ({self.addresses[index]})"


def load_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Read the cluster from the environment variable TF_CONFIG.

    Args:
        environment: Usually `os.environ`.

    Returns:
        None if TF_CONFIG is unset or has one host only.

    Raises:
        ConfigError: If TF_CONFIG does not describe a cluster of `chief` and `worker`.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        contents = parse_json(text)
    except ValueError as error:
        raise _config_error(f"it is not valid JSON: {error}") from error
    if contents == {}:
        return None
    if not isinstance(contents, dict) or not isinstance(contents.get("cluster"), dict):
        raise _config_error("it has no object 'cluster'")
    jobs = contents["cluster"]
    for job, addresses in jobs.items():
        if job not in JOBS:
            raise _config_error(
                f"cluster.{job} is not supported; drtf has only 'chief' and 'worker'"
            )
        if not isinstance(addresses, list):
            raise _config_error(f"cluster.{job} is not a list of addresses")
    addresses = [address for job in JOBS for address in jobs.get(job, [])]
    for address in addresses:
        _check_address(address, addresses)
    task = contents.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise _config_error("it has no object 'task' with 'type' and 'index'")
    job, index = task["type"], task["index"]
    tasks = [(job, str(n)) for job in JOBS for n in range(len(jobs.get(job, [])))]
    if (job, str(index)) not in tasks:
        raise _config_error(
            f"task.type={job!r}, task.index={index!r} is not in the cluster, which has "
            + ", ".join(f"{job} {number}" for job, number in tasks)
        )
    if len(addresses) == 1:
        return None
    return Cluster(tuple(addresses), tasks.index((job, str(index))))


def _check_address(address: Any, addresses: list[Any]) -> None:
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("",) * 3
    if not host or not port.isdecimal() or not 0 < int(port) <= MAX_PORT:
        raise _config_error(f"expected an address HOST:PORT, got {address!r}")
    if addresses.count(address) > 1:
        raise _config_error(f"the address {address} is in the cluster twice")


def _config_error(problem: str) -> ConfigError:
    return ConfigError(
        f"the environment variable {VARIABLE} cannot be used: {problem}. Unset it to "
        f"train on one host; for several hosts it looks like {EXAMPLE}"
    )


def wait_for_hosts(
    cluster: Cluster,
    facts: Mapping[str, Any],
    *,
    timeout_seconds: float = START_SECONDS,
) -> None:
    """Wait until all hosts have started with the same facts.

    Host 0 listens on its port, the others connect to it. The ports are free again
    afterwards, for TensorFlow.

    Args:
        cluster: The hosts.
        facts: JSON values by name, which must be equal on all hosts.
        timeout_seconds: How long to wait for the other hosts.

    Raises:
        DrtfError: If this host's port is in use, a host does not start in time, or
            facts differ.
    """
    deadline = time.monotonic() + timeout_seconds
    with _open_port(cluster) as port:
        if cluster.index == 0:
            problem = _meet_others(cluster, facts, port, deadline)
        else:
            problem = _meet_first(cluster, facts, deadline)
    if problem:
        raise DrtfError(problem)
    announce(f"This is host {cluster.index} of {cluster.num_hosts} (0 is the first)")


@contextmanager
def _open_port(cluster: Cluster) -> Iterator[socket.socket]:
    """Listen on this host's port."""
    address = cluster.addresses[cluster.index]
    try:
        listener = socket.create_server(("", int(address.rpartition(":")[2])))
    except OSError as error:
        raise DrtfError(
            f"cannot listen on the port of {cluster.name(cluster.index)}: "
            f"{error.strerror}. End the process that uses the port, or choose another "
            f"port in {VARIABLE} on all hosts"
        ) from error
    with listener:
        yield listener


def _meet_others(
    cluster: Cluster,
    facts: Mapping[str, Any],
    listener: socket.socket,
    deadline: float,
) -> str:
    """Wait for the other hosts and compare their facts with those of host 0.

    Returns:
        What is wrong, which the other hosts are told too; empty if nothing is.
    """
    missing = set(range(1, cluster.num_hosts))
    announce(f"Waiting for {_names(cluster, missing)}")
    connections: dict[int, socket.socket] = {}
    problem = ""
    with ExitStack() as stack:
        while missing and not problem:
            if time.monotonic() > deadline:
                problem = _absence(cluster, missing)
                break
            listener.settimeout(SECONDS_BETWEEN_TRIES)
            try:
                connection = stack.enter_context(closing(listener.accept()[0]))
            except TimeoutError:
                connection = None
            message = _receive(connection, SECONDS_TO_SEND) if connection else None
            if connection and message and message["host"] in range(cluster.num_hosts):
                index = message["host"]
                if index not in missing and _is_open(connections.get(index)):
                    text = f"two hosts were started as {cluster.name(index)}"
                    _send(connection, {"problem": text})
                    continue
                problem = problem or _difference(index, message.get("facts", {}), facts)
                connections[index] = connection
            missing = {
                index
                for index in range(1, cluster.num_hosts)
                if not _is_open(connections.get(index))
            }
        for connection in connections.values():
            _send(connection, {"problem": problem})
    return problem


def _meet_first(cluster: Cluster, facts: Mapping[str, Any], deadline: float) -> str:
    """Connect to host 0 and wait for its answer.

    Returns:
        What is wrong; empty if nothing is.
    """
    announce(f"Waiting for {cluster.name(0)}")
    host, _, port = cluster.addresses[0].rpartition(":")
    reason = ""
    while (seconds_left := deadline - time.monotonic()) > 0:
        try:
            address = (host.strip("[]"), int(port))
            with socket.create_connection(address, SECONDS_TO_SEND) as connection:
                _send(connection, {"host": cluster.index, "facts": dict(facts)})
                answer = _receive(connection, seconds_left)
        except OSError as error:
            reason = f" ({error.strerror or error})"
            answer = None
        if answer is not None:
            return str(answer.get("problem", ""))
        time.sleep(SECONDS_BETWEEN_TRIES)
    return _absence(cluster, {0}) + reason


def _difference(
    index: int, facts: Mapping[str, Any], expected: Mapping[str, Any]
) -> str:
    for name, value in json.loads(json.dumps(expected)).items():
        if facts.get(name) != value:
            return (
                f"host {index} has {name}={facts.get(name)!r}, but host 0 has "
                f"{value!r}: start all hosts with the same dataset and settings"
            )
    return ""


def _absence(cluster: Cluster, missing: set[int]) -> str:
    return (
        f"{_names(cluster, missing)} did not start in time: run drtf train on each "
        f"host with the same {VARIABLE} except for task.index, and check that the "
        f"other hosts can reach {cluster.name(0)}"
    )


def _names(cluster: Cluster, indices: set[int]) -> str:
    return ", ".join(map(cluster.name, sorted(indices)))


def _is_open(connection: socket.socket | None) -> bool:
    """Return whether the other end has not closed the connection."""
    if connection is None:
        return False
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message as one line; ignore that the other end has gone."""
    connection.settimeout(SECONDS_TO_SEND)
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Receive a message; None if the other end sends none."""
    connection.settimeout(seconds)
    try:
        with connection.makefile("rb") as stream:
            message = parse_json(stream.readline(MAX_MESSAGE_BYTES))
    except (OSError, ValueError):
        return None
    is_message = isinstance(message, dict) and message.keys() & {"host", "problem"}
    return message if is_message else None

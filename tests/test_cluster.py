"""TF_CONFIG, and hosts that wait for each other before a training."""

import json
import random
import socket
import threading
from contextlib import suppress

import pytest

from drtf.cluster import Cluster, load_cluster, wait_for_hosts
from drtf.errors import ConfigError, DrtfError
from naming import assert_names, raises_naming

WORKERS = ["a:1", "b:2", "c:3"]


def environment(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def worker(index):
    return {"type": "worker", "index": index}


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        ({"worker": WORKERS}, worker(2), Cluster(("a:1", "b:2", "c:3"), 2)),
        ({"worker": WORKERS}, worker("1"), Cluster(("a:1", "b:2", "c:3"), 1)),
        ({"worker": ["a:1"], "chief": ["b:2"]}, worker(0), Cluster(("b:2", "a:1"), 1)),
        ({"worker": ["[::1]:80", "b:2"]}, worker(0), Cluster(("[::1]:80", "b:2"), 0)),
        ({"chief": ["a:1"]}, {"type": "chief", "index": 0}, None),
    ],
)
def test_load_cluster_numbers_the_hosts(cluster, task, expected):
    assert load_cluster(environment(cluster, task)) == expected


@pytest.mark.parametrize("text", [None, "", " ", "{}"])
def test_there_is_no_cluster_without_tf_config(text):
    assert load_cluster({} if text is None else {"TF_CONFIG": text}) is None


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{'cluster': {}}", "JSON"),
        ("[1]", "cluster"),
        ('{"task": {"type": "worker", "index": 0}}', "cluster"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "task"),
    ],
)
def test_load_cluster_refuses_an_incomplete_tf_config(text, fact):
    with raises_naming(ConfigError, "TF_CONFIG", fact):
        load_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize(
    ("cluster", "task", "fact"),
    [
        ({"worker": WORKERS}, {"type": "worker"}, "task"),
        ({"worker": WORKERS}, worker(3), "index"),
        ({"worker": WORKERS}, worker(-1), "index"),
        ({"worker": WORKERS}, {"type": "chief", "index": 0}, "chief"),
        ({"worker": WORKERS, "ps": ["d:4"]}, worker(0), "cluster.ps"),
        ({"worker": "a:1"}, worker(0), "cluster.worker"),
        ({"worker": ["a:1", "a:1"]}, worker(0), "a:1"),
        ({"worker": ["a:1", "b"]}, worker(0), "b"),
        ({"worker": ["a:1", "b:0"]}, worker(0), "b:0"),
        ({"worker": ["a:1", "b:65536"]}, worker(0), "b:65536"),
        ({"worker": ["a:1", ":2"]}, worker(0), ":2"),
        ({"worker": ["a:1", 2]}, worker(0), 2),
    ],
)
def test_load_cluster_names_what_is_wrong(cluster, task, fact):
    with pytest.raises(ConfigError) as error:
        load_cluster(environment(cluster, task))
    assert_names(error.value, "TF_CONFIG")
    assert str(fact) in str(error.value)


# Below the ports that systems give to programs that ask for any port: none of those can
# take the port of a host that has not yet started.
PORTS = range(20_000, 32_000)


def free_addresses(num_hosts):
    addresses = []
    # Not the global random state, which may be equal in tests that run in parallel.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("localhost", port)):
            addresses.append(f"localhost:{port}")
        if len(addresses) == num_hosts:
            return tuple(addresses)
    raise OSError("no free ports")


class Host(threading.Thread):
    """A host that waits for the others; `error` is what ended its wait."""

    def __init__(self, addresses, index, facts, *, timeout_seconds=60.0):
        super().__init__(daemon=True)
        self.cluster = Cluster(addresses, index)
        self.facts = facts
        self.timeout_seconds = timeout_seconds
        self.error = None
        self.start()

    def run(self):
        try:
            wait_for_hosts(
                self.cluster, self.facts, timeout_seconds=self.timeout_seconds
            )
        except DrtfError as error:
            self.error = error


def test_hosts_start_together_in_any_order():
    addresses = free_addresses(3)
    facts = {"train.seed": 42, "sampling.weights": (1, 2)}
    others = [Host(addresses, index, facts) for index in (2, 1)]
    for host in (*others, Host(addresses, 0, facts)):
        host.join(60)
        assert not host.is_alive()
        assert host.error is None


def test_strangers_on_the_port_are_ignored():
    addresses = free_addresses(2)
    first = Host(addresses, 0, {})
    port = int(addresses[0].rpartition(":")[2])
    with socket.socket() as stranger:
        while stranger.connect_ex(("localhost", port)):
            pass
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        other = Host(addresses, 1, {})
        for host in (first, other):
            host.join(60)
            assert host.error is None


def test_all_hosts_are_told_which_setting_differs():
    addresses = free_addresses(2)
    hosts = [
        Host(addresses, index, {"train.seed": 42, "train.batch_size": 8 + index})
        for index in range(2)
    ]
    for host in hosts:
        host.join(60)
        assert_names(host.error, "host 1", "train.batch_size", 9, 8)


@pytest.mark.parametrize("index", [0, 1])
def test_a_host_that_never_comes_is_named(index):
    addresses = free_addresses(2)
    other = 1 - index
    with raises_naming(DrtfError, f"host {other}", addresses[other], "TF_CONFIG"):
        wait_for_hosts(Cluster(addresses, index), {}, timeout_seconds=0.1)


def test_two_hosts_with_one_index_are_refused():
    *addresses, other = free_addresses(4)
    first = Host(addresses, 0, {}, timeout_seconds=2.0)
    # The second one cannot open the same port on one machine, so it has another.
    twin = (addresses[0], other, addresses[2])
    hosts = [Host(addresses, 1, {}), Host(twin, 1, {})]
    for host in (first, *hosts):
        host.join(60)
    assert_names(first.error, "host 2")
    errors = sorted(str(host.error) for host in hosts)
    assert_names(errors[0], "host 2")
    assert_names(errors[1], "host 1")


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_in_use_is_named(index):
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        addresses = ["a:1", "b:2"]
        addresses[index] = address
        with raises_naming(DrtfError, f"host {index}", address, "TF_CONFIG"):
            wait_for_hosts(Cluster(tuple(addresses), index), {})

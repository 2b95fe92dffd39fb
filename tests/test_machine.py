import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import tensorflow as tf

from drtf.models import device, machine
from naming import assert_names


def facts():
    return {fact.name: fact for fact in machine.machine_facts()}


def test_versions_precision_disk_and_memory_are_told():
    found = facts()
    assert found["tensorflow"].found == tf.__version__
    assert found["precision auto"].found.endswith(("32", "16"))
    for name in ("memory", "disk here"):
        free, total = (
            float(word) for word in found[name].found.split() if word[0].isdigit()
        )
        assert 0 < free <= total


def test_without_a_gpu_there_is_advice(monkeypatch):
    monkeypatch.setattr(machine, "list_gpus", list)
    assert "nvidia-smi" in facts()["GPU"].advice


def test_a_device_that_xla_cannot_compile_for_is_told(monkeypatch):
    works = facts()["XLA"]
    assert not works.advice

    def refuse(*args, **kwargs):
        raise tf.errors.InternalError(None, None, "libdevice not found")

    monkeypatch.setattr(tf, "function", lambda *args, **kwargs: refuse)
    assert not device.can_compile()
    fact = facts()["XLA"]
    assert fact.found != works.found
    assert "tensorflow[and-cuda]" in fact.advice


def test_xla_is_tried_without_a_word_on_stderr():
    code = "from drtf.models.device import can_compile; print(can_compile())"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "True\n"
    assert "XLA" not in done.stderr


def test_a_gpu_is_told_with_its_capability(monkeypatch):
    monkeypatch.setattr(machine, "list_gpus", lambda: [("Tesla T4", (7, 5))])
    assert_names(facts()["GPU"].found, "Tesla T4", "7.5")
    assert not facts()["GPU"].advice


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", (("no-such-package", "that-one"),))
    fact = facts()["no-such-package"]
    assert fact.found
    assert_names(fact.advice, "pip install that-one")


def test_little_disk_and_memory_are_advised_upon(monkeypatch):
    monkeypatch.setattr(machine, "LOW_DISK_GB", 10**9)
    monkeypatch.setattr(machine, "LOW_MEMORY_GB", 10**9)
    found = facts()
    assert found["disk here"].advice
    assert "num_workers" in found["memory"].advice


def test_tensorflow_io_is_judged_by_an_op_and_not_by_its_import():
    pytest.importorskip("tensorflow_io", exc_type=ImportError)
    fact = facts()["tensorflow-io"]
    works = tuple(map(int, tf.__version__.split(".")[:2])) < (2, 18)
    assert_names(fact.found, version("tensorflow-io"))
    assert (tf.__version__ in fact.found) != works
    assert bool(fact.advice) != works

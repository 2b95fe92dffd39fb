import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import tensorflow as tf

from drtf.errors import DrtfError
from drtf.models import device, machine
from drtf.models.device_checks import check_device
from naming import assert_names, raises_naming


def facts():
    return {fact.name: fact for fact in machine.machine_facts()}


def test_facts_have_versions_precision_disk_and_memory():
    by_name = facts()
    assert by_name["tensorflow"].value == tf.__version__
    assert by_name["precision auto"].value.endswith(("32", "16"))
    for name in ("memory", "disk here"):
        free, total = (
            float(word) for word in by_name[name].value.split() if word[0].isdigit()
        )
        assert 0 < free <= total


def test_a_missing_gpu_comes_with_advice(monkeypatch):
    monkeypatch.setattr(machine, "list_gpus", list)
    assert "nvidia-smi" in facts()["GPU"].advice


def test_xla_comes_with_advice_when_it_fails(monkeypatch):
    works = facts()["XLA"]
    assert not works.advice

    def refuse(*args, **kwargs):
        raise tf.errors.InternalError(None, None, "libdevice not found")

    monkeypatch.setattr(tf, "function", lambda *args, **kwargs: refuse)
    assert not device.can_compile()
    fact = facts()["XLA"]
    assert fact.value != works.value
    assert "tensorflow[and-cuda]" in fact.advice


def test_xla_is_tried_without_output_on_stderr():
    code = "from drtf.models.device import can_compile; print(can_compile())"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "True\n"
    assert "XLA" not in done.stderr


def test_a_gpu_is_listed_with_what_works_on_it(monkeypatch):
    monkeypatch.setattr(machine, "list_gpus", lambda: [("Tesla T4", (7, 5))])
    monkeypatch.setattr(machine, "memory_bytes", lambda name: 16 * 10**9)
    errors = {"convolution in float32": "", "convolution in float16": "no kernel"}
    monkeypatch.setattr(machine, "check_device", lambda name: errors | {"XLA": ""})
    by_name = facts()
    assert_names(by_name["GPU"].value, "Tesla T4", "7.5")
    assert not by_name["GPU"].advice
    assert_names(by_name["it computes"].value, "convolution in float32", "XLA")
    failed = by_name["it fails at convolution in float16"]
    assert failed.value == "no kernel"
    assert_names(failed.advice, "train.precision")
    small, large = map(
        int,
        re.findall(
            r"(\d+) images", by_name["its largest batch"].value.replace(",", "")
        ),
    )
    assert 10 < large < small


def test_every_computation_works_on_this_device():
    errors = check_device("CPU:0")
    assert {"XLA", "depthwise convolution in bfloat16"} < errors.keys()
    assert not any(errors.values())


def test_a_computation_that_fails_is_reported_in_one_line(monkeypatch):
    def refuse(images, *args, **kwargs):
        if images.dtype == tf.float16:
            raise tf.errors.UnimplementedError(None, None, "no kernel\nmore")
        return depthwise(images, *args, **kwargs)

    depthwise = tf.nn.depthwise_conv2d
    monkeypatch.setattr(tf.nn, "depthwise_conv2d", refuse)
    errors = check_device("CPU:0")
    failed = {name: error for name, error in errors.items() if error}
    assert failed == {"depthwise convolution in float16": "no kernel"}


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        tf.errors.NotFoundError(None, None, "No algorithm worked!"),
    ],
)
def test_too_little_memory_is_reported_with_a_smaller_batch(error):
    with (
        raises_naming(DrtfError, "train.batch_size=256", "train.batch_size=128"),
        device.translate_exhaustion("train.batch_size", 256),
    ):
        raise error


def test_other_errors_of_a_device_are_not_changed():
    error = tf.errors.InternalError(None, None, "illegal address")
    with (
        pytest.raises(tf.errors.InternalError),
        device.translate_exhaustion("train.batch_size", 256),
    ):
        raise error


def test_a_missing_package_comes_with_advice(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", (("no-such-package", "that-one"),))
    fact = facts()["no-such-package"]
    assert fact.value
    assert_names(fact.advice, "pip install that-one")


def test_low_disk_and_memory_come_with_advice(monkeypatch):
    monkeypatch.setattr(machine, "LOW_DISK_GB", 10**9)
    monkeypatch.setattr(machine, "LOW_MEMORY_GB", 10**9)
    by_name = facts()
    assert by_name["disk here"].advice
    assert "num_workers" in by_name["memory"].advice


def test_tensorflow_io_is_tested_by_running_an_op():
    pytest.importorskip("tensorflow_io", exc_type=ImportError)
    fact = facts()["tensorflow-io"]
    works = tuple(map(int, tf.__version__.split(".")[:2])) < (2, 18)
    assert_names(fact.value, version("tensorflow-io"))
    assert (tf.__version__ in fact.value) != works
    assert bool(fact.advice) != works


def test_the_reader_and_pydicom_come_with_advice_when_missing(monkeypatch):
    def fail(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(machine, "read_frames", machine.read_frames_in_python)
    monkeypatch.setattr(machine, "version", fail)
    found = facts()
    assert_names(found["compiled reader"].advice, "gcc")
    assert_names(found["pydicom"].advice, "pip install 'drtf[dicom]'")
    assert_names(found["tensorflow-io"].advice, "pip install tensorflow-io==0.37.1")


def test_the_verdict_names_only_what_drtf_cannot_work_without():
    fine = machine.Fact("GPU", "none", "install one")
    assert machine.verdict([fine]) == machine.verdict([])
    missing = machine.Fact("keras", "not installed", "", is_problem=True)
    assert_names(machine.verdict([fine, missing]), "keras")

import io
import subprocess
import sys
import urllib.error
import urllib.request

import h5py
import pytest

from drtf.config import ModelConfig, load_config
from drtf.models import machine
from drtf.models.backbones import BACKBONES
from drtf.models.weights import imagenet_problem, keras_cache
from naming import assert_names

CONFIG = ModelConfig(name="mobilenetv2", alpha=0.35)
FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    keras_cache().mkdir()


def test_the_problem_names_the_file_when_weights_can_not_be_downloaded():
    problem = imagenet_problem(CONFIG, image_size=96)
    assert_names(problem, keras_cache() / FILE, "no route", "model.weights")


def test_there_is_no_problem_when_weights_are_cached():
    h5py.File(keras_cache() / FILE, "w").close()
    assert imagenet_problem(CONFIG, image_size=96) == ""
    assert imagenet_problem(CONFIG, image_size=100)  # those for 224 px


def test_doctor_names_the_weights_of_the_recommended_preset():
    config = load_config("mobilenetv2-96")
    problem = imagenet_problem(config.model, image_size=config.images.size)
    fact = machine._weights_fact()
    assert fact.advice == problem
    assert_names(machine.verdict([fact]), fact.excluded)
    assert "_1.0_224_no_top.h5" in problem


def test_the_problem_names_a_damaged_file_in_the_cache():
    (keras_cache() / FILE).write_bytes(b"half")
    assert_names(imagenet_problem(CONFIG, image_size=96), keras_cache() / FILE)


def test_there_is_no_problem_when_weights_can_be_downloaded(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: io.BytesIO())
    assert imagenet_problem(CONFIG, image_size=96) == ""


@pytest.mark.parametrize(
    "changes", [{"weights": "none"}, {"weights": "a.h5"}, {"name": "eyenet"}]
)
def test_there_is_no_problem_when_no_imagenet_weights_are_wanted(changes):
    config = CONFIG.model_copy(update=changes)
    assert imagenet_problem(config, image_size=96) == ""


@pytest.mark.parametrize("name", [x for x in BACKBONES if x != "eyenet"])
def test_keras_has_a_file_for_each_backbone(name):
    assert BACKBONES[name].imagenet_path(ModelConfig(name=name), image_size=96)


def test_the_check_does_not_load_tensorflow():
    code = "import sys, drtf.models.weights; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"

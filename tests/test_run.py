import hashlib
import json
import shutil

import pytest

from drtf.errors import RunError
from drtf.models.run import (
    INFO_FILE,
    MODEL_FILE,
    THRESHOLD_FILE,
    Threshold,
    load_run,
    save_threshold,
)


@pytest.fixture
def copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def test_a_run_moved_elsewhere_loads(copy, run_folder):
    assert load_run(copy).info == load_run(run_folder).info


def test_a_threshold_is_kept_and_read_again(copy):
    threshold = Threshold(
        value=0.25, rule="youden", split="val", tta="flips5", num_photographs=6
    )
    save_threshold(copy, threshold)
    assert load_run(copy).threshold == threshold


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (INFO_FILE, r"not a finished run: it has no run\.json"),
        (MODEL_FILE, r"has no model\.keras"),
        ("config.toml", r"not a whole run: can't read the config file"),
    ],
)
def test_a_missing_part_is_named(copy, name, message):
    (copy / name).unlink()
    with pytest.raises(RunError, match=message):
        load_run(copy)


def test_no_folder_at_all_is_named(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_changed_model_is_refused(copy, share):
    data = bytearray((copy / MODEL_FILE).read_bytes())
    data[int(share * len(data))] ^= 1
    (copy / MODEL_FILE).write_bytes(data)
    with pytest.raises(RunError, match=r"is not the model that run\.json names"):
        load_run(copy)


def test_a_file_that_is_no_model_is_refused_in_one_line(copy):
    (copy / MODEL_FILE).write_bytes(b"not a model")
    info = json.loads((copy / INFO_FILE).read_text())
    info["model_sha256"] = hashlib.sha256(b"not a model").hexdigest()
    (copy / INFO_FILE).write_text(json.dumps(info))
    with pytest.raises(RunError, match=r"can't load .*model\.keras") as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [INFO_FILE, THRESHOLD_FILE])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"value": "high"}'])
def test_a_damaged_part_is_named(copy, name, text):
    (copy / name).write_text(text)
    with pytest.raises(RunError, match=name.replace(".", r"\.")) as caught:
        load_run(copy)
    assert "\n" not in str(caught.value)


def test_a_newer_run_is_refused_by_its_version(copy):
    info = json.loads((copy / INFO_FILE).read_text()) | {"format_version": 9}
    (copy / INFO_FILE).write_text(json.dumps(info))
    with pytest.raises(RunError, match="run format version 9, this drtf reads 1"):
        load_run(copy)

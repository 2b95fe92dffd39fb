"""Run folders in a store: trained, resumed, evaluated and used there."""

import json
import shutil
from pathlib import Path

import pytest

from drtf import load_run
from drtf.errors import DrtfError, RunError, StorageError
from drtf.models import stored_run
from drtf.models.history import load_history
from drtf.models.run_files import (
    DECISION_RULE_FILE,
    IDENTITY_FILE,
    INFO_FILE,
    MODEL_FILE,
)
from drtf.models.stored_run import (
    fetch_run,
    local_run,
    location_of,
    upload_changes,
    writable_run,
)
from drtf.storage import delete_object, list_objects, read_object, write_object
from drtf.training import loop
from naming import assert_names, raises_naming

pytestmark = pytest.mark.usefixtures("no_tensorboard_images")

TINY = ("--set", "model.weights=none", "--set", "train.epochs=2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRTF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def location(request):
    name = request.node.name.translate(str.maketrans("[]", "--"))
    return f"memory://runs/{name}/clinic/first"


@pytest.fixture
def uploads(monkeypatch):
    """The locations that were written to."""
    places = []

    def write_and_note(place, data):
        places.append(place)
        write_object(place, data)

    monkeypatch.setattr(stored_run, "write_object", write_and_note)
    return places


def files_of(location):
    return {
        item.name: read_object(f"{location}/{item.name}")
        for item in list_objects(location)
    }


def local_files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def store(folder, location):
    for name, data in local_files(folder).items():
        write_object(f"{location}/{name}", data)


def stored(location, **files):
    """Write a small folder to the store that passes for a run; return its files."""
    contents = {INFO_FILE: b"{}", IDENTITY_FILE: b"{}"} | {
        name.replace("__", "."): data for name, data in files.items()
    }
    for name, data in contents.items():
        write_object(f"{location}/{name}", data)
    return contents


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_local_folder_is_used_as_it_is(tmp_path):
    with writable_run(tmp_path / "run") as folder:
        assert folder == tmp_path / "run"
        upload_changes(folder)
    assert local_run(str(folder)) == folder
    assert location_of(folder) == str(folder)


def test_a_run_is_fetched_without_what_only_training_needs(location):
    expected = stored(location, model__keras=b"model")
    for name in ("checkpoints/step-1.checkpoint", "logs/train/events"):
        write_object(f"{location}/{name}", b"large")
    folder = fetch_run(f"{location}/")
    assert local_files(folder) == expected
    assert folder.parts[-2:] == ("clinic", "first")
    assert location_of(folder) == location


def test_only_the_folder_of_a_run_is_fetched(location):
    write_object(f"{location}/1.png", b"a photograph")
    with raises_naming(RunError, location, INFO_FILE):
        fetch_run(location)
    with raises_naming(RunError, f"{location}/1.png", "--out"), writable_run(location):
        pass


def test_changes_are_uploaded_and_nothing_else(location, uploads):
    stored(location, old=b"old", kept=b"kept")
    folder = fetch_run(location)
    write(folder / "evaluation-test" / "roc.png", "figure")
    write(folder / ".run.json.partial", "half")
    (folder / "old").unlink()
    upload_changes(folder)
    assert uploads == [f"{location}/evaluation-test/roc.png"]
    expected = local_files(folder)
    del expected[".run.json.partial"]
    assert files_of(location) == expected
    upload_changes(folder)
    assert len(uploads) == 1


def test_the_file_that_completes_a_run_is_uploaded_last(location, uploads):
    with writable_run(location) as folder:
        for name in ("z", INFO_FILE, "a", IDENTITY_FILE):
            write(folder / name, name)
    names = [Path(place).name for place in uploads]
    assert names == [IDENTITY_FILE, "a", "z", INFO_FILE]


def test_a_run_that_something_else_changed_is_left_alone(location):
    stored(location)
    folder = fetch_run(location)
    write_object(f"{location}/{INFO_FILE}", b"another")
    write(folder / DECISION_RULE_FILE, "rule")
    with raises_naming(RunError, f"{location}/{INFO_FILE}"):
        upload_changes(folder)
    assert files_of(location)[INFO_FILE] == b"another"
    assert DECISION_RULE_FILE not in files_of(location)


def test_a_copy_stays_current_from_call_to_call(location, monkeypatch):
    with writable_run(location) as folder:
        write(folder / IDENTITY_FILE, "{}")
        write(folder / "checkpoints" / "step-1", "state")
    monkeypatch.setattr(stored_run, "download_object", None)  # nothing is downloaded
    with writable_run(location) as again:
        assert again == folder


@pytest.mark.parametrize("num_uploaded", [0, 1, 2])
def test_a_killed_upload_is_completed_by_the_next_call(
    location, monkeypatch, num_uploaded
):
    contents = {IDENTITY_FILE: "{}", "config.toml": "a", "checkpoints/step-1": "b"}
    done = []

    def write_some(place, data):
        if len(done) == num_uploaded:
            raise SystemExit  # as if it were killed
        done.append(place)
        write_object(place, data)

    with monkeypatch.context() as patch:
        patch.setattr(stored_run, "write_object", write_some)
        with pytest.raises(SystemExit), writable_run(location) as folder:
            for name, text in contents.items():
                write(folder / name, text)
    assert len(files_of(location)) == num_uploaded
    with writable_run(location):
        pass
    assert files_of(location) == {k: x.encode() for k, x in contents.items()}


def test_a_copy_is_replaced_when_another_machine_went_further(location, cache):
    with writable_run(location) as folder:
        write(folder / IDENTITY_FILE, "{}")
        write(folder / "checkpoints" / "step-1", "state")
    delete_object(f"{location}/checkpoints/step-1")
    write_object(f"{location}/checkpoints/step-2", b"further")
    with writable_run(location) as folder:
        files = {IDENTITY_FILE: b"{}", "checkpoints/step-2": b"further"}
        assert local_files(folder) == files
    assert files_of(location) == files


def test_files_that_are_missing_in_the_cache_are_not_deleted_in_the_store(
    location, cache
):
    with writable_run(location) as folder:
        write(folder / IDENTITY_FILE, "{}")
        write(folder / MODEL_FILE, "model")
    shutil.rmtree(folder)
    with writable_run(location):
        pass
    assert files_of(location) == {IDENTITY_FILE: b"{}", MODEL_FILE: b"model"}


def test_what_a_killed_first_upload_left_elsewhere_is_replaced(location):
    write_object(f"{location}/config.toml", b"half of a run")
    with writable_run(location) as folder:
        assert not folder.exists()
        write(folder / INFO_FILE, "{}")
        write(folder / "config.toml", "whole")
    assert files_of(location) == {INFO_FILE: b"{}", "config.toml": b"whole"}


def test_two_processes_do_not_write_to_the_same_run(location):
    with writable_run(location), pytest.raises(DrtfError), writable_run(location):
        pass


def test_a_store_that_fails_at_the_end_loses_nothing(location, monkeypatch):
    def fail(place, data):
        raise StorageError("cannot reach the store")

    with monkeypatch.context() as patch:
        patch.setattr(stored_run, "write_object", fail)
        with (
            raises_naming(StorageError, "cannot reach the store", "--resume"),
            writable_run(location) as folder,
        ):
            write(folder / INFO_FILE, "{}")
    with writable_run(location):
        pass
    assert files_of(location) == {INFO_FILE: b"{}"}


def test_a_training_in_a_store_resumes_on_another_machine(
    location, shards, config, run, cache, monkeypatch
):
    """The first machine is lost after a checkpoint; the other has an empty cache."""
    words = ("train", "--shards", shards, *TINY)
    words += ("--set", "model.name=eyenet", "--set", "train.batch_size=6")
    local = cache.parent / "whole"
    code, _, err = run(*words, "--out", local)
    assert code == 0, err
    upload, num_uploads = loop.try_to_upload, []

    def upload_once(folder):
        upload(folder)
        num_uploads.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "try_to_upload", upload_once)
    code, _, err = run(*words, "--out", location)
    assert (code, len(num_uploads)) == (130, 1)
    monkeypatch.setattr(loop, "try_to_upload", upload)
    monkeypatch.setenv("DRTF_CACHE", str(cache.parent / "another"))
    code, _, err = run(*words, "--out", location)
    assert code == 1
    assert_names(err, location, "--resume")
    code, out, err = run(*words, "--out", location, "--resume")
    assert code == 0, err
    assert location in out and str(cache.parent) not in out + err
    resumed, whole = load_run(location), load_run(local)
    for mine, other in zip(
        resumed.network.get_weights(), whole.network.get_weights(), strict=True
    ):
        assert (mine == other).all()
    rates = [
        [row["val_roc_auc"] for row in load_history(loaded.folder)]
        for loaded in (resumed, whole)
    ]
    assert rates[0] == rates[1]
    assert location in repr(resumed)


def test_a_run_in_a_store_is_used_like_a_local_one(
    location, run_folder, shards, photographs, run, tmp_path
):
    store(run_folder, location)
    code, out, err = run("evaluate", location, "--shards", shards, "--by", "eye")
    assert code == 0, err
    assert "Brier" not in out  # it is in the report
    titles = ("ROC AUC", "Sensitivity", "Specificity", "Threshold:", "Report", "By eye")
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    assert f"{location}/evaluation-test/report.html" in out
    names = files_of(location).keys()
    written = {f"evaluation-test/{x}" for x in ("metrics.json", "groups.csv")}
    assert {DECISION_RULE_FILE, *written} <= names
    code, out, _ = run("evaluate", location, "--shards", shards, "--by", "eye")
    assert (code, f"{location}/evaluation-test" in out) == (0, True)

    local = shutil.copytree(run_folder, tmp_path / "run")
    assert run("evaluate", local, "--shards", shards)[0] == 0
    tables = {}
    for place in (location, local):
        out = tmp_path / "scores.csv"
        words = ("--images", photographs / "images", "--out", out, "--overwrite")
        code, _, err = run("score", place, *words)
        assert code == 0, err
        tables[place] = out.read_bytes()
    assert tables[location] == tables[local]

    code, out, err = run("compare", location, f"{location}/evaluation-test")
    assert code == 0, err
    rule = json.loads(read_object(f"{location}/{DECISION_RULE_FILE}"))
    assert load_run(location).threshold.value == rule["threshold"]["value"]


def test_an_ensemble_is_written_to_a_store(location, run_folder, run, tmp_path):
    other = shutil.copytree(run_folder, tmp_path / "other")
    store(run_folder, location)
    words = ("ensemble", location, other)
    code, _, err = run(*words, "--out", f"{location}-mean")
    assert code == 1  # the same model twice: nothing is written
    assert_names(err, location, str(other))
    assert files_of(f"{location}-mean") == {}

"""Builds and scorings as Beam pipelines, on two worker processes."""

import importlib.util
import shutil

import pytest
from click.testing import CliRunner

from drtf import beam, stores
from drtf.beam import build_with_beam, run_tasks, score_with_beam
from drtf.building.build import build_shards
from drtf.config import load_config
from drtf.errors import DrtfError
from drtf.labels.sources import Source
from drtf.scoring.scoring import score
from drtf.storage import list_objects, read_object, write_object
from drtf.tools.main import drtf
from naming import assert_names, raises_naming
from stores_servers import connect, running_s3

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="Apache Beam is not installed; make test-beam installs it",
)
TWO_WORKERS = {
    "runner": "FnApiRunner",
    "options": ("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
}
SCORE = ("score", "RUN", "--images", "x", "--out", "x.csv")
# Importable by Beam's workers.
TASKS = """
import os, signal

def die(task):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def images(photographs, tmp_path):
    """A folder of eight photographs and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((photographs / "images").iterdir())[:8]:
        shutil.copy(path, folder)
    (folder / "report.png").write_bytes(b"no image")
    return folder


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@needs_beam
def test_beam_builds_the_dataset_of_one_machine(photographs, tmp_path):
    images = shutil.copytree(photographs / "images", tmp_path / "images")
    min(images.glob("*.png")).write_bytes(b"no image")
    settings = ("images.size=32", "build.shard_size_mb=0.04", "build.num_workers=1")
    config = load_config("", settings)
    sources = [Source(images, photographs / "labels.csv")]
    whole = build_shards(sources, tmp_path / "one" / "eyes", config=config)
    assert len(whole.manifest.shards) > 3
    call = {"config": config, "max_rejected": 1.0, **TWO_WORKERS}
    out = tmp_path / "beam" / "eyes"
    report = build_with_beam(sources, out, **call)
    assert report.manifest.rejected == whole.manifest.rejected
    assert read_files(out) == read_files(tmp_path / "one" / "eyes")
    assert build_with_beam(sources, out, **call).is_reused


@needs_beam
@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
def test_beam_builds_from_a_store_to_a_store(photographs, tmp_path, monkeypatch):
    config = load_config("", ("images.size=32", "build.num_workers=1"))
    labels = photographs / "labels.csv"
    built = tmp_path / "eyes"
    build_shards([Source(photographs / "images", labels)], built, config=config)
    with running_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        stores._open_store.cache_clear()
        connect(environment).create_bucket(Bucket="eyes")
        for path in (photographs / "images").iterdir():
            write_object(f"s3://eyes/photographs/{path.name}", path)
        out = "s3://eyes/eyes"
        call = {"config": config, "max_rejected": 1.0, **TWO_WORKERS}
        build_with_beam([Source("s3://eyes/photographs", labels)], out, **call)
        names = [item.name for item in list_objects(out)]
        assert {name: read_object(f"{out}/{name}") for name in names} == {
            path.relative_to(built).as_posix(): path.read_bytes()
            for path in built.rglob("*")
            if path.is_file()
        }
    stores._open_store.cache_clear()


@needs_beam
def test_beam_scores_the_table_of_one_process(run_folder, images, config, tmp_path):
    score(run_folder, images, out=tmp_path / "one.csv", config=config.score)
    out = tmp_path / "scores.csv"
    call = {"out": out, "config": config.score, "photographs_per_part": 3}
    foreign = tmp_path / "scores-00002-of-00003.csv"
    foreign.write_text("of another program\n")
    with raises_naming(DrtfError, foreign, "--overwrite") as failed:
        score_with_beam(run_folder, images, **call, **TWO_WORKERS)
    assert len(str(failed.value).splitlines()) == 1
    foreign.unlink()
    report = score_with_beam(run_folder, images, **call, **TWO_WORKERS)
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert report.summary.num_failed == 1
    assert score_with_beam(run_folder, images, **call, **TWO_WORKERS).is_reused
    assert {path.name for path in tmp_path.glob("*.csv")} == {"one.csv", "scores.csv"}


@needs_beam
def test_a_worker_that_dies_ends_the_pipeline(tmp_path, monkeypatch, capfd):
    (tmp_path / "deadly.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    import deadly

    with pytest.raises(DrtfError):
        run_tasks(deadly.die, 4, **TWO_WORKERS)
    assert_names(capfd.readouterr().err, 137)


@needs_beam
@pytest.mark.parametrize(
    ("runner", "option"),
    [("NoRunner", "--x=1"), ("FnApiRunner", "--direct_num_workers=two")],
)
def test_wrong_words_for_beam_are_one_line(runner, option):
    wrong = runner if runner == "NoRunner" else option
    with raises_naming(DrtfError, wrong) as failed:
        run_tasks(print, 2, runner=runner, options=[option])
    assert len(str(failed.value).splitlines()) == 1


def test_beam_must_be_installed_and_its_runner_named(
    run_folder, images, config, tmp_path, monkeypatch
):
    call = {"out": tmp_path / "scores.csv", "config": config.score, "options": ()}
    monkeypatch.setattr(beam, "find_spec", lambda name: None)
    with raises_naming(DrtfError, "--beam-runner", "drtf[beam]"):
        score_with_beam(run_folder, images, runner="FnApiRunner", **call)
    monkeypatch.setattr(beam, "find_spec", lambda name: object())
    with raises_naming(DrtfError, "--beam-runner"):
        score_with_beam(run_folder, images, runner=" ", **call)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (SCORE, ["--", "--beam-runner"]),
        (
            (*SCORE, "--part", "1/2", "--beam-runner", "FnApiRunner"),
            ["--beam-runner", "--part"],
        ),
        (
            ("build-shards", "--out", "x", "--merge", "--beam-runner", "FnApiRunner"),
            ["--beam-runner", "--merge"],
        ),
    ],
)
def test_options_that_do_not_fit_beam_are_wrong_usage(words, facts):
    result = CliRunner().invoke(drtf, [*words, "--", "--direct_num_workers=2"])
    assert result.exit_code == 2
    assert_names(result.output, *facts)

"""The commands on the page about several hosts, and their usage errors."""

import functools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from drawing import write_photographs
from drtf.building.build import build_shards
from drtf.config import load_config
from drtf.labels.sources import Source
from naming import assert_names

PAGE = (Path(__file__).parents[1] / "docs" / "several_hosts.md").read_text()
SMALL = ("images.size=32", "build.shard_size_mb=0.01")


@pytest.fixture
def run(run, monkeypatch):
    """Run build-shards in this process; return exit code, stdout and stderr."""
    monkeypatch.setattr("drtf.models.weights.imagenet_problem", lambda *a, **k: "")
    return functools.partial(run, "build-shards")


@pytest.fixture
def shell(tmp_path):
    """Run a script in which `drtf` only records its words; return the words."""
    record = tmp_path / "bin" / "drtf"
    record.parent.mkdir()
    log = tmp_path / "log"
    record.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    record.chmod(0o755)

    def shell(script: str, **variables: object) -> list[list[str]]:
        log.write_text("")
        values = {name: str(value) for name, value in variables.items()}
        path = f"{record.parent}:{os.environ['PATH']}"
        subprocess.run(
            ["sh", "-euc", script], env=os.environ | values | {"PATH": path}, check=True
        )
        return [shlex.split(line)[1:] for line in log.read_text().splitlines()]

    return shell


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def files_of(out):
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_the_loop_on_the_page_builds_the_dataset_of_one_machine(
    run, shell, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    labels = write_photographs(tmp_path / "written", num_patients=12)
    labels.rename("labels.csv")
    (tmp_path / "written" / "images").rename("photographs")
    Path("photographs/3_left.png").write_bytes(b"")
    plan, *tasks, merge = shell(block("bash"))
    code, out, err = run(*plan, *sets(*SMALL))
    assert code == 0
    assert_names(out, 24, "image", "level")
    assert_names(err, "--task", "--merge", "tfrecords/mine")
    for words in tasks:
        code, out, _ = run(*words, *sets("build.num_workers=1"))
        assert code == 0  # also with a rejected photograph
        assert_names(out, words[1])
    code, out, _ = run(*merge)
    assert code == 3
    assert_names(out, 13, 1, "empty", "tfrecords/mine/rejected.csv")
    shutil.move("tfrecords/mine", "mine")
    config = load_config("", (*SMALL, "build.num_workers=1"))
    source = Source(Path("photographs"), Path("labels.csv"))
    build_shards([source], Path("tfrecords/mine"), config=config)
    assert files_of(Path("mine")) == files_of(Path("tfrecords/mine"))
    assert run(*merge)[0] == 3
    assert run(*tasks[0])[0] == 0


def test_the_slurm_script_and_the_kubernetes_job_run_each_task_once(shell):
    slurm = [
        shell(block("slurm"), SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT=8)
        for number in range(1, 9)
    ]
    (command,) = re.findall(r'args: \["(.*)"\]', block("yaml"))
    job = [shell(command, JOB_COMPLETION_INDEX=number) for number in range(8)]
    for calls, out in ((slurm, "tfrecords/mine"), (job, "s3://bucket/mine")):
        assert calls == [
            [["--task", f"{number}/8", "--out", out]] for number in range(1, 9)
        ]


@pytest.mark.parametrize("task", ["0/2", "3/2", "-1/2", "1/0", "2", "a/b", "1/2/3", ""])
def test_wrong_task_is_a_usage_error(run, tmp_path, task):
    code, _, err = run(f"--task={task}", "--out", tmp_path / "set")
    assert code == 2
    assert_names(err, "--task", repr(task), "I/N")


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (("--plan", "--merge"), ("--plan", "--task", "--merge")),
        (("--task", "1/2", "--merge"), ("--plan", "--task", "--merge")),
        (("--task", "1/2", "--images", "x"), ("--task", "--out")),
        (("--merge", "--config", "x"), ("--merge", "--out")),
        (("--merge", "--set", "images.size=32"), ("--merge", "--set")),
        (("--task", "1/2", "--max-rejected", "1%"), ("--max-rejected", "--merge")),
        (("--plan",), ("--images", "--source")),
    ],
)
def test_options_of_another_step_are_a_usage_error(run, tmp_path, words, facts):
    code, _, err = run(*words, "--out", tmp_path / "set")
    assert code == 2
    assert_names(err, *facts)


def test_task_takes_no_setting_but_its_number_of_workers(run, tmp_path):
    words = ("--task", "1/2", "--out", tmp_path / "set", "--set", "images.size=64")
    code, _, err = run(*words)
    assert code == 1
    assert_names(err, "images.size=64", "build.num_workers")

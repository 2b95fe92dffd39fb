"""Tasks on several hosts build the dataset that one machine builds, byte for byte."""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drawing import draw_fundus, encode, write_photographs
from drtf.building import plan as build_plan
from drtf.building import tasks as build_tasks
from drtf.building.build import build_shards
from drtf.building.merge import merge_tasks
from drtf.building.shared_build import SharedBuild
from drtf.building.tasks import plan_tasks, run_task, task_shards
from drtf.config import load_config
from drtf.errors import DrtfError, PhotographError
from drtf.labels.sources import Source
from drtf.locations import join_location
from drtf.photographs import prepare
from drtf.records import writer
from drtf.records.manifest import load_manifest
from drtf.records.verify import find_faults
from drtf.storage import list_objects, read_object, write_object
from naming import raises_naming

SETTINGS = ("images.size=32", "build.shard_size_mb=0.01", "build.num_workers=1")
ENCODINGS = ("raw", "jpeg")

# Plans, runs and merges in child processes that kill themselves at one of many uses of
# the file system (Python audit events).
KILLED = """
import os, random, signal, sys
from pathlib import Path
from drtf.config import load_config
from drtf.building.merge import merge_tasks
from drtf.building.tasks import plan_tasks, run_task
from drtf.labels.sources import Source

folder, outs, *settings = sys.argv[1:]
source = Source(Path(folder) / "images", Path(folder) / "labels.csv")
points = 0

def audit(event, arguments):
    global points
    if any(".set.tasks" in str(x) or str(x).endswith("/set") for x in arguments):
        points += 1
        if points == deadline:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
steps = [
    lambda out: plan_tasks([source], out, config=load_config("", settings)),
    lambda out: run_task(out, (2, 2), num_workers=1),
    lambda out: run_task(out, (1, 2), num_workers=1),
    merge_tasks,
]

def run_until(point, step, out):
    global points, deadline
    points, deadline = 0, point
    step(out)
    return points

counts = [run_until(0, step, Path(outs) / "undisturbed" / "set") for step in steps]
rng = random.Random(3)
for number in range(6):
    out = Path(outs) / str(number) / "set"
    for step, count in zip(steps, counts):
        for deadline in sorted(rng.sample(range(1, count + 1), min(3, count))):
            child = os.fork()
            if not child:
                run_until(deadline, step, out)
                os._exit(0)
            os.waitpid(child, 0)
        run_until(0, step, out)
print(sum(counts))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, num_patients=12)
    images = folder / "images"
    (images / "4_left.png").write_bytes(b"no picture")
    (images / "7_right.png").write_bytes(b"")
    (images / "notes.txt").touch()
    (images / "unlabeled.png").write_bytes(encode(draw_fundus(seed=99)))
    with (folder / "labels.csv").open("a") as labels:
        labels.write("lost,1\n11_left,1\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    """The files of a build on one machine, by encoding."""
    files = {}
    for encoding in ENCODINGS:
        out = tmp_path_factory.mktemp("undisturbed") / "set"
        config = load_config("", (*SETTINGS, f"build.encoding={encoding}"))
        build_shards(sources(folder), out, config=config)
        files[encoding] = files_of(out)
    return files


def sources(folder):
    return [Source(folder / "images", folder / "labels.csv")]


def plan(folder, out, *settings):
    return plan_tasks(
        sources(folder), out, config=load_config("", (*SETTINGS, *settings))
    )


def run(out, number, num_tasks):
    return run_task(out, (number, num_tasks), num_workers=1)


def root_of(out) -> Path:
    return Path(SharedBuild.at(out).root)


def files_of(out):
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("order", [[1], [3, 1, 2], [*range(30, 0, -1)]])
def test_dataset_is_that_of_one_machine_in_any_order_of_tasks(
    folder, undisturbed, tmp_path, encoding, order
):
    out = tmp_path / "set"
    planned = plan(folder, out, f"build.encoding={encoding}")
    reports = [run(out, number, len(order)) for number in order]
    assert sum(x.num_shards for x in reports) == len(planned.shards)
    assert sum(x.num_photographs for x in reports) == 24
    assert sum(x.num_rejected for x in reports) == 2
    merged = merge_tasks(out)
    assert merged.manifest == load_manifest(out)
    assert files_of(out) == undisturbed[encoding]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_dataset_is_that_of_one_machine_when_a_shard_has_only_rejected_photographs(
    folder, tmp_path
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    out = tmp_path / "set"
    planned = plan(copy, out)
    shutil.rmtree(root_of(out))
    shard = list(planned.shard_ranges())[2]
    for number, path in enumerate(planned.table["path"][shard.start : shard.stop]):
        (copy / "images" / path).write_bytes(b"no picture %d" % number)
    plan(copy, out)
    run(out, 1, 1)
    merge_tasks(out)
    assert (out / shard.file).stat().st_size == 0
    other = tmp_path / "other" / "set"
    build_shards(sources(copy), other, config=load_config("", SETTINGS))
    assert files_of(out) == files_of(other)
    assert find_faults(out) == []


def test_dataset_is_equal_when_tasks_run_several_times_at_the_same_time(
    folder, undisturbed, tmp_path
):
    out = tmp_path / "set"
    plan(folder, out)
    with ThreadPoolExecutor(5) as pool:
        tasks = [(1, 2), (2, 2), (1, 2), (1, 1), (3, 4)]
        list(pool.map(lambda task: run(out, *task), tasks))
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


def test_dataset_is_equal_when_each_step_was_killed_at_many_points(
    folder, undisturbed, tmp_path
):
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path), *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
    for out in tmp_path.iterdir():
        assert [path.name for path in out.iterdir()] == ["set"]
        assert files_of(out / "set") == undisturbed["raw"]


def test_only_missing_shards_are_converted_when_a_task_is_repeated(folder, tmp_path):
    out = tmp_path / "set"
    planned = plan(folder, out)
    done, missing = task_shards(planned, (1, 2))[:2]
    run(out, 1, len(planned.shards))
    report = run(out, 1, 2)
    assert report.num_converted == report.num_shards - 1
    assert run(out, 1, 2).num_converted == 0
    Path(SharedBuild.at(out).report(missing)).unlink()  # killed before its report
    assert run(out, 1, 2).num_converted == 1
    (root_of(out) / done.file).unlink()
    Path(SharedBuild.at(out).report(done)).unlink()
    assert run(out, 1, 2).num_converted == 1


def test_planning_again_changes_nothing_or_names_what_differs(folder, tmp_path):
    out = tmp_path / "set"
    plan(folder, out)
    before = files_of(root_of(out))
    plan(folder, out)
    plan(folder, out, "build.num_workers=7")
    with raises_naming(DrtfError, root_of(out), "build.seed", 42, 43, "--out"):
        plan(folder, out, "build.seed=43")
    assert files_of(root_of(out)) == before
    run(out, 1, 1)
    merge_tasks(out)
    plan(folder, out)
    with raises_naming(DrtfError, out, "build.seed", 42, 43, "--out"):
        plan(folder, out, "build.seed=43")
    assert not root_of(out).exists()


def test_plan_is_refused_when_shards_of_another_one_are_left(folder, tmp_path):
    out = tmp_path / "set"
    plan(folder, out)
    run(out, 1, 2)
    Path(SharedBuild.at(out).plan).unlink()
    with raises_naming(DrtfError, root_of(out), "--out"):
        plan(folder, out)


def test_step_without_a_plan_names_the_step_that_is_missing(tmp_path):
    for step in (merge_tasks, lambda out: run(out, 1, 2)):
        with raises_naming(DrtfError, root_of(tmp_path / "set"), "--plan", "--out"):
            step(tmp_path / "set")


@pytest.mark.parametrize("out", [".", "/", "two\nlines"])
def test_step_is_refused_when_the_dataset_has_no_printable_name(out):
    for step in (merge_tasks, lambda out: run(out, 1, 2)):
        with raises_naming(DrtfError, "--out", repr(Path(out).name)):
            step(Path(out))


@pytest.mark.parametrize("task", [(0, 2), (3, 2), (-1, 2), (1, 0)])
def test_task_is_refused_when_its_number_is_wrong(folder, tmp_path, task):
    plan(folder, tmp_path / "set")
    with raises_naming(DrtfError, *task):
        run_task(tmp_path / "set", task)


def test_merge_names_the_missing_tasks(folder, undisturbed, tmp_path):
    out = tmp_path / "set"
    planned = plan(folder, out)
    with raises_naming(DrtfError, root_of(out), "--task"):
        merge_tasks(out)
    run(out, 2, 3)
    missing = task_shards(planned, (1, 3))[0].file
    with raises_naming(DrtfError, root_of(out), "--task", "1/3, 3/3", missing):
        merge_tasks(out)
    run(out, 1, 3)
    run(out, 3, 3)
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


def test_merge_and_tasks_change_nothing_after_a_merge(folder, tmp_path):
    out = tmp_path / "set"
    plan(folder, out)
    run(out, 1, 1)
    first = merge_tasks(out)
    before = files_of(out)
    again = merge_tasks(out)
    assert (again.manifest, again.plan) == (first.manifest, None)
    assert run(out, 1, 2).num_shards == 0
    assert files_of(out) == before
    assert not root_of(out).exists()


def let_others_finish_first(monkeypatch, out):
    """Build and merge everything just before a running task publishes a shard."""
    publish = SharedBuild.publish

    def finish_first(*arguments):
        monkeypatch.setattr(SharedBuild, "publish", publish)
        run(out, 1, 1)
        merge_tasks(out)
        publish(*arguments)

    monkeypatch.setattr(SharedBuild, "publish", finish_first)


def test_running_task_ends_well_when_others_did_its_work_and_merged(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    plan(folder, out)
    let_others_finish_first(monkeypatch, out)
    assert run(out, 1, 2).num_shards == 0
    assert files_of(out) == undisturbed["raw"]


def test_merge_keeps_the_work_when_too_many_photographs_were_rejected(
    folder, undisturbed, tmp_path
):
    out = tmp_path / "set"
    plan(folder, out)
    run(out, 1, 1)
    with raises_naming(DrtfError, 2, 24, "--max-rejected"):
        merge_tasks(out, max_rejected=0.01)
    assert not out.exists()
    merge_tasks(out, max_rejected=0.1)
    assert files_of(out) == undisturbed["raw"]


@pytest.mark.parametrize("change", ["size", "contents", "removed", "meanwhile"])
def test_photograph_that_changed_after_the_plan_is_named(
    folder, undisturbed, tmp_path, monkeypatch, change
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    out = tmp_path / "set"
    planned = plan(copy, out)
    path = copy / "images" / planned.table["path"][0]
    good, times = path.read_bytes(), path.stat()

    def replace():
        if change == "removed":
            path.unlink()
        else:
            path.write_bytes(good[:-1] if change == "size" else good[::-1])
            os.utime(path, ns=(0, 0))

    if change == "meanwhile":
        close = writer.ShardWriter.__exit__

        def replace_and_close(*arguments):
            replace()
            return close(*arguments)

        monkeypatch.setattr(writer.ShardWriter, "__exit__", replace_and_close)
    else:
        replace()
    with raises_naming(DrtfError, path, SharedBuild.at(out).plan):
        run(out, 1, 2)
    assert not list(root_of(out).glob("*.tfrecord-*"))
    monkeypatch.undo()
    path.write_bytes(good)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy with its time
    run(out, 1, 1)
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


def test_photographs_may_be_planned_by_a_relative_path(
    folder, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    source = Source(Path("images"), Path("labels.csv"))
    out = tmp_path / "set"
    plan_tasks([source], out, config=load_config("", SETTINGS))
    monkeypatch.chdir(tmp_path)
    run(Path("set"), 1, 1)
    merge_tasks(Path("set"))
    assert files_of(out) == undisturbed["raw"]


@pytest.fixture
def other_host(monkeypatch):
    """Make this host one that converts photographs differently."""
    describe = build_tasks.describe_host

    def describe_other(saved):
        return dataclasses.replace(
            describe(saved), name="node7", cpu="Other CPU", probe_sha256="0" * 64
        )

    return lambda: monkeypatch.setattr(build_tasks, "describe_host", describe_other)


def test_task_is_refused_on_a_host_that_converts_differently(
    folder, tmp_path, other_host
):
    out = tmp_path / "set"
    plan(folder, out)
    run(out, 1, 2)
    versions = build_plan.current_versions()
    other_host()
    with raises_naming(
        DrtfError, "node7", "Other CPU", versions["opencv"], os.uname()[1]
    ):
        run(out, 2, 2)


def test_merge_is_refused_when_hosts_converted_differently(
    folder, tmp_path, monkeypatch, other_host
):
    out = tmp_path / "set"
    plan(folder, out)
    run(out, 1, 2)
    other_host()
    monkeypatch.setattr(build_tasks, "check_alike", lambda *hosts: None)
    run(out, 2, 2)
    with raises_naming(DrtfError, "node7", "Other CPU", os.uname()[1]):
        merge_tasks(out)
    assert not out.exists()


def test_second_writer_is_refused_when_its_shard_differs(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    planned = plan(folder, out)
    run(out, 1, 1)
    before = files_of(root_of(out))
    shard = root_of(out) / task_shards(planned, (1, 1))[0].file
    with monkeypatch.context() as patch:  # as if both had started before
        patch.setattr(SharedBuild, "find_reported", lambda build: set())
        assert run(out, 1, 1).num_converted == len(planned.shards)
        encode_image = prepare.encode_image
        patch.setattr(
            prepare, "encode_image", lambda *a, **k: encode_image(*a, **k)[::-1]
        )
        with raises_naming(DrtfError, shard, os.uname()[1]):
            run(out, 1, 1)
    assert files_of(root_of(out)) == before
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


@pytest.mark.parametrize("step", ["task", "merge"])
def test_plan_of_another_version_is_refused(folder, tmp_path, monkeypatch, step):
    out = tmp_path / "set"
    plan(folder, out)
    run(out, 1, 1)
    monkeypatch.setattr(build_plan, "__version__", "99.0")
    with raises_naming(DrtfError, SharedBuild.at(out).plan, "drtf", "99.0"):
        run(out, 1, 1) if step == "task" else merge_tasks(out)


@pytest.mark.parametrize("step", ["task", "merge"])
def test_report_of_another_plan_is_refused(folder, tmp_path, step):
    out, other = tmp_path / "a" / "set", tmp_path / "b" / "set"
    planned = plan(folder, out)
    run(out, 1, 2 if step == "task" else 1)
    plan(folder, other, "build.seed=7")
    shared = SharedBuild.at(out)
    shutil.copy(SharedBuild.at(other).plan, shared.plan)
    report = shared.report(task_shards(planned, (1, 1))[0])
    with raises_naming(DrtfError, report, shared.plan):
        run(out, 2, 2) if step == "task" else merge_tasks(out)


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_damaged_plan_and_report_are_named(folder, tmp_path, damage):
    out = tmp_path / "set"
    planned = plan(folder, out)
    run(out, 1, 1)
    shared = SharedBuild.at(out)
    for path in (shared.report(task_shards(planned, (1, 1))[0]), shared.plan):
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[:-20] if damage is None else damage)
        with raises_naming(DrtfError, path):
            merge_tasks(out)


def test_merge_is_refused_when_a_shard_was_cut(folder, undisturbed, tmp_path):
    out = tmp_path / "set"
    planned = plan(folder, out)
    run(out, 1, 2)
    run(out, 2, 2)
    shard = task_shards(planned, (2, 2))[0]
    path, report = root_of(out) / shard.file, SharedBuild.at(out).report(shard)
    path.write_bytes(path.read_bytes()[:-1])
    with raises_naming(DrtfError, path, report, "--task 2/2"):
        merge_tasks(out)
    path.unlink()
    report.unlink()
    run(out, 2, 2)
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


def test_dataset_is_equal_on_a_disk_without_hard_links(
    folder, undisturbed, tmp_path, monkeypatch
):
    def fail(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    out = tmp_path / "set"
    plan(folder, out)
    plan(folder, out)
    run(out, 1, 2)
    run(out, 1, 1)
    monkeypatch.setattr(SharedBuild, "find_reported", lambda build: set())
    run(out, 1, 2)
    monkeypatch.undo()
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


def test_completed_shards_are_kept_when_the_disk_is_full(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    plan(folder, out)
    frame = writer.frame_record
    calls = []

    def fill(data):
        calls.append(1)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return frame(data)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "frame_record", fill)
        with raises_naming(DrtfError, root_of(out), "No space left on device"):
            run(out, 1, 1)
    report = run(out, 1, 1)
    assert 0 < report.num_converted < report.num_shards
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


def test_existing_folder_is_refused_by_every_step(folder, tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    (out / "precious").touch()
    for step in (
        lambda: plan(folder, out),
        lambda: run(out, 1, 1),
        lambda: merge_tasks(out),
    ):
        with raises_naming(DrtfError, out, "--out"):
            step()
    assert list(files_of(out)) == ["precious"]


def test_photographs_that_were_missing_when_planned_are_rejected(tmp_path):
    write_photographs(tmp_path, num_patients=12)
    images = tmp_path / "images"
    rows = [path.name for path in sorted(images.iterdir())]
    (images / "0_left.png").unlink()
    (tmp_path / "list.csv").write_text(
        "\n".join(["path", *(f"images/{name}" for name in rows)])
    )
    listed = [Source(tmp_path / "list.csv", tmp_path / "labels.csv")]
    config = load_config("", SETTINGS)
    out = tmp_path / "a" / "set"
    plan_tasks(listed, out, config=config)
    assert run(out, 1, 1).num_rejected == 1
    merge_tasks(out)
    build_shards(listed, tmp_path / "b" / "set", config=config)
    assert files_of(out) == files_of(tmp_path / "b" / "set")


def store_files(location):
    return {
        file.name: read_object(join_location(location, file.name))
        for file in list_objects(location)
    }


@pytest.fixture
def stored(folder, request):
    """The folder of the photographs and an empty place, in a store in memory."""
    bucket = f"memory://{request.node.name.replace('[', '-').replace(']', '')}"
    for path in (folder / "images").iterdir():
        write_object(f"{bucket}/images/{path.name}", path.read_bytes())
    return [Source(f"{bucket}/images", folder / "labels.csv")], f"{bucket}/sets/set"


def test_dataset_in_a_store_is_that_of_one_machine(folder, undisturbed, stored):
    listed, out = stored
    config = load_config("", SETTINGS)
    plan_tasks(listed, out, config=config)
    plan_tasks(listed, out, config=config)
    run(out, 2, 3)
    with raises_naming(DrtfError, out, "--task", "1/3, 3/3"):
        merge_tasks(out)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda task: run(out, *task), [(1, 3), (3, 3), (1, 1)]))
    merge_tasks(out)
    files = store_files(out)
    assert files == undisturbed["raw"]
    assert merge_tasks(out).plan is None
    assert run(out, 1, 1).num_shards == 0
    assert store_files(out) == files


def test_photograph_in_a_store_that_changed_after_the_plan_is_named(folder, stored):
    listed, out = stored
    planned = plan_tasks(listed, out, config=load_config("", SETTINGS))
    photograph = next(planned.photographs())
    write_object(str(photograph), photograph.read()[::-1])
    with raises_naming(DrtfError, photograph, SharedBuild.at(out).plan):
        run(out, 1, 1)
    assert [x.name for x in list_objects(out)] == [".build-tasks/plan.bin"]


def test_second_writer_in_a_store_is_refused_when_its_shard_differs(
    stored, monkeypatch
):
    listed, out = stored
    planned = plan_tasks(listed, out, config=load_config("", SETTINGS))
    run(out, 1, 1)
    before = store_files(out)
    monkeypatch.setattr(SharedBuild, "find_reported", lambda build: set())
    run(out, 1, 1)
    encode_image = prepare.encode_image
    monkeypatch.setattr(
        prepare, "encode_image", lambda *a, **k: encode_image(*a, **k)[::-1]
    )
    shard = join_location(out, task_shards(planned, (1, 1))[0].file)
    with raises_naming(DrtfError, shard, os.uname()[1]):
        run(out, 1, 1)
    assert store_files(out) == before


def test_running_task_leaves_nothing_in_a_store_after_a_merge(
    undisturbed, stored, monkeypatch
):
    listed, out = stored
    plan_tasks(listed, out, config=load_config("", SETTINGS))
    let_others_finish_first(monkeypatch, out)
    run(out, 1, 2)
    assert store_files(out) == undisturbed["raw"]


def test_plan_is_refused_where_a_store_has_other_files(stored):
    listed, out = stored
    write_object(f"{out}/precious", b"x")
    with raises_naming(DrtfError, out, "precious", "--out"):
        plan_tasks(listed, out, config=load_config("", SETTINGS))


def test_planning_again_keeps_the_shards_without_changed_photographs(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    out = tmp_path / "set"
    planned = plan(copy, out)
    run(out, 1, 1)
    changed, touched, unreported = list(planned.shard_ranges())[:3]
    paths = [copy / "images" / path for path in planned.table["path"]]
    paths[changed.start].write_bytes(encode(draw_fundus(seed=77)))
    usable = (x for x in paths[touched.start : touched.stop] if x.stat().st_size > 100)
    os.utime(next(usable), ns=(0, 0))
    paths[unreported.start].write_bytes(encode(draw_fundus(seed=78)))
    Path(SharedBuild.at(out).report(unreported)).unlink()  # killed before
    with raises_naming(DrtfError, SharedBuild.at(out).plan):
        run(out, 1, 1)
    plan(copy, out)
    assert run(out, 1, 1).num_converted == 2
    merge_tasks(out)
    build_shards(
        sources(copy), tmp_path / "b" / "set", config=load_config("", SETTINGS)
    )
    assert files_of(out) == files_of(tmp_path / "b" / "set")


def test_planning_again_tries_unsupported_photographs_again(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    planned = plan(folder, out)
    unsupported = next(planned.photographs()).read()
    preprocess = prepare.preprocess_photograph

    def preprocess_most(data, images):
        if data == unsupported:
            raise PhotographError("unsupported", "a library is missing")
        return preprocess(data, images)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "preprocess_photograph", preprocess_most)
        run(out, 1, len(planned.shards))
        plan(folder, out)
        assert run(out, 1, len(planned.shards)).num_converted == 0
    run(out, 1, 1)
    plan(folder, out)
    assert run(out, 1, 1).num_converted == 1
    merge_tasks(out)
    assert files_of(out) == undisturbed["raw"]


@pytest.fixture
def build_in_store(folder, stored, tmp_path, monkeypatch):
    """Build in a store, with at most two shards on the local disk."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    publish = SharedBuild.publish
    published = []

    def publish_few(shared, shard, path, *arguments):
        assert len([x for x in temporary.rglob("*") if x.is_file()]) <= 2
        if len(published) == build.max_published:
            raise KeyboardInterrupt
        publish(shared, shard, path, *arguments)
        published.append(shard.file)

    def build(max_published=None, **options):
        published.clear()
        build.max_published = max_published
        try:
            report = build_shards(
                stored[0], stored[1], config=load_config("", SETTINGS), **options
            )
        except KeyboardInterrupt:
            report = None
        assert not list(temporary.iterdir())
        return report, list(published)

    monkeypatch.setattr(SharedBuild, "publish", publish_few)
    return build


def test_build_in_a_store_is_that_of_one_machine_and_resumes(
    undisturbed, stored, build_in_store
):
    _, out = stored
    _, first = build_in_store(max_published=2)
    assert len(first) == 2
    report, others = build_in_store()
    assert [x.file for x in report.manifest.shards] == first + others
    assert not report.is_reused
    assert store_files(out) == undisturbed["raw"]
    write_object(f"{out}/.build-tasks/plan.bin", b"left by a killed merge")
    report, others = build_in_store()
    assert (report.is_reused, others) == (True, [])
    assert store_files(out) == undisturbed["raw"]


def test_build_in_a_store_fails_early_when_too_many_photographs_are_rejected(
    undisturbed, stored, build_in_store
):
    for _ in range(2):
        with raises_naming(DrtfError, 2, 24, "--max-rejected"):
            build_in_store(max_rejected=0.05)
    build_in_store(max_rejected=0.1)
    assert store_files(stored[1]) == undisturbed["raw"]


def test_full_temporary_folder_is_named_when_a_build_is_in_a_store(
    stored, build_in_store, monkeypatch
):
    def fill(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "frame_record", fill)
    with raises_naming(DrtfError, tempfile.gettempdir(), "No space left on device"):
        build_in_store()

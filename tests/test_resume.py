"""A build that was killed and resumed gives the same bytes."""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drawing import draw_fundus, encode, write_photographs
from drtf.building import changes
from drtf.building.build import build_shards
from drtf.building.changes import ATTRIBUTE
from drtf.building.journal import JOURNALS_FOLDER, Journal
from drtf.config import load_config
from drtf.errors import DrtfError, PhotographError
from drtf.images import preprocess
from drtf.labels.sources import Source
from drtf.photographs import references as photographs
from drtf.photographs.references import FileStatus, PhotographRef
from drtf.records.manifest import MANIFEST_FILE, load_manifest
from drtf.records.verify import find_faults
from interruption import interrupted_command
from naming import raises_naming

SETTINGS = ("images.size=32", "build.shard_size_mb=0.03", "build.num_workers=1")
NUM_PHOTOGRAPHS = 24

# Builds in a child process that kills itself at one of many points: a use of the file
# system (a Python audit event), a record, or a journal entry.
KILLED_BUILDS = """
import os, random, signal, sys
from pathlib import Path
from drtf.config import load_config
from drtf.building import build, journal
from drtf.labels.sources import Source
from drtf.records import writer

folder, outs, *settings = sys.argv[1:]
config = load_config("", settings)
source = Source(Path(folder) / "images", Path(folder) / "labels.csv")
points = 0

def count(*_):
    global points
    points += 1
    if points == deadline:
        os.kill(os.getpid(), signal.SIGKILL)

def audit(event, arguments):
    if any(".set.partial" in str(x) or str(x).endswith("/set") for x in arguments):
        count()

sys.addaudithook(audit)
for kind, name in ((writer.ShardWriter, "append"), (journal.Journal, "append")):
    def counted(*arguments, original=getattr(kind, name)):
        count()
        return original(*arguments)
    setattr(kind, name, counted)

def build_until(point, out):
    global points, deadline
    points, deadline = 0, point
    build.build_shards([source], out / "set", config=config)
    return points

num_points = build_until(0, Path(outs) / "undisturbed")
rng = random.Random(7)
# Most files are renamed at the end of a build: every third point there, few before.
end = num_points - 30
chosen = [*rng.sample(range(1, end), 8), *range(end, num_points + 1, 3)]
for point in chosen:
    out = Path(outs) / str(point)
    for deadline in (point, 1 + point // 3):
        child = os.fork()
        if not child:
            build_until(deadline, out)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or deadline < point
    build_until(0, out)
print(num_points)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, num_patients=NUM_PHOTOGRAPHS // 2)
    (folder / "images" / "4_left.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    build(folder, out)
    return files_of(out)


def build(folder, out, *settings, max_rejected=1.0):
    source = Source(folder / "images", folder / "labels.csv")
    config = load_config("", (*SETTINGS, *settings))
    return build_shards([source], out, config=config, max_rejected=max_rejected)


def files_of(out):
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def interrupt(folder, out, monkeypatch, after: int) -> None:
    """Interrupt a build after a number of photographs."""
    append = Journal.append
    entries = []

    def fail(journal, entry):
        append(journal, entry)
        entries.append(entry)
        if len(entries) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fail)
        with pytest.raises(KeyboardInterrupt):
            build(folder, out)


@contextmanager
def refuses_to_replace(out: Path) -> Iterator[None]:
    """Expect that a folder is refused, not one of its files."""
    with raises_naming(DrtfError, out, "--out") as error:
        yield
    message = str(error.value).replace(str(out), "")
    assert not re.search(r"\.(json|png|parquet|tfrecord)", message)


def test_dataset_is_equal_when_its_build_was_killed_at_many_points(
    folder, undisturbed, tmp_path
):
    command = [sys.executable, "-c", KILLED_BUILDS, str(folder), str(tmp_path)]
    done = subprocess.run([*command, *SETTINGS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3 * NUM_PHOTOGRAPHS
    outs = sorted(tmp_path.iterdir())
    assert len(outs) > 15
    for out in outs:
        assert [path.name for path in out.iterdir()] == ["set"]
        assert files_of(out / "set") == undisturbed


def test_command_resumes_when_killed_with_its_workers(folder, undisturbed, tmp_path):
    words = ["build-shards", "--out", "set", "--images", folder / "images"]
    words += ["--labels", folder / "labels.csv"]
    for setting in (*SETTINGS, "build.num_workers=2"):
        words += ["--set", setting]
    # The last build completes before its signal.
    for num_calls, code in ((1, -9), (7, -9), (NUM_PHOTOGRAPHS, 3)):
        command = interrupted_command(
            *words,
            function="drtf.building.journal:Journal.append",
            num_calls=num_calls,
            number=signal.SIGKILL,
        )
        done = subprocess.run(command, cwd=tmp_path, capture_output=True)
        assert done.returncode == code
    assert files_of(tmp_path / "set") == undisturbed


@pytest.mark.parametrize("num_workers", [2, 5])
def test_dataset_is_equal_when_built_with_several_workers(
    folder, undisturbed, tmp_path, num_workers
):
    build(folder, tmp_path / "set", f"build.num_workers={num_workers}")
    assert files_of(tmp_path / "set") == undisturbed


def test_only_missing_photographs_are_read_when_a_build_resumes(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    interrupt(folder, out, monkeypatch, after=13)
    read = []
    original = PhotographRef.read
    monkeypatch.setattr(
        PhotographRef, "read", lambda ref: read.append(ref) or original(ref)
    )
    build(folder, out)
    num_planned = 1  # read to see whether the photographs are synthetic
    assert len(read) == num_planned + NUM_PHOTOGRAPHS - 13
    assert files_of(out) == undisturbed


@pytest.mark.parametrize("seed", range(40))
def test_dataset_is_equal_when_files_of_its_build_were_changed(
    folder, undisturbed, tmp_path, monkeypatch, seed
):
    """Bytes are flipped, removed, inserted, repeated or appended in any file."""
    out, partial = tmp_path / "set", tmp_path / ".set.partial"
    interrupt(folder, out, monkeypatch, after=19)
    rng = random.Random(seed)
    journals = sorted((partial / JOURNALS_FOLDER).iterdir())
    shards = sorted(path for path in partial.glob("*set-*") if path.stat().st_size)
    path = rng.choice(journals if seed % 2 else shards)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    line = rng.randrange(len(lines))
    changed = rng.choice(
        [
            data[:first] + bytes([data[first] ^ 1 << seed % 8]) + data[first + 1 :],
            data[:first] + rng.choice(b"0123456789").to_bytes() + data[first + 1 :],
            data[:first] + data[second:],
            data[:first] + rng.randbytes(1 + seed % 9) + data[first:],
            data + data[first:second],
            b"".join([*lines[:line], *lines[line + 1 :]]),
            b"".join([*lines[:line], rng.choice([b"{}\n", b"5\n", b"null\n"]), *lines]),
            data + b"".join(lines[1:] * 3),
        ]
    )
    path.write_bytes(changed)
    (partial / "copy.tfrecord").write_bytes(changed)
    build(folder, out)
    assert files_of(out) == undisturbed


@pytest.mark.parametrize("seed", range(6))
def test_dataset_is_equal_when_a_power_loss_damaged_files(
    folder, undisturbed, tmp_path, monkeypatch, seed
):
    """Files are cut anywhere or end with zeros, as after a power loss."""
    out = tmp_path / "set"
    interrupt(folder, out, monkeypatch, after=17)
    rng = random.Random(seed)
    for path in filter(Path.is_file, (tmp_path / ".set.partial").rglob("*")):
        data = path.read_bytes()
        if data and rng.random() < 0.7:
            cut = rng.randrange(len(data))
            zeros = bytes(rng.randrange(len(data) - cut))
            path.write_bytes(data[:cut] + zeros)
    build(folder, out)
    assert files_of(out) == undisturbed


def test_nothing_changes_when_the_dataset_is_complete(folder, tmp_path):
    out = tmp_path / "set"
    assert not build(folder, out).is_reused
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    report = build(folder, out)
    assert report.is_reused
    assert report.manifest == load_manifest(out)
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_resuming_is_refused_when_settings_differ(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    interrupt(folder, out, monkeypatch, after=5)
    facts = (tmp_path / ".set.partial", "images.contrast", "none", "--out")
    with raises_naming(DrtfError, *facts):
        build(folder, out, "images.contrast=none")
    build(folder, out)
    assert files_of(out) == undisturbed


def test_completed_work_is_kept_when_the_disk_is_full(
    folder, undisturbed, tmp_path, monkeypatch
):
    from drtf.records import writer

    out, partial = tmp_path / "set", tmp_path / ".set.partial"
    frame = writer.frame_record
    calls = []

    def fill(data):
        calls.append(1)
        if len(calls) > 9:
            raise OSError(28, "No space left on device")
        return frame(data)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "frame_record", fill)
        with raises_naming(DrtfError, partial, "No space left on device"):
            build(folder, out)
    assert not out.exists()
    build(folder, out)
    assert files_of(out) == undisturbed


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM])
def test_build_resumes_when_a_photograph_could_not_be_read(
    folder, undisturbed, tmp_path, monkeypatch, code
):
    out = tmp_path / "set"
    read = photographs.read_regular

    def fail(path, *arguments):
        if path.name == "7_left.png":
            raise OSError(code, os.strerror(code), str(path))
        return read(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(photographs, "read_regular", fail)
        with raises_naming(DrtfError, "7_left.png", os.strerror(code)):
            build(folder, out)
    assert not out.exists()
    build(folder, out)
    assert files_of(out) == undisturbed


def test_an_unsupported_photograph_is_tried_again_when_a_build_resumes(
    folder, undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "set"
    read = photographs.read_regular

    def refuse(path, *arguments):
        if path.name == "7_left.png":
            raise PhotographError("unsupported", "a library is missing")
        return read(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(photographs, "read_regular", refuse)
        interrupt(folder, out, patch, after=NUM_PHOTOGRAPHS - 1)
    journals = (tmp_path / ".set.partial" / JOURNALS_FOLDER).iterdir()
    assert any("a library is missing" in journal.read_text() for journal in journals)
    build(folder, out)
    assert files_of(out) == undisturbed


def test_build_resumes_when_memory_ran_out(folder, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "MAX_MEMORY_BYTES", 1 << 60)
        patch.setattr(preprocess, "build_thumbnail", lambda image: bytearray(1 << 60))
        with raises_naming(DrtfError, "memory", "num_workers"):
            build(folder, out)
    build(folder, out)
    assert files_of(out) == undisturbed


@pytest.mark.parametrize("size", ["same", "other"])
def test_photograph_is_used_when_it_was_fixed_after_a_failed_build(
    folder, undisturbed, tmp_path, size
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "images" / "5_left.png"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)) if size == "same" else b"")
    with raises_naming(DrtfError, 2, NUM_PHOTOGRAPHS, "--max-rejected"):
        build(copy, tmp_path / "set", max_rejected=0.05)
    path.write_bytes(good)
    build(copy, tmp_path / "set", max_rejected=0.05)
    assert files_of(tmp_path / "set") == undisturbed


def test_photograph_is_converted_again_when_it_changed_before_resuming(
    folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    interrupt(copy, tmp_path / "set", monkeypatch, after=20)
    for number in range(12):
        path = copy / "images" / f"{number}_right.png"
        path.write_bytes(encode(draw_fundus(seed=100 + number)))
    build(copy, tmp_path / "set")
    build(copy, tmp_path / "other" / "set")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "other" / "set")


def test_change_is_detected_when_the_new_file_has_the_same_size(
    folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "images" / "6_left.png"
    data = path.read_bytes()
    original, other = data + b"1", data + b"2"
    path.write_bytes(original)
    build(copy, tmp_path / "set")
    time.sleep(0.02)  # file times have a coarse resolution
    replacement = tmp_path / "replacement"
    replacement.write_bytes(other)
    os.utime(replacement, (0, 0))  # as if copied with its old time
    replacement.replace(path)
    with raises_naming(DrtfError, tmp_path / "set", "6_left.png", "--out"):
        build(copy, tmp_path / "set")
    path.write_bytes(original)
    assert build(copy, tmp_path / "set").is_reused
    interrupt(copy, tmp_path / "later", monkeypatch, after=23)
    time.sleep(0.02)
    path.write_bytes(other)
    build(copy, tmp_path / "later")
    build(copy, tmp_path / "fresh" / "later")
    assert files_of(tmp_path / "later") == files_of(tmp_path / "fresh" / "later")


def test_change_is_detected_when_times_cannot_be_trusted(folder, tmp_path, monkeypatch):
    """The dataset was copied, or the clock was set back."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "images" / "6_left.png"
    data = path.read_bytes()
    path.write_bytes(data + b"1")
    build(copy, tmp_path / "set")
    interrupt(copy, tmp_path / "later", monkeypatch, after=23)
    path.write_bytes(data + b"2")
    shutil.copytree(tmp_path / "set", tmp_path / "moved" / "set")
    for out in (tmp_path / "set", tmp_path / "moved" / "set"):
        with raises_naming(DrtfError, out, "6_left.png", "--out"):
            build(copy, out)
    hour = 3600 * 10**9
    status = PhotographRef.status

    def hour_earlier(photograph):
        size_bytes, changed_ns, version = status(photograph)
        return FileStatus(
            size_bytes, changed_ns - hour * (photograph.path == path.name), version
        )

    monkeypatch.setattr(PhotographRef, "status", hour_earlier)
    with raises_naming(DrtfError, tmp_path / "set", "6_left.png", "--out"):
        build(copy, tmp_path / "set")
    build(copy, tmp_path / "later")
    build(copy, tmp_path / "fresh" / "later")
    assert files_of(tmp_path / "later") == files_of(tmp_path / "fresh" / "later")


def test_dataset_is_reused_when_its_photographs_were_copied(folder, tmp_path):
    build(folder, tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "moved" / "set")
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert build(copy, tmp_path / "moved" / "set").is_reused


def test_no_photograph_is_read_when_none_was_touched(folder, tmp_path, monkeypatch):
    build(folder, tmp_path / "set")
    try:
        os.getxattr(tmp_path / "set" / MANIFEST_FILE, ATTRIBUTE)
    except OSError:
        pytest.skip("this disk stores no attributes")
    read = []
    monkeypatch.setattr(changes, "_find_other_contents", read.append)
    assert build(folder, tmp_path / "set").is_reused
    assert not read


def test_reuse_is_refused_when_a_rejected_photograph_can_be_used(
    folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "images" / "5_left.png"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    build(copy, tmp_path / "set")
    path.write_bytes(good)
    with raises_naming(DrtfError, tmp_path / "set", "5_left.png", "--out"):
        build(copy, tmp_path / "set")


def test_reuse_is_refused_when_a_shard_is_missing(folder, tmp_path):
    build(folder, tmp_path / "set")
    shard = min((tmp_path / "set").glob("*train.tfrecord-*"))
    shard.unlink()
    with raises_naming(DrtfError, tmp_path / "set", shard, "No such file", "--out"):
        build(folder, tmp_path / "set")


def test_dataset_is_reused_when_the_disk_is_read_only(folder, tmp_path, monkeypatch):
    build(folder, tmp_path / "set")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: pytest.fail("written to"))
    assert build(folder, tmp_path / "set").is_reused


def test_max_rejected_is_exact_when_not_a_binary_fraction(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    good = encode(draw_fundus(seed=1, width=64))
    rows = ["image,level\n"]
    for number in range(100):
        data = b"" if number < 29 else good + number.to_bytes(1)
        (images / f"{number}.png").write_bytes(data)
        rows.append(f"{number},{number % 2}\n")
    (tmp_path / "labels.csv").write_text("".join(rows))
    assert 0.29 * 100 < 29
    build(tmp_path, tmp_path / "set", max_rejected=0.29)
    with raises_naming(DrtfError, 29, 100, "--max-rejected"):
        build(tmp_path, tmp_path / "set", max_rejected=0.28)


def test_dataset_is_built_when_its_folder_is_not_utf8(folder, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff")
    os.mkdir(odd)  # noqa: PTH102
    build(folder, Path(odd) / "set")
    assert find_faults(Path(odd) / "set") == []


def test_reuse_is_refused_when_too_many_were_rejected(folder, tmp_path):
    build(folder, tmp_path / "set")
    facts = (1, NUM_PHOTOGRAPHS, "not_an_image", "--max-rejected")
    with raises_naming(DrtfError, *facts):
        build(folder, tmp_path / "set", max_rejected=0)


def test_build_is_refused_when_out_is_a_broken_link(folder, tmp_path):
    (tmp_path / "set").symlink_to("nowhere")
    with refuses_to_replace(tmp_path / "set"):
        build(folder, tmp_path / "set")


@pytest.mark.parametrize("name", ["b\udcff", "two\nlines"])
def test_build_is_refused_when_the_name_is_not_printable(folder, tmp_path, name):
    with raises_naming(DrtfError, "--out", repr(name)):
        build(folder, tmp_path / name)


def test_build_resumes_when_more_rejections_are_allowed(folder, undisturbed, tmp_path):
    out = tmp_path / "set"
    for _ in range(2):
        with raises_naming(DrtfError, 1, NUM_PHOTOGRAPHS, "--max-rejected"):
            build(folder, out, max_rejected=0.01)
        assert not out.exists()
    build(folder, out, max_rejected=0.05)
    assert files_of(out) == undisturbed


def test_build_is_refused_when_out_is_another_dataset(folder, tmp_path):
    out = tmp_path / "set"
    build(folder, out)
    before = files_of(out)
    with raises_naming(DrtfError, out, "images.contrast", "none", "--out"):
        build(folder, out, "images.contrast=none")
    (out / MANIFEST_FILE).unlink()
    with refuses_to_replace(out):
        build(folder, out)
    assert files_of(out).keys() == before.keys() - {MANIFEST_FILE}


def test_build_is_refused_when_a_photograph_was_removed(folder, tmp_path):
    out = tmp_path / "set"
    copy = shutil.copytree(folder, tmp_path / "copy")
    build(copy, out)
    (copy / "images" / "0_left.png").unlink()
    with refuses_to_replace(out):
        build(copy, out)

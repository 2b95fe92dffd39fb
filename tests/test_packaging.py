"""The wheel, in a fresh environment outside the checkout."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from drtf.bench.read import ENCODED_METHODS, RAW_METHODS
from drtf.config import list_presets

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("drtf-*.whl"))


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """A new environment with the wheel; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "pip", "install", "--quiet", "--no-deps", wheel]
    subprocess.run(command, check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # Python searches the paths named in a .pth file, but does not process the .pth
    # files there, so this checkout, installed in editable mode, is not importable.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(fresh, *words, cwd):
    done = subprocess.run(
        [fresh / "bin" / words[0], *words[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_wheel_installs_only_the_package_drtf(wheel):
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert {x for x in folders if not x.endswith(".dist-info")} == {"drtf"}


def test_the_wheel_has_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    places = {"drtf": "drtf", "tools": "drtf/tools", "configs": "drtf/configs"}
    built = {".c", ".so", ".pyc"}
    files = {
        f"{place}/{path.relative_to(ROOT / folder)}"
        for folder, place in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in built
    }
    assert files <= installed


def test_the_wheel_has_only_readers_that_need_no_other_library(wheel):
    methods = (*RAW_METHODS, *ENCODED_METHODS)
    scripts = {method.script for method in methods if not method.library}
    shared = {"class_files", "measurement", "open_dataset", "stream_epochs"}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    readers = {Path(name).stem for name in names if "/readers/" in name}
    assert readers == scripts | shared


def test_the_wheel_has_the_compiled_reader(fresh, tmp_path):
    code = "from drtf.records import _frames; print(_frames.__file__)"
    assert str(fresh) in run(fresh, "python", "-c", code, cwd=tmp_path)


def test_the_installed_command_prints_its_help(fresh, tmp_path):
    assert "build-shards" in run(fresh, "drtf", "--help", cwd=tmp_path)


def test_the_installed_presets_are_loaded_by_name(fresh, tmp_path):
    code = (
        "import drtf, drtf.config as c;"
        "print(drtf.__file__, c.list_presets(), c.load_config('notebook-96').images)"
    )
    out = run(fresh, "python", "-c", code, cwd=tmp_path)
    assert out.startswith(str(fresh))
    assert str(list_presets()) in out
    assert "decode='exact'" in out

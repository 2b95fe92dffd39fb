import os
import shutil
from pathlib import Path
from unittest import mock

import cv2
import pytest
from matplotlib.axes import Axes

from drawing import draw_fundus, encode
from drtf.config import GradcamConfig
from drtf.errors import DrtfError
from drtf.heatmaps.gradcam import gradcam
from drtf.heatmaps.gradcam_folder import AVERAGES_FIGURE, FIGURES, OVERLAYS_FOLDER
from naming import raises_naming


def sections(config):
    return {"config": config.gradcam, "score": config.score}


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory):
    """A folder of six photographs, which tests must not change."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted((photographs / "images").iterdir())[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("source", ["shards", "images"])
def test_gradcam_writes_three_figures(
    run_folder, shards, images, config, tmp_path, source
):
    given = {"shards": shards} if source == "shards" else {"images": images}
    report = gradcam(run_folder, out=tmp_path, **sections(config), **given)
    assert [path.name for path in report.figures] == [
        *FIGURES,
        *([AVERAGES_FIGURE] if source == "shards" else []),
    ]
    assert all(cv2.imread(str(path)).std() > 10 for path in report.figures)
    other = {**sections(config), "config": GradcamConfig(colormap="magma")}
    with raises_naming(DrtfError, tmp_path / FIGURES[0]):
        gradcam(run_folder, out=tmp_path, **other, **given)


@pytest.mark.parametrize("source", ["shards", "images"])
def test_a_complete_gradcam_is_left_as_it_is_by_the_same_call(
    run_folder, shards, photographs, config, tmp_path, source
):
    out, images = tmp_path / "out", tmp_path / "images"
    images.mkdir()
    paths = sorted((photographs / "images").iterdir())[:3]
    for path in paths:
        shutil.copy(path, images)
    (images / "notes.txt").write_text("not a photograph")
    (images / "broken.jpeg").write_bytes(b"not a photograph either")
    given = {"shards": shards} if source == "shards" else {"images": images}
    call = {"out": out, **sections(config), **given}
    first = gradcam(run_folder, **call)

    def modified():
        return {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    before = modified()
    with mock.patch("drtf.heatmaps.gradcam.load_run") as loaded:
        again = gradcam(run_folder, **call)
    assert not loaded.called
    assert (again, again.is_reused, first.is_reused) == (first, True, False)
    assert modified() == before
    if source == "images":
        shutil.copy(paths[0], images / paths[1].name)  # replaced
        with raises_naming(DrtfError, out / FIGURES[0]):
            gradcam(run_folder, **call)
        assert not gradcam(run_folder, **call, overwrite=True).is_reused
        shutil.rmtree(out / OVERLAYS_FOLDER)
    else:
        (out / AVERAGES_FIGURE).unlink()
    with raises_naming(DrtfError, out / FIGURES[0]):
        gradcam(run_folder, **call)


def test_gradcam_writes_an_overlay_per_photograph_of_a_folder(
    run_folder, photographs, config, tmp_path
):
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    first, second, *_ = sorted((photographs / "images").iterdir())
    shutil.copy(first, images / first.name)
    shutil.copy(second, images / "below" / second.name)
    (images / "broken.jpeg").write_bytes(b"not a photograph")
    report = gradcam(
        run_folder, out=tmp_path / "out", **sections(config), images=images
    )
    assert report.num_overlays == 2
    assert report.failed == ["broken.jpeg"]
    overlays = tmp_path / "out" / OVERLAYS_FOLDER
    found = sorted(p.relative_to(overlays) for p in overlays.rglob("*.*"))
    assert [str(path) for path in found] == [first.name, f"below/{second.name}"]
    height, width, _ = cv2.imread(str(overlays / first.name)).shape
    assert (width, height > 512) == (512, True)  # with a caption below
    (images / first.name).unlink()
    again = {"out": tmp_path / "out", **sections(config), "overwrite": True}
    report = gradcam(run_folder, images=images, **again)
    assert (report.num_overlays, report.num_others) == (1, 1)
    before = {path: path.read_bytes() for path in overlays.rglob("*.*")}
    first_overlay = min(path.relative_to(overlays) for path in before)
    with raises_naming(DrtfError, first_overlay, overlays, "--out"):
        gradcam(run_folder, images=overlays, **again)
    assert before == {path: path.read_bytes() for path in overlays.rglob("*.*")}


def test_overlays_stay_in_their_folder(run_folder, photographs, config, tmp_path):
    (tmp_path / "lists").mkdir()
    path = next((photographs / "images").iterdir())
    shutil.copy(path, tmp_path / path.name)
    listed = tmp_path / "lists" / "list.csv"
    copy = tmp_path / "copy.jpeg"
    shutil.copy(path, copy)
    shutil.copy(path, listed.parent / path.name)
    listed.write_text(f"path\n../{path.name}\n{path.name}\n{path}\n/{copy}\n")
    out = tmp_path / "out"
    report = gradcam(run_folder, out=out, **sections(config), images=listed)
    assert report.num_overlays == 4
    assert len([p for p in (out / OVERLAYS_FOLDER).rglob("*.*") if p.is_file()]) == 4
    assert copy.read_bytes() == path.read_bytes()


def test_gradcam_accepts_any_file_name(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    name = os.fsdecode(b"a_long_name_without_any_blank_" * 2 + b"\xff.png")
    (images / name).write_bytes(encode(draw_fundus(seed=1)))
    with mock.patch.object(Axes, "text") as written:
        gradcam(run_folder, out=tmp_path / "out", **sections(config), images=images)
    *_, title = written.call_args_list[0].args
    _, shown, score, *_ = title.splitlines()
    assert shown.startswith("…")
    assert shown.endswith("any_blank_?.png")
    assert 0 <= float(score.split()[-1]) <= 1


def test_gradcam_omits_mean_maps_if_asked(run_folder, shards, images, config, tmp_path):
    config = config.model_copy(
        update={"gradcam": config.gradcam.model_copy(update={"num_averaged": 0})}
    )
    (tmp_path / AVERAGES_FIGURE).write_bytes(b"of an earlier call")
    call = {"out": tmp_path, **sections(config)}
    for source in ({"shards": shards}, {"images": images}):
        with raises_naming(DrtfError, tmp_path / AVERAGES_FIGURE):
            gradcam(run_folder, **call, **source)
    gradcam(run_folder, shards=shards, overwrite=True, **call)
    assert not (tmp_path / AVERAGES_FIGURE).exists()


@pytest.mark.parametrize("source", ["shards", "images"])
def test_a_killed_gradcam_is_repeated_by_the_same_call(
    run_folder, shards, images, config, tmp_path, monkeypatch, source
):
    out = tmp_path / "out"
    given = {"shards": shards} if source == "shards" else {"images": images}
    call = {"out": out, **sections(config), **given}
    moved = []

    def die(path, target):
        if len(moved) == 2:  # in the middle of the last step
            raise KeyboardInterrupt
        moved.append(target)
        shutil.move(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", die)
        gradcam(run_folder, **call)
    assert len([path for path in out.glob("*") if path.is_file()]) < 3

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("drtf.heatmaps.gradcam.plot_grid", stop)
        gradcam(run_folder, **call)
    report = gradcam(run_folder, **call)
    assert all(path.exists() for path in report.figures)
    assert not list(out.glob(".*"))


def test_a_gradcam_that_fails_leaves_nothing(run_folder, config, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "broken.jpeg").write_bytes(b"not a photograph")
    with raises_naming(DrtfError, images):
        gradcam(run_folder, out=tmp_path / "out", **sections(config), images=images)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_figures_can_be_switched_between(run_folder, images, config, tmp_path):
    gradcam(run_folder, out=tmp_path, **sections(config), images=images)
    first, *others = (cv2.imread(str(tmp_path / name)) for name in FIGURES)
    assert all(other.shape == first.shape for other in others)
    overlays = others[1]
    same = (first == overlays).all(axis=-1)
    # The titles and the black surrounds of the photographs are at the same places.
    assert same[:100].all()
    assert same.mean() > 0.4

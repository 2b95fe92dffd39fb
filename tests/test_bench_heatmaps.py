import dataclasses
import shutil

import cv2
import keras
import numpy as np
import pytest

from drawing import draw_fundus, encode
from drtf.bench import heatmaps
from drtf.bench.heatmaps import bench_heatmaps, load_examples, measure_map, summarize
from drtf.config import ModelConfig
from drtf.errors import DrtfError
from drtf.heatmaps.heatmaps import last_layers_by_grid
from drtf.models.backbones import BACKBONES
from drtf.models.network import build_network
from drtf.models.run import load_run
from drtf.storage import write_object
from naming import raises_naming


@pytest.fixture
def lesions(tmp_path):
    """Folders of photographs with bright squares, and of the squares' masks."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    (masks / "below").mkdir(parents=True)
    for number in range(3):
        image = draw_fundus(seed=number)
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[50:62, 90 : 90 + 4 * (number + 1)] = 1
        image[mask > 0] = (255, 255, 0)
        (images / f"eye_{number}.png").write_bytes(encode(image))
        cv2.imwrite(str(masks / f"eye_{number}_EX.png"), mask)
        cv2.imwrite(str(masks / f"eye_{number}_OD.png"), np.ones_like(mask))
    (images / "healthy.png").write_bytes(encode(draw_fundus(seed=9)))
    empty = np.zeros(image.shape[:2], np.uint8)
    cv2.imwrite(str(masks / "eye_1_SE.png"), empty)
    cv2.imwrite(str(masks / "below" / "eye_2_ma.png"), mask)
    cv2.imwrite(str(masks / "other_MA.png"), mask)
    return images, masks


def test_masks_are_cropped_and_resized_as_their_photographs(lesions, config):
    settings = config.images.model_copy(update={"size": 96, "contrast": "none"})
    for crop in ("retina", "none"):
        settings = settings.model_copy(update={"crop": crop})
        examples, unmatched = load_examples(*lesions, settings)
        assert [mask.path for mask in unmatched] == ["other_MA.png"]
        assert [set(x.lesions) for x in examples] == [
            {"any", "EX"},
            {"any", "EX"},
            {"any", "EX", "MA"},
        ]
        for example in examples:
            red, green, blue = example.image.astype(int).transpose(2, 0, 1)
            painted = (green > 200) & (blue < 60) & (red > 200)
            missed = painted & ~example.lesions["EX"]
            assert painted.sum() > 10
            assert not missed.any()
            assert example.lesions["EX"].sum() < 2 * painted.sum() + 20
            visible = example.image.max(axis=2) > 30
            assert (visible == example.field).mean() > 0.95


def test_photographs_and_masks_are_read_from_a_store(lesions, config):
    folders = ("memory://lesions/images", "memory://lesions/masks")
    for folder, location in zip(lesions, folders, strict=True):
        for path in folder.rglob("*.png"):
            name = path.relative_to(folder).as_posix()
            write_object(f"{location}/{name}", path)
    found, expected = (load_examples(*x, config.images)[0] for x in (folders, lesions))
    assert [set(x.lesions) for x in found] == [set(x.lesions) for x in expected]


def test_masks_that_cannot_be_used_are_refused(lesions, config, tmp_path):
    images, masks = lesions
    path = masks / "eye_0_HE.png"
    cv2.imwrite(str(path), np.ones((40, 50), np.uint8))
    with raises_naming(DrtfError, path, "50 x 40", "160 x 120"):
        load_examples(images, masks, config.images)
    path.write_bytes(b"not a picture")
    with raises_naming(DrtfError, path):
        load_examples(images, masks, config.images)
    with raises_naming(DrtfError, tmp_path / "none"):
        load_examples(images, tmp_path / "none", config.images)


def test_methods_and_layers_are_compared_for_several_runs(
    run_folder, lesions, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    images, masks = lesions
    report = bench_heatmaps(
        [run_folder, other],
        images=images,
        masks=masks,
        methods=("gradcam", "saliency"),
    )
    assert report.num_photographs == 3
    assert [(x.method, x.layer, x.cells) for x in report.results] == [
        ("gradcam", "conv_1", 30),
        ("gradcam", "conv_2", 13),
        ("gradcam", "conv_3", 4),
        ("saliency", "", 32),
    ]
    assert sum(result.is_default for result in report.results) == 1
    for result in report.results:
        counts = {kind: x.num_photographs for kind, x in result.lesions.items()}
        assert counts == {"any": 3, "EX": 3, "MA": 1}
        measured = result.lesions["any"]
        assert set(measured.pointing_by_run) == {str(run_folder), str(other)}
        assert len(set(measured.heat_by_run.values())) == 1  # equal runs
        assert 0 < measured.heat_by_chance < measured.pointing_by_chance < 1


def test_runs_of_different_networks_are_not_averaged(run_folder, lesions, tmp_path):
    other = load_run(run_folder)
    model = other.config.model.model_copy(update={"dropout": 0.7})
    runs = {run_folder: other, tmp_path: other}
    changed = other.config.model_copy(update={"model": model})
    runs[tmp_path] = dataclasses.replace(other, config=changed)
    with (
        pytest.MonkeyPatch.context() as patch,
        raises_naming(DrtfError, run_folder, tmp_path, "model"),
    ):
        patch.setattr(heatmaps, "load_run", runs.get)
        bench_heatmaps(list(runs), images=lesions[0], masks=lesions[1])


def test_a_map_of_the_lesions_scores_best_and_one_outside_scores_worst():
    lesions, field = np.zeros((2, 96, 96), bool)
    lesions[40:50, 40:50] = True
    field[6:] = True

    def measure(heat):
        return measure_map(heat, lesions={"MA": lesions}, field=field)["MA"]

    on_lesions = measure(lesions.astype(np.float32))
    chance = 100 / (90 * 96)
    assert on_lesions.heat_by_chance == pytest.approx(chance)
    assert chance < on_lesions.pointing_by_chance < 4 * chance
    assert (on_lesions.is_pointing, on_lesions.heat_fraction) == (1, 1)
    near = np.zeros((96, 96), np.float32)
    near[38, 45] = 1
    assert measure(near)[::2] == (1, 0)
    far = np.zeros((96, 96), np.float32)
    far[80, 80] = 1
    assert measure(far)[::2] == (0, 0)
    outside = np.where(field, 0, 1).astype(np.float32)
    blank = measure(outside)
    assert blank.is_pointing == 0
    assert np.isnan(blank.heat_fraction)


def test_measures_are_averaged_over_runs_and_photographs():
    def measured(pointing, heat):
        return heatmaps.Measured(pointing, 0.4, heat, 0.1)

    runs = {
        "a": [{"MA": measured(1, 0.2)}, {"MA": measured(0, np.nan)}, {}],
        "b": [{"MA": measured(1, 0.4)}, {"MA": measured(1, 0.6)}, {}],
    }
    result = summarize(runs, "MA")
    assert result.num_photographs == 2
    assert result.pointing.value == pytest.approx(0.75)
    assert result.heat.value == pytest.approx((0.3 + 0.6) / 2)
    assert (result.pointing.ci_low, result.pointing.ci_high) == (0.5, 1)
    assert (result.pointing_by_chance, result.heat_by_chance) == (0.4, 0.1)
    assert result.pointing_by_run == {"a": 0.5, "b": 1}
    assert result.heat_by_run == pytest.approx({"a": 0.2, "b": 0.5})


def test_layers_are_the_last_of_each_grid_size():
    config = ModelConfig(weights="none", alpha=0.35)
    network = build_network(config, image_size=96, load_weights=False)
    layers = last_layers_by_grid(
        network, backbone=BACKBONES["mobilenetv2"], min_cells=3
    )
    assert [layer.output.shape[1] for layer in layers] == [48, 24, 12, 6, 3]
    assert layers[-1].name == "out_relu"


def test_shuffled_weights_are_the_same_values_in_another_order(run_folder):
    run = load_run(run_folder)
    shuffled = heatmaps.shuffle_weights(run)
    assert isinstance(shuffled.network, keras.Model)
    pairs = zip(run.network.get_weights(), shuffled.network.get_weights(), strict=True)
    changed = False
    for a, b in pairs:
        assert np.sort(a.ravel()) == pytest.approx(np.sort(b.ravel()))
        changed |= bool((a != b).any())
    assert changed

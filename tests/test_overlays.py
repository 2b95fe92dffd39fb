from types import SimpleNamespace

import numpy as np
import pytest

from drtf.config import GradcamConfig
from drtf.heatmaps.overlays import (
    Explained,
    add_caption,
    color_bar,
    color_heat,
    describe_photograph,
    draw_map,
    draw_overlay,
    draw_photograph,
    heat_scale,
)
from drtf.tasks import TASKS
from naming import assert_names

CONFIG = GradcamConfig(colormap="jet")
PER_IMAGE = GradcamConfig(colormap="jet", scale="image")


def explained(heat, *, is_positive=True, score=0.9, outside=0.0):
    """A gray photograph; its left half has no heat, its right half has `heat`."""
    values = np.zeros((32, 32), np.float32)
    values[:, 16:] = heat
    image = np.full((32, 32, 3), 90, np.uint8)
    return Explained("eye", image, values, outside, score, is_positive)


def run(threshold=0.5):
    return SimpleNamespace(
        task=TASKS["binary"],
        threshold=None if threshold is None else SimpleNamespace(value=threshold),
        effective_threshold=0.5 if threshold is None else threshold,
    )


def test_the_photograph_is_unchanged_where_there_is_no_heat():
    picture = draw_overlay(explained(2.0), CONFIG, scale=2.0)
    assert picture.shape == (512, 512, 3)
    assert (picture[:, :200] == 90).all()
    assert np.ptp(picture[256, 500].astype(int)) > 40


def test_opacity_is_proportional_to_heat():
    config = GradcamConfig(colormap="gray", overlay_alpha=0.5)
    full, half = (
        draw_overlay(explained(heat), config, scale=4.0)[100, 480].astype(int)
        for heat in (4.0, 1.0)
    )
    assert full == pytest.approx(90 + 0.5 * (255 - 90), abs=1)
    assert half == pytest.approx(90 + 0.125 * (64 - 90), abs=1)


def test_hot_regions_have_contours():
    picture = draw_overlay(explained(2.0), GradcamConfig(colormap="gray"), scale=2.0)
    edge = picture[100, 240:290].astype(int)
    assert edge.max() > 200 > 50 > edge.min()


def test_nothing_is_colored_below_the_threshold():
    item = explained(2.0, is_positive=False)
    for picture in (
        draw_overlay(item, PER_IMAGE, scale=2.0),
        draw_map(item, PER_IMAGE, scale=2.0),
    ):
        assert (np.ptp(picture.astype(int), axis=-1) == 0).all()
        assert picture.max() < 160


def test_maps_share_their_scale_unless_asked_otherwise():
    weak, strong = explained(1.0), explained(4.0)
    scale = heat_scale([weak, strong])
    assert scale == 4.0
    assert draw_map(weak, CONFIG, scale=scale)[9, 500].tolist() == [0, 128, 255]
    assert (
        draw_map(weak, PER_IMAGE, scale=scale)[9, 500].tolist()
        == draw_map(strong, CONFIG, scale=scale)[9, 500].tolist()
    )
    assert color_bar(CONFIG, scale).maximum == 4.0
    assert color_bar(PER_IMAGE, scale).maximum == 1


def test_photographs_below_the_threshold_do_not_set_the_scale():
    healthy = explained(9.0, is_positive=False)
    assert heat_scale([explained(2.0), healthy]) == 2.0
    assert heat_scale([healthy]) == 9.0


def test_one_extreme_map_of_many_does_not_set_the_scale():
    assert heat_scale([explained(1.0), explained(2.0), explained(50.0)]) == 2.0


def test_blank_maps_do_not_set_the_scale():
    blank = explained(0.0)
    assert heat_scale([blank, blank, explained(2.0)]) == 2.0
    assert heat_scale([blank, explained(2.0, is_positive=False)]) == 2.0
    assert color_bar(CONFIG, heat_scale([blank, blank])) is None


def test_an_overlay_of_a_blank_map_is_the_photograph():
    item = explained(0.0)
    picture = draw_overlay(item, CONFIG, scale=heat_scale([item]))
    assert (picture == draw_photograph(item)).all()
    assert any("no heat" in line for line in describe_photograph(item, run()))


def test_pictures_have_one_size():
    item = explained(1.0)
    shapes = {
        draw_photograph(item).shape,
        draw_map(item, CONFIG, scale=1.0).shape,
        draw_overlay(item, CONFIG, scale=1.0).shape,
    }
    assert shapes == {(512, 512, 3)}


def test_a_caption_has_name_score_threshold_and_decision():
    caption = "\n".join(describe_photograph(explained(1.0), run(0.25)))
    assert_names(caption, "eye", "0.900", "0.250", "diseased")
    healthy = explained(1.0, score=0.1, is_positive=False)
    assert_names("\n".join(describe_photograph(healthy, run(0.25))), "healthy", "below")


def test_a_caption_has_no_decision_without_a_threshold():
    lines = describe_photograph(explained(1.0), run(None))
    assert not {"healthy", "diseased"} & set(" ".join(lines).split())


def test_a_caption_reports_much_heat_outside_the_retina():
    assert_names(
        "\n".join(describe_photograph(explained(1, outside=0.4), run())), "40%"
    )
    assert len(describe_photograph(explained(1, outside=0.1), run())) == 3


def test_a_caption_is_added_below_the_pixels_of_a_picture():
    picture = draw_photograph(explained(1.0))
    captioned = add_caption(picture, ["a" * 300, "score 0.900"])
    assert (captioned[:512] == picture).all()
    below = captioned[512:]
    assert below.shape[1] == 512
    assert (below[:, :5] == 255).all()
    assert (below[:, -5:] == 255).all()
    assert below.min() < 100


def test_heat_has_the_colors_of_the_given_color_map():
    heat = np.array([[0.0, 3.0, 5.0]])
    colors = color_heat(heat, scale=3.0, colormap="gray")
    assert colors.tolist() == [[[0, 0, 0], [255, 255, 255], [255, 255, 255]]]
    assert not color_heat(heat, scale=0.0, colormap="gray").any()

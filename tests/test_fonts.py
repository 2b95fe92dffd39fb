import numpy as np
import pytest
from matplotlib import font_manager

from drtf import fonts
from drtf.figures import plot_grid
from naming import assert_names

KOREAN = "12_좌안.png"


def draw(folder):
    plot_grid(folder / "grid.png", [("", [(KOREAN, np.zeros((4, 4, 3), np.uint8))])])


def test_latin_names_are_drawn_with_the_font_of_matplotlib():
    assert fonts.choose_font_file("12_left.png") == font_manager.findfont(fonts.LATIN)


def test_letters_without_a_font_are_reported_once(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(fonts, "font_families", lambda: [fonts.LATIN])
    monkeypatch.setattr("drtf.figures.font_families", lambda: [fonts.LATIN])
    fonts.warn_of_missing_letters.cache_clear()
    assert fonts.choose_font_file(KOREAN) == font_manager.findfont(fonts.LATIN)
    draw(tmp_path)
    assert len(caplog.records) == 1
    assert_names(caplog.text, "fonts-noto-cjk")


def test_korean_names_are_drawn_where_a_font_is_installed(caplog, tmp_path):
    if len(fonts.font_families()) == 1:
        pytest.skip("no font with Korean letters is installed")
    fonts.warn_of_missing_letters.cache_clear()
    assert fonts.choose_font_file(KOREAN) != font_manager.findfont(fonts.LATIN)
    draw(tmp_path)
    assert not caplog.records

"""Fonts for names of photographs, which may be in any script."""

import contextlib
import functools
import logging
from pathlib import Path

from matplotlib import font_manager
from matplotlib.font_manager import get_font

_log = logging.getLogger(__name__)

LATIN = "DejaVu Sans"  # comes with matplotlib
# Fonts with Korean, Chinese or Japanese letters, of Linux, Windows and macOS.
OTHERS = (
    "Noto Sans CJK KR",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans KR",
    "NanumGothic",
    "NanumBarunGothic",
    "UnDotum",
    "Malgun Gothic",
    "Microsoft YaHei",
    "SimHei",
    "Yu Gothic",
    "MS Gothic",
    "Apple SD Gothic Neo",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "WenQuanYi Zen Hei",
    "IPAGothic",
)
# Parts of the names of their files.
FILE_NAMES = (
    "cjk",
    "notosanskr",
    "nanum",
    "dotum",
    "malgun",
    "msyh",
    "simhei",
    "yugoth",
    "msgothic",
    "gothicneo",
    "pingfang",
    "hiragino",
    "arialuni",
    "arial unicode",
    "wqy",
    "ipag",
)


@functools.cache
def font_families() -> list[str]:
    """Return the installed fonts that names are drawn with, in order."""
    # matplotlib's list is a cache that may be older than a font.
    for path in font_manager.findSystemFonts():
        if any(part in Path(path).name.lower() for part in FILE_NAMES):
            with contextlib.suppress(OSError, RuntimeError):  # a damaged file
                font_manager.fontManager.addfont(path)
    installed = set(font_manager.get_font_names())
    return [LATIN, *(name for name in OTHERS if name in installed)]


def choose_font_file(text: str) -> str:
    """Return the first of these fonts that has all letters of a text.

    If none has, warn, and return the first one.
    """
    paths = [font_manager.findfont(family) for family in font_families()]
    for path in paths:
        font = get_font(path)
        if all(font.get_char_index(ord(letter)) for letter in text):
            return path
    warn_of_missing_letters()
    return paths[0]


@functools.cache
def warn_of_missing_letters() -> None:
    """Warn once that letters are drawn as boxes."""
    _log.warning(
        "no installed font has all letters of these names, so some are drawn as boxes: "
        "install one such as Noto Sans CJK (Debian: apt-get install fonts-noto-cjk)"
    )

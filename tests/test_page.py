import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from drtf.figures import plot_grid
from drtf.inference import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
browser = next(filter(None, map(shutil.which, BROWSERS)), None)
PHONE, DESK = 390, 1200

# A page is shown in a frame of a device's width, and told how wide it came out.
FRAME = """<!doctype html><body style="margin:0"><iframe id="f" style="width:{width}px;
height:900px;border:0" srcdoc="{page}"></iframe><script>
document.getElementById("f").onload = function () {{
  const page = this.contentDocument, tables = [...page.querySelectorAll("table")];
  document.title = JSON.stringify({{
    wide: page.documentElement.scrollWidth,
    images: [...page.images].map(x => x.naturalWidth > 0 && x.width <= {width}),
    cut: tables.filter(x => x.getBoundingClientRect().right > {width}
                            && !x.closest(".scroll")).length,
    headings: [...page.querySelectorAll("h1, h2")].map(x => x.textContent),
  }});
}};</script>"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plot_grid(folder / "grid.png", [("row", [("picture", picture)] * 4)])
    columns = ("metric", "per photograph", "95 %", "per patient", "95 %")
    row = (
        "sensitivity_at_specificity_0.95",
        "0.123",
        "0.100 to 0.150",
        "0.5",
        "0 to 1",
    )
    page.write_page(
        folder / "page.html",
        title="Evaluation of <run> & others",
        sections=[
            page.format_notes(["Take <care>"]),
            page.format_headline([("ROC AUC", "0.900", "0.786 to 0.977")] * 3),
            page.format_figures("Curves", [folder / "grid.png"] * 3),
            page.format_table("Metrics", columns, [row] * 3),
            page.format_figures("Mistakes", [folder / "grid.png"], wide=True),
            page.format_facts("Model", {"SHA-256": "0123456789abcdef" * 4}),
            page.format_text("Limits", "For research."),
            page.format_details("Settings", "size = 96\n" + "x" * 400),
        ],
    )
    return folder / "page.html"


def run_browser(*options):
    common = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=9000",
    )
    command = [browser, *common, *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )


def test_text_is_escaped_and_nothing_is_fetched(path):
    text = path.read_text()
    assert "<run>" not in text
    assert "Take &lt;care&gt;" in text
    assert not re.findall('(?:src|href)="(?!data:)', text)
    assert "<script" not in text


@pytest.mark.skipif(not browser, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_browser_shows_all_of_it_without_scrolling_sideways(path, tmp_path, width):
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(path.read_text())))
    shown = run_browser("--dump-dom", frame.as_uri()).stdout
    found = json.loads(html.unescape(re.search("<title>(.*)</title>", shown)[1]))
    assert found["wide"] <= width
    assert found["images"] == [True] * 4
    assert found["cut"] == 0
    assert found["headings"] == [
        "Evaluation of <run> & others",
        *("Curves", "Metrics", "Mistakes", "Model", "Limits"),
    ]


@pytest.mark.skipif(not browser, reason="needs Chromium or Chrome")
def test_it_prints(path, tmp_path):
    pdf = tmp_path / "page.pdf"
    run_browser(f"--print-to-pdf={pdf}", path.as_uri())
    assert pdf.read_bytes().startswith(b"%PDF")

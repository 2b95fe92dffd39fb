import re

import numpy as np
import pytest
from browsing import DESK, PHONE, browser, run_browser, show

from drtf import page
from drtf.figures import plot_grid


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
        subtitle="2026-11-27, drtf <0.1>",
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


def test_page_escapes_text_and_fetches_nothing(path):
    text = path.read_text()
    assert "<run>" not in text
    assert "<0.1>" not in text
    assert "Take &lt;care&gt;" in text
    assert not re.findall('(?:src|href)="(?!data:)', text)
    assert "<script" not in text


@pytest.mark.skipif(not browser, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_fits_the_width_of_a_browser(path, tmp_path, width):
    found = show(path, width=width, folder=tmp_path)
    assert found["wide"] <= width
    assert found["images"] == [True] * 4
    assert found["cut"] == 0
    assert found["headings"] == [
        "Evaluation of <run> & others",
        *("Curves", "Metrics", "Mistakes", "Model", "Limits"),
    ]


@pytest.mark.skipif(not browser, reason="needs Chromium or Chrome")
def test_page_prints(path, tmp_path):
    pdf = tmp_path / "page.pdf"
    run_browser(f"--print-to-pdf={pdf}", path.as_uri())
    assert pdf.read_bytes().startswith(b"%PDF")

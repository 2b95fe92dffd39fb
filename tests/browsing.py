"""A headless browser, and how wide a page comes out in it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

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
    images: [...page.images].map(x => x.naturalWidth > 0
                            && (x.width <= {width} || !!x.closest(".scroll"))),
    cut: tables.filter(x => x.getBoundingClientRect().right > {width}
                            && !x.closest(".scroll")).length,
    headings: [...page.querySelectorAll("h1, h2")].map(x => x.textContent),
  }});
}};</script>"""


def run_browser(*options: str) -> subprocess.CompletedProcess[str]:
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


def show(path: Path, *, width: int, folder: Path) -> dict[str, Any]:
    """Show a page in a window of the given width; return how it was laid out."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(path.read_text())))
    shown = run_browser("--dump-dom", frame.as_uri()).stdout
    return json.loads(html.unescape(re.search("<title>(.*)</title>", shown)[1]))

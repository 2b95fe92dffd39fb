"""Draw the pictures of README: a demo as an animation, and its heat maps.

    drtf demo --out demo > demo.log 2>&1
    python benchmarks/animation.py demo demo.log

Chromium draws the report. All photographs of a demo are synthetic.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont, ImageOps

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, HEIGHT = 1000, 580
MARGIN, FONT_SIZE, LINE_HEIGHT = 16, 12, 19
NUM_COLUMNS = 134
BACKGROUND, TEXT, PROMPT = "#1e1e1e", "#e6e6e6", "#56b4e9"
# The report is drawn smaller, so that two of its figures are side by side.
SCALE = 0.8
TOPS = (0, 380)
# Milliseconds of a line of output, of the last one, and of a screen of the report.
LINE_MS, LAST_MS, SCREEN_MS = 300, 4000, 3000
# One line of each step is shown: the last one.
STEP = re.compile(r"([A-Z][\w /]+): ")

Frame = tuple[Image.Image, int]


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="folder of drtf demo")
    parser.add_argument("log", type=Path, help="its output")
    arguments = parser.parse_args()
    heatmaps = arguments.demo / "gradcam" / "overlays.png"
    shutil.copy(heatmaps, DOCS / "demo.png")
    frames = [
        *terminal_frames(shown_lines(arguments.log.read_text())),
        *report_frames(arguments.demo / "evaluation" / "report.html"),
        picture_frame(heatmaps),
    ]
    save_animation(frames)


def shown_lines(log: str) -> list[str]:
    """Return the lines to show: of the progress of each step, only the last."""
    lines: list[str] = []
    for line in log.splitlines():
        step, last = (STEP.match(x) for x in (line, lines[-1] if lines else ""))
        if step and last and step[1] == last[1]:
            lines.pop()
        lines.append(line)
    return lines


def terminal_frames(lines: list[str]) -> Iterator[Frame]:
    """Yield a frame for each line that the terminal shows."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), FONT_SIZE)
    num_rows = (HEIGHT - 2 * MARGIN) // LINE_HEIGHT
    shown = [("$ drtf demo --out demo", PROMPT)]
    for line in ["", *lines]:
        if line:
            shown += [(part, TEXT) for part in wrap(line)]
        image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
        draw = ImageDraw.Draw(image)
        for row, (text, color) in enumerate(shown[-num_rows:]):
            place = (MARGIN, MARGIN + row * LINE_HEIGHT)
            draw.text(place, text, font=font, fill=color)
        yield image, LAST_MS if line == lines[-1] else LINE_MS


def wrap(line: str) -> list[str]:
    """Divide a line as a terminal does."""
    return [line[x : x + NUM_COLUMNS] for x in range(0, len(line), NUM_COLUMNS)]


def report_frames(report: Path) -> Iterator[Frame]:
    """Yield frames of the beginning of the report."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "report.png"
        command = ["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--screenshot={picture}"]
        size = (round(x / SCALE) for x in (WIDTH, max(TOPS) + HEIGHT))
        command += ["--window-size={},{}".format(*size)]
        command += [f"--force-device-scale-factor={SCALE}"]
        subprocess.run([*command, report.resolve().as_uri()], check=True)
        with Image.open(picture) as image:
            page = image.convert("RGB")
    for top in TOPS:
        yield page.crop((0, top, WIDTH, top + HEIGHT)), SCREEN_MS


def picture_frame(picture: Path) -> Frame:
    """Return a frame with a picture on white."""
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    with Image.open(picture) as image:
        small = ImageOps.contain(image.convert("RGB"), (WIDTH, HEIGHT))
    page.paste(small, ((WIDTH - small.width) // 2, 0))
    return page, LAST_MS


def save_animation(frames: list[Frame]) -> None:
    """Save the frames as a GIF file that repeats."""
    # An octree keeps colors that few pixels have, such as those of a scale.
    images = [
        image.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for image, _ in frames
    ]
    images[0].save(
        DOCS / "demo.gif",
        save_all=True,
        append_images=images[1:],
        duration=[milliseconds for _, milliseconds in frames],
        loop=0,
        optimize=True,
    )


if __name__ == "__main__":
    main()

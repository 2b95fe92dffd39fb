"""Overlays: heat maps drawn over their photographs, and what their captions say."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drtf.config import GradcamConfig
from drtf.figures import ColorBar
from drtf.fonts import choose_font_file
from drtf.heatmaps.heatmaps import HEAT_UNITS, ComputeMaps
from drtf.models.run import Run

# Pictures are displayed with at least this many px per side.
PICTURE_SIDE = 512
# Contours are drawn where heat reaches these fractions of the scale, so that hot
# regions are visible without colors too.
CONTOURS = (0.5, 0.8)
# Below the threshold heat is gray, at most this bright: a white patch in a photograph
# looks like a lesion.
GRAY = "gray"
MAX_GRAY = 0.6
# From this fraction on, the caption mentions heat outside the retina.
MUCH_OUTSIDE = 0.25
FONT_SIZE = 12  # px
LIMITS = "For research only, not for diagnosis."


@dataclass(frozen=True)
class Explained:
    """A photograph with its score and heat map.

    Attributes:
        name: Name to display.
        image: uint8 RGB [S, S, 3], the photograph to display.
        heat: float32 [H, W], at least 0, see `HeatMaps`.
        outside: Fraction of the heat that lay outside the retina and was removed.
        score: The photograph's score, in [0, 1].
        is_positive: Whether the photograph is predicted positive.
    """

    name: str
    image: np.ndarray
    heat: np.ndarray
    outside: float
    score: float
    is_positive: bool

    @property
    def is_blank(self) -> bool:
        """Whether the map is zero everywhere."""
        return not self.heat.any()


def explain(
    compute_maps: ComputeMaps,
    images: np.ndarray,
    *,
    names: Sequence[str],
    scores: Sequence[float],
    is_positive: Sequence[bool],
    pictures: Sequence[np.ndarray] | None = None,
) -> list[Explained]:
    """Compute the heat maps of photographs.

    Args:
        compute_maps: From `build_map_function`.
        images: uint8 RGB [B, S, S, 3], the photographs as the network takes them.
        names: Their names.
        scores: Their scores, in [0, 1].
        is_positive: Whether each one is predicted positive.
        pictures: The photographs to display, uint8 RGB [P, P, 3]; None displays
            `images`.
    """
    maps = compute_maps(images)
    return [
        Explained(*item)
        for item in zip(
            names,
            images if pictures is None else pictures,
            maps.heat,
            maps.outside.tolist(),
            scores,
            is_positive,
            strict=True,
        )
    ]


def heat_scale(explained: Sequence[Explained]) -> float:
    """Return the heat at which the colors of several maps end: a typical maximum.

    It is the median of the maps' maxima, so that one extreme photograph does not make
    all others pale. Blank maps do not count. Photographs below the threshold do not
    count, unless there are no others: their maps must look as weak as they are.

    Returns:
        0 if all maps are blank.
    """
    with_heat = [item for item in explained if not item.is_blank]
    positive = [item for item in with_heat if item.is_positive]
    peaks = [item.heat.max() for item in positive or with_heat]
    return float(np.quantile(peaks, 0.5, method="higher")) if peaks else 0.0


def color_bar(
    config: GradcamConfig, scale: float, *, quantity: str = "Heat"
) -> ColorBar | None:
    """Return the color bar of maps that are drawn on this scale; None without heat."""
    if scale == 0:
        return None
    if config.scale == "image":
        unit, scale = "fraction of each map's maximum", 1
    else:
        unit = HEAT_UNITS.get(config.method, f"{config.method}, without a unit")
    return ColorBar(config.colormap, f"{quantity}: {unit}", scale)


def describe_photograph(item: Explained, run: Run) -> list[str]:
    """Return the lines of a caption: name, score, decision and remarks."""
    negative, positive = run.task.label_names
    score = f"score {item.score:.3f}"
    if run.threshold is None:
        decision = "no threshold chosen"
        if not item.is_positive:
            decision += f"; gray below {run.effective_threshold}"
    else:
        score += f", threshold {run.threshold.value:.3f}"
        decision = f"at or above threshold: {positive}"
        if not item.is_positive:
            decision = f"below threshold (gray): {negative}"
    return [item.name, score, decision, *describe_remarks(item)]


def describe_remarks(item: Explained) -> list[str]:
    """Return the lines of a caption that warn about the map."""
    lines = []
    if item.is_blank:
        lines.append("no heat: no region raises the score")
    if item.outside >= MUCH_OUTSIDE:
        lines.append(f"{item.outside:.0%} of the heat was off the retina")
    return lines


def describe_model(run: Run) -> str:
    """Return the text of every figure: the model, the date and the limits."""
    model = f"{run.folder.resolve().name} ({run.info.model_sha256[:8]})"
    return f"Model {model}, {datetime.date.today()}. {LIMITS}"


def color_heat(
    heat: np.ndarray, *, scale: float, colormap: str, limit: float = 1.0
) -> np.ndarray:
    """Convert heat [H, W] to uint8 RGB [H, W, 3].

    Args:
        heat: At least 0.
        scale: The heat at which the colors end; 0 if there is no heat at all.
        colormap: Name of a matplotlib color map.
        limit: The fraction of the color map that is used.
    """
    colors = matplotlib.colormaps[colormap](limit * _fractions(heat, scale))[..., :3]
    return np.rint(colors * 255).astype(np.uint8)


def draw_map(item: Explained, config: GradcamConfig, *, scale: float) -> np.ndarray:
    """Draw a heat map, uint8 RGB [S, S, 3], in gray if it is below the threshold."""
    heat = _enlarge(item.heat, side=_side(item))
    scale = _scale_of(item, config, scale)
    if item.is_positive:
        return color_heat(heat, scale=scale, colormap=config.colormap)
    return color_heat(heat, scale=scale, colormap=GRAY, limit=MAX_GRAY)


def draw_photograph(item: Explained) -> np.ndarray:
    """Return the photograph without heat, at the size of its overlay."""
    return _enlarge(item.image, side=_side(item))


def draw_overlay(item: Explained, config: GradcamConfig, *, scale: float) -> np.ndarray:
    """Draw a heat map over its photograph, with contours around the hottest regions.

    The opacity is proportional to the heat: where there is none, the photograph is
    unchanged.

    Args:
        item: The photograph and its map.
        config: Scale, opacity and color map of the overlay; its method.
        scale: The heat at which the colors end, see `heat_scale`.

    Returns:
        uint8 RGB [S, S, 3], S at least `PICTURE_SIDE`.
    """
    picture = draw_photograph(item)
    fractions = _fractions(
        _enlarge(item.heat, side=_side(item)), _scale_of(item, config, scale)
    )
    opacity = config.overlay_alpha * fractions[..., None]
    colors = draw_map(item, config, scale=scale)
    picture = np.rint(picture + opacity * (colors - picture.astype(np.float32)))
    picture = picture.astype(np.uint8)
    # A saliency map consists of single pixels, so it has no contours.
    if config.method == "saliency" or not item.is_positive:
        return picture
    for level in CONTOURS:
        lines, _ = cv2.findContours(
            (fractions >= level).astype(np.uint8),
            cv2.RETR_EXTERNAL,
            cv2.CHAIN_APPROX_NONE,
        )
        for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.drawContours(picture, lines, -1, color, thickness, cv2.LINE_AA)
    return picture


def add_caption(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Add lines of text below a picture, uint8 RGB [H, W, 3]; its pixels stay as is."""
    margin, spacing = FONT_SIZE // 2, FONT_SIZE // 4
    width = picture.shape[1]
    line_height = FONT_SIZE + spacing
    strip = Image.new("RGB", (width, 2 * margin + line_height * len(lines)), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        font = ImageFont.truetype(choose_font_file(line), FONT_SIZE)
        fitted = _fit(line, font, width - 2 * margin)
        draw.text((margin, margin + number * line_height), fitted, "black", font)
    return np.concatenate([picture, np.asarray(strip)])


def _fit(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a line to a width in px; keep its end, as for a path."""
    line = line.encode(errors="replace").decode()
    shortened = line
    while font.getlength(shortened) > width:
        line = line[1:]
        shortened = f"…{line}"
    return shortened


def _fractions(heat: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(heat / scale, 0, 1) if scale > 0 else np.zeros_like(heat)


def _scale_of(item: Explained, config: GradcamConfig, scale: float) -> float:
    return float(item.heat.max()) if config.scale == "image" else scale


def _side(item: Explained) -> int:
    return max(PICTURE_SIDE, *item.image.shape[:2])


def _enlarge(picture: np.ndarray, *, side: int) -> np.ndarray:
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR)

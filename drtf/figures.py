"""Figures as PNG files, by matplotlib."""

import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from drtf.fonts import font_families, warn_of_missing_letters

DPI = 120
# The colors of Okabe and Ito, which color-blind readers can distinguish.
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#888888"

# Sizes in px of a grid of pictures, and the number of characters that fit in a panel.
PANEL_SIDE = 300
MARGIN = 16
LINE_HEIGHT = 18
CAPTION_DISTANCE = 10
CHARACTER_WIDTH = 8
CAPTION_LENGTH = 36
BAR_THICKNESS = 14
BAR_HEIGHT = 85  # with its ticks and two lines of label
# Photographs are compressed twice as fast as at the usual 6, and 2 % larger.
COMPRESS_LEVEL = 4
NUM_BINS = 10
PANELS = {"loss": "Loss", "roc_auc": "ROC AUC", "kappa": "Quadratic weighted kappa"}

# A caption and uint8 RGB [S, S, 3].
Picture = tuple[str, np.ndarray]
# A title and its pictures.
Row = tuple[str, Sequence[Picture]]


@dataclass(frozen=True)
class ColorBar:
    """The meaning of the colors of pictures.

    Attributes:
        colormap: Name of a matplotlib color map.
        label: What it shows, with the unit.
        maximum: The value from which on the color is the last one; the first is at 0.
    """

    colormap: str
    label: str
    maximum: float


def plot_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Plot loss and metrics over epochs, for training and validation.

    Args:
        path: The PNG file to write.
        history: The measured values of each epoch, by name.
    """
    epochs = np.arange(1, len(history) + 1)
    panels = {
        name: title for name, title in PANELS.items() if f"val_{name}" in history[0]
    }
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for key, color, label in (
            (name, GRAY, "Training (augmented)"),
            (f"val_{name}", BLUE, "Validation"),
        ):
            if key in history[0]:
                values = [row[key] for row in history]
                axes.plot(epochs, values, color=color, label=label, marker=".")
        axes.set(title=title, xlabel="Epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)


def plot_confusion(
    path: Path | IO[bytes], matrix: np.ndarray, *, labels: Sequence[str]
) -> None:
    """Plot a confusion matrix: counts, and the fraction of each row.

    Args:
        path: The PNG file to write.
        matrix: int64 [C, C]; rows are labels, columns are predictions.
        labels: Name of each class.
    """
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        axes.text(
            column,
            row,
            f"{count:,}\n{fractions[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=13 if len(labels) == 2 else 8,
            color="white" if fractions[row, column] > 0.5 else "black",
        )
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels, rotation=90, va="center")
    axes.set(title="Confusion matrix", xlabel="Predicted label", ylabel="True label")
    figure.savefig(path, dpi=DPI)


def plot_roc(
    path: Path | IO[bytes],
    y_true: np.ndarray,
    y_score: np.ndarray,
    *,
    caption: str,
    threshold: float,
    others: Sequence[float] = (),
) -> None:
    """Plot the ROC curve and the point of the threshold on it.

    Args:
        path: The PNG file to write.
        y_true: int64 or bool [n], 1 for positive.
        y_score: float [n] in [0, 1].
        caption: Legend entry of the curve.
        threshold: The score from which a photograph is predicted positive.
        others: Alternative thresholds to mark.
    """
    false_positive, true_positive, _ = roc_curve(y_true, y_score)
    figure, axes = _square("ROC curve", "1 - specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="Chance")
    axes.plot(false_positive, true_positive, color=BLUE, label=caption)
    for positive, style in _marked_points(y_score, threshold, others):
        x, y = positive[y_true == 0].mean(), positive[y_true == 1].mean()
        axes.plot(x, y, **style)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=DPI)


def plot_precision_recall(
    path: Path,
    y_true: np.ndarray,
    y_score: np.ndarray,
    *,
    caption: str,
    threshold: float,
    others: Sequence[float] = (),
) -> None:
    """Plot precision against recall; the arguments are those of `plot_roc`."""
    precision, recall, _ = precision_recall_curve(y_true, y_score)
    figure, axes = _square(
        "Precision-recall curve", "Recall (sensitivity)", "Precision"
    )
    prevalence = y_true.mean()
    label = f"Prevalence {prevalence:.2f}"
    axes.axhline(prevalence, color=GRAY, linestyle=":", label=label)
    axes.plot(recall, precision, color=BLUE, drawstyle="steps-post", label=caption)
    for positive, style in _marked_points(y_score, threshold, others):
        if positive.any():
            axes.plot(positive[y_true == 1].mean(), y_true[positive].mean(), **style)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=DPI)


def plot_reliability(
    path: Path, y_true: np.ndarray, probabilities: Mapping[str, np.ndarray]
) -> None:
    """Plot a reliability diagram with ten equal-count bins.

    Args:
        path: The PNG file to write.
        y_true: int64 [n], 1 for positive.
        probabilities: float [n] in [0, 1], by legend entry.
    """
    figure, axes = _square(
        "Reliability diagram", "Mean predicted probability", "Fraction of positives"
    )
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="Perfect calibration")
    for (label, values), color in zip(probabilities.items(), (GRAY, BLUE), strict=True):
        bins = equal_count_bins(values)
        predicted = [values[members].mean() for members in bins]
        observed = [y_true[members].mean() for members in bins]
        axes.plot(predicted, observed, color=color, marker="o", label=label)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=DPI)


def equal_count_bins(values: np.ndarray) -> list[np.ndarray]:
    """Divide values into ten bins of nearly equal counts; equal values share a bin.

    Args:
        values: float [n].

    Returns:
        For each bin, int64 indices into `values`, in ascending order of the values.
        There are fewer than ten bins if many values are equal.
    """
    order = np.argsort(values, kind="stable")
    last = [part[-1] for part in np.array_split(order, NUM_BINS) if len(part)]
    ends = np.searchsorted(values[order], values[last], side="right")
    return np.split(order, np.unique(ends)[:-1])


def plot_scores(
    path: Path, grades: np.ndarray, scores: np.ndarray, *, threshold: float
) -> None:
    """Plot a histogram of the scores for each grade.

    Args:
        path: The PNG file to write.
        grades: int64 [n], 0-4.
        scores: float [n] in [0, 1].
        threshold: The score from which a photograph is predicted positive.
    """
    present = np.unique(grades)
    bins = np.linspace(0, 1, 26)
    figure = Figure(figsize=(6, 1.3 * len(present) + 0.8), layout="constrained")
    rows = figure.subplots(len(present), 1, sharex=True, squeeze=False)[:, 0]
    for axes, grade in zip(rows, present, strict=True):
        chosen = scores[grades == grade]
        axes.hist(chosen, bins, color=BLUE if grade else GREEN)
        axes.axvline(threshold, color=ORANGE)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(f"Grade {grade}\n(n = {len(chosen):,})")
    rows[0].set_title("Scores by grade (line: threshold)")
    rows[-1].set(xlabel="Score", xlim=(0, 1))
    figure.savefig(path, dpi=DPI)


def plot_grid(
    path: Path | IO[bytes],
    rows: Sequence[Row],
    *,
    color_bar: ColorBar | None = None,
    footer: str = "",
) -> None:
    """Plot rows of captioned pictures.

    The places of the pictures depend only on the number of rows, columns and lines of
    text, so that figures of the same rows can be compared by switching between them.

    Args:
        path: The PNG file to write.
        rows: Titles and their pictures.
        color_bar: Shown above the footer.
        footer: Text below the pictures. Space for a color bar is left above it, even
            if there is none.
    """
    rows = [row for row in rows if row[1]]
    num_columns = max(len(pictures) for _, pictures in rows)
    captions = [caption for _, pictures in rows for caption, _ in pictures]
    num_lines = 1 + max(len(caption.splitlines()) for caption in captions)
    width = MARGIN + num_columns * (PANEL_SIDE + MARGIN)
    row_height = num_lines * LINE_HEIGHT + PANEL_SIDE + MARGIN
    note = textwrap.wrap(footer, width // CHARACTER_WIDTH)
    bottom = BAR_HEIGHT + MARGIN + len(note) * LINE_HEIGHT if note else 0
    height = MARGIN + len(rows) * row_height + bottom
    figure = Figure(figsize=(width / DPI, height / DPI))
    # All pictures share axes in px, because axes of their own take longer to draw.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for row, (title, pictures) in enumerate(rows):
        below = height - (row + 1) * row_height
        for column, (caption, picture) in enumerate(pictures):
            left = MARGIN + column * (PANEL_SIDE + MARGIN)
            extent = (left, left + PANEL_SIDE, below, below + PANEL_SIDE)
            axes.imshow(picture, extent=extent)
            heading = f"{title}\n" if column == 0 else "\n"
            # Names may contain "$", which would start a formula.
            lines = [_shorten(line) for line in caption.splitlines()]
            lines += [" "] * (num_lines - 1 - len(lines))
            axes.text(
                left,
                below + PANEL_SIDE + CAPTION_DISTANCE,
                heading + "\n".join(lines),
                fontsize=9,
                parse_math=False,
                fontfamily=font_families(),
            )
    axes.set(xlim=(0, width), ylim=(0, height))
    if note:
        text = "\n".join(note)
        figure.text(MARGIN / width, MARGIN / height, text, fontsize=9, parse_math=False)
    if color_bar:
        above = MARGIN + len(note) * LINE_HEIGHT + BAR_HEIGHT - BAR_THICKNESS
        # The numbers at its ends are wider than the bar.
        side = PANEL_SIDE - 2 * MARGIN
        bar_axes = figure.add_axes(
            (2 * MARGIN / width, above / height, side / width, BAR_THICKNESS / height)
        )
        colors = ScalarMappable(Normalize(0, color_bar.maximum), color_bar.colormap)
        bar = figure.colorbar(
            colors,
            cax=bar_axes,
            orientation="horizontal",
            extend="max",
            extendfrac=0.03,
        )
        label = "\n".join(textwrap.wrap(color_bar.label, CAPTION_LENGTH))
        bar.ax.tick_params(labelsize=9)
        bar.set_label(label, fontsize=9, parse_math=False)
    _save_with_names(figure, path)


def _shorten(line: str) -> str:
    """Shorten a line to the width of a picture; keep its end, as for a path."""
    line = line.encode(errors="replace").decode()
    return line if len(line) <= CAPTION_LENGTH else f"…{line[1 - CAPTION_LENGTH :]}"


def plot_histograms(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Plot a histogram of each of several measures.

    Args:
        path: The PNG file to write.
        values: float [n], by the name of the measure.
    """
    figure = Figure(figsize=(3.2 * len(values), 2.8), layout="constrained")
    rows = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (name, numbers) in zip(rows, values.items(), strict=True):
        axes.hist(numbers, 40, color=BLUE)
        axes.axvline(np.median(numbers), color=ORANGE)
        axes.set_title(name)
    rows[0].set_ylabel("Photographs")
    figure.suptitle("Image quality (line: median)")
    figure.savefig(path, dpi=DPI)


def plot_estimates(
    path: Path,
    names: Sequence[str],
    estimates: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
) -> None:
    """Plot values with their intervals, one row per name.

    Args:
        path: The PNG file to write.
        names: Names of the rows, from the top.
        estimates: For each legend entry, the value, lower and upper bound of each row.
        title: Title of the figure.
    """
    figure = Figure(figsize=(7, 1.4 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for number, (label, values) in enumerate(estimates.items()):
        value, low, high = np.array(values).T
        axes.errorbar(
            value,
            rows + 0.16 * (2 * number - len(estimates) + 1),
            xerr=np.maximum(
                [value - low, high - value], 0
            ),  # negative only by rounding
            fmt="os^"[number],
            color=(BLUE, ORANGE, GREEN)[number],
            capsize=3,
            label=label,
        )
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if len(estimates) > 1:
        axes.legend()
    figure.savefig(path, dpi=DPI)


def plot_groups(
    path: Path,
    names: Sequence[str],
    panels: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    whole: Sequence[tuple[float, float, float]],
) -> None:
    """Plot metrics of groups with their intervals: one row per group, as in a forest.

    Args:
        path: The PNG file to write.
        names: Names of the groups, from the top.
        panels: For each metric, the value, lower and upper bound of each group; NaN
            where there is none.
        whole: The same of all photographs for each metric: a line and a band.
    """
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(names)), layout="constrained")
    rows = np.arange(len(names))
    all_axes = figure.subplots(1, len(panels), sharey=True)
    for axes, (title, values), (center, *bounds) in zip(
        all_axes, panels.items(), whole, strict=True
    ):
        if np.isfinite(bounds).all():
            axes.axvspan(*bounds, color=GRAY, alpha=0.2, linewidth=0)
        axes.axvline(center, color=ORANGE, linestyle="--")
        value, low, high = np.array(values).T
        errors = np.maximum([value - low, high - value], 0)
        axes.errorbar(value, rows, xerr=errors, fmt="o", color=BLUE, capsize=3)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    all_axes[0].set_yticks(rows, names, parse_math=False, fontfamily=font_families())
    all_axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(
        "Point and bar: group, 95 % interval. Dashed line and band: all photographs",
        fontsize=9,
    )
    _save_with_names(figure, path)


def _save_with_names(figure: Figure, path: Path | IO[bytes]) -> None:
    """Save a figure with names in any script; warn if no font has their letters."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=DPI, pil_kwargs={"compress_level": COMPRESS_LEVEL})
    is_missing = [re.match("Glyph .* missing", str(x.message)) for x in caught]
    for warning, missing in zip(caught, is_missing, strict=True):
        if not missing:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if any(is_missing):
        warn_of_missing_letters()


def _marked_points(
    y_score: np.ndarray, threshold: float, others: Sequence[float]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield the positive predictions of each threshold, and the style of its point."""
    for number, other in enumerate(others):
        label = "_" if number else "Other thresholds"  # one legend entry for all
        yield y_score >= other, {"marker": "x", "color": GRAY, "ls": "", "label": label}
    label = f"Threshold {threshold:.3f}"
    style = {"marker": "o", "color": ORANGE, "ls": "", "label": label}
    yield y_score >= threshold, style


def _square(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(-0.01, 1.01))
    axes.set(ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    return figure, axes

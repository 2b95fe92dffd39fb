"""Figures by matplotlib, written as PNG without a screen."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

DPI = 120
# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#888888"

CAPTION_LENGTH = 34
NUM_PARTS = 10
PANELS = {"loss": "Loss", "roc_auc": "ROC AUC of disease", "kappa": "Kappa of grades"}

# A caption and uint8 RGB [H, W, 3].
Picture = tuple[str, np.ndarray]
# A title and its pictures.
Row = tuple[str, Sequence[Picture]]


def plot_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Draw what was measured over epochs, training beside validation."""
    epochs = np.arange(1, len(history) + 1)
    panels = {
        name: title for name, title in PANELS.items() if f"val_{name}" in history[0]
    }
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for key, color, label in (
            (name, GREY, "training (augmented)"),
            (f"val_{name}", BLUE, "validation"),
        ):
            if key in history[0]:
                values = [row[key] for row in history]
                axes.plot(epochs, values, color=color, label=label, marker=".")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)


def plot_confusion(
    path: Path | IO[bytes], matrix: np.ndarray, *, labels: Sequence[str]
) -> None:
    """Draw a confusion matrix: counts, and shares of each true class.

    Args:
        path: of the PNG, or a file to write it to.
        matrix: int64 [C, C], rows are truth and columns are decisions.
        labels: of the classes.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        axes.text(
            column,
            row,
            f"{count:,}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=13 if len(labels) == 2 else 8,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels, rotation=90, va="center")
    axes.set(title="Confusion matrix", xlabel="decision", ylabel="truth")
    figure.savefig(path, dpi=DPI)


def plot_roc(
    path: Path | IO[bytes],
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    caption: str,
    threshold: float,
    others: Sequence[float] = (),
) -> None:
    """Draw the ROC curve and where on it the threshold lies.

    Args:
        path: of the PNG, or a file to write it to.
        truth: int64 or bool [n], 1 for positive.
        scores: float [n] in [0, 1].
        caption: shown beside the curve.
        threshold: the score from which a photograph is positive.
        others: thresholds that might be used in its place.
    """
    false_positive, true_positive, _ = roc_curve(truth, scores)
    figure, axes = _square("ROC curve", "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    axes.plot(false_positive, true_positive, color=BLUE, label=caption)
    for positive, style in _mark(scores, threshold, others):
        share, false_share = positive[truth == 1].mean(), positive[truth == 0].mean()
        axes.plot(false_share, share, **style)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=DPI)


def plot_precision_recall(
    path: Path,
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    caption: str,
    threshold: float,
    others: Sequence[float] = (),
) -> None:
    """Draw precision over recall; arguments as for `plot_roc`."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    figure, axes = _square("Precision and recall", "recall (sensitivity)", "precision")
    share = truth.mean()
    axes.axhline(share, color=GREY, linestyle=":", label=f"prevalence {share:.2f}")
    axes.plot(recall, precision, color=BLUE, drawstyle="steps-post", label=caption)
    for positive, style in _mark(scores, threshold, others):
        if positive.any():
            axes.plot(positive[truth == 1].mean(), truth[positive].mean(), **style)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=DPI)


def plot_reliability(
    path: Path, truth: np.ndarray, chances: Mapping[str, np.ndarray]
) -> None:
    """Draw how often what is given a chance comes true, in tenths of the photographs.

    Args:
        path: of the PNG.
        truth: int64 [n], 1 for positive.
        chances: float [n] in [0, 1] by label.
    """
    figure, axes = _square("Reliability", "predicted chance", "share that is positive")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as it should be")
    for (label, values), color in zip(chances.items(), (GREY, BLUE), strict=True):
        parts = equal_count_bins(values)
        predicted = [values[part].mean() for part in parts]
        found = [truth[part].mean() for part in parts]
        axes.plot(predicted, found, color=color, marker="o", label=label)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=DPI)


def equal_count_bins(values: np.ndarray) -> list[np.ndarray]:
    """Sort values into ten bins of about equal counts, never parting equal values.

    Args:
        values: float [n].

    Returns:
        int64 arrays of indices into `values`, one for each bin, in rising order of the
        values; fewer than ten where many values are equal.
    """
    order = np.argsort(values, kind="stable")
    last = [part[-1] for part in np.array_split(order, NUM_PARTS) if len(part)]
    ends = np.searchsorted(values[order], values[last], side="right")
    return np.split(order, np.unique(ends)[:-1])


def plot_scores(
    path: Path, grades: np.ndarray, scores: np.ndarray, *, threshold: float
) -> None:
    """Draw how scores are spread within each grade.

    Args:
        path: of the PNG.
        grades: int64 [n], 0-4.
        scores: float [n] in [0, 1].
        threshold: the score from which a photograph is positive.
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
        axes.set_ylabel(f"grade {grade}\n({len(chosen):,})")
    rows[0].set_title("Scores by grade; the line is the threshold")
    rows[-1].set(xlabel="score", xlim=(0, 1))
    figure.savefig(path, dpi=DPI)


def plot_grid(
    path: Path | IO[bytes],
    rows: Sequence[Row],
    *,
    colormap: str = "",
) -> None:
    """Draw rows of captioned pictures.

    Args:
        path: of the PNG, or a file to write it to.
        rows: a title and its pictures.
        colormap: that pictures are painted by, for a bar beside them.
    """
    rows = [row for row in rows if row[1]]
    num_columns = max(len(pictures) for _, pictures in rows)
    figure = Figure(figsize=(2.6 * num_columns, 3.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), num_columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for cells, (title, pictures) in zip(grid, rows, strict=True):
        for number, (caption, picture) in enumerate(pictures):
            cells[number].imshow(picture)
            heading = f"{title}\n" if number == 0 else "\n"
            # A name may hold anything, and "$" would begin a formula.
            lines = [_shorten(line) for line in caption.splitlines()]
            cells[number].set_title(
                heading + "\n".join(lines),
                fontsize=9,
                loc="left",
                parse_math=False,
            )
    if colormap:
        bar = ScalarMappable(cmap=colormap)
        label = "heat, as a share of the map's own highest"
        figure.colorbar(bar, ax=grid, fraction=0.03, pad=0.01, shrink=0.6, label=label)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(path, dpi=DPI)


def _shorten(line: str) -> str:
    """Keep a caption's line to a picture's width: of a path, its end."""
    line = line.encode(errors="replace").decode()
    return line if len(line) <= CAPTION_LENGTH else f"…{line[1 - CAPTION_LENGTH :]}"


def plot_histograms(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Draw how each of several figures is spread.

    Args:
        path: of the PNG.
        values: float [n] by the figure's name.
    """
    figure = Figure(figsize=(3.2 * len(values), 2.8), layout="constrained")
    rows = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (name, numbers) in zip(rows, values.items(), strict=True):
        axes.hist(numbers, 40, color=BLUE)
        axes.axvline(np.median(numbers), color=ORANGE)
        axes.set_title(name)
    rows[0].set_ylabel("photographs")
    figure.suptitle("Quality; the line is the median")
    figure.savefig(path, dpi=DPI)


def plot_estimates(
    path: Path,
    names: Sequence[str],
    estimates: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
) -> None:
    """Draw values with their intervals, a row a name.

    Args:
        path: of the PNG.
        names: of the rows, the first one on top.
        estimates: for each colour its label, and value, low and high of each row.
        title: above all.
    """
    figure = Figure(figsize=(7, 1.4 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    for number, (label, values) in enumerate(estimates.items()):
        value, low, high = np.array(values).T
        axes.errorbar(
            value,
            rows + 0.16 * (2 * number - len(estimates) + 1),
            xerr=np.maximum([value - low, high - value], 0),  # but for rounding
            fmt="o",
            color=(BLUE, ORANGE, GREEN)[number],
            capsize=3,
            label=label,
        )
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=DPI)


def _mark(
    scores: np.ndarray, threshold: float, others: Sequence[float]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield what each threshold takes for positive, and how its point is drawn."""
    for number, other in enumerate(others):
        label = "_" if number else "other thresholds"  # one entry of the legend for all
        yield scores >= other, {"marker": "x", "color": GREY, "ls": "", "label": label}
    label = f"threshold {threshold:.3f}"
    style = {"marker": "o", "color": ORANGE, "ls": "", "label": label}
    yield scores >= threshold, style


def _square(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(-0.01, 1.01))
    axes.set(ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    return figure, axes

"""The folder of heat maps: its files, and whether they may be written.

This module does not load TensorFlow, so that `drtf gradcam` refuses at once.
"""

from pathlib import Path

from drtf.files import check_absent

FIGURES = ("images.png", "heatmaps.png", "overlays.png")
AVERAGES_FIGURE = "averages.png"
OVERLAYS_FOLDER = "overlays"
PARTIAL_FOLDER = ".gradcam.partial"


def check_out(out: Path, *, has_overlays: bool, overwrite: bool) -> None:
    """Refuse to overwrite earlier heat maps.

    Args:
        out: The folder to write to.
        has_overlays: Whether an overlay of each photograph is written.
        overwrite: Whether to replace earlier figures.

    Raises:
        DrtfError: If `out` has figures, and not because an earlier call was killed.
    """
    written = [*FIGURES, AVERAGES_FIGURE, *([OVERLAYS_FOLDER] if has_overlays else [])]
    again = overwrite or (out / PARTIAL_FOLDER).exists()
    check_absent(*(out / name for name in written), overwrite=again)

"""drtf export."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import LocalPath, out_option, shards_option

if TYPE_CHECKING:
    from drtf.inference.export import Format


@click.command()
@click.argument("run", type=LocalPath())
@click.option(
    "--format",
    "target",
    type=click.Choice(["savedmodel", "tflite", "tflite-int8"]),
    required=True,
    help="What to write; int8 is calibrated on validation photographs.",
)
@shards_option("Set like the one trained on, to calibrate and compare on.")
@click.option("--split", default="test", show_default=True, help="Split to compare on.")
@out_option("Folder (savedmodel) or file (tflite) to write.")
def export(run: Path, target: "Format", shards: Path, split: str, out: Path) -> None:
    """Write the network in RUN for other runtimes, and try it beside Keras's.

    What is written takes uint8 RGB of any size, cropped and equalised as the run's
    config says, and gives the score of one view. A JSON file beside it has
    preprocessing, views, threshold, calibration and what was measured.
    """
    from drtf.inference.export import export as run_export

    from .tables import show_table

    found = run_export(run, shards, out=out, target=target, split=split)
    ways = {
        "Keras": (found.keras_roc_auc, found.keras_images_per_second),
        target: (found.roc_auc, found.images_per_second),
    }
    show_table(
        f"{found.path}, {found.size_bytes / 1e6:,.2f} MB, on {found.num_photographs:,} "
        f"photographs of split {split}",
        ("", "ROC AUC", "images/s, one at a time"),
        [(name, f"{auc:.4f}", f"{rate:,.0f}") for name, (auc, rate) in ways.items()],
    )
    click.echo(f"Largest difference of a score: {found.max_difference:.2g}")
    if found.num_changed_predictions:
        click.echo(
            f"Note: {found.num_changed_predictions:,} of {found.num_photographs:,} "
            "photographs are decided otherwise than by Keras's scores: choose "
            f"threshold and calibration anew, by scores of {found.path}."
        )

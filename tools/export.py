"""drtf export."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from drtf.terminal import show_line

from .options import out_option, run_argument, shards_option

if TYPE_CHECKING:
    from drtf.models.export import Format


@click.command()
@run_argument
@click.option(
    "--format",
    "target",
    type=click.Choice(["savedmodel", "tflite", "tflite-int8"]),
    required=True,
    help="Format to write; tflite-int8 is quantized on validation photographs.",
)
@shards_option("Dataset to quantize and compare on, preprocessed as in training.")
@click.option("--split", default="test", show_default=True, help="Split to compare on.")
@out_option("Folder (savedmodel) or file (tflite) to write.")
def export(run: Path, target: "Format", shards: Path, split: str, out: Path) -> None:
    """Export the network in RUN to another runtime and compare it with Keras.

    The exported network takes uint8 RGB images of any size, cropped and equalized as in
    RUN's config, and returns the score without test-time augmentation. A JSON file next
    to it describes preprocessing, views, threshold and calibration, and contains the
    comparison.
    """
    from drtf.models.export import export as run_export
    from drtf.models.run_files import QUALITY_GATE_FILE

    from .tables import show_table

    is_reused = out.exists()
    exported = run_export(run, shards, out=out, target=target, split=split)
    if is_reused:
        show_line("This command had already written it; nothing was changed.")
    if (run / QUALITY_GATE_FILE).exists():
        show_line(
            f"Note: the quality gate of {run} is not exported; only drtf score uses it"
        )
    networks = {
        "Keras": (exported.keras_roc_auc, exported.keras_images_per_second),
        target: (exported.roc_auc, exported.images_per_second),
    }
    show_table(
        f"{exported.path}, {exported.size_bytes / 1e6:,.2f} MB, on "
        f"{exported.num_photographs:,} photographs of split {split}",
        ("", "ROC AUC of one view", "images/s, one at a time"),
        [
            (name, f"{auc:.4f}", f"{rate:,.0f}")
            for name, (auc, rate) in networks.items()
        ],
    )
    show_line(f"Largest difference between two scores: {exported.max_difference:.2g}")
    if exported.num_changed_predictions:
        show_line(
            f"Note: the predicted label of {exported.num_changed_predictions:,} of "
            f"{exported.num_photographs:,} photographs differs from Keras. Choose a "
            f"new threshold and calibration from the scores of {exported.path}."
        )
